// Package await is how tests wait: on a condition, never for a time.
package await

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

const (
	patience = 30 * time.Second // after it the test has failed
	interval = 20 * time.Millisecond
)

// That waits until ok, and fails the test where it is not within 30 s.
func That(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			tb.Fatalf("%s: not within %s", what, patience)
		case <-tick.C:
		}
	}
}

// Text is what others write, from any goroutine, while a test waits for it. Nothing
// bounds it.
type Text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write takes all of p.
func (x *Text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.buf.Write(p)
}

// String is all that was written.
func (x *Text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.buf.String()
}
