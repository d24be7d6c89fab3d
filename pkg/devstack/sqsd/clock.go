package sqsd

import (
	"sync"
	"time"
)

// Clock is what the endpoint knows of time: delays, visibility, retention,
// deduplication and the wait of a long poll. Injected latency is wall time.
type Clock interface {
	Now() time.Time

	// At closes reached once Now is at or after t. cancel gives the timer up.
	At(t time.Time) (reached <-chan struct{}, cancel func())
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) At(t time.Time) (<-chan struct{}, func()) {
	reached := make(chan struct{})
	timer := time.AfterFunc(time.Until(t), func() { close(reached) })
	return reached, func() { timer.Stop() }
}

// ManualClock is a Clock for tests that stands still until it is advanced.
type ManualClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan struct{}]time.Time
}

// NewManualClock returns a clock that shows now.
func NewManualClock(now time.Time) *ManualClock {
	return &ManualClock{now: now, timers: map[chan struct{}]time.Time{}}
}

// Now is the time that the clock shows.
func (c *ManualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock on and wakes whoever waits for a time up to then.
func (c *ManualClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for reached, t := range c.timers {
		if !t.After(c.now) {
			close(reached)
			delete(c.timers, reached)
		}
	}
}

// At closes reached when Advance comes to t, or at once when t is past.
func (c *ManualClock) At(t time.Time) (<-chan struct{}, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reached := make(chan struct{})
	if !t.After(c.now) {
		close(reached)
		return reached, func() {}
	}
	c.timers[reached] = t
	return reached, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, reached)
	}
}
