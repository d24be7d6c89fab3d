package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	// slowAnswer makes 64 at once 320 callbacks/s a replica: four of them leave
	// the cores time to spare.
	slowAnswer        = 200 * time.Millisecond
	scaleOutCallbacks = 2000 // counted, of each replica

	joinCallbacks = 8000
	joinPace      = 400.0 // callbacks/s
	joinStay      = 2 * time.Second
	joinPause     = time.Second
	// joinLate is what nobody waits: an answer, as long again, and some time for
	// the way.
	joinLate = 2*slowAnswer + 100*time.Millisecond
	lateOnes = "callbacks later than 500 ms"
)

// scaleOutRow is a row of B9: what each of some notifiers delivers to endpoints
// that take their time, against what one delivers that is alone.
func scaleOutRow(id string, replicas int) row {
	of := func(n int) traffic { return traffic{manyEndpoints, n, callbacksInFlight, slowAnswer, 0} }
	return row{
		ID: id, Title: fmt.Sprintf("scale-out, %d notifiers", replicas), Unit: "callbacks/s a notifier",
		Ours: of(replicas).String(), Bare: of(1).String(),
		Goals: []goal{{"", atLeast, 0.90}, {writesPerCallback, exactly, 1}},
		Slow:  true,
		Run: func(ctx context.Context, s *stage, which side) (result, error) {
			n := replicas
			if which == bare {
				n = 1
			}
			t := of(n)
			t.Callbacks = n * s.size(scaleOutCallbacks)
			out, err := notified(ctx, s, t, s.syncAlways)
			out.Rate /= float64(n)
			return out, err
		},
	}
}

var (
	scaleOutTwo  = scaleOutRow("B9two", 2)
	scaleOutFour = scaleOutRow("B9", 4)
)

// scaleOutJoin is what a replica that comes and goes costs the callbacks of all:
// two notifiers stay, and a third one joins and gets SIGTERM, again and again.
var scaleOutJoin = row{
	ID: "B9join", Title: "a notifier joins and leaves", Unit: "1/s of the p99",
	Ours: "2 notifiers, and one that comes and goes", Bare: "2 notifiers",
	Goals: []goal{{lateOnes, exactly, 0}, {deliveredShare, exactly, 100}},
	Slow:  true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		n := s.size(joinCallbacks)
		p, err := s.paced(ctx, receiving{Counted: manyEndpoints, After: slowAnswer}, n, 2)
		if err != nil {
			return result{}, err
		}
		joined := 0.0
		others, stop := context.WithCancel(ctx)
		defer stop()
		group, others := errgroup.WithContext(others)
		if which == ours {
			group.Go(func() (err error) { joined, err = s.joinAndLeave(others, p.logs.nats); return err })
		}
		out, err := p.run(ctx, s, n, joinPace, func(int) bool { return true })
		if err != nil {
			return result{}, err
		}
		stop()
		if err := group.Wait(); err != nil {
			return result{}, err
		}
		out.Counters[lateOnes] = float64(p.later(joinLate))
		if which == ours {
			out.Counters["times that one joined and left"] = joined
		}
		return out, nil
	},
}

// joinAndLeave starts and stops a notifier until ctx ends, and says how often.
func (s *stage) joinAndLeave(ctx context.Context, nats natsServer) (times float64, err error) {
	n, err := s.notifier(s.product, nats)
	for err == nil {
		if err = n.ready(ctx, s); err != nil {
			break
		}
		stay := process.Sleep(ctx, joinStay)
		if err = n.process.Stop(); err != nil {
			return times, err
		}
		times++
		if stay != nil || process.Sleep(ctx, joinPause) != nil {
			return times, nil
		}
		err = n.process.Start()
	}
	if ctx.Err() != nil {
		return times, nil
	}
	return times, err
}
