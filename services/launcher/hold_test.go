package launcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// replica is another launcher on the same log and cluster.
func (b *bench) replica() *launcher {
	l := *b.launcher
	l.services, l.metrics = newServices(), newMetrics(prometheus.NewRegistry(), cluster.NewLimit(1))
	return &l
}

// end appends the end of a job, as the watcher does.
func (b *bench) end(id string) {
	b.t.Helper()
	tail, err := b.broker.Tail(b.t.Context(), "example", event.Key(id))
	if err != nil {
		b.t.Fatal(err)
	}
	e, err := event.New(event.Key(id), "s", id, 0, time.Now(), &jobsv1.JobCompleted{})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.broker.Append(b.t.Context(), "example", tail, e); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) active() []string {
	b.t.Helper()
	a, err := b.broker.Active(b.t.Context(), "example")
	if err != nil {
		b.t.Fatal(err)
	}
	return a.Keys
}

func (b *bench) pause(paused bool) {
	b.t.Helper()
	if err := b.broker.SetPause(b.t.Context(), broker.Pause{Service: "example", Paused: paused, At: time.Now()}); err != nil {
		b.t.Fatal(err)
	}
}

// TestPause: while a service is paused its requests wait, also with a replica
// that starts meanwhile, and what has no more time says so.
func TestPause(t *testing.T) {
	b := newBench(t)
	b.pause(true)
	e := b.request("waits", nil)
	for _, l := range []*launcher{b.launcher, b.replica()} {
		if err := l.launch(t.Context(), e, wakeup{}); !errors.Is(err, errPaused) {
			t.Fatalf("got %v", err)
		}
	}
	stop := b.run()
	b.request("out of time", func(r *jobsv1.JobRequested) {
		r.AcceptedAt = timestamppb.New(time.Now().Add(500*time.Millisecond - b.deadline))
	})
	await.That(t, "the end of the one whose time is up", func() bool { return b.tail("out of time").Type == event.TypeJobException })
	b.exceptionIs("out of time", jobstatus.LaunchExpired)
	if names := b.jobNames(); len(names) != 0 || b.tail("waits").Type != "" {
		t.Fatalf("%v %v", names, b.tail("waits"))
	}
	stop()
	b.pause(false)
	b.services = newServices() // as after a restart
	defer b.run()()
	await.That(t, "the launch after the pause", func() bool { return b.tail("waits").Type == event.TypeJobStarted })
}

// TestMaxActive: over two replicas never more Jobs than maxActive are without
// their end, and all get their turn.
func TestMaxActive(t *testing.T) {
	b := newBench(t)
	b.setPolicy("services: {example: {maxActive: 3}}")
	const n = 12
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint("one of many ", i))
		b.request(ids[i], nil)
	}
	other := bench{launcher: b.replica(), t: t, client: b.client, namespace: b.namespace}
	defer b.run()()
	defer other.run()()
	ended := map[string]bool{}
	await.That(t, "all to run", func() bool {
		var running []string
		for _, id := range ids {
			if !ended[id] && b.tail(id).Type == event.TypeJobStarted {
				running = append(running, id)
			}
		}
		if len(running) > 3 {
			t.Fatalf("%d run at once: %v", len(running), running)
		}
		if len(running) == 3 || len(running) > 0 && len(running) == n-len(ended) {
			b.end(running[0])
			ended[running[0]] = true
		}
		return len(ended) == n
	})
	await.That(t, "every place to be free", func() bool { return len(b.active()) == 0 })
	if names := b.jobNames(); len(names) != n {
		t.Errorf("%d Jobs", len(names))
	}
}

