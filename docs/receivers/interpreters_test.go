//go:build receivers

package receivers_test

import (
	"os/exec"
	"testing"
)

// What needs more than Go is apart: make test-js and make test-python.

func TestJavaScript(t *testing.T) { try(t, interpreter(t, "node"), "javascript/receiver.mjs") }

func TestPython(t *testing.T) { try(t, interpreter(t, "python3"), "python/receiver.py") }

func interpreter(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
