package console

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

const (
	// pageOfJobs is how many jobs a page lists.
	pageOfJobs = 50
	// maxLooked is how many places of the log one page of older jobs looks at.
	maxLooked = 5000
	// maxQuery bounds each field of a filter, in bytes.
	maxQuery = 300
	// pageOfLetters is how many dead letters, or parked callbacks, a page lists.
	pageOfLetters = 100
)

// filterOf reads a filter from an address.
func filterOf(q url.Values) Filter {
	text := func(name string) string {
		v := strings.TrimSpace(q.Get(name))
		return v[:min(len(v), maxQuery)]
	}
	f := Filter{Service: text("service"), Namespace: text("namespace"), Code: text("code"), Text: text("id")}
	if s := timeline.State(text("state")); slices.Contains(states, s) {
		f.State = s
	}
	return f
}

// query is the filter as a part of an address.
func (f Filter) query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"service": f.Service, "namespace": f.Namespace, "code": f.Code, "state": string(f.State), "id": f.Text} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

// address is a page's with a query.
func address(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// nowView is the page Now.
type nowView struct {
	Overall Overall
	Cards   []card
	Plots   []plot
	Oldest  []oldest
	Present present
	Stale   bool // Present is of before
	Letters int
	More    bool // there are more letters
	Waiting time.Time
}

// card is the count of a state.
type card struct {
	State timeline.State
	N     int
	Link  string
	Note  string
}

// oldest is a job that is in a state for longest.
type oldest struct {
	What string
	Job  Job
}

// cardNotes say what a state is.
var cardNotes = map[timeline.State]string{
	timeline.Started: "the Job exists, no Pod runs yet", timeline.Running: "a Pod of it runs", timeline.Completed: "ended well",
	timeline.Failed: "the Job ended Failed", timeline.Exception: "any other end", timeline.Rejected: "messages that were not accepted",
}

func (s *server) showNow(ctx context.Context, f *frame, _ *http.Request) error {
	f.Title, f.Live = "Now", "page=now"
	at := s.now()
	v := nowView{Overall: s.index.Overall(at)}
	for _, state := range states[1:] {
		link := address("/jobs", url.Values{"state": {string(state)}})
		if state == timeline.Rejected {
			link = "/refused"
		}
		v.Cards = append(v.Cards, card{State: state, N: v.Overall.States[state], Link: link, Note: cardNotes[state]})
	}
	v.Plots = plots(v.Overall.Rates, at)
	for state, what := range map[timeline.State]string{timeline.Started: "Job without a Pod", timeline.Running: "Pod that runs"} {
		if j, ok := s.index.Oldest(state); ok {
			v.Oldest = append(v.Oldest, oldest{what, j})
		}
	}
	slices.SortFunc(v.Oldest, func(a, b oldest) int { return cmp.Or(a.Job.Last.Compare(b.Job.Last), cmp.Compare(a.What, b.What)) })
	var err, lettersErr error
	v.Present, err = s.glance.read(ctx)
	all, more, lettersErr := s.letters.all(ctx)
	v.Stale, v.More = err != nil || lettersErr != nil, more
	for _, l := range all {
		if l.Replayed == nil {
			v.Letters++
		}
	}
	v.Waiting = v.Present.Oldest
	f.Body = v
	return nil
}

// jobsView is a list of jobs: the page Jobs, and the page Refused.
type jobsView struct {
	Path    string
	Filter  Filter
	Any     bool // something is filtered
	Choices Choices
	States  []timeline.State
	Codes   []string // those that have documentation
	Listing Listing
	Overall Overall
	Before  uint64
	Newest  string // address of the first page
	Next    string // of the next one; empty: there is none
	Clear   string // without a filter
	// Older says that the list is read from the log, past what the index holds.
	Older bool
	Empty string // why there is nothing
}

func (s *server) showJobs(ctx context.Context, f *frame, r *http.Request) error {
	f.Title = "Jobs"
	filter := filterOf(r.URL.Query())
	if key, ok := s.exactly(ctx, filter); ok && r.URL.Query().Get("fragment") == "" && r.URL.Query().Get("before") == "" {
		return redirect{"/jobs/" + key}
	}
	return s.list(ctx, f, r, "/jobs", filter)
}

func (s *server) showRefused(ctx context.Context, f *frame, r *http.Request) error {
	f.Title = "Refused"
	filter := filterOf(r.URL.Query())
	filter.State = timeline.Rejected
	return s.list(ctx, f, r, "/refused", filter)
}

// exactly is the log key of the one job that somebody looks for by its whole id, where
// the index does not hold it: it may be older.
func (s *server) exactly(ctx context.Context, f Filter) (string, bool) {
	if s.reachable() != nil || f.Text == "" || (f != Filter{Text: f.Text}) || s.index.List(f, 0, 1).Fit > 0 {
		return "", false
	}
	key := event.Key(f.Text)
	if logKeyForm.MatchString(f.Text) {
		key = f.Text
	}
	logs, err := s.reads.Log(ctx, key)
	return key, err == nil && len(logs) > 0
}

// redirect is an answer, where a page has another address.
type redirect struct{ to string }

func (r redirect) Error() string { return "see " + r.to }

func (s *server) list(ctx context.Context, f *frame, r *http.Request, path string, filter Filter) error {
	before, err := strconv.ParseUint(cmp.Or(r.URL.Query().Get("before"), "0"), 10, 64)
	if err != nil {
		return problem{http.StatusBadRequest, errors.New("before takes a place of the log, as the page's own links have it")}
	}
	overall := s.index.Overall(s.now())
	q := filter.query()
	if path == "/refused" {
		q.Del("state")
	}
	v := jobsView{
		Path: path, Filter: filter, Any: len(q) > 0, Choices: s.index.Choices(), States: states[1:], Overall: overall, Before: before,
		Newest: address(path, q), Clear: path, Listing: s.index.List(filter, before, pageOfJobs),
	}
	if before == 0 { // what is behind the first page changes its place, not what is on it
		live := filter.query()
		live.Set("page", f.Here)
		f.Live = live.Encode()
	}
	next := v.Listing.Before
	if next == 0 && !f.State.Filling && overall.Oldest > 1 {
		next = min(cmp.Or(before, overall.Oldest), overall.Oldest)
		if before > 0 && before <= overall.Oldest {
			v.Older, v.Listing.Fit = true, 0
			v.Listing.Jobs, next, err = s.older(ctx, filter, before)
			if err != nil {
				return err
			}
		}
		if !overall.Older && !v.Older {
			next = 0
		}
	}
	if next > 0 {
		q.Set("before", strconv.FormatUint(next, 10))
		v.Next = address(path, q)
	}
	f.Body = v
	return nil
}

// older reads jobs from the log whose last event is before a place, and the place to go
// on before; 0: there is nothing before it.
func (s *server) older(ctx context.Context, filter Filter, before uint64) (jobs []Job, next uint64, err error) {
	if err := s.reachable(); err != nil {
		return nil, 0, err
	}
	seen := map[string]bool{}
	var open []broker.LogName // whose event may not be the last one
	next, err = s.reads.ScanBack(ctx, before, maxLooked, func(e broker.Stored) bool {
		if j := of(e); !seen[e.LogKey] && filter.Fits(j) {
			seen[e.LogKey] = true
			if _, newer := s.index.Find(e.LogKey); !newer {
				jobs = append(jobs, j)
				if !e.Type.Terminal() {
					open = append(open, broker.LogName{Service: e.Service, Key: e.LogKey})
				}
			}
		}
		seen[e.LogKey] = true
		return len(jobs) < pageOfJobs
	})
	if err != nil || len(open) == 0 {
		return jobs, next, err
	}
	tails, err := s.reads.Tails(ctx, open)
	if err != nil {
		return nil, 0, err
	}
	last := map[string]uint64{}
	for name, tail := range tails {
		last[name.Key] = tail.Sequence
	}
	// One whose last event came later was on a page before.
	return slices.DeleteFunc(jobs, func(j Job) bool { return !j.State.Ended() && last[j.LogKey] != j.Place }), next, nil
}

// logKeyForm is that of a log key (pkg/event).
var logKeyForm = regexp.MustCompile(`^(_|[0-9a-f]{32})(-[0-9a-f]{16})?$`)

// codeDoc is what the documentation says of an error code (docs/error-codes.md).
type codeDoc struct{ Code, Meaning, Hint string }

func docOf(code string) *codeDoc {
	for _, d := range jobstatus.Codes() {
		if string(d.Code) == code {
			return &codeDoc{code, d.Meaning, d.Hint}
		}
	}
	return nil
}

// codePhase is a part of the page of error codes.
type codePhase struct {
	Phase  jobstatus.Phase
	Status int
	Anchor string
	Codes  []jobstatus.Definition
}

func showCodes(_ context.Context, f *frame, _ *http.Request) error {
	f.Title = "Error codes"
	var all []codePhase
	for _, d := range jobstatus.Codes() { // phase by phase
		if n := len(all); n == 0 || all[n-1].Phase != d.Phase {
			all = append(all, codePhase{Phase: d.Phase, Status: d.Phase.Status(), Anchor: "phase-" + strconv.Itoa(n)})
		}
		last := &all[len(all)-1]
		last.Codes = append(last.Codes, d)
	}
	f.Body = all
	return nil
}
