package delivery_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// What attempts tell.
var (
	well    = delivery.Observed{Class: delivery.Delivered, Answered: true, Took: 20 * time.Millisecond}
	unwell  = delivery.Observed{Class: delivery.Unwell, Answered: true, Took: time.Millisecond}
	hung    = delivery.Observed{Class: delivery.Unwell, TimedOut: true, Took: 15 * time.Second}
	refusal = delivery.Observed{Class: delivery.Refused, Answered: true}
	noName  = delivery.Observed{Class: delivery.Refused}
	broken  = delivery.Observed{} // by our own stop
)

// patient is an endpoint on a clock of the test's own, without jitter.
type patient struct {
	*delivery.Health

	t   *testing.T
	now time.Time
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	return &patient{delivery.NewHealth(policy(t)), t, now}
}

// tries makes one attempt after the other with these outcomes.
func (p *patient) tries(outcomes ...delivery.Observed) {
	p.t.Helper()
	for i, o := range outcomes {
		ticket, ok := p.Begin(p.now)
		if !ok {
			p.t.Fatalf("attempt %d may not begin: %s, %d of %d under way", i, p.State(p.now), p.InFlight(), p.Limit())
		}
		p.End(ticket, o, p.now)
	}
}

// begins starts attempts until no more may begin.
func (p *patient) begins() (out []delivery.Ticket) {
	for {
		ticket, ok := p.Begin(p.now)
		if !ok {
			return out
		}
		out = append(out, ticket)
	}
}

func (p *patient) is(want delivery.BreakerState) {
	p.t.Helper()
	if got := p.State(p.now); got != want {
		p.t.Errorf("the breaker is %s, want %s", got, want)
	}
}

func times(n int, o delivery.Observed) []delivery.Observed {
	out := make([]delivery.Observed, n)
	for i := range out {
		out[i] = o
	}
	return out
}

func TestTheLimitGrowsByOneAndFallsByHalf(t *testing.T) {
	p := newPatient(t)
	if got := len(p.begins()); got != 2 {
		t.Errorf("a new endpoint takes %d at once", got)
	}
	p = newPatient(t)
	for _, step := range []struct {
		outcomes []delivery.Observed
		want     int
	}{
		{times(8, well), 10},
		{times(1, unwell), 5},
		{times(1, refusal), 5},
		{times(1, noName), 5},
		{times(1, broken), 5},
		{times(100, well), 64},
		{times(1, hung), 1},
		{times(1, unwell), 1},
		{times(1, well), 2},
	} {
		if p.tries(step.outcomes...); p.Limit() != step.want {
			t.Errorf("after %d of %+v it takes %d at once, want %d", len(step.outcomes), step.outcomes[0], p.Limit(), step.want)
		}
	}
	if got := len(p.begins()); got != 2 || p.InFlight() != 2 {
		t.Errorf("%d begin, %d are under way", got, p.InFlight())
	}
}

func TestWhatOpensTheBreaker(t *testing.T) {
	half := append(times(10, well), unwell)
	for range 9 {
		half = append(half, well, unwell)
	}
	for name, c := range map[string]struct {
		outcomes []delivery.Observed
		want     delivery.BreakerState
	}{
		"four failures":                  {times(4, unwell), delivery.Closed},
		"five failures":                  {times(5, unwell), delivery.Open},
		"five timeouts":                  {times(5, hung), delivery.Open},
		"a delivery in between":          {append(times(4, unwell), append([]delivery.Observed{well}, times(4, unwell)...)...), delivery.Closed},
		"a refusal in between":           {append(times(4, unwell), refusal, unwell), delivery.Open},
		"refused by hundreds":            {times(300, refusal), delivery.Closed},
		"no such host":                   {times(300, noName), delivery.Closed},
		"our own stop":                   {times(300, broken), delivery.Closed},
		"ten of twenty-nine":             {half, delivery.Closed},
		"half of twenty, never in a row": {append(times(1, well), alternating(19)...), delivery.Open},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			for _, o := range c.outcomes {
				if p.State(p.now) == delivery.Closed {
					p.tries(o)
				}
			}
			p.is(c.want)
		})
	}
}

