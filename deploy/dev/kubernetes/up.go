package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const (
	lockWait = 15 * time.Second // for a predecessor that is ending
	stopMost = 30 * time.Second // an ordered stop that takes longer is cut off
)

// progress says on standard error how far the start has come. The lines that
// pkg/devstack/kubed waits for and hands on begin with "kubernetes: ".
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "kubernetes: "+format+"\n", args...)
}

// up runs a control plane on the folder until a signal, the end of the life
// pipe, idleness, or the end of one of its parts, which is an error.
func up(ctx context.Context, o options) error {
	began := time.Now()
	ctx, end := untilToldToEnd(ctx, o.lifeFD)
	defer end()
	dir, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	lock, err := takeOver(ctx, dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	listener, err := dir.listen(o.bind, o.port)
	if err != nil {
		return err
	}
	defer listener.Close()
	creds, err := prepareCredentials(dir, listener.Addr(), o.server)
	if err != nil {
		return fmt.Errorf("credentials: %w; if the folder is damaged, remove it and start again", err)
	}
	cp := &controlPlane{dir: dir, listener: listener, creds: creds}
	defer cp.stop()
	if err := cp.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end while it started
		}
		return err
	}
	took := time.Since(began).Round(10 * time.Millisecond)
	if err := dir.writeFile("ready", []byte(took.String()+"\n")); err != nil {
		return err
	}
	defer os.Remove(dir.path("ready"))
	progress("ready in %s: KUBECONFIG=%s", took, dir.path("kubeconfig"))

	idle := make(chan error, 1)
	if o.idle > 0 {
		go func() { idle <- untilIdle(ctx, dir, o.idle) }()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-cp.failed:
		return err
	case err := <-idle:
		if err != nil {
			return fmt.Errorf("holders: %w", err)
		}
		progress("no holder for %s: ending", o.idle)
		os.Remove(dir.path("ready"))
		cp.stop()
		return os.RemoveAll(dir.path("etcd"))
	}
}

// untilToldToEnd returns a context that ends with SIGTERM, SIGINT or SIGHUP, or
// with a life pipe when that reaches its end; SIGINT is then the parent's
// business. What the process has not stopped stopMost later is cut off, and a
// second signal ends it at once.
func untilToldToEnd(ctx context.Context, lifeFD int) (context.Context, context.CancelFunc) {
	// Without this, a line to the closed pipe of a dead parent would kill the process.
	signal.Ignore(syscall.SIGPIPE)
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGHUP}
	if lifeFD < 0 {
		signals = append(signals, os.Interrupt)
	} else {
		signal.Ignore(os.Interrupt)
	}
	ctx, restore := signal.NotifyContext(ctx, signals...)
	ctx, cancel := context.WithCancel(ctx)
	if lifeFD >= 0 {
		syscall.CloseOnExec(lifeFD)
		life := os.NewFile(uintptr(lifeFD), "life pipe")
		go func() {
			defer cancel()
			// Nobody writes: this returns when the last writer is gone, or at
			// once when the descriptor is not open.
			for b := make([]byte, 64); ; {
				if _, err := life.Read(b); err != nil {
					return
				}
			}
		}()
	}
	context.AfterFunc(ctx, func() {
		restore()
		time.AfterFunc(stopMost, func() {
			progress("not stopped in %s: cut off", stopMost)
			os.Exit(1)
		})
	})
	return ctx, cancel
}

// takeOver takes the folder's lock, for which it waits up to lockWait, and
// writes this process's pid into it.
func takeOver(ctx context.Context, dir folder) (*os.File, error) {
	if busy, err := dir.inUse(); err != nil {
		return nil, err
	} else if busy {
		progress("waiting up to %s for process %d, which uses %s, to end", lockWait, dir.pid(), dir)
	}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := dir.flockWait(wait, "lock", syscall.LOCK_EX)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("process %d already runs on %s; use its kubeconfig, or end it with `kubernetes stop --dir %s`, or choose another --dir", dir.pid(), dir, dir)
	}
	if err != nil {
		return nil, err
	}
	os.Remove(dir.path("ready")) // left by one that was killed
	if err := lock.Truncate(0); err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// untilIdle returns when no process has held a shared flock on the folder's
// holders file for the given time. It then keeps the file locked for the rest
// of the process's life, so that the next holder waits until it is gone.
func untilIdle(ctx context.Context, dir folder, idle time.Duration) error {
	tick := time.NewTicker(max(10*time.Millisecond, min(idle/4, time.Second)))
	defer tick.Stop()
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			held, err := dir.flock("holders", syscall.LOCK_EX)
			switch {
			case err != nil:
				return err
			case held == nil:
				since = time.Time{}
				continue
			case since.IsZero():
				since = now
			case now.Sub(since) >= idle:
				heldToTheEnd = held
				return nil
			}
			held.Close()
		}
	}
}

// heldToTheEnd keeps the holders file from being closed by the garbage collector.
var heldToTheEnd *os.File
