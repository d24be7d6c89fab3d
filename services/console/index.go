package console

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

const (
	// maxText bounds each text of a producer in the index, in bytes.
	maxText = 256
	// maxChoices bounds the services, namespaces and codes that a filter offers.
	maxChoices = 200
)

// Job is a log in a line.
type Job struct {
	LogKey, ID               string
	Service, Namespace, Name string // Name: of the Kubernetes Job
	Code                     string // why it did not end well
	State                    timeline.State
	First, Last              time.Time // its first event that is known, and its last
	Place                    uint64    // of its last event on EVENTS
	N                        int       // ordinal of that in its log
}

// record is a Job as the index holds it, some 300 bytes with its texts.
type record struct {
	key, id, name            string
	service, namespace, code unique.Handle[string]
	state, n                 uint8 // state: in timeline.States()
	first, last              int64 // Unix milliseconds
	place                    uint64
}

// Callback is the status of the callback that the event n of its log leads to.
func (j Job) Callback(n int) int {
	if n < j.N { // the last one of a log is its end, and those before it start
		return n
	}
	return map[timeline.State]int{timeline.Started: 0, timeline.Running: 1, timeline.Completed: 2, timeline.Failed: 3, timeline.Exception: 99, timeline.Rejected: 99}[j.State]
}

// Filter says which jobs are listed. Empty fields let all through.
type Filter struct {
	Service, Namespace, Code string
	State                    timeline.State
	Text                     string // what the id, the Job's name or the log key begins with
}

// Empty reports whether all are let through.
func (f Filter) Empty() bool { return f == Filter{} }

// Fits reports whether the filter lets a job through.
func (f Filter) Fits(j Job) bool {
	return (f.Service == "" || f.Service == j.Service) && (f.Namespace == "" || f.Namespace == j.Namespace) &&
		(f.Code == "" || f.Code == j.Code) && (f.State == "" || f.State == j.State) &&
		(f.Text == "" || strings.HasPrefix(j.ID, f.Text) || strings.HasPrefix(j.Name, f.Text) || strings.HasPrefix(j.LogKey, f.Text))
}

// Index holds the newest logs by their last event, most of them. It is filled in the
// order of EVENTS, and forgets the oldest first. Its methods may be called at once.
type Index struct {
	most int

	mu     sync.RWMutex
	jobs   map[string]*record
	order  []entry // by place; an entry whose record has moved on is stale
	stale  int
	counts [8]int // by state
	// how many jobs have each
	services, namespaces, codes map[unique.Handle[string]]int
	rates                       rates
	forgotten                   int
	partly                      bool   // it was not filled from the beginning of the log
	newest                      uint64 // place
}

type entry struct {
	place  uint64
	record *record
}

func (e entry) live() bool { return e.record.place == e.place }

// NewIndex holds at most so many jobs.
func NewIndex(most int) *Index {
	x := &Index{most: most}
	x.clear()
	return x
}

func (x *Index) clear() {
	x.jobs, x.order, x.stale, x.counts = map[string]*record{}, nil, 0, [8]int{}
	x.services, x.namespaces, x.codes = map[unique.Handle[string]]int{}, map[unique.Handle[string]]int{}, map[unique.Handle[string]]int{}
	x.rates, x.forgotten, x.newest, x.partly = rates{}, 0, 0, false
}

// Begin forgets all, before it is filled; partly: not from the beginning of the log.
func (x *Index) Begin(partly bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.clear()
	x.partly = partly
}

// Take has all that another one holds, which is nobody else's then.
func (x *Index) Take(other *Index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.jobs, x.order, x.stale, x.counts = other.jobs, other.order, other.stale, other.counts
	x.services, x.namespaces, x.codes = other.services, other.namespaces, other.codes
	x.rates, x.forgotten, x.newest, x.partly = other.rates, other.forgotten, other.newest, other.partly
}

var states = timeline.States()

// none is what a job has where it has no service, no namespace, no code.
var none = unique.Make("")

// Add takes the next event in, and returns what its log is now.
func (x *Index) Add(e broker.Seen) Job {
	state := uint8(slices.Index(states, timeline.StateOf(e.Type))) //nolint:gosec // one of eight at the most
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.jobs[e.LogKey]
	if r == nil {
		r = &record{key: strings.Clone(e.LogKey), id: short(e.ID), service: none, namespace: none, code: none, first: e.Time.UnixMilli()}
		x.jobs[r.key] = r
	} else {
		x.counts[r.state]--
		x.stale++
	}
	x.set(x.services, &r.service, e.Service)
	x.set(x.namespaces, &r.namespace, e.Namespace)
	x.set(x.codes, &r.code, e.Code)
	if e.Job != "" && e.Job != r.name {
		r.name = short(e.Job)
	}
	r.state, r.n, r.last, r.place = state, uint8(min(e.N, 255)), e.Time.UnixMilli(), e.Place //nolint:gosec // 0 to 255
	x.counts[state]++
	x.order = append(x.order, entry{r.place, r})
	x.newest = r.place
	x.rates.add(state, e.Time)
	for len(x.jobs) > x.most {
		x.forgetOldest()
	}
	if x.stale > 1024 && x.stale > len(x.order)/2 {
		x.order = slices.DeleteFunc(x.order, func(e entry) bool { return !e.live() })
		x.stale = 0
	}
	return r.job()
}

// short is a producer's text, cut where it is very long.
func short(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return strings.Clone(s)
}

