package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

const patience = time.Minute

// soonClosed leaves no endpoint alone for long.
var soonClosed = delivery.Breaker{Open: 200 * time.Millisecond, Most: time.Second}

// bench is a real NATS, a real webhook receiver, and notifiers between them.
type bench struct {
	t     *testing.T
	nats  *natsd.Server
	hooks *hookd.Server
	b     *broker.Broker
}

func newBench(t *testing.T, answer func(hookd.Call) hookd.Answer) *bench {
	t.Helper()
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	h, err := hookd.Start(hookd.Config{Answer: answer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Stop(context.Background()) })
	b := &bench{t: t, nats: n, hooks: h}
	b.b = b.open()
	return b
}

func (b *bench) open() *broker.Broker {
	b.t.Helper()
	out, err := broker.Open(b.t.Context(), broker.Config{URL: b.nats.URL(), Role: "test"}, zerolog.Nop())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(out.Close)
	return out
}

// replica runs a notifier until the returned function is called.
func (b *bench) replica(change func(*notifier)) (stop func()) {
	b.t.Helper()
	conn := b.open()
	allow, err := webhook.ParseAllow(webhook.Loopback)
	if err != nil {
		b.t.Fatal(err)
	}
	client := webhook.New(webhook.Config{Allow: allow, InFlight: 16, Version: "test"})
	soon := delivery.Schedule{0, 300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	n, err := newNotifier(conn, client, &delivery.Policy{Unwell: soon, Refused: soon[:2], Breaker: soonClosed}, 16, ctx.Done(), prometheus.NewRegistry(), zerolog.New(zerolog.NewTestWriter(b.t)))
	if err != nil {
		b.t.Fatal(err)
	}
	if change != nil {
		change(n)
	}
	var running sync.WaitGroup
	consume := func(c broker.Consumer, h broker.Handler) {
		running.Go(func() {
			if err := conn.Consume(ctx, c, broker.ConsumeOptions{}, h); err != nil {
				b.t.Error(err)
			}
		})
	}
	consume(broker.NotifierEvents, n.appended)
	consume(broker.NotifierWakeups, n.woken)
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); running.Wait(); client.Close() }) }
	b.t.Cleanup(stop)
	return stop
}

// accept stores a request with the receiver as its webhook.
func (b *bench) accept(id string, hook *jobsv1.Webhook) {
	b.t.Helper()
	e, err := event.New(event.Key(id), "s", id, 0, time.Now(), &jobsv1.JobRequested{Id: id, Service: "example", Webhook: hook})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.b.Accept(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) webhook(statuses ...int32) *jobsv1.Webhook {
	return &jobsv1.Webhook{Url: b.hooks.URL() + "/hook", Statuses: statuses}
}

// history appends a job's events.
func (b *bench) history(id string, data ...proto.Message) {
	b.t.Helper()
	b.historyOf("example", id, data...)
}

func (b *bench) historyOf(service, id string, data ...proto.Message) {
	b.t.Helper()
	var tail broker.Tail
	for _, d := range data {
		e, err := event.New(event.Key(id), "s", id, 0, time.Now(), d)
		if err != nil {
			b.t.Fatal(err)
		}
		if tail, err = b.b.Append(b.t.Context(), service, tail, e); err != nil {
			b.t.Fatal(err)
		}
	}
}

func success() []proto.Message {
	return []proto.Message{&jobsv1.JobStarted{JobId: "u"}, &jobsv1.PodStarted{JobId: "u"}, &jobsv1.JobCompleted{JobId: "u"}}
}

// settled waits until every token is acknowledged and nothing is parked.
func (b *bench) settled() {
	b.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err0 := b.b.JetStream().Stream(b.t.Context(), broker.StreamEvents)
		events, err1 := b.b.JetStream().Consumer(b.t.Context(), broker.StreamEvents, "notifier")
		wakeups, err2 := b.b.JetStream().Stream(b.t.Context(), broker.StreamWakeups)
		if err := errors.Join(err0, err1, err2); err != nil {
			b.t.Fatal(err)
		}
		// The server counts what is pending some time after it has stored it.
		i := events.CachedInfo()
		told := i.AckFloor.Stream >= log.CachedInfo().State.LastSeq
		if told && i.NumAckPending == 0 && i.NumPending == 0 && wakeups.CachedInfo().State.Msgs == 0 {
			return
		}
		select {
		case <-deadline.C:
			b.t.Fatalf("not settled: %d unacknowledged, %d pending, %d parked", i.NumAckPending, i.NumPending, wakeups.CachedInfo().State.Msgs)
		case <-tick.C:
		}
	}
}

