//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// lease is the shortest that the watcher takes.
const lease = 3 * time.Second

// TestHandover: jobs end all the time while the leading watcher is killed, and
// then the next one frozen for longer than its Lease and thawed: the other takes
// over, who was frozen steps down, and each job has its one end.
func TestHandover(t *testing.T) {
	n := seed(t)
	s, err := faults.Start(t.Context(), faults.Config{
		Dir: t.TempDir(), Replicas: map[faults.Role]int{faults.Watcher: 2}, Env: []string{"JOBRELAY_LEASE_DURATION=" + lease.String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s)
	log := follow(t, s.NATSURL)
	var sent faults.Sent
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() (err error) {
		sent, err = s.Send(ctx, faults.Load{Messages: 500, Over: 40 * time.Second, Seed: n, Ends: []faults.End{
			faults.Success(), {Image: "sim/succeed:100ms", Statuses: []int{0, 1, 2}}, {Image: "sim/exit:3", Statuses: []int{0, 1, 3}, Code: "CONTAINER_EXIT_NONZERO"},
		}})
		return err
	})
	eventually(t, "the first ends", time.Minute, func() bool { return log.endsAfter(time.Time{}) > 20 })

	killed, next := leaderOf(t, s)
	harmed := harm(t, killed.Kill)
	tookOver(t, "SIGKILL", log, next, harmed)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a standby", time.Minute, func() bool { return killed.Ready() == nil && !leads(killed) })

	frozen, next := leaderOf(t, s)
	harmed = harm(t, frozen.Freeze)
	tookOver(t, "SIGSTOP", log, next, harmed)
	time.Sleep(time.Until(harmed.Add(4 * lease))) // longer than all that the frozen one may believe
	if err := frozen.Thaw(); err != nil {
		t.Fatal(err)
	}
	thawed := time.Now()
	eventually(t, "the frozen one to step down", time.Minute, func() bool { return frozen.Ready() == nil && !leads(frozen) })
	t.Logf("SIGCONT: it stands by after %s", time.Since(thawed).Round(time.Millisecond))
	if !leads(next) {
		t.Errorf("%s no longer leads", next.Name)
	}
	eventually(t, "more ends", time.Minute, func() bool { return log.endsAfter(thawed) > 20 })

	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if r := settle(t, s, n, sent); r.Repeats != 0 {
		t.Errorf("%d callbacks were repeated, and no notifier was harmed", r.Repeats)
	}
	log.check(t, sent)
}

// harm returns when it was done.
func harm(t *testing.T, f func() error) time.Time {
	t.Helper()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// tookOver waits until the next leader leads and jobs end again, and says how long
// that took.
func tookOver(t *testing.T, what string, log *history, next *faults.Process, harmed time.Time) {
	t.Helper()
	eventually(t, "the next leader after "+what, time.Minute, func() bool { return leads(next) })
	led := time.Since(harmed)
	eventually(t, "the next end after "+what, time.Minute, func() bool { return log.endsAfter(harmed) > 0 })
	t.Logf("%s of the leader, with a Lease of %s: the other leads after %s, the next job's end is recorded after %s",
		what, lease, led.Round(10*time.Millisecond), log.firstEndAfter(harmed).Sub(harmed).Round(10*time.Millisecond))
}

// leaderOf waits for a leader, and the one that stands by.
func leaderOf(t *testing.T, s *faults.Stack) (leader, standby *faults.Process) {
	t.Helper()
	eventually(t, "one leader", time.Minute, func() bool {
		leader, standby = nil, nil
		for _, p := range s.Of(faults.Watcher) {
			if leads(p) {
				leader = p
			} else if p.Ready() == nil {
				standby = p
			}
		}
		return leader != nil && standby != nil
	})
	return leader, standby
}

// leads reports whether a watcher says that it leads; one that is frozen says
// nothing.
func leads(p *faults.Process) bool {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Get(p.Metrics)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return err == nil && strings.Contains(string(b), "\njobrelay_watcher_leading 1\n")
}

// history is what is on EVENTS, as it comes.
type history struct {
	mu     sync.Mutex
	events []appended
}

type appended struct {
	at time.Time // by the server's clock, which is ours
	e  event.Event
}

// follow reads EVENTS from its begin until the test ends.
func follow(t *testing.T, url string) *history {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.OrderedConsumer(t.Context(), broker.StreamEvents, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	h := &history{}
	messages, err := c.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			t.Error(err)
			return
		}
		e, err := event.Decode(m.Headers(), m.Data())
		if err != nil {
			t.Error(err)
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.events = append(h.events, appended{at: meta.Timestamp, e: e})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		messages.Stop()
		<-messages.Closed()
	})
	return h
}

func (h *history) endsAfter(at time.Time) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.events {
		if a.e.Type.Terminal() && a.at.After(at) {
			n++
		}
	}
	return n
}

func (h *history) firstEndAfter(at time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.events {
		if a.e.Type.Terminal() && a.at.After(at) {
			return a.at
		}
	}
	return time.Time{}
}

// check: each log is 0, 1 and its one end, in this order.
func (h *history) check(t *testing.T, sent faults.Sent) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	logs := map[string][]int{}
	for _, a := range h.events {
		if a.e.Sequence != len(logs[a.e.ID]) {
			t.Errorf("%s: event %d comes as the log's %d", a.e.ID, a.e.Sequence, len(logs[a.e.ID]))
		}
		logs[a.e.ID] = append(logs[a.e.ID], a.e.Type.Status())
	}
	for _, id := range sent.IDs {
		if got, want := fmt.Sprint(logs[id]), fmt.Sprint(sent.Ends[id].Statuses); got != want {
			t.Errorf("%s (%s): log %s, want %s", id, sent.Ends[id].Image, got, want)
		}
	}
}
