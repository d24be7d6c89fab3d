package console

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// failing are the records of a job whose callback 0 failed twice, waits for its third
// attempt, and holds the others up.
func failing(t *testing.T) timeline.Records {
	t.Helper()
	a := &appended{}
	end := jobFailed("p-1", "CONTAINER_EXIT_NONZERO")
	end.Times = &jobsv1.Times{CreatedAt: timestamppb.New(start), ScheduleSeconds: 1, RunSeconds: 1}
	log := []event.Event{a.next(t, "s", "id", jobStarted("p-1")).Event, a.next(t, "s", "id", podStarted("p-1")).Event, a.next(t, "s", "id", end).Event}
	attempt := func(seconds int) delivery.Attempt {
		return delivery.Attempt{At: start.Add(time.Duration(seconds) * time.Second), Class: delivery.Unwell, Code: 503, Milliseconds: 3}
	}
	return timeline.Records{
		LogKey: event.Key("id"), Service: "s", Log: log, Ledger: delivery.Ledger{Wait: map[int]uint64{1: 2, 2: 3}},
		Parked: []timeline.Parked{{Due: start.Add(2 * time.Hour), Wakeup: delivery.Wakeup{Key: event.Key("id"), First: start.Add(time.Second), Attempts: []delivery.Attempt{attempt(1), attempt(7)}, Endpoint: "http://h.example"}}},
	}
}

func TestPictureOfAJobWithFailedAttempts(t *testing.T) {
	r := failing(t)
	drawn := timeline.Draw(r)
	at := start.Add(time.Hour)
	p := draw(withTimes(drawn.Steps, r.Log), drawn.Waits, at)
	var names []string
	for _, l := range p.Lanes {
		names = append(names, l.Name)
	}
	if want := []string{"Job", "Callback 0", "Callback 1", "Callback 3"}; !slices.Equal(names, want) {
		t.Fatalf("lanes %v", names)
	}
	var shapes []string
	for _, m := range p.Lanes[1].Marks {
		shapes = append(shapes, m.Shape)
	}
	if !slices.Equal(shapes, []string{"failed", "failed", "next"}) || p.Lanes[1].Result != "attempt 3 is due" {
		t.Errorf("callback 0: %v, %q", shapes, p.Lanes[1].Result)
	}
	if len(p.Lanes[1].Bars) != 2 { // the waits between the attempts, and for the next
		t.Errorf("%d waits of callback 0: %+v", len(p.Lanes[1].Bars), p.Lanes[1].Bars)
	}
	if p.Lanes[2].Result != "after the one before" || p.Lanes[2].Kind != "wait" {
		t.Errorf("callback 1: %+v", p.Lanes[2])
	}
	var phases []string
	for _, b := range p.Lanes[0].Bars {
		phases = append(phases, b.Class)
	}
	if !slices.Equal(phases, []string{"queue", "pending", "starting", "running"}) {
		t.Errorf("phases %v", phases)
	}
	if p.Lanes[0].Result != "CONTAINER_EXIT_NONZERO" || p.Now == 0 || !strings.Contains(p.Desc, "Callback 0: attempt 3 is due") {
		t.Errorf("%q, now at %f, %q", p.Lanes[0].Result, p.Now, p.Desc)
	}
	for _, l := range p.Lanes {
		for _, m := range l.Marks {
			if m.X < plotLeft || m.X > plotRight || m.Title == "" {
				t.Errorf("a mark of %s at %f, %q", l.Name, m.X, m.Title)
			}
		}
		for _, b := range l.Bars {
			if b.Width <= 0 || b.X < plotLeft || b.X+b.Width > plotRight+.1 {
				t.Errorf("a bar of %s from %f, %f wide", l.Name, b.X, b.Width)
			}
		}
	}
}

// TestAxis: times keep their order, longer waits are longer, and any number of points
// stays inside.
func TestAxis(t *testing.T) {
	for _, n := range []int{1, 2, 3, 50, 400} {
		var times []time.Time
		at := start
		for i := range n {
			times = append(times, at)
			at = at.Add(time.Duration(i*i+1) * time.Millisecond * 100)
		}
		a := newAxis(times)
		last := -1.0
		for i, x := range a.xs {
			if i > 0 && x <= last || x < plotLeft || x > plotRight {
				t.Fatalf("point %d of %d at %f after %f", i, n, x, last)
			}
			if i > 1 && x-last < a.xs[i-1]-a.xs[i-2] {
				t.Fatalf("of %d points, the wait before %d is longer than the one before it, and drawn shorter", n, i)
			}
			last = x
		}
		if got := a.x(start.Add(-time.Hour)); got != a.xs[0] {
			t.Errorf("before the first: %f", got)
		}
		if got := a.x(at.Add(time.Hour)); got != a.xs[len(a.xs)-1] {
			t.Errorf("after the last: %f", got)
		}
	}
}

func TestTimesThatAreNoEvents(t *testing.T) {
	r := failing(t)
	var whats []timeline.What
	for _, s := range withTimes(timeline.Draw(r).Steps, r.Log) {
		if s.Attempt == 0 {
			whats = append(whats, s.What)
		}
	}
	want := []timeline.What{timeline.Queued, jobCreated, timeline.JobStarted, podScheduled, timeline.PodStarted, timeline.JobFailed}
	if !slices.Equal(whats, want) {
		t.Errorf("%v", whats)
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 6 * time.Millisecond: "6 ms", 1630 * time.Millisecond: "1.6 s", 25 * time.Second: "25 s",
		125 * time.Second: "2 m 5 s", 192 * time.Minute: "3 h 12 m", 51 * time.Hour: "2 d 3 h",
	} {
		if got := duration(d); got != want {
			t.Errorf("%s: %q, wanted %q", d, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1\u202f000", 1234567: "1\u202f234\u202f567"} {
		if got := number(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
