package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	isolationCallbacks = 12000
	isolationPace      = 400.0 // callbacks/s, to all endpoints together
	// deadInTen of ten endpoints are dead: half of them refuse the connection, half
	// take the callback and never answer.
	deadInTen = 3
	// straggle is how long callbacks are waited for behind the last append.
	straggle       = time.Minute
	deliveredShare = "delivered, %"
)

// isolationRow is a row of B12: what dead endpoints cost the callbacks to the
// healthy ones, from an event's append to the answer. The same 700 endpoints are
// counted on both sides, and get the same callbacks at the same pace; the other 300
// are dead, or as healthy as those. Nobody knows beforehand which are dead, and
// nothing is left out: neither the connections' beginning nor the breakers'.
func isolationRow(id, title string, answer time.Duration, goals ...goal) row {
	return row{
		ID: id, Title: title, Unit: "1/s of the p99",
		Ours:  fmt.Sprintf("notifier, %d of %d endpoints dead", manyEndpoints*deadInTen/10, manyEndpoints),
		Bare:  "notifier, none dead",
		Goals: append(goals, goal{deliveredShare, exactly, 100}),
		Slow:  true,
		Run: func(ctx context.Context, s *stage, which side) (result, error) {
			const dead = manyEndpoints * deadInTen / 10
			r := receiving{Counted: manyEndpoints - dead, Uncounted: dead, After: answer}
			if which == ours {
				r.Uncounted, r.Hanging = 0, dead/2
			}
			n := s.size(isolationCallbacks)
			p, err := s.paced(ctx, r, n, 1)
			if err != nil {
				return result{}, err
			}
			return p.run(ctx, s, n, isolationPace, func(job int) bool { return !uncounted(job) })
		},
	}
}

var (
	isolation     = isolationRow("B12", "healthy endpoints beside dead ones", healthyAnswer, goal{"", atLeast, 1 / 1.1})
	isolationFast = isolationRow("B12fast", "the same, answered at once", 0)
)

// uncounted tells of an endpoint, or a job that calls it, that is one of the dead
// where there are such.
func uncounted(i int) bool { return i%10 < deadInTen }

// pacing is a run whose events are appended at a pace.
type pacing struct {
	receivers *receivers
	logs      *logs
	notifier  *child.Process
	waits     []time.Duration // of the counted endpoints' callbacks, sorted
}

// paced starts the endpoints and the notifiers for a run of n callbacks, and accepts
// its requests. Job i calls endpoint i, of which uncounted tells what it is, if any
// are.
func (s *stage) paced(ctx context.Context, r receiving, n, replicas int) (*pacing, error) {
	p := &pacing{}
	var err error
	if p.receivers, err = s.receivers(ctx, r); err != nil {
		return nil, err
	}
	nats, err := s.nats(ctx)
	if err != nil {
		return nil, err
	}
	wave := min(manyEndpoints, max(n/callbacksPerJob, 1))
	if p.logs, err = s.logs(ctx, nats, p.receivers.addresses(), wave, n); err != nil {
		return nil, err
	}
	p.notifier, err = s.notifiers(ctx, nats, traffic{Replicas: replicas})
	return p, err
}

// addresses are those of all endpoints, spread so that uncounted tells which is
// which. Where some hang, as many refuse.
func (r *receivers) addresses() []string {
	counted, others := r.URLs.Counted, r.URLs.Uncounted
	for i, hanging := range r.URLs.Hanging {
		others = append(others, hanging, refusing(counted[0], i))
	}
	if len(others) == 0 {
		return counted
	}
	var out []string
	for i := range manyEndpoints {
		if uncounted(i) {
			out, others = append(out, others[0]), others[1:]
		} else {
			out, counted = append(out, counted[0]), counted[1:]
		}
	}
	return out
}

// refusing is an endpoint of its own that refuses every connection: the port of one
// that listens on 127.0.0.1, at another address of the loopback network. So nobody
// takes the port meanwhile.
func refusing(url string, i int) string {
	return strings.Replace(url, "127.0.0.1", fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250), 1)
}

// run appends n events and waits until the counted endpoints have answered what is
// theirs, counted by the job. What they have not answered in time is taken as if it
// had been answered at the end.
func (p *pacing) run(ctx context.Context, s *stage, n int, perSecond float64, counted func(job int) bool) (result, error) {
	expected := 0
	for i := range n {
		if counted(p.logs.jobOf(i)) {
			expected++
		}
	}
	before := s.cpu()
	s.say("%s: %d callbacks, %.0f a second", s.name, n, perSecond)
	pace, err := p.logs.pace(ctx, n, perSecond)
	if err != nil {
		return result{}, err
	}
	appended := time.Now()
	for h := (heard{}); h.Answered < expected && time.Since(appended) < straggle; {
		if h, err = p.receivers.heard(ctx); err != nil {
			return result{}, err
		}
		if !p.notifier.Running() {
			return result{}, ended(p.notifier)
		}
		if err := process.Sleep(ctx, look); err != nil {
			return result{}, err
		}
	}
	out := result{Counters: s.cpuSince(before, n, "callback")}
	if p.waits, err = p.receivers.waits(ctx); err != nil {
		return result{}, err
	}
	out.Counters[deliveredShare] = 100 * float64(len(p.waits)) / float64(expected)
	for range expected - len(p.waits) {
		p.waits = append(p.waits, time.Since(appended))
	}
	slices.Sort(p.waits)
	p99 := percentile(p.waits, 0.99)
	out.Rate = 1 / p99
	out.Counters["p50, ms"], out.Counters["p99, ms"] = 1e3*percentile(p.waits, 0.5), 1e3*p99
	out.Counters["longest, ms"] = 1e3 * percentile(p.waits, 1)
	out.Counters["callbacks counted"], out.Counters["events appended/s"] = float64(expected), pace
	out.JetStream, err = p.logs.nats.setting(ctx, broker.StreamLedger)
	return out, err
}

// later is how many callbacks took longer than d.
func (p *pacing) later(d time.Duration) (n int) {
	for _, wait := range p.waits {
		if wait > d {
			n++
		}
	}
	return n
}
