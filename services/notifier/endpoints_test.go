package notifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// sharing is endpoints on the clock of a synctest bubble.
type sharing struct {
	*endpoints

	stop  func()
	lines strings.Builder
}

func share(slots int) *sharing {
	s := &sharing{}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.endpoints = newEndpoints(&delivery.Policy{Random: func() float64 { return 0.5 }}, slots, ctx.Done(), time.Now, zerolog.New(&s.lines))
	return s
}

// outcomes of attempts.
func delivered() webhook.Outcome {
	return webhook.Outcome{Attempt: delivery.Attempt{Class: delivery.Delivered, Code: 204}}
}

func failed() webhook.Outcome {
	return webhook.Outcome{Attempt: delivery.Attempt{Class: delivery.Unwell, Code: 503}, Cause: webhook.CauseStatus}
}

// callbacks come at once to one endpoint, and what each got.
type callbacks struct {
	mu                 sync.Mutex
	sent, held, errors int
	running            sync.WaitGroup
}

// counts are how many may go, are held and given back so far.
func (c *callbacks) counts() (sent, held, errors int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.held, c.errors
}

var orders sync.Mutex

// come has n callbacks come to name, whose attempts take d and end so; order
// is told of each that may go.
func (s *sharing) come(name string, n int, d time.Duration, out func() webhook.Outcome, order *[]string) *callbacks {
	c := &callbacks{}
	for range n {
		c.running.Go(func() {
			slot, err := s.take(context.Background(), name)
			c.mu.Lock()
			switch {
			case err != nil:
				c.errors++
			case !slot.held.IsZero():
				c.held++
			default:
				c.sent++
				if order != nil {
					orders.Lock()
					*order = append(*order, name)
					orders.Unlock()
				}
			}
			c.mu.Unlock()
			if err == nil && slot.held.IsZero() {
				time.Sleep(d) // the bubble's clock
				s.give(slot, out(), d)
			}
		})
	}
	return c
}

// TestEndpointsTakeTurns: where the slots are too few, one that has more callbacks
// waiting gets no more of them than one that has a few.
func TestEndpointsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(4)
		for _, name := range []string{"hog", "a", "b", "c"} { // each may have many at once
			for range 80 {
				slot, err := s.take(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				s.give(slot, delivered(), time.Millisecond)
			}
		}
		var order []string
		all := []*callbacks{s.come("hog", 4, 10*time.Millisecond, delivered, nil)} // has every slot
		synctest.Wait()
		for _, of := range []struct {
			name string
			n    int
		}{{"hog", 4}, {"a", 1}, {"b", 1}, {"c", 1}} {
			all = append(all, s.come(of.name, of.n, 10*time.Millisecond, delivered, &order))
			synctest.Wait()
		}
		for _, c := range all {
			c.running.Wait()
			if _, held, errors := c.counts(); held+errors > 0 {
				t.Errorf("%d are held, %d given back", held, errors)
			}
		}
		slices.Sort(order[:4]) // the first round
		if got := strings.Join(order, " "); got != "a b c hog hog hog hog" {
			t.Errorf("the turns were %s", got)
		}
	})
}

// TestNoEndpointHasAllTheRoom: what waits in hand is bounded, and one endpoint has
// half of it; what comes to the others still finds room.
func TestNoEndpointHasAllTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(8) // 16 may wait
		hog := s.come("hog", 100, time.Second, delivered, nil)
		synctest.Wait()
		waiting, _ := s.tally()
		if _, held, _ := hog.counts(); waiting != 8 || held != 100-8-2 {
			t.Errorf("%d wait, %d are held", waiting, held)
		}
		other := s.come("other", 6, time.Second, delivered, nil)
		synctest.Wait()
		waiting, _ = s.tally()
		if sent, held, _ := other.counts(); waiting != 8+4 || held != 0 || sent != 2 {
			t.Errorf("%d wait; of the other %d are sent, %d are held", waiting, sent, held)
		}
		hog.running.Wait()
		other.running.Wait()
		if waiting, _ := s.tally(); waiting != 0 || s.room != s.places || s.free != 8 {
			t.Errorf("%d wait; %d of %d places, %d slots are free", waiting, s.room, s.places, s.free)
		}
	})
}

