package recording_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/recording"
)

// line is one at second s of the recordings here.
func line(s int, kind, object string) string {
	at := time.Date(2026, 7, 1, 12, 0, s, 0, time.UTC).Format(time.RFC3339Nano)
	return fmt.Sprintf(`{"received":%q,"type":%q,"object":%s}`, at, kind, object) + "\n"
}

func job(name, status string) string {
	return fmt.Sprintf(`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":%q,"uid":"uid-%s"},"status":%s}`, name, name, status)
}

func pod(name, owner, status string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"uid":"uid-%s","ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":%q,"uid":"uid-%s","controller":true}]},"spec":{"nodeName":"n"},"status":%s}`,
		name, name, owner, owner, status)
}

const (
	began    = `{"startTime":"2026-07-01T12:00:00Z","active":1}`
	complete = `{"startTime":"2026-07-01T12:00:00Z","succeeded":1,"conditions":[{"type":"Complete","status":"True","lastTransitionTime":"2026-07-01T12:00:09Z"}]}`
	waiting  = `{"phase":"Pending","containerStatuses":[{"name":"main","state":{"waiting":{"reason":"ErrImageNeverPull","message":"not there"}}}]}`
)

// play is the outline of what a recording leads to, and its error.
func play(text string, r *recording.Replay) (string, error) {
	var out []string
	add := func(events []recording.Event) {
		for _, e := range events {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%d:%d %s", e.At.Second()+60*e.At.Minute(), e.Status, e.Code)))
		}
	}
	for l, err := range recording.Read(strings.NewReader(text)) {
		if err != nil {
			return strings.Join(out, ", "), err
		}
		events, err := r.Next(l)
		add(events)
		if err != nil {
			return strings.Join(out, ", "), err
		}
	}
	events, err := r.End()
	add(events)
	return strings.Join(out, ", "), err
}

func TestReplay(t *testing.T) {
	for _, c := range []struct {
		name, text, job, want, seen string
	}{
		{"the watches' catching up is waited for", line(0, "ADDED", job("a", began)) + line(9, "MODIFIED", job("a", complete)), "", "0:0, 19:2", ""},
		{"a deadline is not", line(0, "ADDED", job("a", began)) + line(1, "ADDED", pod("p", "a", waiting)), "", "0:0", "pod p on node n pending"},
		{"pods before their Job", line(0, "ADDED", pod("p", "a", `{"phase":"Running","containerStatuses":[{"name":"","state":{"running":{}}}]}`)) + line(1, "ADDED", job("a", began)), "", "1:0, 1:1", "pod p on node n running"},
		{"another Job's pod", line(0, "ADDED", pod("p", "b", `{"phase":"Succeeded"}`)) + line(1, "ADDED", job("a", began)), "", "1:0", "Job a without a Pod"},
		{"the Job that was asked for", line(0, "ADDED", job("b", complete)) + line(1, "ADDED", job("a", began)) + line(2, "MODIFIED", job("b", complete)), "a", "1:0", "Job a without a Pod"},
		{"a Job that goes", line(0, "ADDED", job("a", began)) + line(1, "DELETED", job("a", complete)), "", "0:0, 1:2", ""},
		{"a Job that goes before its end", line(0, "ADDED", job("a", began)) + line(1, "DELETED", job("a", began)), "", "0:0, 1:99 OUTCOME_UNKNOWN", ""},
		{"other kinds, actions and empty lines", line(0, "ADDED", `{"kind":"Event"}`) + "\n" + line(1, "ACTION", "null") + line(2, "ADDED", job("a", began)), "", "2:0", "Job a without a Pod"},
		// The watcher ends it at second 61: that the image comes later did not happen.
		{"what the watcher would have ended", line(0, "ADDED", job("a", began)) + line(1, "ADDED", pod("p", "a", waiting)) +
			line(99, "MODIFIED", pod("p", "a", `{"phase":"Succeeded"}`)) + line(100, "MODIFIED", job("a", complete)), "", "0:0, 61:99 IMAGE_NOT_PRESENT", ""},
		{"a clock behind", line(5, "ADDED", job("a", began)) + line(1, "MODIFIED", job("a", began)), "", "5:0", "Job a without a Pod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := recording.Replay{Job: c.job}
			got, err := play(c.text, &r)
			if err != nil || got != c.want {
				t.Errorf("got %q, want %q (%v)", got, c.want, err)
			}
			if !r.Log.Ended && r.LastSeen() != c.seen || r.Log.Ended != (c.seen == "") {
				t.Errorf("last seen: got %q, want %q", r.LastSeen(), c.seen)
			}
		})
	}
}

func TestReplayWithOtherDeadlinesAndALog(t *testing.T) {
	d := jobstatus.DefaultDeadlines()
	d.Unstartable = 5 * time.Second
	r := recording.Replay{Deadlines: d, Log: jobstatus.Log{JobID: "uid-a", Started: true}}
	got, err := play(line(0, "ADDED", job("a", began))+line(1, "ADDED", pod("p", "a", waiting))+line(30, "ADDED", `{"kind":"Event"}`), &r)
	if want := "6:99 IMAGE_NOT_PRESENT"; err != nil || got != want {
		t.Errorf("got %q, want %q (%v)", got, want, err)
	}
}

func TestWrongRecordings(t *testing.T) {
	good := line(0, "ADDED", job("a", began))
	many := good
	for i := range 1001 {
		many += line(1, "ADDED", pod(fmt.Sprint("p", i), "a", waiting))
	}
	for _, c := range []struct {
		name, text, job string
		line            int
		says            string
	}{
		{"empty", "", "", 0, "no Job in this recording"},
		{"another Job", good, "b", 0, `no Job "b" in this recording`},
		{"no JSON", good + "\nnonsense\n", "", 3, "not a line of a recording"},
		{"two values", good + `{} {}`, "", 2, "not a line of a recording"},
		{"no time", `{"type":"ADDED","object":{"kind":"Job"}}`, "", 1, "received is missing"},
		{"a wrong time", `{"received":"yesterday"}`, "", 1, "not a line of a recording"},
		{"another type", line(0, "BOOKMARK", "{}"), "", 1, `type is "BOOKMARK"`},
		{"no object", line(0, "ADDED", "null"), "", 1, "no Kubernetes object"},
		{"an object of no kind", line(0, "ADDED", `{"a":1}`), "", 1, "no Kubernetes object"},
		{"a Job with wrong fields", line(0, "ADDED", job("a", `"done"`)), "", 1, "not a Job"},
		{"a Job without uid", line(0, "ADDED", `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"a"}}`), "", 1, "without its name or uid"},
		{"a Pod with wrong fields", good + line(0, "ADDED", pod("p", "a", `7`)), "", 2, "not a Pod"},
		{"a second Job", good + line(0, "ADDED", job("b", began)), "", 2, "a second Job, b"},
		{"many Pods", many, "", 1002, "more than 1000 Pods"},
		{"a long line", good + strings.Repeat(" ", recording.MaxLine+1), "", 2, "longer than 4194304 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := play(c.text, &recording.Replay{Job: c.job})
			var wrong *recording.Error
			if !errors.As(err, &wrong) || wrong.Line != c.line || !strings.Contains(wrong.Err.Error(), c.says) {
				t.Errorf("got %v, want line %d: %s", err, c.line, c.says)
			}
			if c.line > 0 && !strings.HasPrefix(err.Error(), fmt.Sprintf("line %d: ", c.line)) {
				t.Errorf("%q does not name its line", err)
			}
		})
	}
}

func TestReadGivesTheReadersError(t *testing.T) {
	boom := errors.New("boom")
	var last error
	for _, err := range recording.Read(io.MultiReader(strings.NewReader(line(0, "ACTION", "null")), iotest.ErrReader(boom))) {
		last = err
	}
	if !errors.Is(last, boom) {
		t.Errorf("got %v", last)
	}
}

func TestWriteThenRead(t *testing.T) {
	want := []recording.Line{
		{Received: time.Date(2026, 7, 1, 12, 0, 0, 123456000, time.UTC), Type: recording.Added, Object: []byte(`{"kind":"Job"}`)},
		{Received: time.Date(2026, 7, 1, 12, 0, 1, 0, time.UTC), Type: recording.Action, Note: "delete pod"},
	}
	var text bytes.Buffer
	for _, l := range want {
		if err := recording.Write(&text, l); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for got, err := range recording.Read(&text) {
		w := want[n]
		if n++; err != nil || !got.Received.Equal(w.Received) || got.Type != w.Type || got.Note != w.Note || !bytes.Equal(got.Object, w.Object) {
			t.Errorf("got %v, want %v (%v)", got, w, err)
		}
	}
	if n != len(want) {
		t.Errorf("%d lines of %d", n, len(want))
	}
}

// Whatever is read, the events are in the order of a job's life, and nothing
// follows the end.
func FuzzReplay(f *testing.F) {
	f.Add(line(0, "ADDED", job("a", began)) + line(1, "ADDED", pod("p", "a", waiting)) + line(9, "MODIFIED", job("a", complete)))
	f.Add(line(0, "ADDED", job("a", complete)) + line(1, "DELETED", job("a", complete)))
	f.Fuzz(func(t *testing.T, text string) {
		var r recording.Replay
		var got []recording.Event
		for l, err := range recording.Read(strings.NewReader(text)) {
			if err != nil {
				break
			}
			events, err := r.Next(l)
			got = append(got, events...)
			if err != nil {
				break
			}
		}
		order := map[event.Type]int{event.TypeJobStarted: 1, event.TypePodStarted: 2, event.TypeJobCompleted: 3, event.TypeJobFailed: 3, event.TypeJobException: 3}
		for i, e := range got {
			if n := order[e.Type]; n == 0 || i == 0 && n != 1 || i > 0 && n <= order[got[i-1].Type] {
				t.Fatalf("event %d is %s: %v", i, e.Type, got)
			}
		}
	})
}
