package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// start makes sure that a control plane runs on the folder, detached from this
// process's session, and returns when it is ready. Of several at once, one
// starts it and the others find it running.
func start(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	dir, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	turn, err := dir.flockWait(ctx, "start.lock", syscall.LOCK_EX)
	if err != nil {
		return fmt.Errorf("another start on %s has not ended in %s: %w; try again, or choose another --dir", dir, o.timeout, err)
	}
	defer turn.Close()

	var ended chan error // of the process started here; nil before
	word := "already running"
	for {
		busy, err := dir.inUse()
		if err != nil {
			return err
		}
		if busy {
			if took, err := os.ReadFile(dir.path("ready")); err == nil {
				if ended != nil {
					word = "ready in " + strings.TrimSpace(string(took))
				}
				fmt.Printf("%s: KUBECONFIG=%s\n", word, dir.path("kubeconfig"))
				return nil
			}
		} else if ended == nil {
			os.Remove(dir.path("ready")) // left by one that was killed
			if ended, err = spawn(dir, o.given); err != nil {
				return err
			}
		}
		select {
		case err := <-ended:
			out, _ := os.ReadFile(dir.path("up.log"))
			return fmt.Errorf("it did not start (%v): %s", err, lastLine(out))
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s; see the logs in %s, or give it longer with --timeout", o.timeout, dir)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// spawn runs `kubernetes up` in a session of its own. The channel gets its end.
func spawn(dir folder, flags []string) (chan error, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(dir.path("up.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(self, append([]string{"up", "--dir", string(dir)}, flags...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = string(dir) // no other folder is kept from being removed or unmounted
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "kubernetes: ")
}

// stop ends the process that runs on the folder and waits for it. No process,
// or no folder, is fine.
func stop(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	dir := folder(o.dir)
	for told := 0; ; {
		busy, err := dir.inUse()
		if errors.Is(err, os.ErrNotExist) || err == nil && !busy {
			return nil
		}
		if err != nil {
			return err
		}
		// The lock is held, so its pid is that of a live process. It is told
		// once: a second signal would cut its ordered stop off.
		pid := dir.pid()
		if pid != 0 && pid != told {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("signal process %d: %w", pid, err)
			}
			told = pid
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d still runs after %s; see the logs in %s, then `kill -9 %d`", pid, o.timeout, dir, pid)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
