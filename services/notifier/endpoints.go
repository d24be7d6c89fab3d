package notifier

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

const (
	// knownEndpoints bounds the endpoints of which something is kept, up to 1 KB
	// each. The least recently used is forgotten first, and each that was not
	// used for idleEndpoint.
	knownEndpoints = 100_000
	idleEndpoint   = time.Hour
	// roomPerSlot is how many tokens may wait in hand for each slot while slots are
	// free. An endpoint takes half of the room at most where it is alone, and less
	// beside others. While none is free all wait: what comes behind them could not
	// go either.
	roomPerSlot = 2
	// slotWait is how long a token waits in hand before it is parked.
	slotWait = time.Second
	// sayEvery is the least time between two lines about an endpoint that fails.
	sayEvery = time.Minute
)

// endpoints shares the replica's slots among the receivers: each has as many as
// its health allows, and where there are too few in all they take turns.
type endpoints struct {
	policy   *delivery.Policy
	log      zerolog.Logger
	now      func() time.Time
	stopping <-chan struct{} // nobody waits any more

	mu      sync.Mutex
	known   *simplelru.LRU[string, *endpoint]
	failing map[string]*endpoint // whose last attempt was not delivered
	free    int                  // slots
	places  int                  // for those that wait
	room    int                  // places that are left
	turns   list.List            // of the *endpoint with a token that waits and may go
}

// endpoint is one receiver: scheme, host and port.
type endpoint struct {
	name    string
	health  *delivery.Health
	waiting list.List     // of chan slot, first come first
	turn    *list.Element // in turns; nil: not there
	used    time.Time
	since   time.Time // of the first failure after the last delivery; zero: none
	said    time.Time
	last    webhook.Outcome
}

// slot is the right to one attempt, or when to come again instead.
type slot struct {
	endpoint *endpoint
	ticket   delivery.Ticket
	held     time.Time // zero: the attempt may begin
	open     bool      // held since the breaker is not closed, rather than for want of a slot
}

func newEndpoints(policy *delivery.Policy, slots int, stopping <-chan struct{}, now func() time.Time, log zerolog.Logger) *endpoints {
	s := &endpoints{
		policy: policy, log: log, now: now, stopping: stopping,
		failing: map[string]*endpoint{}, free: slots, places: roomPerSlot * slots, room: roomPerSlot * slots,
	}
	known, err := simplelru.NewLRU(knownEndpoints, func(name string, _ *endpoint) { delete(s.failing, name) })
	if err != nil {
		panic(err) // only for a size below 1
	}
	s.known = known
	return s
}

// errStopping is what a token that waits gets when the replica stops.
var errStopping = errors.New("the replica stops")

// take waits for a slot at the endpoint, for slotWait at most. What it gets must be
// given back, unless it is held.
func (s *endpoints) take(ctx context.Context, name string) (slot, error) {
	s.mu.Lock()
	e := s.of(name)
	now := s.now()
	if s.free > 0 && e.waiting.Len() == 0 {
		if ticket, ok := e.health.Begin(now); ok {
			s.free--
			s.mu.Unlock()
			return slot{endpoint: e, ticket: ticket}, nil
		}
	}
	if e.health.State(now) != delivery.Closed || s.free > 0 && e.waiting.Len() >= s.room {
		defer s.mu.Unlock()
		return s.hold(e), nil
	}
	got := make(chan slot, 1)
	place := e.waiting.PushBack(got)
	s.room--
	s.queue(e)
	s.mu.Unlock()

	wait := time.NewTimer(slotWait)
	defer wait.Stop()
	var err error
	select {
	case out := <-got:
		return out, nil
	case <-wait.C:
	case <-s.stopping:
		err = errStopping
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case out := <-got: // it came in the same moment
		return out, nil
	default:
	}
	e.waiting.Remove(place)
	s.room++
	return s.hold(e), err
}

func (s *endpoints) of(name string) *endpoint {
	e, ok := s.known.Get(name)
	if !ok {
		e = &endpoint{name: name, health: delivery.NewHealth(s.policy)}
		s.known.Add(name, e)
	}
	e.used = s.now()
	return e
}

func (s *endpoints) hold(e *endpoint) slot {
	now := s.now()
	return slot{endpoint: e, held: e.health.Hold(e.waiting.Len(), now), open: e.health.State(now) != delivery.Closed}
}

// queue gives the endpoint a turn where a token waits. Whether it may go is asked
// when its turn comes: where not, a slot of its own that is given back asks again.
func (s *endpoints) queue(e *endpoint) {
	if e.turn == nil && e.waiting.Len() > 0 {
		e.turn = s.turns.PushBack(e)
	}
}

