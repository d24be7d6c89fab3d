package ingest

import (
	"sync"
	"time"
)

// probeEvery is between two messages that are received, one at a time, to see
// whether the log takes them again.
const probeEvery = 2 * time.Second

// gate stops the receivers while what they hold cannot be stored: a circuit
// breaker that one failure opens, and one success closes again.
type gate struct {
	mu     sync.Mutex
	err    error // of the last try to store a message; nil: it was stored
	probed time.Time
}

// settle tells how a try to store a message ended.
func (g *gate) settle(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil && err != nil {
		g.probed = time.Now()
	}
	g.err = err
}

// state is why nothing can be stored, or nil.
func (g *gate) state() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// allows is how many messages a receiver may ask for now; 0: none.
func (g *gate) allows() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.err == nil:
		return maxPolled
	case time.Since(g.probed) >= probeEvery:
		g.probed = time.Now()
		return 1
	}
	return 0
}