// TestPlaces: a place is taken once however often the launch is tried, a full
// service is full for any other, and a place whose job ended unnoticed is found.
func TestPlaces(t *testing.T) {
	b := newBench(t)
	b.setPolicy("default: {maxActive: 2}")
	clock := time.Now()
	b.now = func() time.Time { return clock }
	hold := func(e event.Event) error {
		r, _ := e.Data.(*jobsv1.JobRequested)
		return b.hold(t.Context(), e.LogKey, r, false)
	}
	one, two, three := b.request("1", nil), b.request("2", nil), b.request("3", nil)
	for range 2 { // killed after it took its place, and tried again
		for _, e := range []event.Event{one, two} {
			if err := hold(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := hold(three); !errors.Is(err, errFull) || len(b.active()) != 2 {
		t.Fatalf("%v, %v", err, b.active())
	}
	b.end("1") // nobody consumes: as if the rule had not been there meanwhile
	clock = clock.Add(fullAge)
	if err := hold(three); !errors.Is(err, errFull) {
		t.Fatalf("%v: it looks at the holders every %s", err, healEvery)
	}
	clock = clock.Add(healEvery)
	if err := hold(three); err != nil || !slices.Equal(b.active(), []string{two.LogKey, three.LogKey}) {
		t.Fatalf("%v, %v", err, b.active())
	}
	if err := b.release(t.Context(), "example", "of nobody"); err != nil || len(b.active()) != 2 {
		t.Errorf("%v, %v", err, b.active())
	}
	stop := b.run()
	defer stop()
	b.end("2")
	await.That(t, "the place of 2", func() bool { return slices.Equal(b.active(), []string{three.LogKey}) })
}

// TestPlacesAtOnce: whoever takes at the same time, no place is taken twice.
func TestPlacesAtOnce(t *testing.T) {
	b := newBench(t)
	b.setPolicy("default: {maxActive: 5}")
	var mu sync.Mutex
	var taken []string
	var all sync.WaitGroup
	for i := range 4 {
		l := b.replica()
		for j := range 4 {
			all.Go(func() {
				key := event.Key(fmt.Sprint(i, j))
				err := l.hold(context.WithoutCancel(t.Context()), key, &jobsv1.JobRequested{Service: "example", AcceptedAt: timestamppb.Now()}, false)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					taken = append(taken, key)
				case !errors.Is(err, errFull) && !errors.Is(err, errSwap):
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	got := b.active()
	slices.Sort(got)
	slices.Sort(taken)
	if len(taken) != 5 || !slices.Equal(got, taken) {
		t.Errorf("%d took a place, %d have one", len(taken), len(got))
	}
}

// TestPace: turns come at the policy's rate and the replica's own; one that
// would come too late is left to others; a change of the policy holds at once.
func TestPace(t *testing.T) {
	clock := time.Now()
	l := &launcher{rate: rate.NewLimiter(10, 1), now: func() time.Time { return clock }}
	s := newServices().get("s")
	policy := &request.Rate{PerSecond: 2}
	want := func(wait time.Duration, policy *request.Rate, most time.Duration) {
		t.Helper()
		if got := l.pace(s, policy, most); got.Round(time.Millisecond) != wait {
			t.Errorf("waits %s, want %s", got, wait)
		}
	}
	want(0, policy, time.Hour)
	want(500*time.Millisecond, policy, time.Hour)
	want(time.Second, policy, 900*time.Millisecond) // given back
	want(time.Second, policy, time.Hour)
	want(300*time.Millisecond, nil, time.Hour) // another service: the replica's rate alone
	clock = clock.Add(time.Minute)
	want(0, &request.Rate{PerSecond: 1, Burst: 2}, time.Hour)
}

// TestRate: what exceeds the rate waits for its turn, and goes through then.
func TestRate(t *testing.T) {
	b := newBench(t)
	b.setPolicy("services: {example: {rate: {perSecond: 4}}}")
	var begin time.Time
	for i := range 5 {
		b.request(fmt.Sprint("turn ", i), nil)
	}
	begin = time.Now()
	defer b.run()()
	await.That(t, "all five", func() bool {
		for i := range 5 {
			if b.tail(fmt.Sprint("turn ", i)).Type != event.TypeJobStarted {
				return false
			}
		}
		return true
	})
	if took := time.Since(begin); took < 750*time.Millisecond { // the fifth's turn comes after 1 s, its clock began before ours
		t.Errorf("five launches took %s, at 4 a second", took)
	}
}