// received are the statuses of the 2xx of each id, in the order of arrival.
func (b *bench) received() map[string][]int {
	out := map[string][]int{}
	for _, c := range b.hooks.Calls() {
		if c.Status/100 != 2 {
			continue
		}
		var body struct {
			ID     string `json:"id"`
			Status int    `json:"status"`
		}
		if err := json.Unmarshal(c.Body, &body); err != nil {
			b.t.Fatal(err)
		}
		out[body.ID] = append(out[body.ID], body.Status)
	}
	return out
}

func (b *bench) expect(id string, statuses ...int) {
	b.t.Helper()
	if got := b.received()[id]; fmt.Sprint(got) != fmt.Sprint(statuses) {
		b.t.Errorf("%s received %v, want %v", id, got, statuses)
	}
}

func TestCallbacksInOrder(t *testing.T) {
	b := newBench(t, nil)
	for i := range 20 {
		id := fmt.Sprint("job ", i)
		b.accept(id, b.webhook(0, 1, 2, 3, 99))
		b.history(id, success()...)
	}
	b.replica(nil)
	b.settled()
	for i := range 20 {
		b.expect(fmt.Sprint("job ", i), 0, 1, 2)
	}
	call := b.hooks.Calls()[0]
	if call.Header.Get("Webhook-Id") == "" || call.Header.Get("Content-Type") != "application/json" || call.Path != "/hook" {
		t.Errorf("%+v", call)
	}
	l, err := b.b.Ledger(t.Context(), event.Key("job 0"))
	if err != nil || l.Next != 3 || len(l.Done) != 3 || len(l.Done[2].Attempts) != 1 || l.Done[2].Code != 204 {
		t.Errorf("ledger %+v %v", l, err)
	}
}

func TestOnlyWantedStatusesAreSent(t *testing.T) {
	b := newBench(t, nil)
	b.accept("terminal only", b.webhook(2, 3, 99))
	b.history("terminal only", success()...)
	b.accept("none", nil)
	b.history("none", success()...)
	b.replica(nil)
	b.settled()
	b.expect("terminal only", 2)
	b.expect("none")
	if l, err := b.b.Ledger(t.Context(), event.Key("none")); err != nil || l.Revision != 0 {
		t.Errorf("a job without a webhook has a ledger: %+v %v", l, err)
	}
}

