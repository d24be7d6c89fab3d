package timeline_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

var start = time.Date(2026, 11, 24, 4, 53, 15, 0, time.UTC)

// at is seconds after the start.
func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func happened(t *testing.T, n int, seconds float64, data proto.Message) event.Event {
	t.Helper()
	e, err := event.New(event.Key("id"), event.SourceOfNamespace("default", "ns"), "id", n, at(seconds), data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// records are those of a job whose webhook wants the statuses, and which is as far
// as events says, one each ten seconds.
func records(t *testing.T, statuses []int32, events ...proto.Message) timeline.Records {
	t.Helper()
	request := happened(t, 0, 1, &jobsv1.JobRequested{
		Id: "id", Service: "s", Job: &jobsv1.Job{Namespace: "ns"}, QueuedAt: timestamppb.New(at(0)), AcceptedAt: timestamppb.New(at(1)),
	})
	if statuses != nil {
		request.Data.(*jobsv1.JobRequested).Webhook = &jobsv1.Webhook{Url: "https://h.example/secret", Statuses: statuses}
	}
	r := timeline.Records{LogKey: event.Key("id"), Service: "s", Request: &request}
	for n, data := range events {
		r.Log = append(r.Log, happened(t, n, float64(10*(n+1)), data))
	}
	return r
}

func ok(seconds float64) delivery.Attempt {
	return delivery.Attempt{At: at(seconds), Class: delivery.Delivered, Code: 200, Milliseconds: 12}
}

func bad(seconds float64) delivery.Attempt {
	return delivery.Attempt{At: at(seconds), Class: delivery.Unwell, Code: 503, Milliseconds: 3}
}

var (
	all       = []int32{0, 1, 2, 3, 99}
	started   = &jobsv1.JobStarted{JobId: "u", JobName: "p-1", Namespace: "ns", QueueMilliseconds: 900}
	podStart  = &jobsv1.PodStarted{JobId: "u", JobName: "p-1", Namespace: "ns", PodName: "p-1-x", NodeName: "node-1"}
	completed = &jobsv1.JobCompleted{JobId: "u", JobName: "p-1", Namespace: "ns", DurationSeconds: 9}
	failed    = &jobsv1.JobFailed{JobId: "u", JobName: "p-1", Namespace: "ns", Error: &jobsv1.Error{ErrorCode: "CONTAINER_EXIT_NONZERO", Message: "Exit code 3."}}
)

// lines are the steps and the waits, in what tells them apart.
func lines(t timeline.Timeline) (out []string) {
	short := func(v any) string {
		b, _ := json.Marshal(v)
		return string(b)
	}
	for _, s := range t.Steps {
		s.Milliseconds, s.Class, s.Message, s.Pod, s.Node = 0, "", "", "", ""
		out = append(out, short(s))
	}
	for _, w := range t.Waits {
		out = append(out, "waits "+short(w))
	}
	return out
}

func TestDraw(t *testing.T) {
	key := event.Key("id")
	for name, c := range map[string]struct {
		records timeline.Records
		state   timeline.State
		want    []string
	}{
		"nobody has taken it up": {records(t, all), timeline.Waiting, []string{
			`{"at":"2026-11-24T04:53:15Z","what":"queued"}`,
			`{"at":"2026-11-24T04:53:16Z","what":"accepted"}`,
			`waits {"for":"launcher","since":"2026-11-24T04:53:16Z"}`,
		}},
		"its launch is parked": {func() timeline.Records {
			r := records(t, all)
			r.Launch = &timeline.Launch{Due: at(30), Tries: 3, Cause: "QUOTA_EXCEEDED"}
			return r
		}(), timeline.Waiting, []string{
			`{"at":"2026-11-24T04:53:15Z","what":"queued"}`,
			`{"at":"2026-11-24T04:53:16Z","what":"accepted"}`,
			`waits {"for":"launch","until":"2026-11-24T04:53:45Z","attempts":3,"cause":"QUOTA_EXCEEDED"}`,
		}},
		"its service is paused, and it is to be cancelled": {func() timeline.Records {
			r := records(t, all)
			r.Launch = &timeline.Launch{Tries: 1, Cause: "paused"}
			r.Pause, r.Cancel = &timeline.Asked{At: at(2), Reason: "why"}, &timeline.Asked{At: at(3)}
			return r
		}(), timeline.Waiting, []string{
			`{"at":"2026-11-24T04:53:15Z","what":"queued"}`,
			`{"at":"2026-11-24T04:53:16Z","what":"accepted"}`,
			`waits {"for":"cancel","since":"2026-11-24T04:53:18Z"}`,
			`waits {"for":"resume","since":"2026-11-24T04:53:17Z","cause":"why"}`,
		}},
		"a paused service holds no Job back that exists": {func() timeline.Records {
			r := records(t, nil, started)
			r.Pause = &timeline.Asked{At: at(2)}
			return r
		}(), timeline.Started, []string{
			`{"at":"2026-11-24T04:53:15Z","what":"queued"}`,
			`{"at":"2026-11-24T04:53:16Z","what":"accepted"}`,
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`waits {"for":"pod","since":"2026-11-24T04:53:25Z"}`,
		}},
		"callback 0 is retried, 1 comes after it": {func() timeline.Records {
			r := records(t, all, started, podStart)
			r.Ledger = delivery.Ledger{Wait: map[int]uint64{1: 7}}
			r.Parked = []timeline.Parked{{Due: at(60), Wakeup: delivery.Wakeup{Key: key, N: 0, First: at(11), Attempts: []delivery.Attempt{bad(11), bad(25)}}}}
			return r
		}(), timeline.Running, []string{
			`{"at":"2026-11-24T04:53:15Z","what":"queued"}`,
			`{"at":"2026-11-24T04:53:16Z","what":"accepted"}`,
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`{"at":"2026-11-24T04:53:26Z","what":"attempt","status":0,"attempt":1,"http":503}`,
			`{"at":"2026-11-24T04:53:35Z","what":"pod-started","status":1}`,
			`{"at":"2026-11-24T04:53:40Z","what":"attempt","status":0,"attempt":2,"http":503}`,
			`waits {"for":"end","since":"2026-11-24T04:53:35Z"}`,
			`waits {"for":"retry","since":"2026-11-24T04:53:26Z","until":"2026-11-24T04:54:15Z","status":0,"attempts":2}`,
			`waits {"for":"predecessor","since":"2026-11-24T04:53:35Z","status":1}`,
		}},
		"all is delivered but what is not wanted": {func() timeline.Records {
			r := records(t, []int32{0, 2}, started, podStart, completed)
			r.Ledger = delivery.Ledger{Next: 3, Done: map[int]delivery.Done{
				0: {At: at(12.5), Attempts: []delivery.Attempt{bad(11), ok(12)}, Code: 200},
				1: {At: at(21), Reason: delivery.ReasonNotWanted}, 2: {At: at(31.5), Attempts: []delivery.Attempt{ok(31)}, Code: 200},
			}}
			return r
		}(), timeline.Completed, []string{
			`{"at":"2026-11-24T04:53:15Z","what":"queued"}`,
			`{"at":"2026-11-24T04:53:16Z","what":"accepted"}`,
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`{"at":"2026-11-24T04:53:26Z","what":"attempt","status":0,"attempt":1,"http":503}`,
			`{"at":"2026-11-24T04:53:27Z","what":"delivered","status":0,"attempt":2,"http":200}`,
			`{"at":"2026-11-24T04:53:35Z","what":"pod-started","status":1}`,
			`{"at":"2026-11-24T04:53:36Z","what":"skipped","status":1,"reason":"not wanted"}`,
			`{"at":"2026-11-24T04:53:45Z","what":"completed","status":2,"durationSeconds":9}`,
			`{"at":"2026-11-24T04:53:46Z","what":"delivered","status":2,"attempt":1,"http":200}`,
		}},
		"the last callback is with a notifier": {func() timeline.Records {
			r := records(t, all, started, podStart, failed)
			r.Request, r.Ledger = nil, delivery.Ledger{Next: 2}
			return r
		}(), timeline.Failed, []string{
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`{"at":"2026-11-24T04:53:35Z","what":"pod-started","status":1}`,
			`{"at":"2026-11-24T04:53:45Z","what":"failed","status":3,"code":"CONTAINER_EXIT_NONZERO"}`,
			`waits {"for":"notifier","since":"2026-11-24T04:53:45Z","status":3}`,
		}},
		"nobody tells whether there is a webhook": {func() timeline.Records {
			r := records(t, all, started, podStart, completed)
			r.Request = nil
			return r
		}(), timeline.Completed, []string{
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`{"at":"2026-11-24T04:53:35Z","what":"pod-started","status":1}`,
			`{"at":"2026-11-24T04:53:45Z","what":"completed","status":2,"durationSeconds":9}`,
		}},
		"given up, one replayed, one tried again in vain, one being replayed": {func() timeline.Records {
			r := records(t, all, started, podStart, completed)
			r.Request = nil
			r.Ledger = delivery.Ledger{Next: 3, Done: map[int]delivery.Done{
				0: {At: at(41), Attempts: []delivery.Attempt{bad(11)}, Code: 503, Reason: delivery.ReasonExhausted},
				1: {At: at(42), Reason: delivery.ReasonExhausted}, 2: {At: at(43), Reason: delivery.ReasonExhausted},
			}, GaveUp: &delivery.GaveUp{Reason: delivery.ReasonExhausted, At: at(41)}}
			r.Letters = []delivery.Letter{
				{N: 0, Status: 0, At: at(41), Reason: delivery.ReasonExhausted, Attempts: []delivery.Attempt{ok(50)}, Replayed: &delivery.Replayed{Run: "r1", At: at(50)}},
				{N: 1, Status: 1, At: at(52), Reason: delivery.ReasonGone, Attempts: []delivery.Attempt{bad(51)}},
				{N: 2, Status: 2, At: at(43), Reason: delivery.ReasonExhausted},
			}
			r.Parked = []timeline.Parked{{Due: at(70), Wakeup: delivery.Wakeup{Key: key, N: 1, Attempts: []delivery.Attempt{bad(61)}, Run: &delivery.Run{ID: "r2", Letters: []int{1, 2}}}}}
			return r
		}(), timeline.Completed, []string{
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`{"at":"2026-11-24T04:53:26Z","what":"attempt","status":0,"attempt":1,"http":503}`,
			`{"at":"2026-11-24T04:53:35Z","what":"pod-started","status":1}`,
			`{"at":"2026-11-24T04:53:45Z","what":"completed","status":2,"durationSeconds":9}`,
			`{"at":"2026-11-24T04:53:56Z","what":"gave-up","status":0,"reason":"exhausted","deadLetter":true}`,
			`{"at":"2026-11-24T04:53:57Z","what":"gave-up","status":1,"reason":"exhausted","deadLetter":true}`,
			`{"at":"2026-11-24T04:53:58Z","what":"gave-up","status":2,"reason":"exhausted","deadLetter":true}`,
			`{"at":"2026-11-24T04:54:05Z","what":"delivered","status":0,"attempt":1,"http":200,"run":"r1"}`,
			`{"at":"2026-11-24T04:54:06Z","what":"attempt","status":1,"attempt":1,"http":503}`,
			`{"at":"2026-11-24T04:54:07Z","what":"gave-up","status":1,"reason":"gone","deadLetter":true}`,
			`{"at":"2026-11-24T04:54:16Z","what":"attempt","status":2,"attempt":1,"http":503,"run":"r2"}`,
			`waits {"for":"replay","until":"2026-11-24T04:54:25Z","status":2,"attempts":1,"run":"r2"}`,
		}},
		"letters outlive the ledger": {timeline.Records{LogKey: key, Log: []event.Event{happened(t, 0, 10, started)}, Letters: []delivery.Letter{
			{N: 0, Status: 0, At: at(41), Reason: delivery.ReasonExhausted, Attempts: []delivery.Attempt{bad(11)}},
		}}, timeline.Started, []string{
			`{"at":"2026-11-24T04:53:25Z","what":"started","status":0,"queueMs":900}`,
			`{"at":"2026-11-24T04:53:26Z","what":"attempt","status":0,"attempt":1,"http":503}`,
			`{"at":"2026-11-24T04:53:56Z","what":"gave-up","status":0,"reason":"exhausted","deadLetter":true}`,
			`waits {"for":"pod","since":"2026-11-24T04:53:25Z"}`,
		}},
		"rejected, and nobody is told": {timeline.Records{LogKey: key + "-0123456789abcdef", Log: []event.Event{happened(t, 0, 10, &jobsv1.RequestRejected{
			Id: "id", Service: "s", Error: &jobsv1.Error{ErrorCode: "ID_REUSED"},
		})}}, timeline.Rejected, []string{`{"at":"2026-11-24T04:53:25Z","what":"rejected","status":99,"code":"ID_REUSED"}`}},
		"rejected, and the callback is on its way": {timeline.Records{LogKey: key + "-0123456789abcdef", Log: []event.Event{happened(t, 0, 10, &jobsv1.RequestRejected{
			Id: "id", Service: "s", Callback: true, Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID"},
		})}}, timeline.Rejected, []string{
			`{"at":"2026-11-24T04:53:25Z","what":"rejected","status":99,"code":"MESSAGE_INVALID"}`,
			`waits {"for":"notifier","since":"2026-11-24T04:53:25Z","status":99}`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := timeline.Draw(c.records)
			if got.State != c.state || got.ID != "id" {
				t.Errorf("%s of %q", got.State, got.ID)
			}
			if diff := cmp.Diff(c.want, lines(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNothingSecretIsDrawn: the webhook's address has a secret in it.
func TestNothingSecretIsDrawn(t *testing.T) {
	r := records(t, all, started)
	r.Letters = []delivery.Letter{{N: 0, URL: "https://h.example/secret", Body: []byte("secret"), At: at(20), Reason: delivery.ReasonGone}}
	b, err := json.Marshal(timeline.Draw(r))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "secret") {
		t.Errorf("%s", b)
	}
}

func TestSummarize(t *testing.T) {
	for state, c := range map[timeline.State]struct {
		data proto.Message
		want timeline.Summary
	}{
		timeline.Waiting: {&jobsv1.JobRequested{Id: "id", AcceptedAt: timestamppb.New(at(1)), Job: &jobsv1.Job{Namespace: "ns"}}, timeline.Summary{At: at(1), Namespace: "ns"}},
		timeline.Running: {podStart, timeline.Summary{At: at(10), Namespace: "ns", Job: "p-1"}},
		timeline.Failed:  {failed, timeline.Summary{At: at(10), Namespace: "ns", Job: "p-1", Code: "CONTAINER_EXIT_NONZERO", Message: "Exit code 3."}},
		timeline.Rejected: {&jobsv1.RequestRejected{Id: "id", Error: &jobsv1.Error{ErrorCode: "ID_REUSED", Message: "m"}},
			timeline.Summary{At: at(10), Code: "ID_REUSED", Message: "m"}},
	} {
		c.want.State, c.want.ID, c.want.LogKey, c.want.Service = state, "id", event.Key("id"), "s"
		if diff := cmp.Diff(c.want, timeline.Summarize("s", happened(t, 0, 10, c.data))); diff != "" {
			t.Errorf("%s: %s", state, diff)
		}
	}
}

func TestStates(t *testing.T) {
	for _, typ := range event.Types() {
		if s := timeline.StateOf(typ); s.Ended() != typ.Terminal() {
			t.Errorf("%s is %s", typ, s)
		}
	}
}
