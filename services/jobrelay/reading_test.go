package jobrelay

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// then is when the stories of the sessions happened: what is printed of them is the
// same each time.
var then = time.Date(2026, 11, 24, 4, 53, 15, 0, time.UTC)

func after(d time.Duration) time.Time { return then.Add(d) }

// happened stores what the services would have: a request of an id and a service,
// whose job is as far as the third argument says, and what came of its callbacks.
func happened(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	b, err := broker.OpenReader(ctx, broker.Access{URL: ts.Getenv("NATS")}, zerolog.Nop(), broker.StreamEvents, broker.StreamRequests)
	ts.Check(err)
	defer b.Close()
	id, service, state := args[0], args[1], timeline.State(args[2])
	key := event.Key(id)
	at := func(d time.Duration, data proto.Message) event.Event {
		e, err := event.New(key, event.SourceOfNamespace("default", "ns"), id, 0, after(d), data)
		ts.Check(err)
		return e
	}
	request := at(6*time.Millisecond, &jobsv1.JobRequested{
		Id: id, Service: service, Job: &jobsv1.Job{Namespace: "ns"}, QueuedAt: timestamppb.New(then), AcceptedAt: timestamppb.New(after(6 * time.Millisecond)),
		Webhook: &jobsv1.Webhook{Url: "https://hook.example/token=secret", Statuses: []int32{0, 2, 3, 99}},
	})
	if len(args) > 3 && args[3] == "nohook" {
		request.Data.(*jobsv1.JobRequested).Webhook = nil
	}
	ts.Check(b.Accept(ctx, request))
	name := "p-" + key[:8]
	started := at(180*time.Millisecond, &jobsv1.JobStarted{JobId: "u", JobName: name, Namespace: "ns", Service: service, QueueMilliseconds: 180})
	pod := at(2*time.Second, &jobsv1.PodStarted{JobId: "u", JobName: name, Namespace: "ns", PodName: name + "-x", NodeName: "node-1"})
	failure := &jobsv1.Error{ErrorCode: "CONTAINER_EXIT_NONZERO", Message: "Container main failed:\texit code 3\x1b[2J."}
	var log []event.Event
	switch state {
	case timeline.Started:
		log = []event.Event{started}
	case timeline.Running:
		log = []event.Event{started, pod}
	case timeline.Completed:
		log = []event.Event{started, pod, at(125*time.Second, &jobsv1.JobCompleted{JobId: "u", JobName: name, Namespace: "ns", DurationSeconds: 123})}
	case timeline.Failed:
		log = []event.Event{started, pod, at(4*time.Hour, &jobsv1.JobFailed{JobId: "u", JobName: name, Namespace: "ns", Error: failure})}
	}
	var tail broker.Tail
	for _, e := range log {
		tail, err = b.Append(ctx, service, tail, e)
		ts.Check(err)
	}
	if len(args) < 4 {
		return
	}
	good := delivery.Attempt{At: after(200 * time.Millisecond), Class: delivery.Delivered, Code: 204, Milliseconds: 12}
	ill := delivery.Attempt{At: after(126 * time.Second), Class: delivery.Unwell, Code: 503, Milliseconds: 4}
	slow := delivery.Attempt{At: after(140 * time.Second), Class: delivery.Unwell, Milliseconds: 10_000}
	ledger := delivery.Ledger{Next: 2, Done: map[int]delivery.Done{
		0: {At: good.At, Attempts: []delivery.Attempt{good}, Code: 204}, 1: {At: after(2 * time.Second), Reason: delivery.ReasonNotWanted},
	}}
	switch args[3] {
	case "delivered":
		good.At = after(170 * time.Second)
		ledger = ledger.Advanced(2, delivery.Done{At: good.At, Attempts: []delivery.Attempt{ill, slow, good}, Code: 204})
	case "given-up":
		end := delivery.Done{At: after(150 * time.Second), Attempts: []delivery.Attempt{ill, slow}, Reason: delivery.ReasonExhausted}
		ledger = ledger.Abandoned(2, end)
		ts.Check(b.PutLetter(ctx, delivery.Letter{LogKey: key, N: 2, ID: id, Service: service, Status: 2, At: end.At, Attempts: end.Attempts, Reason: end.Reason}))
	case "retried":
		w := delivery.Wakeup{Key: key, N: 2, Sequence: tail.Sequence, First: ill.At, Attempts: []delivery.Attempt{ill, slow}}
		payload, err := json.Marshal(w)
		ts.Check(err)
		ts.Check(b.Schedule(ctx, broker.Wakeup{Purpose: broker.PurposeCallback, Token: w.Token(), Payload: payload}, time.Now().Add(time.Hour)))
	case "parked":
		payload, err := json.Marshal(broker.ParkedLaunch{Key: key, Tries: 3, Cause: "QUOTA_EXCEEDED"})
		ts.Check(err)
		ts.Check(b.Schedule(ctx, broker.Wakeup{Purpose: broker.PurposeLaunch, Token: key, Payload: payload}, time.Now().Add(time.Hour)))
		return
	case "nohook":
		return
	}
	_, err = b.SwapLedger(ctx, key, broker.LedgerEntry{}, ledger)
	ts.Check(err)
}