// give returns a slot with what came of the attempt; the zero Outcome: nothing, it
// was broken off.
func (s *endpoints) give(t slot, out webhook.Outcome, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, now := t.endpoint, s.now()
	was := e.health.State(now)
	s.free++
	e.health.End(t.ticket, delivery.Observed{
		Class: out.Class, Answered: out.Code != 0, TimedOut: out.Cause == webhook.CauseTimeout, Took: took,
	}, now)
	s.note(e, was, out)
	if e.health.State(now) == delivery.Open {
		s.evict(e)
	}
	s.queue(e)
	s.serve()
}

// serve hands out free slots, a turn each.
func (s *endpoints) serve() {
	for s.free > 0 && s.turns.Len() > 0 {
		e := s.turns.Remove(s.turns.Front()).(*endpoint) //nolint:forcetypeassert // nothing else is put there
		e.turn = nil
		if e.waiting.Len() == 0 {
			continue
		}
		ticket, ok := e.health.Begin(s.now())
		if !ok {
			continue
		}
		s.free--
		s.answer(e, slot{endpoint: e, ticket: ticket})
		s.queue(e)
	}
}

// evict sends away all that wait: the breaker has opened.
func (s *endpoints) evict(e *endpoint) {
	for e.waiting.Len() > 0 {
		s.answer(e, s.hold(e))
	}
}

// answer is for the first that waits.
func (s *endpoints) answer(e *endpoint, with slot) {
	s.room++
	e.waiting.Remove(e.waiting.Front()).(chan slot) <- with //nolint:forcetypeassert // nothing else is put there
}

// note keeps and tells what changed with the endpoint: the first failure after a
// delivery, the breaker's openings, and the return.
func (s *endpoints) note(e *endpoint, was delivery.BreakerState, out webhook.Outcome) {
	if out.Class == "" {
		return
	}
	now := s.now()
	e.last = out
	if out.Class == delivery.Delivered && e.health.State(now) == delivery.Closed {
		if !e.since.IsZero() && !e.said.Before(e.since) {
			s.log.Info().Str("endpoint", e.name).Stringer("failing", now.Sub(e.since).Round(time.Second)).Msg("endpoint takes callbacks again")
		}
		e.since = time.Time{}
		delete(s.failing, e.name)
		return
	}
	if e.since.IsZero() {
		e.since = now
		s.failing[e.name] = e
	}
	opened := was == delivery.Closed && e.health.State(now) == delivery.Open
	if now.Sub(e.said) < sayEvery && !opened {
		return
	}
	line := s.log.Warn().Str("endpoint", e.name).Stringer("outcome", out)
	switch {
	case opened:
		line.Int("failures", e.health.Failures()).Time("until", e.health.Until()).Msg("endpoint is left alone, its callbacks are held")
	case e.since.Equal(now):
		line.Msg("endpoint fails")
	default:
		return
	}
	e.said = now
}

// forget drops what was not used for long.
func (s *endpoints) forget() {
	for {
		_, e, ok := s.known.GetOldest()
		if !ok || s.now().Sub(e.used) < idleEndpoint {
			return
		}
		s.known.RemoveOldest()
	}
}

// tally is how many tokens wait in hand for a slot, and how many endpoints are in
// each state of a breaker.
func (s *endpoints) tally() (waiting int, states map[delivery.BreakerState]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	states = map[delivery.BreakerState]int{delivery.Closed: s.known.Len(), delivery.HalfOpen: 0, delivery.Open: 0}
	for _, e := range s.failing {
		if state := e.health.State(s.now()); state != delivery.Closed {
			states[delivery.Closed]--
			states[state]++
		}
	}
	return s.places - s.room, states
}

// report is how many endpoints fail, and those that did so for longest.
func (s *endpoints) report() (n int, worst []broker.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	all := slices.SortedFunc(maps.Values(s.failing), func(a, b *endpoint) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.name, b.name))
	})
	for _, e := range all[:min(len(all), broker.MaxStatusEndpoints)] {
		worst = append(worst, broker.Endpoint{
			Name: e.name, Breaker: string(e.health.State(s.now())), Until: e.health.Until(), Since: e.since, Failures: e.health.Failures(),
			Limit: e.health.Limit(), InFlight: e.health.InFlight(), Waiting: e.waiting.Len(), Last: e.last.Attempt, Cause: e.last.Cause,
		})
	}
	return len(all), worst
}