// TestAnOpenBreakerSendsAwayWhatWaits: at once, each to a time of its own after it.
func TestAnOpenBreakerSendsAwayWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(64)
		began := time.Now()
		dead := s.come("dead", 40, 100*time.Millisecond, failed, nil)
		dead.running.Wait()
		sent, held, _ := dead.counts()
		if took := time.Since(began); sent != 5 || held != 35 || took > time.Second {
			t.Errorf("%d were tried, %d sent away, within %s", sent, held, took)
		}
		slot, err := s.take(t.Context(), "dead")
		if err != nil || !slot.open || slot.held.Before(time.Now().Add(29*time.Second)) {
			t.Errorf("%+v, %v", slot, err)
		}
		_, states := s.tally()
		n, worst := s.report()
		if states[delivery.Open] != 1 || states[delivery.Closed] != 0 || n != 1 || worst[0].Name != "dead" || worst[0].Breaker != "open" || worst[0].Failures != 5 || worst[0].Last.Code != 503 {
			t.Errorf("%v, %d failing: %+v", states, n, worst)
		}
		time.Sleep(30 * time.Second)
		slot, err = s.take(t.Context(), "dead")
		if err != nil || !slot.held.IsZero() {
			t.Fatalf("no probe: %+v, %v", slot, err)
		}
		s.give(slot, delivered(), time.Millisecond)
		if n, _ := s.report(); n != 0 {
			t.Errorf("%d still fail", n)
		}
		lines := s.lines.String()
		for _, want := range []string{"endpoint fails", "left alone", "takes callbacks again"} {
			if strings.Count(lines, want) != 1 {
				t.Errorf("%q is not told once:\n%s", want, lines)
			}
		}
	})
}

// TestAnEndpointIsToldOfOnce: one that fails now and then has a line a minute, not
// one for each attempt.
func TestAnEndpointIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(64)
		for range 100 {
			for _, out := range []webhook.Outcome{failed(), delivered(), delivered()} {
				slot, err := s.take(t.Context(), "moody")
				if err != nil {
					t.Fatal(err)
				}
				s.give(slot, out, time.Millisecond)
			}
			time.Sleep(time.Second)
		}
		if got := strings.Count(s.lines.String(), "endpoint fails"); got != 2 {
			t.Errorf("%d lines in 100 s:\n%s", got, s.lines.String())
		}
	})
}

func TestWhatWaitsIsGivenBackAtAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(4)
		c := s.come("slow", 5, time.Second, delivered, nil)
		synctest.Wait()
		s.stop()
		synctest.Wait()
		if sent, _, errors := c.counts(); errors != 3 || sent != 2 {
			t.Errorf("%d given back, %d sent", errors, sent)
		}
		c.running.Wait()
		if _, err := s.take(t.Context(), "slow"); errors.Is(err, errStopping) {
			t.Error("a slot that is free is given")
		}
	})
}

// TestEndpointsAreForgotten: what is kept of endpoints is bounded, in number and in
// bytes, and ends where they are not used.
func TestEndpointsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(64)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range 2 * knownEndpoints {
			slot, err := s.take(t.Context(), fmt.Sprintf("https://host-%d.example", i))
			if err != nil || !slot.held.IsZero() {
				t.Fatal(i, slot, err)
			}
			s.give(slot, failed(), time.Millisecond)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := float64(after.HeapAlloc-before.HeapAlloc) / knownEndpoints
		t.Logf("%d endpoints, %.0f bytes each", s.known.Len(), each)
		if s.known.Len() != knownEndpoints || len(s.failing) != knownEndpoints || each > 1024 {
			t.Errorf("%d endpoints are kept, %d of them failing, of %.0f bytes each", s.known.Len(), len(s.failing), each)
		}
		if n, worst := s.report(); n != knownEndpoints || len(worst) != 100 {
			t.Errorf("%d of %d are reported", len(worst), n)
		}
		time.Sleep(idleEndpoint)
		if n, _ := s.report(); n != 0 || s.known.Len() != 0 {
			t.Errorf("%d are kept", s.known.Len())
		}
	})
}

// TestAReplicaThatLeavesDelaysNobody: it stops while callbacks wait in its hands for
// a slow endpoint. They come to the other at once, not after their AckWait.
func TestAReplicaThatLeavesDelaysNobody(t *testing.T) {
	const jobs = 8
	answers := make(chan struct{})
	var arrived atomic.Int32
	b := newBench(t, func(hookd.Call) hookd.Answer {
		arrived.Add(1)
		<-answers
		return hookd.Answer{Status: http.StatusNoContent}
	})
	leave := b.replica(nil)
	for i := range jobs {
		id := fmt.Sprint("job ", i)
		b.accept(id, b.webhook(0))
		b.history(id, success()[:1]...)
	}
	await.That(t, "two are under way", func() bool { return arrived.Load() == 2 })
	left := make(chan struct{})
	go func() { leave(); close(left) }()
	b.replica(nil)
	await.That(t, "two of the others are under way", func() bool { return arrived.Load() == 4 })
	close(answers)
	<-left
	await.That(t, "all came", func() bool { return arrived.Load() == jobs })
	b.settled()
	for i := range jobs {
		b.expect(fmt.Sprint("job ", i), 0)
	}
	if n := len(b.hooks.Calls()); n != jobs {
		t.Errorf("%d attempts at %d callbacks", n, jobs)
	}
}
