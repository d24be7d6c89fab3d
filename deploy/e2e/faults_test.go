//go:build e2e

package e2e

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
)

// seed of the faults: FAULT_SEED, else a fixed one.
func seed(t *testing.T) uint64 {
	n, err := strconv.ParseUint(os.Getenv("FAULT_SEED"), 10, 64)
	if err != nil {
		n = 20261124
	}
	t.Logf("FAULT_SEED=%d", n)
	return n
}

// under runs two replicas of every service unless told otherwise.
func under(t *testing.T, replicas map[faults.Role]int) *faults.Stack {
	t.Helper()
	all := map[faults.Role]int{faults.Ingest: 2, faults.Launcher: 2, faults.Watcher: 2, faults.Notifier: 2}
	for role, n := range replicas {
		all[role] = n
	}
	s, err := faults.Start(t.Context(), faults.Config{Dir: t.TempDir(), Replicas: all})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s)
	return s
}

// stopAfter stops the stack when the test ends, and shows the ends of its logs
// where that failed.
func stopAfter(t *testing.T, s *faults.Stack) {
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range s.Processes() {
				t.Logf("%s ends with:\n%s", p.Name, p.LastLines())
			}
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// settle waits until all has its end, and fails for each broken promise.
func settle(t *testing.T, s *faults.Stack, seed uint64, sent ...faults.Sent) faults.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	report, err := s.Settle(ctx, sent...)
	if err != nil {
		t.Fatal(err)
	}
	report.Seed = seed
	t.Log(report)
	for _, v := range report.Violations {
		t.Error(v)
	}
	return report
}

// TestReplicasUnderFire: two replicas of every service, a SIGKILL each second
// while 500 messages arrive, one replica frozen for a minute.
func TestReplicasUnderFire(t *testing.T) {
	n := seed(t)
	s := under(t, nil)
	frozen := faults.Services()[n%4]
	plan := faults.Plan{Seed: n, For: 80 * time.Second, Frozen: frozen, FreezeAt: 5 * time.Second, FreezeFor: time.Minute}
	var sent faults.Sent
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() error { return s.Inject(ctx, plan) })
	group.Go(func() (err error) {
		sent, err = s.Send(ctx, faults.Load{Messages: 500, Duplicates: 0.2, Over: 70 * time.Second, Seed: n})
		return err
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	r := settle(t, s, n, sent)
	if r.Freezes[frozen] != 1 || r.Kills[faults.NATS] == 0 || r.Kills[faults.Kubernetes] == 0 {
		t.Errorf("the faults did not happen: %v, %v", r.Kills, r.Freezes)
	}
}

// TestNotifiersAreScaled: 1, 4 and 1 notifiers while jobs run and things die.
func TestNotifiersAreScaled(t *testing.T) {
	n := seed(t)
	s := under(t, map[faults.Role]int{faults.Notifier: 1})
	plan := faults.Plan{Seed: n, For: 55 * time.Second}
	var sent faults.Sent
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() error { return s.Inject(ctx, plan) })
	group.Go(func() (err error) {
		sent, err = s.Send(ctx, faults.Load{Messages: 500, Duplicates: 0.2, Over: 50 * time.Second, Seed: n})
		return err
	})
	group.Go(func() error {
		for _, replicas := range []int{4, 1} {
			select { // a third of the load each
			case <-time.After(17 * time.Second):
			case <-ctx.Done():
			}
			if err := s.Scale(ctx, faults.Notifier, replicas); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	settle(t, s, n, sent)
}

// TestEachRoleStopped: every replica of one role away for half a minute; the
// others go on with what they can, and nothing is lost.
func TestEachRoleStopped(t *testing.T) {
	s := under(t, nil)
	var all []faults.Sent
	for i, role := range faults.Services() {
		if err := s.Scale(t.Context(), role, 0); err != nil {
			t.Fatal(err)
		}
		back := time.After(30 * time.Second)
		load := faults.Load{Name: string(role), Messages: 30, Duplicates: 0.2, Over: 10 * time.Second, Seed: uint64(i)}
		sent, err := s.Send(t.Context(), load)
		if err != nil {
			t.Fatal(err)
		}
		goesOn(t, s, role, sent)
		<-back
		if err := s.Scale(t.Context(), role, 2); err != nil {
			t.Fatal(err)
		}
		all = append(all, sent)
	}
	settle(t, s, 0, all...)
}

// goesOn waits for what the others can do without the role.
func goesOn(t *testing.T, s *faults.Stack, without faults.Role, sent faults.Sent) {
	t.Helper()
	heard := func() map[int]int {
		of := map[string]bool{}
		for _, id := range sent.IDs {
			of[id] = true
		}
		n := map[int]int{}
		for id, calls := range heard(t, s.Hooks.Calls()) {
			if of[id] {
				for _, c := range calls {
					n[c.Status]++
				}
			}
		}
		return n
	}
	jobs := func() (n, complete int) {
		have, err := s.Jobs(t.Context())
		if err != nil {
			return 0, 0
		}
		ended, err := s.Complete(t.Context())
		if err != nil {
			return 0, 0
		}
		for _, id := range sent.IDs {
			n += len(have[id])
			if ended[id] {
				complete++
			}
		}
		return n, complete
	}
	all := len(sent.IDs)
	var what string
	var ok func() bool
	switch without {
	case faults.Ingest:
		what = "every send waits in SQS"
		ok = func() bool { depth, err := s.QueueDepth(t.Context()); return err == nil && depth == sent.Sends }
	case faults.Launcher:
		what = "SQS is empty, and no Job is there"
		ok = func() bool {
			depth, err := s.QueueDepth(t.Context())
			n, _ := jobs()
			return err == nil && depth == 0 && n == 0
		}
	case faults.Watcher:
		what = "every Job is there, and its callback 0"
		ok = func() bool { n, _ := jobs(); return n == all && heard()[0] == all && heard()[2] == 0 }
	case faults.Notifier:
		what = "every Job is complete, and no callback is there"
		ok = func() bool { _, complete := jobs(); return complete == all && len(heard()) == 0 }
	}
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("without %s: %s: not within a minute; heard %v", without, what, heard())
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Logf("without %s: %s", without, what)
}
