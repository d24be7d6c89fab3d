package child

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

// TestMain is also the process that TestProcess does harm to.
func TestMain(m *testing.M) {
	if os.Getenv("CHILD_OF_THE_TEST") == "1" {
		select {} // until a signal
	}
	os.Exit(m.Run())
}

func TestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &Process{Name: "child-1", Binary: self, Args: []string{"-test.run=^$"}, Env: append(CleanEnvironment(), "CHILD_OF_THE_TEST=1"), Log: filepath.Join(dir, "log")}
	t.Cleanup(func() { _ = p.Kill() })
	if _, _, err := p.Usage(); err == nil {
		t.Error("what does not run has used something")
	}
	if err := p.Freeze(); err == nil || p.Running() {
		t.Error("froze what does not run")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	pid := p.run.cmd.Process.Pid
	if err := p.Start(); err != nil || p.run.cmd.Process.Pid != pid {
		t.Errorf("started twice (%v)", err)
	}
	if runtime.GOOS == "linux" {
		await.That(t, "a process that holds memory", func() bool { // none before its exec
			_, resident, err := p.Usage()
			return err == nil && resident > 0
		})
	}
	if err := p.Freeze(); err != nil || !p.Frozen() || !p.Running() {
		t.Errorf("frozen: %v", err)
	}
	await.That(t, "a process that stands still", func() bool {
		state, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		return errors.Is(err, os.ErrNotExist) || strings.Contains(string(state), ") T ")
	})
	if err := p.Thaw(); err != nil || p.Frozen() {
		t.Errorf("thawed: %v", err)
	}
	if err := p.Kill(); err != nil || p.Running() || p.Kills() != 1 {
		t.Errorf("killed: %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("pid %d is still there: %v", pid, err)
	}
	// A frozen one hears a SIGTERM, too.
	if err := errors.Join(p.Start(), p.Freeze(), p.Stop()); err != nil || p.Running() {
		t.Errorf("stopped: %v", err)
	}
	if err := p.Kill(); err != nil || p.Kills() != 1 {
		t.Errorf("killed what does not run: %v", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	ports, err := FreePorts(20)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] {
			t.Errorf("%v", ports)
		}
		seen[port] = true
	}
}