func TestARejectionIsToldOnce(t *testing.T) {
	b := newBench(t, nil)
	reject := func(id string, wanted bool) {
		logKey := event.RejectedLogKey(id, []byte("{}"))
		if err := b.b.Reject(t.Context(), broker.Rejection{LogKey: logKey, Body: []byte("{}"), ID: id, Webhook: b.webhook(99)}); err != nil {
			t.Fatal(err)
		}
		e, err := event.New(logKey, "s", id, 0, time.Now(), &jobsv1.RequestRejected{Id: id, Callback: wanted, Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID", Message: "$.job: is required"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.b.Append(t.Context(), "", broker.Tail{}, e); err != nil {
			t.Fatal(err)
		}
	}
	reject("invalid", true)
	reject("reused", false)
	reject("superseded", true)
	b.accept("superseded", b.webhook(0))
	b.replica(nil)
	b.settled()
	b.expect("invalid", 99)
	b.expect("reused")
	b.expect("superseded")
	l, err := b.b.Ledger(t.Context(), event.RejectedLogKey("superseded", []byte("{}")))
	if err != nil || l.Done[0].Reason != delivery.ReasonSuperseded {
		t.Errorf("%+v %v", l, err)
	}
}

func TestAFailureIsRetriedAndItsSuccessorsWait(t *testing.T) {
	var mu sync.Mutex
	tries := map[string]int{}
	b := newBench(t, func(c hookd.Call) hookd.Answer {
		mu.Lock()
		defer mu.Unlock()
		id := c.Header.Get("Webhook-Id")
		if tries[id]++; tries[id] <= 2 {
			return hookd.Answer{Status: http.StatusServiceUnavailable}
		}
		return hookd.Answer{Status: http.StatusOK}
	})
	b.accept("x", b.webhook(0, 1, 2))
	b.history("x", success()...)
	b.replica(nil)
	b.settled()
	b.expect("x", 0, 1, 2)
	order := ""
	for _, c := range b.hooks.Calls() {
		var body struct{ Status int }
		_ = json.Unmarshal(c.Body, &body)
		order += fmt.Sprint(body.Status)
	}
	if order != "000111222" {
		t.Errorf("attempts in the order %s", order)
	}
}

func TestWhatIsRefusedOrGoneEnds(t *testing.T) {
	b := newBench(t, func(c hookd.Call) hookd.Answer {
		var body struct {
			ID     string
			Status int
		}
		_ = json.Unmarshal(c.Body, &body)
		switch {
		case body.ID == "refused" && body.Status == 1:
			return hookd.Answer{Status: http.StatusBadRequest}
		case body.ID == "gone" && body.Status == 1:
			return hookd.Answer{Status: http.StatusGone}
		case body.ID == "dead" && body.Status == 0:
			return hookd.Answer{Hangup: true}
		}
		return hookd.Answer{Status: http.StatusNoContent}
	})
	for _, id := range []string{"refused", "gone", "dead"} {
		b.accept(id, b.webhook(0, 1, 2))
		b.history(id, success()...)
	}
	b.replica(nil)
	b.settled()
	b.expect("refused", 0, 2) // that callback alone
	b.expect("gone", 0)       // and what would come after it
	b.expect("dead")
	for id, reason := range map[string]string{"gone": delivery.ReasonGone, "dead": delivery.ReasonExhausted} {
		l, err := b.b.Ledger(t.Context(), event.Key(id))
		if err != nil || l.GaveUp == nil || l.GaveUp.Reason != reason {
			t.Errorf("%s: %+v %v", id, l, err)
		}
	}
	if l, err := b.b.Ledger(t.Context(), event.Key("refused")); err != nil || l.GaveUp != nil || l.Done[1].Reason != delivery.ReasonRefused || len(l.Done[1].Attempts) != 2 {
		t.Errorf("refused: %+v %v", l, err)
	}
}

// flaky is a client that fails at random; what the receiver saw before may
// still be a success.
type flaky struct {
	poster

	random *rand.Rand
	mu     sync.Mutex
}

func (f *flaky) Post(ctx context.Context, cb webhook.Callback) webhook.Outcome {
	f.mu.Lock()
	dice := f.random.IntN(10)
	f.mu.Unlock()
	if dice < 2 {
		return webhook.Outcome{Attempt: delivery.Attempt{At: time.Now(), Class: delivery.Unwell}, Cause: "connection"}
	}
	out := f.poster.Post(ctx, cb)
	if dice < 3 { // the answer is lost
		return webhook.Outcome{Attempt: delivery.Attempt{At: time.Now(), Class: delivery.Unwell}, Cause: "timeout"}
	}
	return out
}

// TestReplicasAndLostAnswers: three replicas, failures and lost answers. Each
// event has its 2xx in order; a repeat carries the same id and bytes.
func TestReplicasAndLostAnswers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := newBench(t, nil)
	for i := range 3 {
		b.replica(func(n *notifier) {
			n.client = &flaky{poster: n.client, random: rand.New(rand.NewPCG(seed, uint64(i)))}
		})
	}
	const jobs = 100
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := w; i < jobs; i += 4 {
				id := fmt.Sprint(i)
				b.accept(id, b.webhook(0, 1, 2, 3, 99))
				b.history(id, success()...)
			}
		})
	}
	writers.Wait()
	b.settled()
	b.inOrder(jobs)
}

// inOrder checks the promises over every 2xx that the receiver gave.
func (b *bench) inOrder(jobs int) {
	b.t.Helper()
	bodies, repeats := map[string]string{}, 0
	for _, c := range b.hooks.Calls() {
		id := c.Header.Get("Webhook-Id")
		if have, ok := bodies[id]; ok {
			repeats++
			if have != string(c.Body) {
				b.t.Errorf("%s came with other bytes", id)
			}
		}
		bodies[id] = string(c.Body)
	}
	got := b.received()
	for i := range jobs {
		id := fmt.Sprint(i)
		highest := -1
		for _, status := range got[id] {
			if status > highest+1 {
				b.t.Errorf("%s received %v", id, got[id])
			}
			highest = max(highest, status)
		}
		if highest != 2 {
			b.t.Errorf("%s received %v", id, got[id])
		}
	}
	b.t.Logf("%d jobs, %d calls, %d repeats", jobs, len(b.hooks.Calls()), repeats)
}

func TestWebhookIDIsThatOfTheLog(t *testing.T) {
	b := newBench(t, nil)
	b.accept("x", b.webhook(0, 1, 2))
	b.history("x", success()...)
	b.replica(nil)
	b.settled()
	for n, c := range b.hooks.Calls() {
		if got, want := c.Header.Get("Webhook-Id"), callback.ID(event.Key("x"), n); got != want {
			t.Errorf("callback %d: %s, want %s", n, got, want)
		}
	}
}
