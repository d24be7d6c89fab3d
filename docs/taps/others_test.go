//go:build taps

package taps_test

import (
	"os/exec"
	"testing"
)

// What needs more than Go is apart: make test-js.

func TestJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	mustDo(t, err)
	try(t, node, "javascript/tap.mjs", "billing")
}