// untilTailed waits until somebody follows the events of a service, or those of all.
func untilTailed(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	b, err := broker.OpenAdmin(ctx, broker.Access{URL: ts.Getenv("NATS")}, zerolog.Nop())
	ts.Check(err)
	defer b.Close()
	stream, err := b.JetStream().Stream(ctx, broker.StreamEvents)
	ts.Check(err)
	filter := "events.*."
	if args[0] != "" {
		filter = "events." + args[0] + "."
	}
	eventually(ts, "nobody follows", func() bool {
		for c := range stream.ListConsumers(ctx).Info() {
			filters := append(c.Config.FilterSubjects, c.Config.FilterSubject)
			if c.Config.Durable == "" && c.NumWaiting > 0 && slices.ContainsFunc(filters, func(s string) bool { return strings.HasPrefix(s, filter) }) {
				return true
			}
		}
		return false
	})
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0ms", 0: "0ms", 6 * time.Millisecond: "6ms", 1690 * time.Millisecond: "1.6s", 25 * time.Second: "25s", 59900 * time.Millisecond: "59s",
		125 * time.Second: "2m5s", 3*time.Hour + 12*time.Minute: "3h12m", 51 * time.Hour: "2d3h",
	} {
		if got := short(d); got != want {
			t.Errorf("%s is %s", d, got)
		}
	}
}

// TestWaitsAreSaid: each thing that can be waited for has words of its own.
func TestWaitsAreSaid(t *testing.T) {
	two, since, until := 2, then, after(90*time.Second)
	for what, want := range map[timeline.For]string{
		timeline.ForResume: "`jobrelay resume s`: the service is paused, for 1m0s: why", timeline.ForLaunch: "its launch, try 3 in 30s, at ",
		timeline.ForLauncher: "a launcher to take it up, for 1m0s", timeline.ForPod: "Kubernetes to start a Pod of it, for 1m0s", timeline.ForEnd: "the end of its Job, for 1m0s",
		timeline.ForCancel: "a watcher to cancel it, for 1m0s: why", timeline.ForRetry: "callback 2, attempt 3 in 30s, at ", timeline.ForNotifier: "a notifier to deliver callback 2, for 1m0s",
		timeline.ForPredecessor: "callback 2, which comes after that one, for 1m0s", timeline.ForReplay: "the replay of callback 2, attempt 3 in 30s",
	} {
		got := waitText(timeline.Wait{For: what, Since: &since, Until: &until, Status: &two, Attempts: 2, Cause: "why"}, "s", after(time.Minute))
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestTimelinesHaveColoursOnATerminal, and the columns stay in line.
func TestTimelinesHaveColoursOnATerminal(t *testing.T) {
	e, err := event.New(event.Key("x"), "jobrelay://default/namespaces/ns", "x", 0, then, &jobsv1.JobFailed{Error: &jobsv1.Error{ErrorCode: "EVICTED"}})
	if err != nil {
		t.Fatal(err)
	}
	drawn := timeline.Draw(timeline.Records{LogKey: e.LogKey, Log: []event.Event{e}})
	coloured, bare := timelineText(&console{color: true}, drawn, then), timelineText(&console{}, drawn, then)
	if !strings.Contains(coloured, red+"EVICTED"+plain) || strings.Contains(bare, "\x1b") {
		t.Errorf("%q", coloured)
	}
	if got := strings.NewReplacer(red, "", yellow, "", green, "", neutral, "", plain, "").Replace(coloured); got != bare {
		t.Errorf("%q", got)
	}
}
