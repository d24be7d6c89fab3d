package console

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

var start = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// appended makes the events of EVENTS, one a second.
type appended struct {
	place uint64
	n     map[string]int
}

func (a *appended) next(t *testing.T, service, id string, data proto.Message) broker.Stored {
	t.Helper()
	if a.n == nil {
		a.n = map[string]int{}
	}
	a.place++
	e, err := event.New(event.Key(id), event.SourceOfNamespace("default", "ns"), id, a.n[id], start.Add(time.Duration(a.place)*time.Second), data)
	if err != nil {
		t.Fatal(err)
	}
	a.n[id]++
	return broker.Stored{Event: e, Service: service, Sequence: a.place}
}

// seen is the event as Scan reads it.
func seen(t *testing.T, e broker.Stored) broker.Seen {
	t.Helper()
	header, data, err := event.Encode(e.Event)
	if err != nil {
		t.Fatal(err)
	}
	o, err := event.DecodeOutline(e.LogKey, e.Type, header, data)
	if err != nil {
		t.Fatal(err)
	}
	return broker.Seen{Outline: o, Service: e.Service, Place: e.Sequence}
}

func jobStarted(name string) *jobsv1.JobStarted {
	return &jobsv1.JobStarted{JobId: "u", JobName: name, Namespace: "ns", QueueMilliseconds: 900}
}

func podStarted(name string) *jobsv1.PodStarted {
	return &jobsv1.PodStarted{JobId: "u", JobName: name, Namespace: "ns", PodName: name + "-x", NodeName: "node-1"}
}

func jobCompleted(name string) *jobsv1.JobCompleted {
	return &jobsv1.JobCompleted{JobId: "u", JobName: name, Namespace: "ns", DurationSeconds: 9}
}

func jobFailed(name, code string) *jobsv1.JobFailed {
	return &jobsv1.JobFailed{JobId: "u", JobName: name, Namespace: "ns", Error: &jobsv1.Error{ErrorCode: code, Message: "m"}}
}

func ids(l Listing) (out []string) {
	for _, j := range l.Jobs {
		out = append(out, j.ID)
	}
	return out
}

