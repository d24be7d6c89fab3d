// Package child runs binaries as processes that end with this one, for harnesses
// that look at them from outside.
package child

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// Process is one process, which may be started again when it has ended. Its
// methods may be called at once. On Linux it ends with the process that started
// it, whichever way that ends; a Ctrl-C in the terminal does not reach it.
type Process struct {
	Name   string // in errors
	Binary string
	Args   []string
	Env    []string // NAME=value, all of it
	Log    string   // file, appended to by every run
	Life   bool     // takes --life-fd: ends with this process by itself

	mu     sync.Mutex
	run    *run // nil before the first Start
	frozen bool
	starts int
	kills  int
}

// run is one life of a process.
type run struct {
	cmd  *exec.Cmd
	life *os.File
	done chan struct{}
}

// stopMost bounds an ordered stop: a service's own bound is 25 s.
const stopMost = 30 * time.Second

// Start starts it, unless it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return nil
	}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	r := &run{cmd: exec.Command(p.Binary, p.Args...), done: make(chan struct{})} //nolint:noctx // it ends by signals
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = p.Env, out, out
	r.cmd.SysProcAttr = attributes()
	if p.Life {
		theirs, ours, err := os.Pipe()
		if err != nil {
			return err
		}
		defer theirs.Close()
		r.life, r.cmd.ExtraFiles = ours, []*os.File{theirs}
		r.cmd.Args = append(r.cmd.Args, "--life-fd", "3")
	}
	if err := onStarter(r.cmd.Start); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	go func() {
		_ = r.cmd.Wait() // how it ended shows in its log
		if r.life != nil {
			_ = r.life.Close()
		}
		close(r.done)
	}()
	p.run, p.frozen = r, false
	p.starts++
	return nil
}

// running needs the lock.
func (p *Process) running() bool {
	if p.run == nil {
		return false
	}
	select {
	case <-p.run.done:
		return false
	default:
		return true
	}
}

// Running reports whether it runs; a frozen one does.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

// Frozen reports whether it stands still since a Freeze.
func (p *Process) Frozen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen && p.running()
}

// Kills is how often Kill ended it.
func (p *Process) Kills() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kills
}

// Kill is SIGKILL; it returns when the process has ended. One that does not run
// is left as it is.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil
	}
	if err := p.run.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	<-p.run.done
	p.kills++
	return nil
}

// Freeze is SIGSTOP: it holds its connections, its leases and what it knows,
// and does nothing.
func (p *Process) Freeze() error { return p.signal(syscall.SIGSTOP, true) }

// Thaw is SIGCONT: it goes on with what it knew.
func (p *Process) Thaw() error { return p.signal(syscall.SIGCONT, false) }

func (p *Process) signal(s syscall.Signal, frozen bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	if err := p.run.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	p.frozen = frozen
	return nil
}

// Stop is SIGTERM; it returns when the process has ended, and is an error where
// it had to be killed after 30 seconds.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil
	}
	_ = p.run.cmd.Process.Signal(syscall.SIGCONT) // one that is frozen hears nothing
	_ = p.run.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	limit := time.NewTimer(stopMost)
	defer limit.Stop()
	select {
	case <-p.run.done:
		return nil
	case <-limit.C:
	}
	_ = p.run.cmd.Process.Kill()
	<-p.run.done
	return fmt.Errorf("%s did not stop within %s and was killed", p.Name, stopMost)
}

// maxTail bounds what LastLines reads, in bytes.
const maxTail = 4 << 10

// LastLines is the end of its log.
func (p *Process) LastLines() string {
	f, err := os.Open(filepath.Clean(p.Log))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxTail {
		if _, err := f.Seek(-maxTail, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTail))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// starter is the one OS thread that starts every process: where the kernel ends
// children with their parent, it means the thread that started them.
var starter = sync.OnceValue(func() chan<- func() {
	starts := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
	return starts
})

func onStarter(start func() error) error {
	result := make(chan error)
	starter() <- func() { result <- start() }
	return <-result
}

// Usage is what it has used since its start: CPU time, of all its threads, and
// the memory that it holds now, in bytes. Only Linux tells.
func (p *Process) Usage() (cpu time.Duration, resident int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0, 0, fmt.Errorf("%s does not run", p.Name)
	}
	proc, err := procfs.NewProc(p.run.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return 0, 0, err
	}
	return time.Duration(stat.CPUTime() * float64(time.Second)), stat.ResidentMemory(), nil
}

// Peak is the most memory that it has held since its start, in bytes. Only Linux tells.
func (p *Process) Peak() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0, fmt.Errorf("%s does not run", p.Name)
	}
	proc, err := procfs.NewProc(p.run.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	status, err := proc.NewStatus()
	return int(status.VmHWM), err //nolint:gosec // of this machine's memory
}

// CleanEnvironment is ours without what would lead a process elsewhere.
func CleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "JOBRELAY_") || strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "KUBE")
	})
}

// FreePorts are n different ports of 127.0.0.1 that nobody listens on.
func FreePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
		if err != nil {
			return nil, err
		}
		defer l.Close()                                 // after all are chosen, so that they differ
		out = append(out, l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // of a TCP listener
	}
	return out, nil
}
