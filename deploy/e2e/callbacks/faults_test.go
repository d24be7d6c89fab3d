//go:build e2e

package callbacks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

const (
	faultJobs      = 2000
	faultReplicas  = 3
	faultRestarts  = 3               // of NATS
	restartEvery   = 8 * time.Second // of NATS, from the first event on
	hang           = 3 * time.Second // then the connection is closed; an attempt may take 15 s
	longestAnswer  = 40 * time.Millisecond
	writers        = 48              // jobs whose events are being appended at once
	faultMost      = 4 * time.Minute // AckWait is 45 s, and what was killed twice waits twice
	appendRetry    = 200 * time.Millisecond
	faultSchedule  = "0s,500ms,1s,1s,2s,2s,2s,2s,2s,2s,2s,2s,2s,2s,2s,2s"
	failPercent    = 10
	hangPercent    = 2
	dropPercent    = 3
	leastKills     = 15
	longestPauseMS = 1000 // between two events of a job
)

// dice is how the receiver answers.
type dice struct {
	mu                       sync.Mutex
	random                   *rand.Rand
	failed, hanging, dropped int
}

func (d *dice) roll() hookd.Answer {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch n := d.random.IntN(100); {
	case n < failPercent:
		d.failed++
		return hookd.Answer{Status: http.StatusServiceUnavailable}
	case n < failPercent+hangPercent:
		d.hanging++
		return hookd.Answer{Delay: hang, Hangup: true}
	case n < failPercent+hangPercent+dropPercent:
		d.dropped++
		return hookd.Answer{Hangup: true}
	}
	return hookd.Answer{Status: http.StatusNoContent, Delay: time.Duration(d.random.Int64N(int64(longestAnswer)))}
}

// TestCallbacksUnderFire: three replicas of the notifier as it is shipped, one
// of them SIGKILLed every second while 2,000 jobs have their events, NATS
// SIGKILLed three times, receivers that fail, hang and drop connections.
func TestCallbacksUnderFire(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("FAULT_SEED"), 10, 64)
	if err != nil {
		seed = 20261124
	}
	t.Logf("FAULT_SEED=%d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), faultMost)
	defer cancel()
	begin := time.Now()
	s, err := start(ctx, t.TempDir(), filepath.Join(os.Getenv("JOBRELAY_BIN_DIR"), "notifier"),
		"JOBRELAY_RETRY_SCHEDULE="+faultSchedule)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.logs())
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	d := &dice{random: rand.New(rand.NewPCG(seed, 0))}
	s.hooks.chance = d.roll
	for range faultReplicas {
		if _, err := s.notifier(ctx); err != nil {
			t.Fatal(err)
		}
	}
	restarts, err := s.underFire(ctx, seed)
	if err != nil {
		t.Fatal(err)
	}
	appended := time.Since(begin)
	var left work
	err = await(ctx, "every callback is delivered and every token acknowledged", faultMost, func() bool {
		w, err := s.work(ctx)
		_, delivered, _ := s.hooks.counts()
		left = w
		return err == nil && delivered == len(events())*faultJobs && w.unacknowledged == 0 && w.awake == 0
	})
	if err != nil {
		t.Errorf("%v; left is %+v", err, left)
	}
	violations, err := s.check(context.WithoutCancel(ctx))
	if err != nil {
		t.Fatal(err)
	}
	kills := 0
	for _, r := range s.notifiers {
		kills += r.Kills()
	}
	attempts, delivered, repeats := s.hooks.counts()
	t.Log(table("callbacks under fire\t", []string{
		fmt.Sprintf("seed\t%d", seed),
		fmt.Sprintf("jobs\t%d, %d events", faultJobs, len(events())*faultJobs),
		fmt.Sprintf("SIGKILL\t%d of %d notifiers, %d of NATS", kills, faultReplicas, restarts),
		fmt.Sprintf("receiver\t%d failed, %d hung, %d dropped", d.failed, d.hanging, d.dropped),
		fmt.Sprintf("attempts\t%d", attempts),
		fmt.Sprintf("delivered\t%d", delivered),
		fmt.Sprintf("repeats\t%d, with the same webhook-id and bytes", repeats),
		fmt.Sprintf("took\t%.0f s, events appended within %.0f s", time.Since(begin).Seconds(), appended.Seconds()),
		fmt.Sprintf("left\t%d schedules", left.parked),
		fmt.Sprintf("violations\t%d", len(violations)),
	}))
	if len(violations) > 0 {
		t.Errorf("%d violations:\n%s", len(violations), strings.Join(violations[:min(len(violations), 20)], "\n"))
	}
	if kills < leastKills || restarts != faultRestarts || d.failed == 0 || d.hanging == 0 || d.dropped == 0 {
		t.Error("the faults did not happen")
	}
}

// underFire appends the events of all jobs while a notifier dies each second.
func (s *stack) underFire(ctx context.Context, seed uint64) (restarts int, err error) {
	for n := range faultJobs {
		s.jobs = append(s.jobs, newJob(chancy, n))
	}
	group, ctx := errgroup.WithContext(ctx)
	appended, done := context.WithCancel(ctx)
	defer done()
	group.Go(func() error { return s.killEach(appended, time.Second, seed) })
	group.Go(func() error {
		for restarts < faultRestarts {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(restartEvery):
			}
			if err := s.nats.Kill(); err != nil {
				return err
			}
			if err := s.nats.Start(); err != nil {
				return err
			}
			restarts++
		}
		return nil
	})
	group.Go(func() error {
		defer done()
		var all errgroup.Group
		for w := range writers {
			all.Go(func() error {
				random := rand.New(rand.NewPCG(seed, uint64(w)+2))
				for i := w; i < faultJobs; i += writers {
					if err := s.history(ctx, s.jobs[i], random); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return all.Wait()
	})
	err = group.Wait()
	return restarts, err
}

// history appends a job's events, at once or with pauses, however often NATS
// goes away meanwhile.
func (s *stack) history(ctx context.Context, j *job, random *rand.Rand) error {
	if err := insist(ctx, func(ctx context.Context) error { return s.accept(ctx, j) }); err != nil {
		return err
	}
	for n := range events() {
		if random.IntN(3) > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(random.IntN(longestPauseMS)) * time.Millisecond):
			}
		}
		if err := insist(ctx, func(ctx context.Context) error { return s.append(ctx, j, n) }); err != nil {
			return err
		}
	}
	return nil
}

// insist tries until it is done. A server that was killed leaves a request
// without its answer.
func insist(ctx context.Context, do func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, answerMost)
		err := do(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(appendRetry):
		}
	}
}

// killEach kills one replica and starts it again, each time, until ctx ends.
func (s *stack) killEach(ctx context.Context, every time.Duration, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 1))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r := s.notifiers[random.IntN(len(s.notifiers))]
		if err := r.Kill(); err != nil {
			return err
		}
		if err := r.Start(); err != nil {
			return err
		}
	}
}
