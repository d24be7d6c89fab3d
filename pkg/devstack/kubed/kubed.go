// Package kubed runs the local Kubernetes of deploy/dev/kubernetes for
// development and tests: a real control plane in a process of its own, with two
// simulated nodes, k8s-node-1 (tainted key=value:NoSchedule) and k8s-node-2, and
// the bound claim default/ps-pvc.
//
// Start gives a program a control plane that ends with it. Package kubedtest
// gives tests one that all test processes of a user use side by side.
package kubed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// BinaryEnv names the environment variable with the path of the binary.
	BinaryEnv = "JOBRELAY_KUBE_BIN"

	binaryName = "kubernetes"
	rootModule = "github.com/jobrelay/jobrelay"

	// startMost bounds a start; 3 s is usual, a dying predecessor may add 15 s.
	startMost = 3 * time.Minute
	// stopMost bounds an ordered stop; 1 s is usual.
	stopMost = 25 * time.Second
)

// Find returns the binary of the local Kubernetes: JOBRELAY_KUBE_BIN if that is
// set, else "kubernetes" beside the executable, else bin/kubernetes of the
// module root above the working directory. Its error says how to get one.
func Find() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		if err := executable(path); err != nil {
			return "", fmt.Errorf("the local Kubernetes: %s: %w: run `make bin/kubernetes` or set %s to its path", BinaryEnv, err, BinaryEnv)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), binaryName); executable(path) == nil {
			return path, nil
		}
	}
	if root := moduleRoot(); root != "" {
		if path := filepath.Join(root, "bin", binaryName); executable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the local Kubernetes is not built: run `make bin/kubernetes` or set %s", BinaryEnv)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return &fs.PathError{Op: "run", Path: path, Err: errors.New("not an executable file")}
	}
	return nil
}

// moduleRoot returns the folder of this project's go.mod at or above the
// working directory, "" if there is none. Modules inside it are passed by.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		mod, _ := os.ReadFile(filepath.Join(dir, "go.mod"))
		for line := range strings.Lines(string(mod)) {
			if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "module" && fields[1] == rootModule {
				return dir
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// Config says how to start a Cluster.
type Config struct {
	// Binary is the local Kubernetes; "" means what Find returns.
	Binary string
	// Dir keeps the cluster's state and is made if it does not exist. A cluster
	// started on the folder of an earlier one has its objects. Required.
	Dir string
	// Port of the API server on 127.0.0.1. 0 means the one of the folder's last
	// run, or a free one.
	Port int
	// Log gets the lines that the process writes, such as "API server" and
	// "ready in 2.5s: …", one at a time, until Done is closed. nil drops them.
	Log func(line string)
}

// Cluster is a running local Kubernetes. Its process is a child that ends when
// this process does, whichever way that ends, SIGKILL included. A Ctrl-C in the
// terminal does not reach it.
type Cluster struct {
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed

	// life is the pipe's end that tells the child that this process is there.
	// The goroutine that waits for the child keeps it reachable.
	mu     sync.Mutex
	life   *os.File // nil after Stop
	killed bool     // by Stop
}

// Start starts a local Kubernetes and returns when Pods can be created in it,
// in some 3 seconds. ctx bounds the start only; when it ends, the process is
// ended and the error is ctx's. A process that still runs on cfg.Dir, such as
// one whose parent was just killed, is given 15 seconds to end.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startMost)
	defer cancel()
	if cfg.Dir == "" {
		return nil, errors.New("kubed: Config.Dir is empty: name a folder for the cluster's state")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	binary := cfg.Binary
	if binary == "" {
		if binary, err = Find(); err != nil {
			return nil, err
		}
	}
	lifeOfParent, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifeOfParent.Close()
	c := &Cluster{dir: dir, done: make(chan struct{}), life: life}
	c.cmd = exec.Command(binary, "up", "--dir", dir, "--port", strconv.Itoa(cfg.Port), "--life-fd", "3") //nolint:noctx // ctx bounds the start only; the child lives on
	c.cmd.ExtraFiles = []*os.File{lifeOfParent}                                                          // descriptor 3
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := c.cmd.StdoutPipe()
	if err != nil {
		life.Close()
		return nil, err
	}
	c.cmd.Stderr = c.cmd.Stdout
	if err := c.cmd.Start(); err != nil {
		life.Close()
		return nil, fmt.Errorf("the local Kubernetes cannot be run: %w", err)
	}
	ready := make(chan struct{})
	go c.wait(output, cfg.Log, ready)

	select {
	case <-ready:
		return c, nil
	case <-c.done:
		return nil, fmt.Errorf("the local Kubernetes did not start: %w", c.err)
	case <-ctx.Done():
		cause := fmt.Errorf("the local Kubernetes is not ready: %w; see the logs in %s", ctx.Err(), dir)
		bounded, cancel := context.WithTimeout(context.Background(), stopMost)
		defer cancel()
		return nil, errors.Join(cause, c.Stop(bounded))
	}
}

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// Done is closed when the process has ended.
func (c *Cluster) Done() <-chan struct{} { return c.done }

// Err returns nil while the process runs and after a Stop that went well, else
// why it ended.
func (c *Cluster) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Stop ends the process in order and keeps its state. It returns when the
// process has ended, with an error if it had to be killed because ctx or 25
// seconds were over, or if it had ended before by itself. It can be called again.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	if c.life != nil {
		c.life.Close()
		c.life = nil
	}
	c.mu.Unlock()
	limit := time.NewTimer(stopMost)
	defer limit.Stop()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	case <-limit.C:
	}
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the local Kubernetes: %w", err)
	}
	<-c.done
	return c.err
}

// wait hands the process's lines on, closes ready when they say so, and done
// after the process's end.
func (c *Cluster) wait(output io.Reader, log func(string), ready chan<- struct{}) {
	var last string
	lines := bufio.NewReader(output)
	for {
		// A line longer than the buffer comes in pieces, which is well enough.
		b, _, err := lines.ReadLine()
		if err != nil {
			break
		}
		last = strings.TrimPrefix(string(b), "kubernetes: ")
		if log != nil {
			log(last)
		}
		if ready != nil && strings.HasPrefix(last, "ready in ") {
			close(ready)
			ready = nil
		}
	}
	err := c.cmd.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil && c.killed:
		c.err = fmt.Errorf("it did not stop in time and was killed; see the logs in %s", c.dir)
	case err != nil && c.cmd.ProcessState.Exited() && last != "":
		c.err = errors.New(last) // the process's own error
	case err != nil:
		c.err = fmt.Errorf("it was ended from outside: %w", err) // by a signal
	case c.life != nil:
		c.err = errors.New("it was stopped from outside")
	}
	if c.life != nil {
		c.life.Close()
		c.life = nil
	}
	close(c.done)
}
