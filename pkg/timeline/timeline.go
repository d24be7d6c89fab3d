// Package timeline draws together what the streams keep of one job: its request,
// its log, its ledger and what is parked become its steps in order, and what it
// waits for now. It is pure; package broker reads the records.
package timeline

import (
	"slices"
	"time"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Timeline is one log's life. A message that was rejected has a log, and so a
// timeline, of its own.
type Timeline struct {
	ID        string `json:"id,omitempty"` // empty where it could not be read
	LogKey    string `json:"logKey"`
	Service   string `json:"service,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Job       string `json:"job,omitempty"` // name of the Job
	State     State  `json:"state"`
	// Endpoint is the webhook's scheme, host and port; empty where there is none
	// or it is not known.
	Endpoint string `json:"endpoint,omitempty"`
	Trace    string `json:"traceparent,omitempty"`
	Steps    []Step `json:"steps"` // by time; never null
	Waits    []Wait `json:"waits"` // never null
}

// State is how far a job is.
type State string

// The states. A job that ended has that of its last event.
const (
	Waiting   State = "waiting"   // accepted, and no Job yet
	Started   State = "started"   // the Job exists
	Running   State = "running"   // a Pod of it started
	Completed State = "completed" // ended: 2
	Failed    State = "failed"    // ended: 3
	Exception State = "exception" // ended: 99
	Rejected  State = "rejected"  // not accepted
)

// States are all of them, in the order of a job's life.
func States() []State {
	return []State{Waiting, Started, Running, Completed, Failed, Exception, Rejected}
}

// StateOf is the state of a log whose last event is of the type; of an empty log
// it is Waiting.
func StateOf(last event.Type) State {
	switch last {
	case event.TypeJobStarted:
		return Started
	case event.TypePodStarted:
		return Running
	case event.TypeJobCompleted:
		return Completed
	case event.TypeJobFailed:
		return Failed
	case event.TypeJobException:
		return Exception
	case event.TypeRequestRejected:
		return Rejected
	default:
		return Waiting
	}
}

// Ended reports whether nothing follows in the log.
func (s State) Ended() bool {
	return s == Completed || s == Failed || s == Exception || s == Rejected
}

// What says what a step is.
type What string

// The steps.
const (
	Queued         What = "queued"      // the queue took the message
	Accepted       What = "accepted"    // ingest accepted it
	JobStarted     What = "started"     // the Job exists; callback 0
	PodStarted     What = "pod-started" // callback 1
	JobCompleted   What = "completed"   // callback 2
	JobFailed      What = "failed"      // callback 3
	JobException   What = "exception"   // callback 99
	RequestRefused What = "rejected"    // callback 99, where the contract says so
	Attempted      What = "attempt"     // a POST that was no 2xx
	Delivered      What = "delivered"   // a POST with a 2xx
	Skipped        What = "skipped"     // a callback that ended without a POST: Reason says why
	GaveUp         What = "gave-up"     // a callback that was given up: Reason says why
)

// Step is one thing that happened. Which fields are set depends on What.
type Step struct {
	At   time.Time `json:"at"`
	What What      `json:"what"`

	// Of events, and of the callbacks that they lead to.
	Status *int `json:"status,omitempty"`

	// Of events.
	QueueMilliseconds uint32 `json:"queueMs,omitempty"`
	Pod               string `json:"pod,omitempty"`
	Node              string `json:"node,omitempty"`
	DurationSeconds   uint32 `json:"durationSeconds,omitempty"`
	Code              string `json:"code,omitempty"` // docs/error-codes.md
	Message           string `json:"message,omitempty"`

	// Of attempts and 2xx.
	Attempt      int            `json:"attempt,omitempty"` // from 1
	Class        delivery.Class `json:"class,omitempty"`
	HTTP         int            `json:"http,omitempty"` // status; 0 without an answer
	Milliseconds int64          `json:"ms,omitempty"`

	Reason     string `json:"reason,omitempty"` // one of package delivery's Reasons
	DeadLetter bool   `json:"deadLetter,omitempty"`
	Run        string `json:"run,omitempty"` // of a replay
}

// For says what is waited for.
type For string

// What is waited for.
const (
	ForResume      For = "resume"      // the service is paused: Since and Cause are the operator's
	ForLaunch      For = "launch"      // the launch is parked until Until, because of Cause
	ForLauncher    For = "launcher"    // a launcher has not taken it up
	ForPod         For = "pod"         // Kubernetes has not started a Pod of it
	ForEnd         For = "end"         // it runs
	ForCancel      For = "cancel"      // an operator has asked for its end, and no watcher has done it
	ForRetry       For = "retry"       // callback Status is tried again at Until
	ForNotifier    For = "notifier"    // callback Status is with the notifiers
	ForPredecessor For = "predecessor" // callback Status comes after one that is not delivered
	ForReplay      For = "replay"      // a replay of callback Status is tried at Until
)

// Wait is one thing that the job waits for.
type Wait struct {
	For      For        `json:"for"`
	Since    *time.Time `json:"since,omitempty"`
	Until    *time.Time `json:"until,omitempty"` // of the next try; absent: now
	Status   *int       `json:"status,omitempty"`
	Attempts int        `json:"attempts,omitempty"` // so far
	Cause    string     `json:"cause,omitempty"`
	Run      string     `json:"run,omitempty"` // of a replay
}

// Records are what the streams keep of one log. What is not kept any more, or may
// not be read, is empty.
type Records struct {
	LogKey  string
	Service string
	Request *event.Event  // of REQUESTS
	Log     []event.Event // in order; the first ones may be past their retention
	Ledger  delivery.Ledger
	Letters []delivery.Letter
	Launch  *Launch
	Parked  []Parked
	Pause   *Asked // nil: the service is not paused
	Cancel  *Asked // nil: nobody asked
}

// Launch is a launch that is parked.
type Launch struct {
	Due   time.Time // zero: now
	Tries int
	Cause string
}

// Parked is the token of a callback, or of a letter of a replay, that is parked.
type Parked struct {
	delivery.Wakeup

	Due time.Time // zero: now
}

// Asked is what an operator asked for.
type Asked struct {
	At     time.Time
	Reason string
}

// Draw makes the timeline of the records.
func Draw(r Records) Timeline {
	t := Timeline{LogKey: r.LogKey, Service: r.Service, Steps: []Step{}, Waits: []Wait{}}
	if r.Request != nil {
		t.request(*r.Request)
	}
	for _, e := range r.Log {
		t.event(e)
	}
	t.callbacks(r)
	slices.SortStableFunc(t.Steps, func(a, b Step) int { return a.At.Compare(b.At) })
	t.State = StateOf("")
	if n := len(r.Log); n > 0 {
		t.State = StateOf(r.Log[n-1].Type)
	}
	t.waits(r)
	return t
}

func (t *Timeline) request(e event.Event) {
	r, ok := e.Data.(*jobsv1.JobRequested)
	if !ok {
		return
	}
	t.ID, t.Trace, t.Service, t.Namespace = r.GetId(), e.Trace, r.GetService(), r.GetJob().GetNamespace()
	if r.GetQueuedAt() != nil {
		t.Steps = append(t.Steps, Step{At: r.GetQueuedAt().AsTime(), What: Queued})
	}
	t.Steps = append(t.Steps, Step{At: r.GetAcceptedAt().AsTime(), What: Accepted})
}

func (t *Timeline) event(e event.Event) {
	if e.ID != "" {
		t.ID = e.ID
	}
	if t.Trace == "" {
		t.Trace = e.Trace
	}
	status := e.Type.Status()
	s := Step{At: e.Time, Status: &status}
	switch d := e.Data.(type) {
	case *jobsv1.JobStarted:
		s.What, s.QueueMilliseconds = JobStarted, d.GetQueueMilliseconds()
	case *jobsv1.PodStarted:
		s.What, s.Pod, s.Node = PodStarted, d.GetPodName(), d.GetNodeName()
	case *jobsv1.JobCompleted:
		s.What, s.DurationSeconds = JobCompleted, d.GetDurationSeconds()
	case *jobsv1.JobFailed:
		s.What, s.Pod, s.Node = JobFailed, d.GetEvidence().GetPodName(), d.GetEvidence().GetNodeName()
	case *jobsv1.JobException:
		s.What, s.Pod, s.Node = JobException, d.GetEvidence().GetPodName(), d.GetEvidence().GetNodeName()
	case *jobsv1.RequestRejected:
		s.What = RequestRefused
	default:
		return
	}
	if d, ok := e.Data.(interface{ GetError() *jobsv1.Error }); ok {
		s.Code, s.Message = d.GetError().GetErrorCode(), d.GetError().GetMessage()
	}
	if d, ok := e.Data.(interface {
		GetJobName() string
		GetNamespace() string
	}); ok {
		t.Job, t.Namespace = d.GetJobName(), d.GetNamespace()
	}
	t.Steps = append(t.Steps, s)
}

// callbacks adds the attempts of every callback, from where each is kept: the
// ledger of one that ended, the wake-up of one that is parked, the letter of one
// whose ledger is past its retention or that a replay tried again.
func (t *Timeline) callbacks(r Records) {
	letters := map[int]delivery.Letter{}
	for _, l := range r.Letters {
		letters[l.N] = l
	}
	for _, e := range r.Log {
		if done, ok := r.Ledger.Done[e.Sequence]; ok {
			_, dead := letters[e.Sequence]
			t.done(e.Type.Status(), done, dead)
		}
	}
	for _, p := range r.Parked {
		t.Endpoint = p.Endpoint
		if status, ok := statusOf(r.Log, p.Wakeup); ok {
			t.attempts(status, runOf(p.Wakeup), p.Attempts)
		}
	}
	for _, l := range r.Letters {
		t.Endpoint = l.Endpoint
		done, kept := r.Ledger.Done[l.N]
		switch {
		case l.Replayed != nil: // its attempts are the replay's
			if !kept {
				t.done(l.Status, delivery.Done{At: l.At, Reason: l.Reason}, true)
			}
			t.attempts(l.Status, l.Replayed.Run, l.Attempts)
		case !kept || !slices.EqualFunc(done.Attempts, l.Attempts, sameAttempt):
			t.done(l.Status, delivery.Done{At: l.At, Attempts: l.Attempts, Reason: l.Reason}, true)
		}
	}
}

func sameAttempt(a, b delivery.Attempt) bool { return a.At.Equal(b.At) }

func (t *Timeline) done(status int, d delivery.Done, dead bool) {
	t.attempts(status, "", d.Attempts)
	switch d.Reason {
	case "":
	case delivery.ReasonNotWanted, delivery.ReasonSuperseded, delivery.ReasonReplayed:
		t.Steps = append(t.Steps, Step{At: d.At, What: Skipped, Status: &status, Reason: d.Reason})
	default:
		t.Steps = append(t.Steps, Step{At: d.At, What: GaveUp, Status: &status, Reason: d.Reason, DeadLetter: dead})
	}
}

func (t *Timeline) attempts(status int, run string, all []delivery.Attempt) {
	for i, a := range all {
		what := Attempted
		if a.Class == delivery.Delivered {
			what = Delivered
		}
		t.Steps = append(t.Steps, Step{
			At: a.At, What: what, Status: &status, Attempt: i + 1, Class: a.Class, HTTP: a.Code, Milliseconds: a.Milliseconds, Run: run,
		})
	}
}

func runOf(w delivery.Wakeup) string {
	if w.Run == nil {
		return ""
	}
	return w.Run.ID
}

// statusOf is the callback that a parked token is of.
func statusOf(log []event.Event, w delivery.Wakeup) (int, bool) {
	n := w.N
	if w.Run != nil {
		if n < 0 || n >= len(w.Run.Letters) {
			return 0, false
		}
		n = w.Run.Letters[n]
	}
	for _, e := range log {
		if e.Sequence == n {
			return e.Type.Status(), true
		}
	}
	return 0, false
}

// waits says what stands between the job and its end, then what stands between
// its webhook and the callbacks.
func (t *Timeline) waits(r Records) {
	add := func(w Wait) { t.Waits = append(t.Waits, w) }
	if !t.State.Ended() && r.Cancel != nil {
		add(Wait{For: ForCancel, Since: some(r.Cancel.At), Cause: r.Cancel.Reason})
	}
	switch {
	case t.State == Waiting && r.Pause != nil:
		w := Wait{For: ForResume, Since: some(r.Pause.At), Cause: r.Pause.Reason}
		if r.Launch != nil {
			w.Until = some(r.Launch.Due)
		}
		add(w)
	case t.State == Waiting && r.Launch != nil:
		add(Wait{For: ForLaunch, Until: some(r.Launch.Due), Attempts: r.Launch.Tries, Cause: r.Launch.Cause})
	case t.State == Waiting && r.Request != nil:
		add(Wait{For: ForLauncher, Since: some(r.Request.Time)})
	case t.State == Started:
		add(Wait{For: ForPod, Since: some(r.Log[len(r.Log)-1].Time)})
	case t.State == Running:
		add(Wait{For: ForEnd, Since: some(r.Log[len(r.Log)-1].Time)})
	}
	t.undelivered(r)
}

func (t *Timeline) undelivered(r Records) {
	parked := map[int]Parked{}
	for _, p := range r.Parked {
		if p.Run == nil {
			parked[p.N] = p
		}
	}
	wanted, known := r.wanted()
	for _, e := range r.Log {
		status := e.Type.Status()
		p, waits := parked[e.Sequence]
		if e.Sequence < r.Ledger.Next || !waits && (!known || !slices.Contains(wanted, int32(status))) { //nolint:gosec // 0 to 99
			continue
		}
		w := Wait{For: ForNotifier, Status: &status, Since: some(e.Time)}
		switch {
		case waits:
			w.For, w.Until, w.Attempts = ForRetry, some(p.Due), len(p.Attempts)
			if !p.First.IsZero() {
				w.Since = some(p.First)
			}
		case e.Sequence > r.Ledger.Next:
			w.For = ForPredecessor
		}
		t.Waits = append(t.Waits, w)
	}
	for _, p := range r.Parked {
		if p.Run == nil {
			continue
		}
		if status, ok := statusOf(r.Log, p.Wakeup); ok {
			t.Waits = append(t.Waits, Wait{For: ForReplay, Status: &status, Until: some(p.Due), Attempts: len(p.Attempts), Run: p.Run.ID})
		}
	}
}

// wanted are the callbacks that the log's webhook wants; not known where neither
// the request nor the ledger tells.
func (r Records) wanted() (statuses []int32, known bool) {
	if n := len(r.Log); n > 0 {
		if d, ok := r.Log[n-1].Data.(*jobsv1.RequestRejected); ok {
			if !d.GetCallback() {
				return nil, true
			}
			return every(), true
		}
	}
	if r.Request != nil {
		if d, ok := r.Request.Data.(*jobsv1.JobRequested); ok {
			return d.GetWebhook().GetStatuses(), true
		}
	}
	if r.Ledger.Next > 0 || len(r.Ledger.Wait) > 0 {
		return every(), true
	}
	return nil, false
}

func every() []int32 { return []int32{0, 1, 2, 3, 99} }

// some is the time, or nil for the zero one.
func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
