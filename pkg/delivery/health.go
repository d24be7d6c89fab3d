package delivery

import (
	"cmp"
	"time"
)

// Bounds of what one replica does to one endpoint.
const (
	// startLimit is how many attempts at once a new endpoint gets, and MaxLimit the
	// most that one that answers comes to have.
	startLimit = 2
	MaxLimit   = 64

	// The breaker opens after so many failures in a row, or where half of at least
	// leastSeen attempts of a window failed.
	failuresInRow = 5
	leastSeen     = 20
	window        = time.Minute

	// A callback that cannot go now comes again after at least minHold, which is the
	// floor of JetStream's timer, and at most maxHold, unless the breaker is open
	// for longer.
	minHold = 250 * time.Millisecond
	maxHold = 10 * time.Minute
	// Those that are held come again one after the other, a little faster than the
	// endpoint took the last ones, but between minGap and maxGap apart.
	minGap   = 100 * time.Microsecond
	startGap = 10 * time.Millisecond
	maxGap   = time.Second
	hurry    = 0.9
)

// Breaker is how long an endpoint that is unwell is left alone: Open at first,
// twice as long after each probe that fails, Most at most; each ±20 %.
type Breaker struct{ Open, Most time.Duration }

// DefaultBreaker holds where the operator sets none.
var DefaultBreaker = Breaker{Open: 30 * time.Second, Most: 10 * time.Minute}

func (p *Policy) breaker() Breaker { return cmp.Or(p.Breaker, DefaultBreaker) }

// BreakerState says whether an endpoint may be tried.
type BreakerState string

// The states of a breaker.
const (
	Closed   BreakerState = "closed"
	HalfOpen BreakerState = "half-open" // one attempt at a time, which decides
	Open     BreakerState = "open"      // none
)

// Health is what a replica knows of one endpoint: how many attempts it takes at
// once, and whether its breaker is open. Only failures of class Unwell count
// against it. It is not safe for use by several goroutines at once.
type Health struct {
	policy *Policy

	limit, inFlight int
	epoch           int // attempts begun before the breaker last changed do not count

	failures  int       // Unwell in a row
	seen, bad int       // of the window
	began     time.Time // of the window

	openFor time.Duration
	until   time.Time // the breaker is open; zero: closed
	probing bool

	took    time.Duration // a delivered attempt, smoothed
	horizon time.Time     // when the last held callback comes again
}

// NewHealth is that of an endpoint of which nothing is known.
func NewHealth(p *Policy) *Health { return &Health{policy: p, limit: startLimit} }

// State of the breaker.
func (h *Health) State(now time.Time) BreakerState {
	switch {
	case h.until.IsZero():
		return Closed
	case now.Before(h.until):
		return Open
	default:
		return HalfOpen
	}
}

// Limit is how many attempts may be under way at once.
func (h *Health) Limit() int { return h.limit }

// InFlight is how many are.
func (h *Health) InFlight() int { return h.inFlight }

// Failures is how many in a row were unwell.
func (h *Health) Failures() int { return h.failures }

// Until is the end of the time for which the breaker is open, or zero.
func (h *Health) Until() time.Time { return h.until }

// Ticket is of an attempt under way.
type Ticket struct{ epoch int }

// Begin counts one more attempt, where there may be one now.
func (h *Health) Begin(now time.Time) (Ticket, bool) {
	switch h.State(now) {
	case Open:
		return Ticket{}, false
	case HalfOpen:
		if h.probing {
			return Ticket{}, false
		}
		h.probing = true
	case Closed:
		if h.inFlight >= h.limit {
			return Ticket{}, false
		}
	}
	h.inFlight++
	return Ticket{h.epoch}, true
}

// Observed is what an attempt tells of its endpoint. The zero Observed is of one
// that we broke off, and tells nothing.
type Observed struct {
	Class    Class
	Answered bool // with a status, whichever
	TimedOut bool
	Took     time.Duration
}

// End counts what came of an attempt.
func (h *Health) End(t Ticket, o Observed, now time.Time) {
	h.inFlight--
	if t.epoch != h.epoch {
		return
	}
	probe := h.probing
	h.probing = false
	if now.Sub(h.began) >= window {
		h.began, h.seen, h.bad = now, 0, 0
	}
	switch {
	case o.Class == Delivered:
		h.failures = 0
		h.seen++
		h.limit = min(h.limit+1, MaxLimit)
		h.learn(o.Took)
		if probe {
			h.close()
		}
	case o.Class == Unwell:
		h.failures++
		h.seen++
		h.bad++
		h.limit = max(h.limit/2, 1)
		if o.TimedOut {
			h.limit = 1
		}
		if probe {
			h.open(min(2*h.openFor, h.policy.breaker().Most), now)
		} else if h.failures >= failuresInRow || h.seen >= leastSeen && 2*h.bad >= h.seen {
			h.open(h.policy.breaker().Open, now)
		}
	case o.Answered && probe: // whatever it was that it refused, it answered
		h.close()
	}
}

func (h *Health) open(d time.Duration, now time.Time) {
	h.openFor = d
	h.until = now.Add(h.policy.vary(d))
	h.epoch++
}

func (h *Health) close() {
	h.until, h.horizon, h.openFor, h.failures = time.Time{}, time.Time{}, 0, 0
	h.seen, h.bad = 0, 0
	h.limit = startLimit
	h.epoch++
}

func (h *Health) learn(took time.Duration) {
	if h.took == 0 {
		h.took = took
		return
	}
	h.took += (took - h.took) / 8
}

// Hold is when a callback that cannot go now should come again, behind the ahead
// ones that wait in hand and those that were held before it: they do not all come
// at once, and none before the breaker's end.
func (h *Health) Hold(ahead int, now time.Time) time.Time {
	gap := h.gap()
	at := latest(now.Add(minHold+time.Duration(ahead)*gap), h.until, h.horizon.Add(gap))
	if most := latest(now, h.until).Add(maxHold); at.After(most) {
		return most.Add(-time.Duration(jitter * h.policy.random() * float64(maxHold))) // too many to be told apart
	}
	h.horizon = at
	return at
}

func (h *Health) gap() time.Duration {
	if h.took == 0 {
		return startGap
	}
	return min(max(time.Duration(hurry*float64(h.took)/float64(h.limit)), minGap), maxGap)
}

func latest(first time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.After(first) {
			first = t
		}
	}
	return first
}