func alternating(n int) (out []delivery.Observed) {
	for i := range n {
		if i%2 == 0 {
			out = append(out, unwell)
		} else {
			out = append(out, well)
		}
	}
	return out
}

// TestFailuresOfLongAgoDoNotCount: half of twenty is of one minute.
func TestFailuresOfLongAgoDoNotCount(t *testing.T) {
	p := newPatient(t)
	for range 100 {
		p.tries(unwell, well)
		p.now = p.now.Add(7 * time.Second)
	}
	p.is(delivery.Closed)
}

func TestAnOpenBreakerDoublesUpToItsMost(t *testing.T) {
	p := newPatient(t)
	p.tries(times(5, unwell)...)
	for i, wait := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		if got := p.Until().Sub(p.now); got != wait {
			t.Errorf("open number %d is for %s, want %s", i+1, got, wait)
		}
		p.now = p.Until().Add(-time.Nanosecond)
		p.is(delivery.Open)
		if len(p.begins()) != 0 {
			t.Error("an attempt begins while the breaker is open")
		}
		p.now = p.Until()
		p.is(delivery.HalfOpen)
		probes := p.begins()
		if len(probes) != 1 {
			t.Fatalf("%d probes at once", len(probes))
		}
		p.End(probes[0], unwell, p.now)
	}
	p.now = p.Until()
	p.tries(well)
	p.is(delivery.Closed)
	p.tries(times(5, unwell)...)
	if got := p.Until().Sub(p.now); got != 30*time.Second {
		t.Errorf("the next time it is open for %s", got)
	}
}

func TestWhatAProbeTells(t *testing.T) {
	for name, c := range map[string]struct {
		probe delivery.Observed
		want  delivery.BreakerState
	}{
		"delivered":              {well, delivery.Closed},
		"refused by its answer":  {refusal, delivery.Closed},
		"refused without answer": {noName, delivery.HalfOpen},
		"broken off":             {broken, delivery.HalfOpen},
		"unwell":                 {unwell, delivery.Open},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			p.tries(times(5, unwell)...)
			p.now = p.Until()
			p.tries(c.probe)
			p.is(c.want)
			if c.want == delivery.HalfOpen && len(p.begins()) != 1 {
				t.Error("there is no next probe")
			}
		})
	}
}

// TestOutcomesOfBeforeDoNotCount: what was under way when the breaker opened
// neither closes it, nor opens it for longer.
func TestOutcomesOfBeforeDoNotCount(t *testing.T) {
	p := newPatient(t)
	p.tries(times(20, well)...)
	under := p.begins()
	for _, ticket := range under[:5] {
		p.End(ticket, unwell, p.now)
	}
	until := p.Until()
	p.End(under[5], well, p.now)
	p.End(under[6], unwell, p.now)
	p.is(delivery.Open)
	p.now = until
	probe := p.begins()
	p.End(under[7], well, p.now)
	p.End(under[8], unwell, p.now)
	p.is(delivery.HalfOpen)
	if len(probe) != 1 || p.Until() != until {
		t.Errorf("%d probes, open until %s, was %s", len(probe), p.Until(), until)
	}
	p.End(probe[0], well, p.now)
	for _, ticket := range under[9:] {
		p.End(ticket, unwell, p.now)
	}
	p.is(delivery.Closed)
	if p.InFlight() != 0 || p.Failures() != 0 {
		t.Errorf("%d under way, %d failures", p.InFlight(), p.Failures())
	}
}

func TestHeldCallbacksComeOneByOne(t *testing.T) {
	p := newPatient(t)
	first := p.Hold(0, p.now)
	if got := first.Sub(p.now); got != 250*time.Millisecond {
		t.Errorf("the first comes after %s", got)
	}
	if got := p.Hold(0, p.now).Sub(first); got != 10*time.Millisecond {
		t.Errorf("the second is %s behind it, where nothing is known", got)
	}
	p.tries(times(100, well)...) // 64 at once, 20 ms each
	last := p.Hold(0, p.now)
	if got := p.Hold(0, p.now).Sub(last); got < 200*time.Microsecond || got > 320*time.Microsecond {
		t.Errorf("one is %s behind the other", got)
	}
	p = newPatient(t)
	p.tries(times(5, unwell)...)
	if got := p.Hold(0, p.now); got != p.Until() {
		t.Errorf("comes again at %s, before the breaker's end", got)
	}
	for range 200_000 {
		if got := p.Hold(0, p.now); got.Before(p.Until()) || got.After(p.Until().Add(10*time.Minute)) {
			t.Fatalf("comes again %s after the breaker's end", got.Sub(p.Until()))
		}
	}
}

