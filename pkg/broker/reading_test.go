package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// reads connects as the reading commands do.
func reads(t *testing.T, s *natsd.Server) *broker.Broker {
	t.Helper()
	b, err := broker.OpenReader(t.Context(), broker.Access{URL: s.URL()}, zerolog.Nop(), broker.StreamEvents, broker.StreamRequests, broker.StreamRejections,
		broker.StreamLedger, broker.StreamWakeups, broker.StreamDeadLetters, broker.StreamControls, broker.StreamCommands)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// life stores a request and the events of its job.
func life(t *testing.T, b *broker.Broker, id, service string, events ...proto.Message) {
	t.Helper()
	key := event.Key(id)
	request := newEvent(t, key, &jobsv1.JobRequested{
		Id: id, Service: service, AcceptedAt: timestamppb.Now(), Job: &jobsv1.Job{Namespace: "ns"}, Webhook: &jobsv1.Webhook{Url: "http://h.example", Statuses: []int32{0, 1, 2, 3, 99}},
	})
	request.ID = id
	if err := b.Accept(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	var tail broker.Tail
	for _, data := range events {
		e := newEvent(t, key, data)
		e.ID = id
		var err error
		if tail, err = b.Append(t.Context(), service, tail, e); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	jobStarted   = &jobsv1.JobStarted{JobId: "u", JobName: "p-1", Namespace: "ns"}
	podStarted   = &jobsv1.PodStarted{JobId: "u", JobName: "p-1", Namespace: "ns"}
	jobCompleted = &jobsv1.JobCompleted{JobId: "u", JobName: "p-1", Namespace: "ns"}
	jobFailed    = &jobsv1.JobFailed{JobId: "u", JobName: "p-1", Namespace: "ns", Error: &jobsv1.Error{ErrorCode: "CONTAINER_EXIT_NONZERO"}}
	notLaunched  = &jobsv1.JobException{JobName: "p-1", Namespace: "ns", Error: &jobsv1.Error{ErrorCode: "LAUNCH_EXPIRED"}}
)

func listed(t *testing.T, b *broker.Broker, f broker.JobFilter) []string {
	t.Helper()
	jobs, err := b.Jobs(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, j := range jobs {
		out = append(out, j.ID+" "+string(j.State))
	}
	return out
}

func TestJobsAreListed(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	if got := listed(t, r, broker.JobFilter{Limit: 9}); len(got) != 0 {
		t.Errorf("of none: %v", got)
	}
	life(t, b, "done", "a", jobStarted, podStarted, jobCompleted)
	life(t, b, "failed", "b.c", jobStarted, podStarted, jobFailed)
	life(t, b, "expired", "a", notLaunched)
	life(t, b, "parked", "a")
	if err := b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeLaunch, Token: event.Key("parked"), Payload: []byte(`{}`)}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	life(t, b, "running", "a", jobStarted, podStarted)
	reject(t, b, "bad", "a", "MESSAGE_INVALID")
	life(t, b, "started", "a", jobStarted)
	life(t, b, "new", "b.c")
	// The launcher has all of them but the last in hand or done with.
	consumer, err := b.JetStream().Consumer(t.Context(), broker.StreamRequests, "launcher")
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(6)
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"new waiting", "started started", "bad rejected", "running running", "parked waiting", "expired exception", "failed failed", "done completed"}
	for _, c := range []struct {
		filter broker.JobFilter
		want   []string
	}{
		{broker.JobFilter{Limit: 9}, all},
		{broker.JobFilter{Limit: 3}, all[:3]},
		{broker.JobFilter{Limit: 9, Service: "b.c"}, []string{"new waiting", "failed failed"}},
		{broker.JobFilter{Limit: 9, Service: "none"}, []string{}},
		{broker.JobFilter{Limit: 9, States: []timeline.State{timeline.Waiting}}, []string{"new waiting", "parked waiting"}},
		{broker.JobFilter{Limit: 1, States: []timeline.State{timeline.Waiting}}, []string{"new waiting"}},
		{broker.JobFilter{Limit: 9, States: []timeline.State{timeline.Started, timeline.Running}}, []string{"started started", "running running"}},
		{broker.JobFilter{Limit: 9, States: []timeline.State{timeline.Exception, timeline.Rejected}}, []string{"bad rejected", "expired exception"}},
		{broker.JobFilter{Limit: 9, States: []timeline.State{timeline.Completed, timeline.Running}}, []string{"running running", "done completed"}},
		{broker.JobFilter{Limit: 9, States: []timeline.State{timeline.Completed}, Service: "b.c"}, []string{}},
		{broker.JobFilter{Limit: 9, Since: time.Now().Add(time.Hour)}, []string{}},
		{broker.JobFilter{Limit: 9, Since: time.Now().Add(-time.Hour)}, all},
	} {
		if got := listed(t, r, c.filter); !slices.Equal(got, c.want) {
			t.Errorf("%+v:\n got %q\nwant %q", c.filter, got, c.want)
		}
	}
}

// TestJobsPageFromTheEnd: more than a page of jobs, and more of them than count as
// few, with logs that reach over pages.
func TestJobsPageFromTheEnd(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	life(t, b, "long", "s", jobStarted)
	const jobs = 4500
	js := b.JetStream()
	var acks []jetstream.PubAckFuture
	for i := range jobs {
		id := fmt.Sprint(i)
		for n, data := range []proto.Message{jobStarted, jobCompleted} {
			e := newEvent(t, event.Key(id), data)
			e.ID, e.Sequence = id, n
			acks = append(acks, published(t, js, event.Subject("s", e.LogKey, e.Type), e))
		}
	}
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			t.Fatal(err)
		}
	}
	tail, err := b.Tail(t.Context(), "s", event.Key("long"))
	if err != nil {
		t.Fatal(err)
	}
	e := newEvent(t, event.Key("long"), podStarted)
	e.ID = "long"
	if _, err := b.Append(t.Context(), "s", tail, e); err != nil {
		t.Fatal(err)
	}
	got := listed(t, r, broker.JobFilter{Limit: 10_000, Service: "s"})
	if len(got) != jobs+1 || got[0] != "long running" || got[1] != fmt.Sprint(jobs-1, " completed") || got[jobs] != "0 completed" {
		t.Errorf("%d jobs, %q", len(got), got[:min(3, len(got))])
	}
	if got := listed(t, r, broker.JobFilter{Limit: 10_000, States: []timeline.State{timeline.Completed}}); len(got) != jobs {
		t.Errorf("%d are completed", len(got))
	}
	if got := listed(t, r, broker.JobFilter{Limit: 10, States: []timeline.State{timeline.Started, timeline.Running}}); !slices.Equal(got, []string{"long running"}) {
		t.Errorf("%q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Jobs(ctx, broker.JobFilter{Limit: 3}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestHistory(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	if got, err := r.History(t.Context(), "nobody"); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	life(t, b, "id", "s.t", jobStarted, podStarted)
	key, now := event.Key("id"), time.Now().UTC()
	rejected := reject(t, b, "id", "s.t", "ID_REUSED")
	reject(t, b, "other", "s.t", "ID_REUSED")
	if _, err := b.SwapLedger(t.Context(), key, broker.LedgerEntry{}, delivery.Ledger{Next: 1, Done: map[int]delivery.Done{0: {At: now, Code: 200}}}); err != nil {
		t.Fatal(err)
	}
	w := delivery.Wakeup{Key: key, N: 1, First: now, Attempts: []delivery.Attempt{{At: now, Class: delivery.Unwell, Code: 503}}}
	run := delivery.Wakeup{Key: key, N: 0, Run: &delivery.Run{ID: "r1", Letters: []int{0}}}
	soon := now.Add(time.Hour)
	for _, w := range []delivery.Wakeup{w, run} {
		payload, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeCallback, Token: w.Token(), Payload: payload}, soon); err != nil {
			t.Fatal(err)
		}
	}
	launch, err := json.Marshal(broker.ParkedLaunch{Key: key, Tries: 3, Cause: "QUOTA_EXCEEDED"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeLaunch, Token: key, Payload: launch}, soon),
		b.PutLetter(t.Context(), delivery.Letter{LogKey: key, N: 0, Service: "s.t", Reason: delivery.ReasonGone}),
		b.SetPause(t.Context(), broker.Pause{Service: "s.t", Paused: true, At: now, Reason: "why"}),
		b.Cancel(t.Context(), broker.Cancel{ID: "id", Reason: "because", At: now}),
	); err != nil {
		t.Fatal(err)
	}
	got, err := r.History(t.Context(), "id")
	if err != nil || len(got) != 2 {
		t.Fatalf("%v %v", got, err)
	}
	h := got[0]
	if h.LogKey != key || h.Service != "s.t" || h.Request == nil || len(h.Log) != 2 || h.Log[1].Type != event.TypePodStarted || h.Ledger.Next != 1 || len(h.Letters) != 1 {
		t.Errorf("%+v", h)
	}
	if len(h.Parked) != 2 || !h.Parked[0].Due.Equal(soon) || len(h.Parked[0].Attempts) != 1 || h.Parked[1].Run == nil {
		t.Errorf("%+v", h.Parked)
	}
	if h.Launch == nil || !h.Launch.Due.Equal(soon) || h.Launch.Tries != 3 || h.Launch.Cause != "QUOTA_EXCEEDED" {
		t.Errorf("%+v", h.Launch)
	}
	if h.Pause == nil || h.Pause.Reason != "why" || h.Cancel == nil || h.Cancel.Reason != "because" || !h.Cancel.At.Equal(now) {
		t.Errorf("%+v %+v", h.Pause, h.Cancel)
	}
	if got[1].LogKey != rejected.LogKey || got[1].Request != nil || len(got[1].Log) != 1 || got[1].Cancel != nil {
		t.Errorf("%+v", got[1])
	}
	// Who may read EVENTS alone sees the log.
	partial, err := broker.OpenReader(t.Context(), broker.Access{URL: s.URL()}, zerolog.Nop(), broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	defer partial.Close()
	got, err = partial.History(t.Context(), "id")
	if err != nil || len(got) != 1 || len(got[0].Log) != 2 || got[0].Request != nil || got[0].Pause != nil {
		t.Errorf("%+v %v", got, err)
	}
}