// filled has four jobs, by their last events: d, b, c, a.
func filled(t *testing.T, most int) (*Index, *appended) {
	t.Helper()
	x, a := NewIndex(most), &appended{}
	for _, e := range []broker.Stored{
		a.next(t, "mail", "a", jobStarted("p-a")), a.next(t, "billing", "b", jobStarted("p-b")), a.next(t, "mail", "a", podStarted("p-a")),
		a.next(t, "mail", "a", jobFailed("p-a", "OOM_KILLED")), a.next(t, "mail", "c", jobStarted("p-c")), a.next(t, "billing", "b", podStarted("p-b")),
		a.next(t, "other", "d", &jobsv1.RequestRejected{Id: "d", Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID"}}),
	} {
		x.Add(seen(t, e))
	}
	return x, a
}

func TestJobsAreListedByTheirLastEvent(t *testing.T) {
	x, _ := filled(t, 100)
	for name, c := range map[string]struct {
		filter Filter
		want   []string
	}{
		"all":                {Filter{}, []string{"d", "b", "c", "a"}},
		"a service":          {Filter{Service: "mail"}, []string{"c", "a"}},
		"a state":            {Filter{State: timeline.Running}, []string{"b"}},
		"a code":             {Filter{Code: "OOM_KILLED"}, []string{"a"}},
		"a namespace":        {Filter{Namespace: "ns"}, []string{"b", "c", "a"}},
		"the name begins":    {Filter{Text: "p-"}, []string{"b", "c", "a"}},
		"the log key begins": {Filter{Text: event.Key("c")[:9]}, []string{"c"}},
		"two at once":        {Filter{Service: "mail", State: timeline.Started}, []string{"c"}},
		"nothing":            {Filter{Service: "mail", State: timeline.Completed}, nil},
	} {
		got := x.List(c.filter, 0, 10)
		if !slices.Equal(ids(got), c.want) || got.Fit != len(c.want) || got.Before != 0 {
			t.Errorf("%s: %v of %d, next %d", name, ids(got), got.Fit, got.Before)
		}
		for _, j := range got.Jobs {
			if !c.filter.Fits(j) {
				t.Errorf("%s: %+v does not fit", name, j)
			}
		}
	}
	if choices := x.Choices(); !slices.Equal(choices.Services, []string{"billing", "mail", "other"}) || !slices.Equal(choices.Codes, []string{"MESSAGE_INVALID", "OOM_KILLED"}) ||
		!slices.Equal(choices.Namespaces, []string{"ns"}) {
		t.Errorf("%+v", choices)
	}
	if o, ok := x.Oldest(timeline.Running); !ok || o.ID != "b" || o.Name != "p-b" || o.Service != "billing" {
		t.Errorf("%+v", o)
	}
	over := x.Overall(start.Add(8 * time.Second))
	if over.Jobs != 4 || over.States[timeline.Failed] != 1 || over.States[timeline.Rejected] != 1 || over.Newest != 7 || over.Oldest != 4 || !over.Since.Equal(start.Add(time.Second)) {
		t.Errorf("%+v", over)
	}
	if j, ok := x.Find(event.Key("a")); !ok || j.Code != "OOM_KILLED" || !j.First.Equal(start.Add(time.Second)) || !j.Last.Equal(start.Add(4*time.Second)) {
		t.Errorf("%+v", j)
	}
}

func TestCallbackOfAnEvent(t *testing.T) {
	for _, c := range []struct {
		job     Job
		n, want int
	}{
		{Job{State: timeline.Started, N: 0}, 0, 0}, {Job{State: timeline.Running, N: 1}, 0, 0}, {Job{State: timeline.Running, N: 1}, 1, 1},
		{Job{State: timeline.Failed, N: 2}, 1, 1}, {Job{State: timeline.Failed, N: 2}, 2, 3}, {Job{State: timeline.Completed, N: 2}, 2, 2},
		{Job{State: timeline.Exception, N: 1}, 1, 99}, {Job{State: timeline.Exception, N: 1}, 0, 0}, {Job{State: timeline.Rejected, N: 0}, 0, 99},
	} {
		if got := c.job.Callback(c.n); got != c.want {
			t.Errorf("event %d of %+v: callback %d, wanted %d", c.n, c.job, got, c.want)
		}
	}
}

// TestPagesMissNothing: jobs that move up while somebody turns pages are on the pages
// before, and no other is passed over or shown twice.
func TestPagesMissNothing(t *testing.T) {
	x, a := NewIndex(1000), &appended{}
	for i := range 95 {
		x.Add(seen(t, a.next(t, "s", fmt.Sprintf("job-%02d", i), jobStarted("p"))))
	}
	shown := map[string]int{}
	before, pages := uint64(0), 0
	for {
		page := x.List(Filter{}, before, 10)
		for _, j := range page.Jobs {
			shown[j.ID]++
		}
		pages++
		x.Add(seen(t, a.next(t, "s", fmt.Sprintf("job-%02d", pages), podStarted("p")))) // of the last pages, but for the first call
		if before = page.Before; before == 0 {
			break
		}
	}
	for i := range 95 {
		id := fmt.Sprintf("job-%02d", i)
		if moved := i >= 1 && i <= pages; shown[id] != 1 && !moved {
			t.Errorf("%s was on %d pages", id, shown[id])
		}
	}
}

func TestTheOldestIsForgottenFirst(t *testing.T) {
	x, a := NewIndex(3), &appended{}
	for _, id := range []string{"a", "b", "c", "d"} {
		x.Add(seen(t, a.next(t, "s-"+id, id, jobStarted("p"))))
	}
	x.Add(seen(t, a.next(t, "s-b", "b", jobCompleted("p"))))
	x.Add(seen(t, a.next(t, "s-e", "e", jobStarted("p"))))
	if got := x.List(Filter{}, 0, 10); !slices.Equal(ids(got), []string{"e", "b", "d"}) {
		t.Errorf("%v", ids(got))
	}
	over := x.Overall(start)
	if over.Jobs != 3 || over.Forgotten != 2 || over.States[timeline.Started] != 2 || over.States[timeline.Completed] != 1 {
		t.Errorf("%+v", over)
	}
	if got := x.Choices().Services; !slices.Equal(got, []string{"s-b", "s-d", "s-e"}) {
		t.Errorf("%v", got)
	}
}

// TestTheIndexStaysSmall: however often jobs change, and whatever they say.
func TestTheIndexStaysSmall(t *testing.T) {
	x, a := NewIndex(10), &appended{}
	long := strings.Repeat("é", 1000)
	for i := range 5000 {
		x.Add(seen(t, a.next(t, fmt.Sprintf("service-%d", i), fmt.Sprintf("%d-%s", i, long), &jobsv1.RequestRejected{Error: &jobsv1.Error{ErrorCode: fmt.Sprintf("CODE_%d", i)}})))
		x.Add(seen(t, a.next(t, "s", "again", jobStarted("p"))))
	}
	if len(x.jobs) != 10 || len(x.order) > 3000 || len(x.services) > 10 || len(x.codes) > 10 {
		t.Errorf("%d jobs, %d places, %d services, %d codes", len(x.jobs), len(x.order), len(x.services), len(x.codes))
	}
	for _, j := range x.List(Filter{}, 0, 10).Jobs {
		if len(j.ID) > maxText+len("…") {
			t.Errorf("%d bytes of an id are kept", len(j.ID))
		}
	}
}

func TestRates(t *testing.T) {
	var r rates
	at := start.Add(90 * time.Minute)
	for minutes, n := range map[int]int{0: 1, 1: 5, 59: 2, 60: 7, 61: 9} { // ago
		for range n {
			r.add(3, at.Add(-time.Duration(minutes)*time.Minute))
		}
	}
	got := r.read(at)[3]
	if got.PerMinute[hour-1] != 1 || got.Last != 5 || got.PerMinute[0] != 2 && got.PerMinute[0] != 0 {
		t.Errorf("%+v", got)
	}
	if again := r.read(at.Add(2 * time.Hour))[3]; again.Sum != 0 {
		t.Errorf("two hours later: %+v", again)
	}
}
