package watcher_test

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// candidate runs a watcher that stands for election.
func (p *plant) candidate(name string) (w *watcher.Watcher, stop func()) {
	return p.run(watcher.Options{Lease: watcher.Lease{Namespace: p.namespace, Identity: name, Duration: 3 * time.Second}})
}

func (p *plant) awaitLeader(w *watcher.Watcher, want string) {
	p.t.Helper()
	p.await(want, func(context.Context) (bool, error) {
		state, err := w.Leader()
		return err == nil && strings.Contains(state, want), nil
	})
}

// TestOneLeadsAndTheOtherStandsBy: the standby has seen every Job when the
// leader goes, and goes on with those that it left.
func TestOneLeadsAndTheOtherStandsBy(t *testing.T) {
	p := newPlant(t)
	one, stopOne := p.candidate("one")
	p.awaitLeader(one, "leading")
	two, stopTwo := p.candidate("two")
	p.awaitLeader(two, "standing by; one leads")
	p.submit("first", "sim/ok")
	if e := p.awaitEnd("first"); e.Type != event.TypeJobCompleted {
		t.Errorf("first ended with %s", e.Type)
	}
	p.submit("second", "sim/hang")
	p.awaitTail("second", event.TypePodStarted)
	// In order: the Lease is given up at once, not after its duration.
	stopOne()
	if state, err := one.Leader(); err == nil {
		t.Errorf("stopped, and says %q", state)
	}
	p.awaitLeader(two, "leading")
	p.submit("third", "sim/ok")
	if e := p.awaitEnd("third"); e.Type != event.TypeJobCompleted {
		t.Errorf("third ended with %s", e.Type)
	}
	// Everything is left to nobody, and found again.
	stopTwo()
	p.submit("fourth", "sim/ok")
	three, _ := p.candidate("three")
	p.awaitLeader(three, "leading")
	if e := p.awaitEnd("fourth"); e.Type != event.TypeJobCompleted {
		t.Errorf("fourth ended with %s", e.Type)
	}
}

// A leader whose Lease was taken, as after it was frozen, stands by.
func TestALeaderThatLosesItsLeaseStandsByAndComesBack(t *testing.T) {
	p := newPlant(t)
	one, _ := p.candidate("one")
	p.awaitLeader(one, "leading")
	p.takeLease("thief")
	p.awaitLeader(one, "standing by; thief leads")
	// The thief never renews: after the Lease's duration it is anybody's.
	p.awaitLeader(one, "leading")
	p.submit("after", "sim/ok")
	if e := p.awaitEnd("after"); e.Type != event.TypeJobCompleted {
		t.Errorf("ended with %s", e.Type)
	}
}

// takeLease gives the Lease to somebody else, as a second leader would.
func (p *plant) takeLease(holder string) {
	p.t.Helper()
	p.await("the Lease taken", func(ctx context.Context) (bool, error) {
		leases := p.client.CoordinationV1().Leases(p.namespace)
		list, err := leases.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			return false, err
		}
		lease := &list.Items[0]
		lease.Spec.HolderIdentity = &holder
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		return err == nil, nil
	})
}
