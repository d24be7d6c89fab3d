package kubed_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
)

// TestHealthcheck is the verb that a container's health check calls.
func TestHealthcheck(t *testing.T) {
	binary, err := kubed.Find()
	if err != nil {
		t.Fatal(err)
	}
	running := filepath.Dir(kubedtest.Shared(t).Kubeconfig())
	if out, err := exec.Command(binary, "healthcheck", "--dir", running).CombinedOutput(); err != nil {
		t.Errorf("of a running one: %v: %s", err, out)
	}
	out, err := exec.Command(binary, "healthcheck", "--dir", t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not ready") {
		t.Errorf("of nobody: %v: %s", err, out)
	}
}