// TestAnyHistoryOfAnEndpoint: whatever happens in whatever order, no more attempts
// begin than may, none while the breaker is open, one at a time while it is half
// open; and in the end an endpoint that is well is taken up again.
func TestAnyHistoryOfAnEndpoint(t *testing.T) {
	outcomes := []delivery.Observed{well, unwell, hung, refusal, noName, broken}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPatient(t)
		type attempt struct {
			ticket delivery.Ticket
			probe  bool
		}
		var under []attempt
		probes := func() (n int) {
			for _, a := range under {
				if a.probe {
					n++
				}
			}
			return n
		}
		row := 0 // unwell since something was delivered
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) {
				state := p.State(p.now)
				ticket, ok := p.Begin(p.now)
				if !ok {
					return
				}
				switch {
				case state == delivery.Open:
					rt.Fatal("an attempt begins while the breaker is open")
				case state == delivery.Closed && p.InFlight() > p.Limit():
					rt.Fatalf("%d under way, %d may be", p.InFlight(), p.Limit())
				case state == delivery.HalfOpen && probes() > 0:
					rt.Fatal("two probes")
				}
				under = append(under, attempt{ticket, state == delivery.HalfOpen})
			},
			"end": func(rt *rapid.T) {
				if len(under) == 0 {
					rt.Skip("nothing is under way")
				}
				i := rapid.IntRange(0, len(under)-1).Draw(rt, "which")
				o := rapid.SampledFrom(outcomes).Draw(rt, "outcome")
				p.End(under[i].ticket, o, p.now)
				under = append(under[:i], under[i+1:]...)
				switch o.Class {
				case delivery.Unwell:
					row++
				case delivery.Delivered:
					row = 0
				default:
				}
				if p.Failures() > row {
					rt.Fatalf("%d failures in a row, there were %d", p.Failures(), row)
				}
			},
			"wait": func(rt *rapid.T) {
				p.now = p.now.Add(time.Duration(rapid.IntRange(0, int(15*time.Minute)).Draw(rt, "ns")))
			},
			"hold": func(rt *rapid.T) {
				at := p.Hold(rapid.IntRange(0, 4096).Draw(rt, "ahead"), p.now)
				if !at.After(p.now) || at.Before(p.Until()) {
					rt.Fatalf("comes again at %s; it is %s, and the breaker is open until %s", at, p.now, p.Until())
				}
			},
			"": func(rt *rapid.T) {
				if p.Limit() < 1 || p.Limit() > delivery.MaxLimit || p.InFlight() != len(under) {
					rt.Fatalf("%d at once, %d under way of %d", p.Limit(), p.InFlight(), len(under))
				}
			},
		})
		for _, a := range under {
			p.End(a.ticket, broken, p.now)
		}
		p.now = p.now.Add(10 * time.Minute)
		p.tries(times(3, well)...)
		p.is(delivery.Closed)
	})
}

// TestHeldTooLong: the time of a callback that is held runs, and ends with the
// callback given up as an exhausted one.
func TestHeldTooLong(t *testing.T) {
	p := policy(t)
	for name, c := range map[string]struct {
		age, wait time.Duration
		want      delivery.Decision
	}{
		"soon":                {time.Hour, time.Minute, delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Minute)}},
		"at the end of a day": {23 * time.Hour, 2 * time.Hour, delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Hour)}},
		"past it":             {24 * time.Hour, time.Minute, delivery.Decision{Verdict: delivery.GiveUpWhole, Reason: delivery.ReasonExhausted}},
	} {
		if got := p.Hold(now.Add(-c.age), now.Add(c.wait), now); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
