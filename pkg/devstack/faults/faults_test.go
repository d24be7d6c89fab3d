package faults

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

func TestAPlanIsItsSeed(t *testing.T) {
	plan := Plan{Seed: 7, For: 10 * time.Minute, Frozen: Notifier, FreezeAt: 5 * time.Second, FreezeFor: time.Minute}
	first := plan.Faults()
	if !slices.Equal(first, plan.Faults()) {
		t.Error("the same plan gave other faults")
	}
	plan.Seed = 8
	if slices.Equal(first, plan.Faults()) {
		t.Error("another seed gave the same faults")
	}
	hits, freezes := map[Role]int{}, 0
	for i, f := range first {
		if i > 0 && f.At < first[i-1].At {
			t.Fatalf("%v comes after %v", f, first[i-1])
		}
		if f.Kind == Freeze {
			freezes++
			if f.Role != Notifier || f.At != 5*time.Second || f.Down != time.Minute {
				t.Errorf("%+v", f)
			}
			continue
		}
		hits[f.Role]++
	}
	if freezes != 1 || len(first) != 600 {
		t.Errorf("%d freezes of %d faults", freezes, len(first))
	}
	for _, role := range Roles() {
		if hits[role] == 0 {
			t.Errorf("%s is never hit", role)
		}
	}
	if hits[NATS] >= hits[Notifier] {
		t.Errorf("NATS is hit %d times, the notifier %d", hits[NATS], hits[Notifier])
	}
}

func TestAPlanOfOneRole(t *testing.T) {
	for _, f := range (Plan{For: time.Minute, Every: 10 * time.Second, Weights: map[Role]int{Watcher: 1}}).Faults() {
		if f.Role != Watcher || f.Kind != Kill {
			t.Errorf("%+v", f)
		}
	}
	if got := (Plan{For: time.Minute, Weights: map[Role]int{}}).Faults(); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func callback(id string, status int, body string) Callback {
	return Callback{ID: id, Status: status, WebhookID: id + "/" + string(rune('0'+status)), Body: body}
}

// kept is a world that keeps every promise, one repeat included.
func kept() World {
	return World{
		IDs: []string{"a", "b"},
		Callbacks: []Callback{
			callback("a", 0, "a0"), callback("b", 0, "b0"), callback("a", 1, "a1"), callback("a", 1, "a1"),
			callback("a", 2, "a2"), callback("b", 1, "b1"), callback("b", 2, "b2"),
		},
		Jobs: map[string][]string{"a": {"1"}, "b": {"2"}},
	}
}

func TestAWorldThatKeepsItsPromises(t *testing.T) {
	if violations, repeats := kept().Violations(); len(violations) != 0 || repeats != 1 {
		t.Errorf("%d repeats, %v", repeats, violations)
	}
}

// TestEveryBrokenPromiseIsSeen breaks one promise at a time.
func TestEveryBrokenPromiseIsSeen(t *testing.T) {
	for name, breaks := range map[string]struct {
		how  func(*World)
		want string
	}{
		"a lost callback":       {func(w *World) { w.Callbacks = slices.Delete(w.Callbacks, 0, 1) }, "a (sim/succeed:1s): callbacks [1 2]"},
		"a lost end":            {func(w *World) { w.Callbacks = w.Callbacks[:6] }, "b (sim/succeed:1s): callbacks [0 1]"},
		"1 before 0":            {func(w *World) { w.Callbacks[0], w.Callbacks[2] = w.Callbacks[2], w.Callbacks[0] }, "callbacks [1 0 2]"},
		"two ends":              {func(w *World) { w.Callbacks = append(w.Callbacks, callback("a", 3, "a3")) }, "callbacks [0 1 2 3]"},
		"a repeat, other bytes": {func(w *World) { w.Callbacks[3].Body = "other" }, "repeated with other bytes"},
		"a repeat, other id":    {func(w *World) { w.Callbacks[3].WebhookID = "a/x" }, "callbacks [0 1 1 2]"},
		"no webhook-id":         {func(w *World) { w.Callbacks[0].WebhookID = "" }, "no webhook-id"},
		"another code":          {func(w *World) { w.Ends = map[string]End{"a": {Statuses: []int{0, 1, 2}, Code: "X"}} }, "code , expected X"},
		"another code, cut":     {func(w *World) { w.Ends = map[string]End{"a": {Statuses: []int{0, 1, 2}, Code: "X", Cut: "Y"}} }, "code , expected X"},
		"a stranger":            {func(w *World) { w.Callbacks = append(w.Callbacks, callback("c", 0, "c0")) }, "nobody sent"},
		"two Jobs":              {func(w *World) { w.Jobs["a"] = []string{"1", "3"} }, "a: 2 Jobs"},
		"no Job":                {func(w *World) { delete(w.Jobs, "a") }, "a: 0 Jobs"},
		"a Job of a stranger":   {func(w *World) { w.Jobs["c"] = []string{"3"} }, "a Job for"},
		"a message left":        {func(w *World) { w.Queue = 1 }, "SQS still holds 1"},
	} {
		w := kept()
		breaks.how(&w)
		violations, _ := w.Violations()
		if !strings.Contains(strings.Join(violations, "\n"), breaks.want) {
			t.Errorf("%s: %v", name, violations)
		}
	}
}

func TestOnlyWhatWasAnswered2xxIsACallback(t *testing.T) {
	got := Callbacks([]hookd.Call{
		{Status: 204, Body: []byte(`{"id":"a","status":2}`)}, {Status: 500, Body: []byte(`{"id":"a","status":0}`)},
		{Status: 0, Body: []byte(`{"id":"a","status":1}`)}, {Status: 200, Body: []byte(`none`)},
	})
	if len(got) != 2 || got[0].ID != "a" || got[0].Status != 2 || got[1].ID != "" {
		t.Errorf("%+v", got)
	}
	if !ended([]string{"a"}, got) || ended([]string{"a", "b"}, got) {
		t.Error("the end is not seen")
	}
}

func TestTheReportReads(t *testing.T) {
	r := Report{Seed: 3, Messages: 2, Sends: 3, Kills: map[Role]int{NATS: 1, Watcher: 2}, Callbacks: 7, Repeats: 1, Violations: []string{"a: 2 Jobs"}}
	begin := time.Now()
	r.latencies(Sent{At: map[string]time.Time{"a": begin}}, []Callback{
		{ID: "a", Status: 0, WebhookID: "1", At: begin.Add(time.Second)}, {ID: "a", Status: 2, WebhookID: "2", At: begin.Add(3 * time.Second)},
		{ID: "a", Status: 2, WebhookID: "2", At: begin.Add(time.Hour)},
	})
	for _, want := range []string{"2 (3 sends)", "3 (nats 1, watcher 2)", "7, of them 1 repeats", "p50 1s", "max 3s", "a: 2 Jobs", "freezes       none"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("%q is not in %s", want, r)
		}
	}
}
