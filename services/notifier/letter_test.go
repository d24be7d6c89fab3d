package notifier

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// letters are the dead letters of each id, by ordinal.
func (b *bench) letters(f broker.LetterFilter) map[string][]delivery.Letter {
	b.t.Helper()
	out := map[string][]delivery.Letter{}
	if err := b.b.Letters(b.t.Context(), f, func(l delivery.Letter) error { out[l.ID] = append(out[l.ID], l); return nil }); err != nil {
		b.t.Fatal(err)
	}
	for _, of := range out {
		slices.SortFunc(of, func(a, b delivery.Letter) int { return a.N - b.N })
	}
	return out
}

// replay starts a replay of an id's letters.
func (b *bench) replay(letters []delivery.Letter) {
	b.t.Helper()
	if _, err := b.b.Replay(b.t.Context(), letters); err != nil {
		b.t.Fatal(err)
	}
}

func statuses(letters []delivery.Letter) (out []int) {
	for _, l := range letters {
		if l.Replayed == nil {
			out = append(out, l.Status)
		}
	}
	return out
}

// outage is a receiver that answers 503 while it is down.
func outage(down *atomic.Bool) func(hookd.Call) hookd.Answer {
	return func(hookd.Call) hookd.Answer {
		if down.Load() {
			return hookd.Answer{Status: http.StatusServiceUnavailable}
		}
		return hookd.Answer{Status: http.StatusNoContent}
	}
}

// quick spends its attempts, or its time, soon.
func quick(n *notifier) {
	n.policy.Unwell, n.policy.Refused = delivery.Schedule{0, 300 * time.Millisecond}, delivery.Schedule{0}
	n.policy.MaxAge = 3 * time.Second
}