// set moves a job from one name to another.
func (x *Index) set(counts map[unique.Handle[string]]int, at *unique.Handle[string], to string) {
	if to == "" || at.Value() == to {
		return
	}
	next := unique.Make(short(to))
	if *at == next {
		return
	}
	x.unset(counts, *at)
	*at = next
	counts[next]++
}

func (x *Index) unset(counts map[unique.Handle[string]]int, name unique.Handle[string]) {
	if counts[name]--; counts[name] <= 0 {
		delete(counts, name)
	}
}

func (x *Index) forgetOldest() {
	n := 0
	for !x.order[n].live() {
		n++
	}
	r := x.order[n].record
	x.order = x.order[n+1:]
	x.stale -= n
	delete(x.jobs, r.key)
	x.counts[r.state]--
	x.unset(x.services, r.service)
	x.unset(x.namespaces, r.namespace)
	x.unset(x.codes, r.code)
	x.forgotten++
}

func (r *record) job() Job {
	return Job{
		LogKey: r.key, ID: r.id, Service: r.service.Value(), Namespace: r.namespace.Value(), Name: r.name, Code: r.code.Value(),
		State: states[r.state], First: time.UnixMilli(r.first).UTC(), Last: time.UnixMilli(r.last).UTC(), Place: r.place, N: int(r.n),
	}
}

// Listing is a page of jobs, the newest first.
type Listing struct {
	Jobs []Job
	// Fit is how many of the index fit, on all pages.
	Fit int
	// Before is the place before which the next page begins; 0: nothing of the index
	// is left.
	Before uint64
}

// List is the page of those jobs that fit whose last event is before a place; 0: of the
// newest.
func (x *Index) List(f Filter, before uint64, limit int) Listing {
	var out Listing
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, e := range slices.Backward(x.order) {
		if !e.live() || !e.record.fits(f) {
			continue
		}
		out.Fit++
		switch {
		case before > 0 && e.place >= before:
		case len(out.Jobs) < limit:
			out.Jobs = append(out.Jobs, e.record.job())
		case out.Before == 0:
			out.Before = out.Jobs[limit-1].Place
			if f.Empty() { // all the others fit
				out.Fit = len(x.jobs)
				return out
			}
		}
	}
	return out
}

// fits is Filter.Fits without making a Job of it.
func (r *record) fits(f Filter) bool {
	return (f.State == "" || f.State == states[r.state]) && (f.Service == "" || f.Service == r.service.Value()) &&
		(f.Namespace == "" || f.Namespace == r.namespace.Value()) && (f.Code == "" || f.Code == r.code.Value()) &&
		(f.Text == "" || strings.HasPrefix(r.id, f.Text) || strings.HasPrefix(r.name, f.Text) || strings.HasPrefix(r.key, f.Text))
}

// Find is the job with the log key.
func (x *Index) Find(logKey string) (Job, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r := x.jobs[logKey]
	if r == nil {
		return Job{}, false
	}
	return r.job(), true
}

// Oldest is the job that is in the state for longest.
func (x *Index) Oldest(state timeline.State) (Job, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, e := range x.order {
		if e.live() && states[e.record.state] == state {
			return e.record.job(), true
		}
	}
	return Job{}, false
}

// Overall is what the index holds.
type Overall struct {
	Jobs      int
	Forgotten int                    // logs that had to make room
	Older     bool                   // the log may have more, older ones
	Since     time.Time              // the first event of the oldest one; zero: there is none
	Oldest    uint64                 // place of the oldest one
	Newest    uint64                 // place of the newest event
	States    map[timeline.State]int // jobs
	Rates     []Rate                 // by the states, in their order
}

// Overall counts, as of a time.
func (x *Index) Overall(now time.Time) Overall {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := Overall{Jobs: len(x.jobs), Forgotten: x.forgotten, Older: x.partly || x.forgotten > 0, Newest: x.newest, States: map[timeline.State]int{}, Rates: x.rates.read(now)}
	for i, s := range states {
		out.States[s] = x.counts[i]
	}
	for _, e := range x.order {
		if e.live() {
			out.Since, out.Oldest = time.UnixMilli(e.record.first).UTC(), e.place
			break
		}
	}
	return out
}

// Choices are what the index's jobs have, for a filter: those that most have, by name.
type Choices struct{ Services, Namespaces, Codes []string }

// Choices are what can be chosen.
func (x *Index) Choices() Choices {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return Choices{names(x.services), names(x.namespaces), names(x.codes)}
}

func names(counts map[unique.Handle[string]]int) []string {
	type counted struct {
		name string
		n    int
	}
	all := make([]counted, 0, len(counts))
	for h, n := range counts {
		if h != none {
			all = append(all, counted{h.Value(), n})
		}
	}
	slices.SortFunc(all, func(a, b counted) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name)) })
	out := []string{}
	for _, c := range all[:min(len(all), maxChoices)] {
		out = append(out, c.name)
	}
	slices.Sort(out)
	return out
}

// of is the line of a log that the index does not hold.
func of(e broker.Stored) Job {
	s := timeline.Summarize(e.Service, e.Event)
	return Job{
		LogKey: e.LogKey, ID: short(e.ID), Service: short(s.Service), Namespace: short(s.Namespace), Name: short(s.Job), Code: short(s.Code),
		State: s.State, First: e.Time, Last: e.Time, Place: e.Sequence, N: e.Event.Sequence,
	}
}
