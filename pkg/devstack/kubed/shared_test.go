package kubed_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gofrs/flock"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
)

// TestSharedIsOneProcess has two test processes ask for the shared cluster at
// once, and a third after its crash.
func TestSharedIsOneProcess(t *testing.T) {
	temporary := tempDir(t)
	holders := []*process{
		reexec(t, roleHolder, "TMPDIR="+temporary),
		reexec(t, roleHolder, "TMPDIR="+temporary),
	}
	var kubeconfigs, namespaces []string
	for _, p := range holders {
		kubeconfig, namespace, ok := strings.Cut(p.line(t), " ")
		if !ok {
			t.Fatalf("a holder says %q", kubeconfig)
		}
		kubeconfigs, namespaces = append(kubeconfigs, kubeconfig), append(namespaces, namespace)
	}
	dir := filepath.Dir(kubeconfigs[0])
	stopAtEnd(t, dir)
	if kubeconfigs[0] != kubeconfigs[1] || filepath.Dir(dir) != temporary {
		t.Errorf("the kubeconfigs are %q; want the same, in a folder of %s", kubeconfigs, temporary)
	}
	client := clientOf(t, kubeconfigs[0])
	for _, namespace := range namespaces {
		if _, err := client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	if namespaces[0] == namespaces[1] || !strings.HasPrefix(namespaces[0], "testholder-of-a-process-") {
		t.Errorf("the namespaces are %q", namespaces)
	}

	crashed := pidOf(t, dir)
	signalTo(t, crashed, syscall.SIGKILL)
	awaitEnd(t, dir)
	third := reexec(t, roleHolder, "TMPDIR="+temporary)
	kubeconfig, namespace, _ := strings.Cut(third.line(t), " ")
	if kubeconfig != kubeconfigs[0] {
		t.Fatalf("after the crash a holder says %q", kubeconfig)
	}
	if healed := pidOf(t, dir); healed == crashed {
		t.Errorf("after the crash it is still process %d", crashed)
	}
	for _, p := range append(holders, third) {
		p.end(t)
	}
	client = clientOf(t, kubeconfig)
	for _, name := range append(namespaces, namespace) {
		got, err := client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && got.DeletionTimestamp == nil {
			t.Errorf("namespace %s is not deleted with its test", name)
		}
	}
	if runs, err := runsOn(dir); !runs || err != nil {
		t.Errorf("it ended with its holders, without the time to idle (%v)", err)
	}
}

// TestIdleEnds shows that a detached control plane lasts while it is held, and
// ends and forgets its objects when it is not.
func TestIdleEnds(t *testing.T) {
	dir := tempDir(t)
	held := flock.New(filepath.Join(dir, "holders"))
	if ok, err := held.TryRLock(); !ok {
		t.Fatal(err)
	}
	stopAtEnd(t, dir)
	if out, err := binary(t, "start", "--dir", dir, "--idle", "500ms").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	client := clientOf(t, filepath.Join(dir, "kubeconfig"))
	testComplete(t, client) // takes longer than the idle time
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "etcd")); !os.IsNotExist(err) {
		t.Errorf("its objects are kept (%v)", err)
	}
}

func TestSharedNeedsTheBinary(t *testing.T) {
	p := reexec(t, roleHolder, kubed.BinaryEnv+"="+filepath.Join(t.TempDir(), "missing"))
	if line := p.line(t); !strings.Contains(line, "run `make bin/kubernetes` or set JOBRELAY_KUBE_BIN") {
		t.Errorf("without the binary Shared says %q", line)
	}
}

func binary(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := kubed.Find()
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(context.Background(), path, args...)
}

// stopAtEnd ends the detached process of a folder with the test.
func stopAtEnd(t *testing.T, dir string) {
	t.Helper()
	stop := binary(t, "stop", "--dir", dir, "--timeout", "40s")
	t.Cleanup(func() {
		if out, err := stop.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}
