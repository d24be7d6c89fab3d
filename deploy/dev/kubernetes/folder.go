package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// folder is the state's folder. Its files:
//
//	lock        flocked by the process that runs on the folder; holds its pid
//	start.lock  flocked by a `start` while it decides and waits
//	holders     flocked, shared, by the users of a detached control plane (--idle)
//	ready       exists while the control plane is ready
//	kubeconfig  the administrator's
//	port        the API server's port of the last run
//	*.log       what the parts log, each limited in size
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// openFolder makes the folder if it does not exist.
func openFolder(dir string) (folder, error) {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(dir, ".probe-"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if err != nil {
		return "", fmt.Errorf("the folder cannot be used: %w; choose a --dir that you can write to", err)
	}
	return folder(dir), nil
}

// flock takes a lock (syscall.LOCK_EX or LOCK_SH) on a file of the folder
// without waiting. A nil file without an error means that another holds it.
// The lock ends with the file, also when the process is killed.
func (f folder) flock(name string, how int) (*os.File, error) {
	file, err := os.OpenFile(f.path(name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("flock %s: %w", f.path(name), err)
}

// flockWait is flock that waits until ctx ends, whose error it then returns.
func (f folder) flockWait(ctx context.Context, name string, how int) (*os.File, error) {
	for {
		file, err := f.flock(name, how)
		if file != nil || err != nil {
			return file, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// inUse reports whether a process runs on the folder.
func (f folder) inUse() (bool, error) {
	file, err := f.flock("lock", syscall.LOCK_SH)
	if file != nil {
		file.Close()
	}
	return file == nil && err == nil, err
}

// pid returns the process that runs on the folder, 0 if none has said so.
func (f folder) pid() int {
	b, _ := os.ReadFile(f.path("lock"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// writeFile replaces a file whole, so that no reader sees a part of it.
func (f folder) writeFile(name string, data []byte) error {
	next := f.path("." + name + ".next")
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, f.path(name))
}

// listen opens the API server's port: the given one, or with 0 the one of the
// folder's last run, or if that is taken a free one.
func (f folder) listen(bind net.IP, port int) (net.Listener, error) {
	if port == 0 {
		b, _ := os.ReadFile(f.path("port"))
		if last, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && last > 0 {
			if l, err := net.Listen("tcp", net.JoinHostPort(bind.String(), strconv.Itoa(last))); err == nil {
				return l, nil
			}
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(bind.String(), strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d of %s is taken; end the process that uses it, or choose another --port (0 picks a free one)", port, bind)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; choose another --port or --bind", err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	if err := f.writeFile("port", []byte(strconv.Itoa(port)+"\n")); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