func published(t *testing.T, js jetstream.JetStream, subject string, e event.Event) jetstream.PubAckFuture {
	t.Helper()
	header, data, err := event.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.PublishMsgAsync(&nats.Msg{Subject: subject, Header: header, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

func TestFollow(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	before := time.Now()
	life(t, b, "one", "a", jobStarted, podStarted, jobCompleted)
	life(t, b, "two", "b", jobStarted, podStarted, jobFailed)
	enough := errors.New("enough")
	var got []string
	err := r.Follow(t.Context(), broker.EventFilter{Since: before, Types: []event.Type{event.TypeJobStarted, event.TypeJobFailed}}, func(e broker.Stored) error {
		if got = append(got, e.ID+" "+event.Token(e.Type)); len(got) == 5 {
			return enough
		}
		if len(got) == 3 { // what is appended meanwhile comes, too
			life(t, b, "three", "a", jobStarted, podStarted, jobFailed)
		}
		return nil
	})
	if want := []string{"one started", "two started", "two failed", "three started", "three failed"}; !errors.Is(err, enough) || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
	got = nil
	err = r.Follow(t.Context(), broker.EventFilter{Since: before, Service: "b"}, func(e broker.Stored) error {
		if got = append(got, e.ID); len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || !slices.Equal(got, []string{"two", "two", "two"}) {
		t.Errorf("%q %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Follow(ctx, broker.EventFilter{}, func(broker.Stored) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestOverview(t *testing.T) {
	s := server(t)
	b := open(t, s)
	r := reads(t, s)
	before := time.Now()
	life(t, b, "done", "a", jobStarted, podStarted, jobCompleted)
	life(t, b, "running", "a", jobStarted, podStarted)
	life(t, b, "first", "a")
	life(t, b, "second", "a")
	first := before.Add(-time.Hour).UTC()
	payload, err := json.Marshal(delivery.Wakeup{Key: event.Key("done"), First: first})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := broker.Endpoint{Name: "http://h.example", Breaker: "open", Since: before, Failures: 3, Last: delivery.Attempt{Code: 503}}
	worse := endpoint
	worse.Failures = 9
	if err := errors.Join(
		b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeCallback, Token: event.Key("done") + ".2", Payload: payload}, time.Now().Add(time.Hour)),
		b.Report(t.Context(), broker.Status{Role: "notifier", Instance: "1", Ready: true, Endpoints: []broker.Endpoint{endpoint}}),
		b.Report(t.Context(), broker.Status{Role: "notifier", Instance: "2", Endpoints: []broker.Endpoint{worse}}),
		b.Report(t.Context(), broker.Status{Role: "ingest", Instance: "1", Ready: true}),
		b.SetPause(t.Context(), broker.Pause{Service: "a", Paused: true}),
	); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := r.NewCounting(before.Add(-time.Minute))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-c.Ready()
	o, err := c.Overview(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if o.Counting || o.Jobs[timeline.Running] != 1 || o.Jobs[timeline.Completed] != 1 || o.Jobs[timeline.Waiting] != 4 {
		t.Errorf("%+v", o)
	}
	if len(o.Oldest) != 2 || o.Oldest[0].ID != "first" || o.Oldest[1].ID != "running" {
		t.Errorf("%+v", o.Oldest)
	}
	if o.Callbacks.Pending != 5 || o.Callbacks.Parked != 1 || o.Callbacks.Oldest == nil || !o.Callbacks.Oldest.Equal(first) {
		t.Errorf("%+v", o.Callbacks)
	}
	if len(o.Failing) != 1 || o.Failing[0].Failures != 9 || o.Failing[0].Cause != "503" || !slices.Equal(o.Paused, []string{"a"}) {
		t.Errorf("%+v %v", o.Failing, o.Paused)
	}
	if want := []timeline.Replicas{{Role: "ingest", Ready: 1, All: 1}, {Role: "notifier", Ready: 1, All: 2}}; !slices.Equal(o.Replicas, want) {
		t.Errorf("%+v", o.Replicas)
	}
	// What comes is counted.
	life(t, b, "new", "b", jobStarted)
	await.That(t, "a new job is counted", func() bool {
		o, err := c.Overview(ctx)
		return err == nil && o.Jobs[timeline.Started] == 1
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestReadingNeedsNoMore: with a login that may ask for what is read, and for a
// consumer of its own on EVENTS, all of it works; show and list without the consumer.
func TestReadingNeedsNoMore(t *testing.T) {
	var may []string
	for _, s := range broker.Topology(1) {
		may = append(may, "$JS.API.STREAM.INFO."+s.Name, "$JS.API.DIRECT.GET."+s.Name, "$JS.API.DIRECT.GET."+s.Name+".>")
	}
	may = append(may, "$JS.API.CONSUMER.INFO.REQUESTS.launcher", "$JS.API.CONSUMER.INFO.EVENTS.notifier")
	follows := append(slices.Clone(may), "$JS.API.CONSUMER.CREATE.EVENTS.>", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.>", "$JS.API.CONSUMER.DELETE.EVENTS.>")
	user := func(name string, publish []string) *natsserver.User {
		return &natsserver.User{Username: name, Password: "p", Permissions: &natsserver.Permissions{
			Publish: &natsserver.SubjectPermission{Allow: publish}, Subscribe: &natsserver.SubjectPermission{Allow: []string{"_INBOX_operator.>"}},
		}}
	}
	s := foreign(t, &natsserver.Options{MaxPayload: 2 << 20, Users: []*natsserver.User{{Username: "admin", Password: "p"}, user("reader", may), user("follower", follows)}})
	as := func(name string) string { return strings.Replace(s.ClientURL(), "nats://", "nats://"+name+":p@", 1) }
	b, err := broker.Open(t.Context(), broker.Config{URL: as("admin"), Role: "test", Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	life(t, b, "id", "a", jobStarted, podStarted)
	life(t, b, "new", "a")
	reject(t, b, "id", "a", "MESSAGE_INVALID")
	open := func(name string) *broker.Broker {
		r, err := broker.OpenReader(t.Context(), broker.Access{URL: as(name)}, zerolog.Nop(), broker.StreamEvents, broker.StreamRequests, broker.StreamRejections,
			broker.StreamLedger, broker.StreamWakeups, broker.StreamDeadLetters, broker.StreamControls, broker.StreamCommands, broker.StreamStatus)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	r := open("reader")
	if got := listed(t, r, broker.JobFilter{Limit: 9}); len(got) != 3 {
		t.Errorf("%q", got)
	}
	if got := listed(t, r, broker.JobFilter{Limit: 9, States: []timeline.State{timeline.Running}}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if got, err := r.History(t.Context(), "id"); err != nil || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
	f := open("follower")
	enough := errors.New("enough")
	if err := f.Follow(t.Context(), broker.EventFilter{Since: time.Now().Add(-time.Hour)}, func(broker.Stored) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := f.NewCounting(time.Now().Add(-time.Hour))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-c.Ready()
	if o, err := c.Overview(ctx); err != nil || o.Jobs[timeline.Running] != 1 {
		t.Errorf("%+v %v", o, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestFollowGoesOn: the server was away, and is back with its streams.
func TestFollowGoesOn(t *testing.T) {
	dir := t.TempDir()
	s, err := natsd.Start(t.Context(), natsd.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b, r := open(t, s), reads(t, s)
	life(t, b, "before", "a", jobStarted)
	got := make(chan string, 9)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Follow(ctx, broker.EventFilter{Since: time.Now().Add(-time.Hour)}, func(e broker.Stored) error {
			got <- e.ID
			return nil
		})
	}()
	next := func(want string) {
		t.Helper()
		select {
		case id := <-got:
			if id != want {
				t.Errorf("%s, not %s", id, want)
			}
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(patience):
			t.Fatal("nothing comes")
		}
	}
	next("before")
	address := strings.TrimPrefix(s.URL(), "nats://")
	s.Stop()
	if s, err = natsd.Start(t.Context(), natsd.Config{Dir: dir, Addr: address}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	await.That(t, "the writer is connected again", b.Connected)
	life(t, b, "after", "a", jobStarted)
	next("after")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
