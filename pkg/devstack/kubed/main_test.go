package kubed_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
)

// The test binary runs itself as another process when roleEnv is set.
const (
	roleEnv = "KUBED_TEST_ROLE"
	dirEnv  = "KUBED_TEST_DIR"

	roleParent = "parent" // starts a cluster on dirEnv
	roleHolder = "holder" // uses the shared cluster
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleParent:
		os.Exit(parent())
	case roleHolder:
		os.Exit(sharer())
	}
	os.Exit(m.Run())
}

// parent starts a cluster, says "up", and ends when its standard input does.
func parent() int {
	_, err := kubed.Start(context.Background(), kubed.Config{Dir: os.Getenv(dirEnv)})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("up")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// sharer takes a namespace in the shared cluster, as a second test of the same
// process would, says the kubeconfig's path and the namespace, and ends when its
// standard input does.
func sharer() int {
	tb := &processTB{}
	defer tb.cleanUp()
	kubedtest.Shared(tb)
	shared := kubedtest.Shared(tb)
	fmt.Println(shared.Kubeconfig(), shared.Namespace(tb))
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// processTB is as much of a test as a process of its own needs.
type processTB struct {
	testing.TB
	cleanups []func()
}

func (*processTB) Helper()                      {}
func (*processTB) Name() string                 { return "TestHolder/of a process" }
func (*processTB) Context() context.Context     { return context.Background() }
func (tb *processTB) Cleanup(f func())          { tb.cleanups = append(tb.cleanups, f) }
func (*processTB) Logf(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
func (*processTB) Fatal(a ...any)               { fmt.Println(a...); os.Exit(1) }
func (tb *processTB) Fatalf(format string, a ...any) {
	tb.Fatal(fmt.Sprintf(format, a...))
}
func (tb *processTB) cleanUp() {
	for _, f := range tb.cleanups {
		f()
	}
}

// process is the test binary in another role.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// reexec runs the test binary in a role. It is killed when the test ends.
func reexec(t *testing.T, role string, env ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self)}
	p.cmd.Env = append(append(os.Environ(), roleEnv+"="+role), env...)
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

// line returns the next line that the process says.
func (p *process) line(t *testing.T) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the process said %q and ended: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// end tells the process to end and waits for it.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func clientOf(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually waits up to 30 seconds until ok.
func eventually(t *testing.T, what string, ok func(ctx context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 30*time.Second, true, ok); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// runsOn reports whether a local Kubernetes runs on the folder. Its lock is what
// tells: a pid may be a zombie's.
func runsOn(dir string) (bool, error) {
	lock := flock.New(filepath.Join(dir, "lock"))
	free, err := lock.TryRLock()
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	lock.Close()
	return !free && err == nil, err
}

func awaitEnd(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "the end of the process on "+dir, func(context.Context) (bool, error) {
		runs, err := runsOn(dir)
		return !runs, err
	})
}

// pidOf returns the process that runs on the folder.
func pidOf(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		t.Fatalf("%s/lock holds %q, not a pid", dir, b)
	}
	return pid
}

func signalTo(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("%v to %d: %v", s, pid, err)
	}
}

// tempDir is t.TempDir with a path that is short enough for sockets anywhere.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubed")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
