//go:build e2e

package callbacks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/jobrelay/jobrelay/pkg/failpoint"
)

const (
	// refusals is the length of the schedule of what is refused.
	refusals = 2
	// roundMost is how long one round of jobs may take: AckWait more than once,
	// and the retries.
	roundMost = 40 * time.Second
	// roundsMost is how many rounds an armed replica is given to come to its
	// failpoint: which replica gets a token is the server's choice.
	roundsMost = 30
)

// retries of the scenes: short, and as many as a test may need.
func retries(first time.Duration) []string {
	schedule := "0s"
	for range 7 {
		schedule += "," + first.String()
	}
	return []string{"JOBRELAY_RETRY_SCHEDULE=" + schedule, "JOBRELAY_RETRY_SCHEDULE_REFUSED=0s,300ms"}
}

// outcome of a scene.
type outcome struct {
	jobs, deaths                 int
	attempts, delivered, repeats int
	took                         time.Duration
	violations                   []string
	logs                         string // of the notifiers, where there are violations
}

// scene runs a notifier binary through something and tells what came of it; an
// error means that it did not take place.
type scene func(ctx context.Context, dir, binary string) (outcome, error)

// killedAt has n replicas, all but one armed with a failpoint at which they are
// killed once; each starts again without it. Jobs of every kind come until all
// have died there. An empty point: nobody dies.
func killedAt(point failpoint.Point, n int) scene {
	return func(ctx context.Context, dir, binary string) (outcome, error) {
		return play(ctx, dir, binary, retries(300*time.Millisecond), func(s *stack) (deaths int, err error) {
			var armed []*replica
			for i := range n {
				var env []string
				if point != "" && i < n-1 {
					env = append(env, armedWith(point, "kill"))
				}
				r, err := s.notifier(ctx, env...)
				if err != nil {
					return 0, err
				}
				if env != nil {
					armed = append(armed, r)
				}
			}
			for round := range roundsMost {
				if err := s.round(ctx, round); err != nil {
					return deaths, err
				}
				var failed error
				err := await(ctx, "a round of jobs is done", roundMost, func() bool {
					armed = slices.DeleteFunc(armed, func(r *replica) bool {
						if r.Running() {
							return false
						}
						if !r.at(point) {
							failed = fmt.Errorf("%s ended elsewhere", r.Name)
						}
						deaths++
						failed = errors.Join(failed, r.unarmed())
						return true
					})
					return failed != nil || s.idle(ctx)
				})
				if err := errors.Join(failed, err); err != nil {
					return deaths, err
				}
				if len(armed) == 0 {
					return deaths, nil
				}
			}
			return deaths, fmt.Errorf("%d replicas never came to %s", len(armed), point)
		})
	}
}

// round is a job of each kind, their events one after another. Each round begins
// with another kind: the server deals the events out in turn.
func (s *stack) round(ctx context.Context, round int) error {
	var jobs []*job
	all := kinds()
	first := round % len(all)
	for _, k := range slices.Concat(all[first:], all[:first]) {
		j := newJob(k, round)
		if err := s.accept(ctx, j); err != nil {
			return err
		}
		jobs = append(jobs, j)
	}
	s.jobs = append(s.jobs, jobs...)
	for n := range events() {
		for _, j := range jobs {
			if err := s.append(ctx, j, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// frozenAtScheduling: a replica stands still after the failure of callback 0
// and before its schedule. Another delivers 0, fails at 1 and parks it. Then
// the first goes on, and parks 0.
func frozenAtScheduling(ctx context.Context, dir, binary string) (outcome, error) {
	const wait = 5 * time.Second // of callback 1, less 20 %; the frozen one must wake up within it
	return play(ctx, dir, binary, retries(wait), func(s *stack) (int, error) {
		a, err := s.notifier(ctx, armedWith(failpoint.Scheduling, "pause"))
		if err != nil {
			return 0, err
		}
		j := newJob(staged, 0)
		s.jobs = append(s.jobs, j)
		if err := errors.Join(s.accept(ctx, j), s.append(ctx, j, 0)); err != nil {
			return 0, err
		}
		if err := await(ctx, "the failpoint", roundMost, func() bool { return a.at(failpoint.Scheduling) }); err != nil {
			return 0, err
		}
		// Its pulls are answered for 5 s more: what comes then is held by one
		// that stands still.
		select {
		case <-ctx.Done():
		case <-time.After(6 * time.Second):
		}
		if _, err := s.notifier(ctx); err != nil {
			return 0, err
		}
		if err := await(ctx, "callback 0 by the other", roundMost, func() bool { return s.hooks.given(j, 0) > 0 }); err != nil {
			return 0, err
		}
		if err := s.append(ctx, j, 1); err != nil {
			return 0, err
		}
		if err := await(ctx, "callback 1 fails and is parked", roundMost, func() bool {
			w, err := s.work(ctx)
			return err == nil && s.hooks.attempts(j, 1) == 1 && w == work{parked: 1}
		}); err != nil {
			return 0, err
		}
		if err := errors.Join(a.Thaw(), s.append(ctx, j, 2)); err != nil {
			return 0, err
		}
		return 0, await(ctx, "all is done", roundMost, func() bool { return s.idle(ctx) })
	})
}

// play runs a scene on a stack of its own.
func play(ctx context.Context, dir, binary string, env []string, act func(*stack) (deaths int, err error)) (out outcome, err error) {
	begin := time.Now()
	s, err := start(ctx, filepath.Join(dir, "scene"), binary, env...)
	if err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if out.deaths, err = act(s); err != nil {
		w, _ := s.work(ctx) // to say all that is known
		missing, _ := s.check(ctx)
		return out, fmt.Errorf("%w; left is %+v; %v; %s", err, w, missing, s.logs())
	}
	out.violations, err = s.check(ctx)
	out.jobs, out.took = len(s.jobs), time.Since(begin)
	out.attempts, out.delivered, out.repeats = s.hooks.counts()
	if len(out.violations) > 0 {
		out.logs = s.logs()
	}
	return out, err
}
