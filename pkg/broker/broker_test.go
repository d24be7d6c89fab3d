package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nats "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

const patience = 30 * time.Second

func server(t *testing.T) *natsd.Server {
	t.Helper()
	s, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func open(t *testing.T, s *natsd.Server) *broker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := broker.Open(ctx, broker.Config{URL: s.URL(), Role: "test", Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func newEvent(t *testing.T, logKey string, data proto.Message) event.Event {
	t.Helper()
	e, err := event.New(logKey, event.SourceOfNamespace("default", "default"), "id", 0, time.Now().UTC(), data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestAPublishWaitsForALeader: while nobody can store it, nothing was stored, and it is
// sent again.
func TestAPublishWaitsForALeader(t *testing.T) {
	b := open(t, server(t))
	js := b.JetStream()
	config := broker.Topology(1)[0]
	if config.Name != broker.StreamRequests {
		t.Fatal(config.Name)
	}
	if err := js.DeleteStream(t.Context(), config.Name); err != nil {
		t.Fatal(err)
	}
	sent := js.Conn().Stats().OutMsgs
	accepted := make(chan error, 1)
	key := event.Key("id")
	go func() { accepted <- b.Accept(t.Context(), newEvent(t, key, &jobsv1.JobRequested{Id: "id"})) }()
	await.That(t, "the client has given up once", func() bool { return js.Conn().Stats().OutMsgs > sent+3 })
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if _, err := b.Request(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

// TestAReadingWaitsForALeader: that nobody is there to answer is no answer.
func TestAReadingWaitsForALeader(t *testing.T) {
	b := open(t, server(t))
	js := b.JetStream()
	config := broker.Topology(1)[0]
	if err := js.DeleteStream(t.Context(), config.Name); err != nil {
		t.Fatal(err)
	}
	sent := js.Conn().Stats().OutMsgs
	read := make(chan error, 1)
	go func() {
		_, err := b.Request(t.Context(), event.Key("id"))
		read <- err
	}()
	await.That(t, "it has asked twice", func() bool { return js.Conn().Stats().OutMsgs > sent+1 })
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, broker.ErrNotFound) {
		t.Fatal(err)
	}
}

// TestNotFoundIsTheLeadersWord: a replica that trails is asked again until it has what
// its leader has; what the leader does not have is not there.
func TestNotFoundIsTheLeadersWord(t *testing.T) {
	s := server(t)
	b := open(t, s)
	key := event.Key("id")
	if err := b.Accept(t.Context(), newEvent(t, key, &jobsv1.JobRequested{Id: "id"})); err != nil {
		t.Fatal(err)
	}
	if err := b.PutLetter(t.Context(), delivery.Letter{LogKey: key, Service: "s"}); err != nil {
		t.Fatal(err)
	}
	for stream, read := range map[string]func(key string) error{
		broker.StreamRequests:    func(key string) error { _, err := b.Request(t.Context(), key); return err },
		broker.StreamDeadLetters: func(key string) error { _, err := b.Letter(t.Context(), "s", key, 0); return err },
	} {
		catchUp, err := s.Trail(stream)
		if err != nil {
			t.Fatal(err)
		}
		if err := read(event.Key("nobody")); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("%s: %v", stream, err)
		}
		sent := b.JetStream().Conn().Stats().OutMsgs
		there := make(chan error, 1)
		go func() { there <- read(key) }()
		await.That(t, "it has asked the leader, and then again", func() bool { return b.JetStream().Conn().Stats().OutMsgs > sent+2 })
		catchUp()
		if err := <-there; err != nil {
			t.Errorf("%s: %v", stream, err)
		}
	}
}

// TestBegunIsTheLeadersWord: also where the end of the log is not read.
func TestBegunIsTheLeadersWord(t *testing.T) {
	s := server(t)
	b := open(t, s)
	key := event.Key("id")
	if _, err := b.Append(t.Context(), "s", broker.Tail{}, newEvent(t, key, &jobsv1.JobStarted{JobId: "u"})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Trail(broker.StreamEvents); err != nil {
		t.Fatal(err)
	}
	if tail, err := b.Tail(t.Context(), "s", key); err != nil || !tail.Empty() {
		t.Fatalf("%+v %v", tail, err)
	}
	for id, want := range map[string]bool{"id": true, "other": false} {
		if begun, err := b.Begun(t.Context(), "s", event.Key(id)); err != nil || begun != want {
			t.Errorf("%s: %v %v", id, begun, err)
		}
	}
}

// TestReplicasNeedACluster: it says so at once, and does not wait for one.
func TestReplicasNeedACluster(t *testing.T) {
	_, err := broker.Open(t.Context(), broker.Config{URL: server(t).URL(), Role: "test", Topology: broker.Create, Replicas: 3}, zerolog.Nop())
	var wrong *broker.TopologyError
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
}

func TestTopologyIsAppliedOnceAndVerified(t *testing.T) {
	b := open(t, server(t))
	changes, err := broker.ApplyTopology(t.Context(), b.JetStream(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if c.Action != "unchanged" {
			t.Errorf("a second apply: %+v", c)
		}
	}
	if want := len(broker.Topology(1)) + len(broker.Consumers()); len(changes) != want {
		t.Errorf("%d changes, want %d", len(changes), want)
	}
	if err := broker.VerifyTopology(t.Context(), b.JetStream()); err != nil {
		t.Error(err)
	}
}

func TestVerifyNamesAllThatIsMissing(t *testing.T) {
	s := server(t)
	_, err := broker.Open(t.Context(), broker.Config{URL: s.URL(), Role: "test", Topology: broker.Verify}, zerolog.Nop())
	var wrong *broker.TopologyError
	if !errors.As(err, &wrong) || len(wrong.Problems) != len(broker.Topology(1))+len(broker.Consumers()) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "jobrelay topology apply") {
		t.Errorf("%v says not what to do", err)
	}
}

func TestApplyKeepsTheOperatorsLimitsAndMendsTheRest(t *testing.T) {
	b := open(t, server(t))
	js := b.JetStream()
	stream, err := js.Stream(t.Context(), broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxAge, cfg.MaxBytes, cfg.AllowDirect = 40*24*time.Hour, 1<<30, false
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := broker.VerifyTopology(t.Context(), js); err == nil || !strings.Contains(err.Error(), "EVENTS has direct get false") {
		t.Errorf("verify: %v", err)
	}
	if _, err := broker.ApplyTopology(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	stream, err = js.Stream(t.Context(), broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config; got.MaxAge != cfg.MaxAge || got.MaxBytes != cfg.MaxBytes || !got.AllowDirect {
		t.Errorf("%+v", got)
	}
}

func TestIncompatibleStreamsAreRefused(t *testing.T) {
	for name, cfg := range map[string]jetstream.StreamConfig{
		"REQUESTS has retention WorkQueue": {Name: "REQUESTS", Subjects: []string{"requests.*"}, Retention: jetstream.WorkQueuePolicy},
		"LEDGER has storage Memory":        {Name: "LEDGER", Subjects: []string{"ledger.callback.*"}, Storage: jetstream.MemoryStorage},
		"overlap":                          {Name: "MINE", Subjects: []string{"events.>"}},
		"EVENTS keeps 240h0m0s":            {Name: "EVENTS", Subjects: []string{"events.*.*.*"}, MaxAge: 240 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			s := server(t)
			admin, err := broker.OpenAdmin(t.Context(), broker.Access{URL: s.URL()}, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer admin.Close()
			if _, err := admin.JetStream().CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			_, err = broker.Open(t.Context(), broker.Config{URL: s.URL(), Role: "test", Topology: broker.Create}, zerolog.Nop())
			var wrong *broker.TopologyError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAppendGivesALogWithoutGaps(t *testing.T) {
	b := open(t, server(t))
	key := event.Key("id")
	tail, err := b.Tail(t.Context(), "a.b", key)
	if err != nil || !tail.Empty() {
		t.Fatalf("%+v %v", tail, err)
	}
	for n, d := range []proto.Message{&jobsv1.JobStarted{JobId: "u"}, &jobsv1.PodStarted{JobId: "u"}, &jobsv1.JobCompleted{JobId: "u"}} {
		e := newEvent(t, key, d)
		if tail, err = b.Append(t.Context(), "a.b", tail, e); err != nil {
			t.Fatal(err)
		}
		read, err := b.Tail(t.Context(), "a.b", key)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tail, read, protocmp.Transform()); diff != "" || tail.Last.Sequence != n {
			t.Errorf("event %d:\n%s", n, diff)
		}
		at, err := b.EventAt(t.Context(), tail.Sequence)
		if err != nil || at.Service != "a.b" || at.LogKey != key || at.Event.Sequence != n {
			t.Errorf("event at %d: %+v %v", tail.Sequence, at, err)
		}
	}
	if _, err := b.EventAt(t.Context(), 1000); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("past the end: %v", err)
	}
}

// Tails reads what Tail does, of as many logs as it may.
func TestTailsAreThoseOfEachLog(t *testing.T) {
	b := open(t, server(t))
	logs := []broker.LogName{{Service: "none", Key: event.Key("none")}}
	want := map[broker.LogName]broker.Tail{}
	if got, err := b.Tails(t.Context(), logs); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	for i := range broker.MostTails - 1 {
		name := broker.LogName{Service: "a.service", Key: event.Key(strconv.Itoa(i))}
		var tail broker.Tail
		for _, data := range []proto.Message{&jobsv1.JobStarted{JobId: "uid"}, &jobsv1.PodStarted{JobId: "uid"}, &jobsv1.JobCompleted{JobId: "uid"}}[:1+i%3] {
			var err error
			if tail, err = b.Append(t.Context(), name.Service, tail, newEvent(t, name.Key, data)); err != nil {
				t.Fatal(err)
			}
		}
		logs, want[name] = append(logs, name), tail
	}
	got, err := b.Tails(t.Context(), logs)
	if err != nil || len(got) != len(want) {
		t.Fatal(len(got), err)
	}
	for name, w := range want {
		if g := got[name]; g.Sequence != w.Sequence || g.Last.EventID() != w.Last.EventID() || g.Next() != w.Next() {
			t.Errorf("%v: %+v, not %+v", name, g, w)
		}
	}
}

func TestAppendAgainIsTheSameEvent(t *testing.T) {
	b := open(t, server(t))
	e := newEvent(t, event.Key("id"), &jobsv1.JobStarted{JobId: "u"})
	first, err := b.Append(t.Context(), "s", broker.Tail{}, e)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Append(t.Context(), "s", broker.Tail{}, e)
	if err != nil || again.Sequence != first.Sequence {
		t.Errorf("%+v %v", again, err)
	}
	other := newEvent(t, event.Key("id"), &jobsv1.JobStarted{JobId: "another"})
	if _, err := b.Append(t.Context(), "s", broker.Tail{}, other); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("another Job: %v", err)
	}
}

func TestExactlyOneTerminalEvent(t *testing.T) {
	b := open(t, server(t))
	for race := range 50 {
		key := event.Key(fmt.Sprint(race))
		tail, err := b.Append(t.Context(), "s", broker.Tail{}, newEvent(t, key, &jobsv1.JobStarted{JobId: "u"}))
		if err != nil {
			t.Fatal(err)
		}
		var won atomic.Int32
		var writers sync.WaitGroup
		for i, d := range []proto.Message{&jobsv1.JobCompleted{JobId: "u"}, &jobsv1.JobFailed{JobId: "u"}, &jobsv1.JobException{JobId: "u"}, &jobsv1.PodStarted{JobId: "u"}} {
			writers.Go(func() {
				_, err := b.Append(t.Context(), "s", tail, newEvent(t, key, d))
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, broker.ErrConflict):
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		writers.Wait()
		if won.Load() != 1 {
			t.Fatalf("race %d: %d writers won", race, won.Load())
		}
	}
}

func TestARequestIsAcceptedOnce(t *testing.T) {
	b := open(t, server(t))
	key := event.Key("id")
	if _, err := b.Request(t.Context(), key); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	e := newEvent(t, key, &jobsv1.JobRequested{Id: "id", Hash: "1"})
	if err := b.Accept(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := b.Accept(t.Context(), newEvent(t, key, &jobsv1.JobRequested{Id: "id", Hash: "2"})); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("again: %v", err)
	}
	got, err := b.Request(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestARejectionIsKeptWhole(t *testing.T) {
	b := open(t, server(t))
	want := broker.Rejection{
		LogKey: event.RejectedLogKey("é id", []byte("{")), Body: []byte("{\x00\xff"), ID: "é id", Service: "s",
		Webhook:  &jobsv1.Webhook{Url: "http://example.com/?a=b", Statuses: []int32{99}},
		Problems: []*jobsv1.Problem{{Path: "$", Code: "syntax", Message: "line\nbreak"}},
	}
	for range 2 { // a second time changes nothing
		if err := b.Reject(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		got, err := b.Rejection(t.Context(), want.LogKey)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
	for range 1000 {
		want.Problems = append(want.Problems, &jobsv1.Problem{Path: "$.job.env[10].value", Code: "type", Message: strings.Repeat("x", 100)})
	}
	if err := b.Reject(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := b.Rejection(t.Context(), want.LogKey)
	if err != nil || len(got.Problems) >= len(want.Problems) || !strings.Contains(got.Problems[len(got.Problems)-1].GetMessage(), "more") {
		t.Errorf("%d problems, %v", len(got.Problems), err)
	}
}

func TestLedgerIsSwappedOnce(t *testing.T) {
	b := open(t, server(t))
	empty, err := b.Ledger(t.Context(), "k")
	if err != nil || empty.Revision != 0 {
		t.Fatalf("%+v %v", empty, err)
	}
	first, err := b.SwapLedger(t.Context(), "k", empty, empty.Surrendered(1, 42))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.SwapLedger(t.Context(), "k", empty, empty.Advanced(0, delivery.Done{})); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("from an old revision: %v", err)
	}
	got, err := b.Ledger(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, got); diff != "" {
		t.Error(diff)
	}
	// One message a subject: the new one replaces the old.
	if _, err := b.SwapLedger(t.Context(), "k", first, first.Advanced(0, delivery.Done{At: time.Now().UTC()})); err != nil {
		t.Fatal(err)
	}
	stream, err := b.JetStream().Stream(t.Context(), broker.StreamLedger)
	if err != nil || stream.CachedInfo().State.Msgs != 1 {
		t.Errorf("%d messages, %v", stream.CachedInfo().State.Msgs, err)
	}
}

// TestHandlerOutcomes: nil acknowledges, RetryAfter comes back as a wake-up,
// Permanent never comes again, a plain error is redelivered.
func TestHandlerOutcomes(t *testing.T) {
	b := open(t, server(t))
	for _, id := range []string{"ack", "retry", "permanent"} {
		if err := b.Accept(t.Context(), newEvent(t, event.Key(id), &jobsv1.JobRequested{Id: id})); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	woken := make(chan string, 1)
	var consumers sync.WaitGroup
	var handled atomic.Int32
	consumers.Go(func() {
		err := b.Consume(ctx, broker.LauncherRequests, broker.ConsumeOptions{}, func(_ context.Context, m broker.Message) error {
			handled.Add(1)
			switch m.Subject {
			case event.RequestSubject(event.Key("retry")):
				return broker.RetryAfter(300*time.Millisecond, broker.Wakeup{Purpose: broker.PurposeLaunch, Token: "t", Payload: []byte("again")}, errors.New("not yet"))
			case event.RequestSubject(event.Key("permanent")):
				return broker.Permanent(errors.New("unreadable"))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	consumers.Go(func() {
		err := b.Consume(ctx, broker.LauncherWakeups, broker.ConsumeOptions{}, func(_ context.Context, m broker.Message) error {
			woken <- string(m.Data)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	select {
	case payload := <-woken:
		if payload != "again" {
			t.Errorf("woken with %q", payload)
		}
	case <-ctx.Done():
		t.Fatal("no wake-up came")
	}
	await.That(t, "the last acknowledgement", func() bool {
		c, err := b.JetStream().Consumer(ctx, broker.StreamRequests, "launcher")
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
	})
	if n := handled.Load(); n != 3 {
		t.Errorf("%d deliveries of 3 messages", n)
	}
	cancel()
	consumers.Wait()
}

func TestAPlainErrorLeavesTheMessagePending(t *testing.T) {
	b := open(t, server(t))
	if err := b.Accept(t.Context(), newEvent(t, event.Key("x"), &jobsv1.JobRequested{Id: "x"})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := b.Consume(ctx, broker.LauncherRequests, broker.ConsumeOptions{}, func(context.Context, broker.Message) error {
		defer cancel()
		return errors.New("the API server is away")
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.JetStream().Consumer(t.Context(), broker.StreamRequests, "launcher")
	if err != nil || c.CachedInfo().NumAckPending != 1 {
		t.Errorf("%d pending, %v", c.CachedInfo().NumAckPending, err)
	}
}

// TestAStopGivesBackWhatWasNotStarted: another replica has it at once.
func TestAStopGivesBackWhatWasNotStarted(t *testing.T) {
	b := open(t, server(t))
	const n = 20
	for i := range n {
		id := fmt.Sprint(i)
		if err := b.Accept(t.Context(), newEvent(t, event.Key(id), &jobsv1.JobRequested{Id: id})); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var first atomic.Int32
	err := b.Consume(ctx, broker.LauncherRequests, broker.ConsumeOptions{InFlight: 1, Pull: n}, func(context.Context, broker.Message) error {
		first.Add(1)
		cancel()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	again, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var second atomic.Int32
	err = b.Consume(again, broker.LauncherRequests, broker.ConsumeOptions{}, func(context.Context, broker.Message) error {
		if first.Load()+second.Add(1) == n {
			stop()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Load() + second.Load(); got != n {
		t.Errorf("%d of %d handled without waiting for AckWait", got, n)
	}
}

// TestItReconnects: the server goes and comes back on the same folder.
func TestItReconnects(t *testing.T) {
	dir := t.TempDir()
	s, err := natsd.Start(t.Context(), natsd.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, s)
	address := s.Addr()
	tail, err := b.Append(t.Context(), "s", broker.Tail{}, newEvent(t, event.Key("id"), &jobsv1.JobStarted{JobId: "u"}))
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	await.That(t, "the loss of the connection", func() bool { return b.Ready() != nil })
	if _, err := b.Append(t.Context(), "s", tail, newEvent(t, event.Key("id"), &jobsv1.PodStarted{JobId: "u"})); err == nil {
		t.Error("an append without a server succeeded")
	}
	if s, err = natsd.Start(t.Context(), natsd.Config{Dir: dir, Addr: address}); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	await.That(t, "a connection", func() bool { return b.Ready() == nil })
	await.That(t, "an append", func() bool {
		_, err := b.Append(t.Context(), "s", tail, newEvent(t, event.Key("id"), &jobsv1.PodStarted{JobId: "u"}))
		return err == nil || errors.Is(err, broker.ErrConflict)
	})
	got, err := b.Tail(t.Context(), "s", event.Key("id"))
	if err != nil || got.Last.Type != event.TypePodStarted || got.Last.Sequence != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestOpenSaysWhatItWaitsFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := broker.Open(ctx, broker.Config{URL: "nats://user:secret@127.0.0.1:1", Role: "test"}, zerolog.Nop())
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// foreign is a NATS that is not set up as ours.
func foreign(t *testing.T, o *nats.Options) *nats.Server {
	t.Helper()
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, t.TempDir(), true, true
	s, err := nats.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	return s
}

func TestARefusedLoginEndsAndSaysSo(t *testing.T) {
	s := foreign(t, &nats.Options{Username: "jobrelay", Password: "right", MaxPayload: 2 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	address := strings.Replace(s.ClientURL(), "nats://", "nats://jobrelay:wrong@", 1)
	_, err := broker.Open(ctx, broker.Config{URL: address, Role: "test"}, zerolog.Nop())
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "JOBRELAY_NATS_URL") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
}

func TestASmallPayloadIsRefusedAtTheStart(t *testing.T) {
	s := foreign(t, &nats.Options{})
	_, err := broker.Open(t.Context(), broker.Config{URL: s.ClientURL(), Role: "test"}, zerolog.Nop())
	if err == nil || !strings.Contains(err.Error(), "max_payload: 2MB") {
		t.Errorf("got %v", err)
	}
}

// TestAConsumerThatWasDeletedIsTakenUpAgain: an operator deletes a durable and
// applies the topology anew.
func TestAConsumerThatWasDeletedIsTakenUpAgain(t *testing.T) {
	b := open(t, server(t))
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- b.Consume(ctx, broker.WatcherCommands, broker.ConsumeOptions{}, func(_ context.Context, m broker.Message) error {
			heard <- m.Subject
			return nil
		})
	}()
	js := b.JetStream()
	publish := func(subject string) {
		t.Helper()
		if _, err := js.Publish(t.Context(), subject, nil); err != nil {
			t.Fatal(err)
		}
		// One that was not acknowledged yet when its consumer went comes again.
		for timeout := time.After(patience); ; {
			select {
			case got := <-heard:
				if got == subject {
					return
				}
			case <-timeout:
				t.Fatalf("%s is not delivered", subject)
			}
		}
	}
	publish("commands.cancel.one")
	if err := js.DeleteConsumer(t.Context(), broker.StreamCommands, "watcher"); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.ApplyTopology(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	publish("commands.cancel.two")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
