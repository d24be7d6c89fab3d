package notifier

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

// TestTheOldestUndelivered: a callback counts from when it became due, whether its
// event waits for a notifier or it is parked, and until it is delivered.
func TestTheOldestUndelivered(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	b := newBench(t, outage(&down))
	u := &undelivered{broker: b.b, log: zerolog.Nop()}
	looks := func() (time.Duration, int) {
		t.Helper()
		if err := u.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		return u.now()
	}
	if age, parked := looks(); age != 0 || parked != 0 {
		t.Errorf("of nothing the oldest is %s old, %d are parked", age, parked)
	}
	began := time.Now()
	for i := range 3 {
		id := fmt.Sprint("job ", i)
		b.accept(id, b.webhook(0))
		b.history(id, success()[:1]...)
	}
	await.That(t, "events wait", func() bool { age, parked := looks(); return age > 0 && parked == 0 })
	b.replica(func(n *notifier) {
		n.policy.Unwell = delivery.Schedule{0, time.Hour, time.Hour}
		n.policy.Breaker = delivery.DefaultBreaker
	})
	await.That(t, "three are parked", func() bool { _, parked := looks(); return parked == 3 })
	await.That(t, "no event waits", func() bool { looks(); return u.event.IsZero() })
	if age, _ := looks(); age <= 0 || age > time.Since(began) {
		t.Errorf("the oldest is %s old, the first came %s ago", age, time.Since(began))
	}
}

// TestWhatIsDeliveredIsNotTheOldest: nor what was given up.
func TestWhatIsDeliveredIsNotTheOldest(t *testing.T) {
	status := http.StatusNoContent
	b := newBench(t, func(hookd.Call) hookd.Answer { return hookd.Answer{Status: status} })
	u := &undelivered{broker: b.b, log: zerolog.Nop()}
	b.replica(nil)
	for i := range 3 {
		id := fmt.Sprint("job ", i)
		b.accept(id, b.webhook())
		b.history(id, success()...)
	}
	b.settled()
	if err := u.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if age, parked := u.now(); age != 0 || parked != 0 {
		t.Errorf("the oldest is %s old, %d are parked", age, parked)
	}
}
