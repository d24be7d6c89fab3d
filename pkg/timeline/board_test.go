package timeline_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

func TestBoard(t *testing.T) {
	b := timeline.NewBoard()
	if _, ok := b.Oldest(timeline.Started); ok {
		t.Error("of none, one is the oldest")
	}
	for _, e := range []struct {
		key     string
		typ     event.Type
		seconds float64
	}{
		{"one", event.TypeJobStarted, 0}, {"two", event.TypeJobStarted, 1}, {"one", event.TypePodStarted, 2}, {"three", event.TypeJobStarted, 3},
		{"one", event.TypeJobCompleted, 58}, {"four", event.TypeJobException, 59}, {"five", event.TypeRequestRejected, 60}, {"six", event.TypeJobFailed, 61},
		{"two", event.TypePodStarted, 61.5},
	} {
		b.Add("s", e.key, e.typ, at(e.seconds))
	}
	want := map[timeline.State]int{
		timeline.Waiting: 0, timeline.Started: 1, timeline.Running: 1, timeline.Completed: 1, timeline.Failed: 1, timeline.Exception: 1, timeline.Rejected: 1,
	}
	if diff := cmp.Diff(want, b.Jobs()); diff != "" {
		t.Error(diff)
	}
	// A second of a minute ago has made room for one of now.
	perMinute := map[timeline.State]int{timeline.Started: 1, timeline.Running: 2, timeline.Completed: 1, timeline.Failed: 1, timeline.Exception: 1, timeline.Rejected: 1}
	if diff := cmp.Diff(perMinute, b.PerMinute(at(61.9))); diff != "" {
		t.Error(diff)
	}
	if got := b.PerMinute(at(300)); got[timeline.Running] != 0 || len(got) != len(perMinute) {
		t.Errorf("%v", got)
	}
	oldest, ok := b.Oldest(timeline.Started)
	if !ok || oldest.LogKey != "three" || !oldest.At.Equal(at(3)) || oldest.State != timeline.Started || oldest.Service != "s" {
		t.Errorf("%+v", oldest)
	}
	b.Add("s", "seven", event.TypeJobStarted, at(2).Add(-time.Millisecond))
	if oldest, _ := b.Oldest(timeline.Started); oldest.LogKey != "seven" {
		t.Errorf("%+v", oldest)
	}
}