// TestAnOutageIsDeadLettersThenReplayed: an endpoint is down for the whole schedule,
// while replicas come and go: the dead letters are exactly what was not delivered.
// It returns, and a replay delivers all of it, each job in order, with the bytes and
// ids of the first attempts; the request is past its retention by then.
func TestAnOutageIsDeadLettersThenReplayed(t *testing.T) {
	const jobs = 300
	var down atomic.Bool
	b := newBench(t, outage(&down))
	down.Store(true)
	for i := range jobs {
		id := fmt.Sprint("job ", i)
		b.accept(id, b.webhook(0, 1, 2))
		b.history(id, success()...)
	}
	stops := []func(){b.replica(quick), b.replica(quick)}
	time.Sleep(300 * time.Millisecond) // in the middle of it
	stops[0]()
	b.replica(quick)
	b.settled()
	tried := map[string]string{} // bodies by webhook-id
	for _, c := range b.hooks.Calls() {
		tried[c.Header.Get("Webhook-Id")] = string(c.Body)
	}
	dead := b.letters(broker.LetterFilter{Service: "example"})
	if len(dead) != jobs || len(b.received()) != 0 {
		t.Fatalf("%d jobs have dead letters, and %d received something", len(dead), len(b.received()))
	}
	for id, letters := range dead {
		if got := fmt.Sprint(statuses(letters)); got != "[0 1 2]" {
			t.Errorf("%s: dead letters of %s", id, got)
		}
		first := letters[0]
		if first.Reason != delivery.ReasonExhausted || first.Endpoint != b.hooks.URL() {
			t.Errorf("%+v", first)
		}
		// The endpoint is left alone for most of the time: few are tried at all.
		if body, there := tried[first.WebhookID]; there != (len(first.Attempts) > 0) || len(first.Attempts) > 2 || there && body != string(first.Body) {
			t.Errorf("%+v was sent as %q", first, body)
		}
	}

	requests, err := b.b.JetStream().Stream(t.Context(), broker.StreamRequests)
	if err == nil {
		err = requests.Purge(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	down.Store(false)
	for _, letters := range dead {
		b.replay(letters)
		b.replay(letters) // once more is no more
	}
	b.settled()
	for id := range dead {
		b.expect(id, 0, 1, 2)
	}
	for _, c := range b.hooks.Calls() {
		if body, ok := tried[c.Header.Get("Webhook-Id")]; ok && body != string(c.Body) {
			t.Errorf("replayed with other bytes: %s", c.Body)
		}
	}
	for id, letters := range b.letters(broker.LetterFilter{}) {
		for _, l := range letters {
			if l.Replayed == nil || l.URL != "" || l.Body != nil || len(l.Attempts) != 1 {
				t.Errorf("%s: %+v", id, l)
			}
		}
	}
}

// TestGoneIsADeadLetterForAllThatComes: a 410 at callback 0 ends those of 1 and 2 as
// they come; what is not wanted is no dead letter; and what is refused is one alone.
func TestGoneIsADeadLetterForAllThatComes(t *testing.T) {
	b := newBench(t, func(c hookd.Call) hookd.Answer {
		var body struct {
			ID     string
			Status int
		}
		_ = json.Unmarshal(c.Body, &body)
		switch {
		case body.ID != "refused":
			return hookd.Answer{Status: http.StatusGone}
		case body.Status == 1:
			return hookd.Answer{Status: http.StatusBadRequest}
		}
		return hookd.Answer{Status: http.StatusNoContent}
	})
	for id, hook := range map[string]*jobsv1.Webhook{"gone": b.webhook(0, 1, 2), "ends": b.webhook(0, 2), "refused": b.webhook(0, 1, 2)} {
		b.accept(id, hook)
	}
	b.replica(quick)
	var tails = map[string]broker.Tail{}
	for i, want := range []string{"[0]", "[0 1]", "[0 1 2]"} {
		for _, id := range []string{"gone", "ends", "refused"} {
			e, err := event.New(event.Key(id), "s", id, 0, time.Now(), success()[i])
			if err != nil {
				t.Fatal(err)
			}
			if tails[id], err = b.b.Append(t.Context(), "example", tails[id], e); err != nil {
				t.Fatal(err)
			}
		}
		b.settled()
		if got := fmt.Sprint(statuses(b.letters(broker.LetterFilter{ID: "gone"})["gone"])); got != want {
			t.Errorf("after %d events: %s, not %s", i+1, got, want)
		}
	}
	if got := b.letters(broker.LetterFilter{}); fmt.Sprint(statuses(got["ends"]), statuses(got["refused"])) != "[0 2] [1]" {
		t.Errorf("%v %v", statuses(got["ends"]), statuses(got["refused"]))
	}
	if n := len(b.hooks.Calls()); n != 5 { // gone 0, ends 0, refused 0 1 2
		t.Errorf("%d calls", n)
	}
}

// TestAReplayThatFailsLeavesItsLetters: they have the new attempts, and go with the
// next replay, which is another run. A letter that was delivered meanwhile is passed
// over, wherever it stands.
func TestAReplayThatFailsLeavesItsLetters(t *testing.T) {
	var down atomic.Bool
	b := newBench(t, outage(&down))
	down.Store(true)
	b.accept("x", b.webhook(0, 1, 2))
	b.history("x", success()...)
	b.replica(quick)
	b.settled()
	first := b.letters(broker.LetterFilter{})["x"]
	b.replay(first)
	b.settled()
	again := b.letters(broker.LetterFilter{})["x"]
	if fmt.Sprint(statuses(again)) != "[0 1 2]" || !again[0].At.After(first[0].At) || again[0].Attempts[0].At.Equal(first[0].Attempts[0].At) {
		t.Errorf("%+v", again)
	}
	if delivery.NewRun(first).ID == delivery.NewRun(again).ID {
		t.Error("the same run")
	}
	if err := b.b.PutLetter(t.Context(), again[1].Delivered("by-hand", time.Now())); err != nil {
		t.Fatal(err)
	}
	down.Store(false)
	b.replay(again)
	b.settled()
	b.expect("x", 0, 2)
}

// TestALetterIsStoredBeforeItsLog: whoever is killed between the two stores the same
// letter again, and nothing is given up without one.
func TestALetterIsStoredBeforeItsLog(t *testing.T) {
	b := newBench(t, func(hookd.Call) hookd.Answer { return hookd.Answer{Status: http.StatusGone} })
	b.accept("x", b.webhook(0, 1, 2))
	b.history("x", success()...)
	stream, err := b.b.JetStream().Stream(t.Context(), broker.StreamDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	full := stream.CachedInfo().Config
	full.MaxBytes = 1 // it takes nothing
	if _, err := b.b.JetStream().UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	stop := b.replica(quick)
	deadline := time.Now().Add(patience)
	for len(b.hooks.Calls()) == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * recordRetry)
	if l, err := b.b.Ledger(t.Context(), event.Key("x")); err != nil || l.GaveUp != nil || l.Next != 0 {
		t.Errorf("given up without a letter: %+v (%v)", l, err)
	}
	full.MaxBytes = -1
	if _, err := b.b.JetStream().UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	b.settled()
	stop()
	if got := fmt.Sprint(statuses(b.letters(broker.LetterFilter{})["x"])); got != "[0 1 2]" {
		t.Error(got)
	}
	if n := len(b.hooks.Calls()); n != 1 {
		t.Errorf("%d attempts at an endpoint that is gone", n)
	}
}

// TestALetterOfARejectionIsReplayed: its log has no service and no key of an id.
func TestALetterOfARejectionIsReplayed(t *testing.T) {
	var down atomic.Bool
	b := newBench(t, outage(&down))
	down.Store(true)
	logKey := event.RejectedLogKey("", []byte("{"))
	if err := b.b.Reject(t.Context(), broker.Rejection{LogKey: logKey, Body: []byte("{"), Webhook: b.webhook(99)}); err != nil {
		t.Fatal(err)
	}
	var data proto.Message = &jobsv1.RequestRejected{Callback: true, Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID", Message: "no JSON"}}
	e, err := event.New(logKey, "s", "", 0, time.Now(), data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.b.Append(t.Context(), "", broker.Tail{}, e); err != nil {
		t.Fatal(err)
	}
	b.replica(quick)
	b.settled()
	down.Store(false)
	letters := b.letters(broker.LetterFilter{})
	if !slices.Equal(slices.Collect(maps.Keys(letters)), []string{""}) || letters[""][0].WebhookID != callback.ID(logKey, 0) {
		t.Fatalf("%+v", letters)
	}
	b.replay(letters[""])
	b.settled()
	b.expect("", 99)
	if _, err := b.b.Letter(t.Context(), "", logKey, 1); !errors.Is(err, broker.ErrNotFound) {
		t.Error(err)
	}
}
