//go:build e2e

package callbacks

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

const (
	outageJobs     = 3334 // some 10,000 callbacks
	outageSchedule = "0s,1s,2s"
	outageAge      = "10s" // for those whose endpoint is left alone until their end
	outageMost     = 5 * time.Minute
	atReceivers    = 48 // histories written at once
)

// TestOutage: every receiver is down for the whole of a short day while 10,000
// callbacks come, and a notifier is killed in the middle. The dead letters are exactly
// what was not delivered. The receivers return, and `jobrelay deadletters replay`
// delivers all of it: each job in order, with the bytes and ids of before.
func TestOutage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMost)
	defer cancel()
	s, err := start(ctx, t.TempDir(), filepath.Join(os.Getenv("JOBRELAY_BIN_DIR"), "notifier"), "JOBRELAY_RETRY_SCHEDULE="+outageSchedule, "JOBRELAY_RETRY_MAX_AGE="+outageAge)
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
	var down atomic.Bool
	down.Store(true)
	s.hooks.chance = func() hookd.Answer {
		if down.Load() {
			return hookd.Answer{Status: http.StatusServiceUnavailable}
		}
		return hookd.Answer{Status: http.StatusNoContent}
	}
	for range 2 {
		if _, err := s.notifier(ctx); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if err := s.histories(ctx, outageJobs); err != nil {
		t.Fatal(err)
	}
	if err := s.notifiers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.notifiers[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := await(ctx, "all is given up", outageMost, func() bool { return s.idle(ctx) }); err != nil {
		t.Fatal(err)
	}
	outage := time.Since(began)
	attempts, delivered, _ := s.hooks.counts()
	waiting, done, err := s.letters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if waiting != len(events())*outageJobs || done != 0 || delivered != 0 {
		t.Errorf("%d dead letters of %d callbacks, %d replayed, %d delivered", waiting, len(events())*outageJobs, done, delivered)
	}

	down.Store(false)
	began = time.Now()
	said := s.jobrelay(t, "deadletters", "replay", "--all", "--rate", "1000")
	if lines := strings.Count(said, "\n"); lines != outageJobs+1 {
		t.Errorf("the replay lists %d lines:\n%.500s", lines, said)
	}
	if err := await(ctx, "all is replayed", outageMost, func() bool { return s.idle(ctx) }); err != nil {
		t.Fatal(err)
	}
	replay := time.Since(began)
	again := s.jobrelay(t, "deadletters", "replay", "--all")
	if waiting, done, err = s.letters(ctx); err != nil || waiting != 0 || done != len(events())*outageJobs || !strings.Contains(again, "no dead letter") {
		t.Errorf("%d dead letters wait, %d are replayed (%v); again: %s", waiting, done, err, again)
	}
	for _, v := range s.hooks.check(s.jobs) {
		t.Error(v)
	}
	total, delivered, repeats := s.hooks.counts()
	t.Log(table("an outage\t", []string{
		fmt.Sprintf("callbacks\t%d of %d jobs", len(events())*outageJobs, outageJobs),
		fmt.Sprintf("down\t%.0f s, %d attempts, 1 SIGKILL", outage.Seconds(), attempts),
		fmt.Sprintf("dead letters\t%d", len(events())*outageJobs),
		fmt.Sprintf("replay\t%.0f s, %d attempts", replay.Seconds(), total-attempts),
		fmt.Sprintf("delivered\t%d, %d repeats", delivered, repeats),
	}))
}

// histories stores jobs and all their events.
func (s *stack) histories(ctx context.Context, n int) error {
	for i := range n {
		s.jobs = append(s.jobs, newJob(chancy, i))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atReceivers)
	for _, j := range s.jobs {
		group.Go(func() error {
			if err := s.accept(ctx, j); err != nil {
				return err
			}
			for n := range events() {
				if err := s.append(ctx, j, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// letters counts the dead letters that wait, and those that a replay delivered.
func (s *stack) letters(ctx context.Context) (waiting, replayed int, err error) {
	err = s.broker.Letters(ctx, broker.LetterFilter{}, func(l delivery.Letter) error {
		if l.Replayed == nil {
			waiting++
		} else {
			replayed++
		}
		return nil
	})
	return waiting, replayed, err
}

// jobrelay runs the command, and is what it writes.
func (s *stack) jobrelay(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("JOBRELAY_BIN_DIR"), "jobrelay"), args...)
	cmd.Env = append(os.Environ(), "JOBRELAY_NATS_URL="+s.url)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("jobrelay %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}
