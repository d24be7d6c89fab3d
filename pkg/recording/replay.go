package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Event is an event that a recording leads to.
type Event struct {
	At      time.Time      `json:"at"` // when the watcher would have appended it
	Type    event.Type     `json:"type"`
	Status  int            `json:"status"`  // the callback's
	Code    jobstatus.Code `json:"code"`    // empty where there is no error
	Message string         `json:"message"` // of the error
}

// Replay is the watcher of one Job over a recording: it keeps what the watcher
// keeps of the Job and its Pods, and looks when the watcher would.
//
// What the watcher would have done to the Job is taken as done: its annotations,
// and where it would have ended the Job, that the Job and its Pods went at once.
// What the recording shows of them later did not happen then.
//
// The zero value is ready. It is not for use at once from several goroutines.
type Replay struct {
	Job       string              // name of the Job; default: that of the first one. Others are an error without it, else passed over
	Deadlines jobstatus.Deadlines // default jobstatus.DefaultDeadlines
	Log       jobstatus.Log       // what the job's log holds; may be set before the first line

	now         time.Time
	uid         types.UID // of the Job; empty until it is seen
	job         *batchv1.Job
	pods        map[types.UID]*corev1.Pod
	gone        jobstatus.Gone
	annotations map[string]string // that the watcher would have written
	stopped     *metav1.Time      // when the watcher would have deleted the Job
	lookAt      time.Time
	evidence    jobstatus.Evidence
	vanished    bool // the Job went, and was not looked back at yet
}

// ErrSecondJob is what the error wraps of a recording with several Jobs where
// Replay.Job is not set.
var ErrSecondJob = errors.New("a second Job")

// maxPods bounds the Pods that are kept at one time. A Job has few.
const maxPods = 1_000

// maxEvents bounds the Kubernetes Events that are kept; those after them are
// passed over.
const maxEvents = 1_000

// Next takes in lines that the watcher sees at one look, and returns the events
// that were due before and that this look leads to. An *Error: the line is
// wrong, and the Replay is done with.
func (r *Replay) Next(lines ...Line) ([]Event, error) {
	var out []Event
	for _, l := range lines {
		out = append(out, r.wait(l.Received)...)
		if l.Received.After(r.now) {
			r.now = l.Received
		}
		if err := r.observe(l); err != nil {
			return out, err
		}
	}
	return append(out, r.look()...), nil
}

// End is after the last line: where the last look waited only for the watches
// to show the same, it returns what comes of that. An *Error: there was no Job.
func (r *Replay) End() ([]Event, error) {
	if r.uid == "" {
		if r.Job != "" {
			return nil, &Error{Err: fmt.Errorf("no Job %q in this recording", r.Job)}
		}
		return nil, &Error{Err: errors.New("no Job in this recording")}
	}
	return r.wait(r.now.Add(r.deadlines().Settle)), nil
}

// LastSeen says what the Job was doing at the last line.
func (r *Replay) LastSeen() string {
	if r.job == nil {
		return "the Job is gone"
	}
	return r.observation().LastSeen()
}

func (r *Replay) deadlines() jobstatus.Deadlines {
	if r.Deadlines == (jobstatus.Deadlines{}) {
		return jobstatus.DefaultDeadlines()
	}
	return r.Deadlines
}

// wait lets the time pass: the looks that were asked for until then.
func (r *Replay) wait(until time.Time) []Event {
	var out []Event
	for !r.lookAt.IsZero() && !r.lookAt.After(until) {
		if r.lookAt.After(r.now) {
			r.now = r.lookAt
		}
		r.lookAt = time.Time{}
		out = append(out, r.look()...)
	}
	return out
}

// observe is the watcher's caches: what there is, and which Pods went.
func (r *Replay) observe(l Line) error {
	if l.Type == Action {
		return nil
	}
	var kind metav1.TypeMeta
	if err := json.Unmarshal(l.Object, &kind); err != nil || kind.Kind == "" {
		return l.errorf("object is no Kubernetes object with a kind")
	}
	switch {
	case kind.Kind == "Job" && kind.APIVersion == batchv1.SchemeGroupVersion.String():
		return r.observeJob(l)
	case kind.Kind == "Pod" && kind.APIVersion == corev1.SchemeGroupVersion.String():
		return r.observePod(l)
	case kind.Kind == "Event":
		return r.observeEvent(l)
	case kind.Kind == "Namespace":
		return r.observeNamespace(l)
	}
	return nil
}

// observeEvent keeps an Event in its newest form: the watcher looks for them
// where a decision asks.
func (r *Replay) observeEvent(l Line) error {
	e := corev1.Event{}
	if err := json.Unmarshal(l.Object, &e); err != nil {
		return l.errorf("not an Event: %w", err)
	}
	if l.Type == Deleted {
		return nil // the API forgets them after an hour
	}
	if i := slices.IndexFunc(r.evidence.Events, func(have corev1.Event) bool { return have.UID == e.UID }); i >= 0 {
		r.evidence.Events[i] = e
	} else if len(r.evidence.Events) < maxEvents {
		r.evidence.Events = append(r.evidence.Events, e)
	}
	return nil
}

func (r *Replay) observeNamespace(l Line) error {
	ns := corev1.Namespace{}
	if err := json.Unmarshal(l.Object, &ns); err != nil {
		return l.errorf("not a Namespace: %w", err)
	}
	if r.job != nil && ns.Name == r.job.Namespace {
		switch {
		case ns.DeletionTimestamp != nil:
			r.evidence.NamespaceDeleted = ns.DeletionTimestamp.Time
		case l.Type == Deleted:
			r.evidence.NamespaceDeleted = l.Received
		default:
			r.evidence.NamespaceDeleted = time.Time{}
		}
	}
	return nil
}

func (r *Replay) observeJob(l Line) error {
	job := new(batchv1.Job)
	if err := json.Unmarshal(l.Object, job); err != nil {
		return l.errorf("not a Job: %w", err)
	}
	if job.UID == "" || job.Name == "" {
		return l.errorf("a Job without its name or uid")
	}
	switch {
	case r.Job != "" && job.Name != r.Job:
		return nil
	case r.uid == "":
		r.uid = job.UID
		maps.DeleteFunc(r.pods, func(_ types.UID, p *corev1.Pod) bool { return jobstatus.JobOf(p).UID != r.uid })
	case r.Job == "" && job.UID != r.uid:
		return l.errorf("%w, %s (uid %s)", ErrSecondJob, job.Name, job.UID)
	case job.UID != r.uid:
		return nil // made anew under the name: the log is about the first
	}
	jobstatus.Trim(job)
	r.job = job
	r.vanished = l.Type == Deleted
	return nil
}

func (r *Replay) observePod(l Line) error {
	pod := new(corev1.Pod)
	if err := json.Unmarshal(l.Object, pod); err != nil {
		return l.errorf("not a Pod: %w", err)
	}
	owner := jobstatus.JobOf(pod)
	if owner == nil || r.uid != "" && owner.UID != r.uid {
		return nil
	}
	if pod.UID == "" {
		return l.errorf("a Pod without its uid")
	}
	jobstatus.Trim(pod)
	delete(r.pods, pod.UID)
	if l.Type == Deleted {
		if r.job != nil {
			r.gone.Add(r.uid, pod)
		}
		return nil
	}
	if len(r.pods) == maxPods {
		return l.errorf("more than %d Pods at one time", maxPods)
	}
	if r.pods == nil {
		r.pods = map[types.UID]*corev1.Pod{}
	}
	r.pods[pod.UID] = pod
	return nil
}

// look decides until nothing is left to do now.
func (r *Replay) look() []Event {
	var out []Event
	if r.vanished {
		o := r.observation()
		d := jobstatus.Refine(o, jobstatus.Vanished(o, r.Log, &jobsv1.JobRequested{}, r.now, r.deadlines()), r.evidence)
		for _, data := range d.Events {
			out = append(out, r.append(data))
		}
		r.job, r.vanished, r.lookAt = nil, false, time.Time{}
		r.gone.Drop(r.uid)
		return out
	}
	for r.job != nil {
		o := r.observation()
		d := jobstatus.Decide(o, r.Log, &jobsv1.JobRequested{}, r.now, r.deadlines())
		d = jobstatus.Refine(o, d, r.evidence)
		for _, data := range d.Events {
			out = append(out, r.append(data))
		}
		r.lookAt = d.LookAt
		if d.Surplus || !r.act(d) {
			break
		}
	}
	return out
}

func (r *Replay) observation() jobstatus.Observation {
	job := r.job.DeepCopy()
	if job.Annotations == nil {
		job.Annotations = map[string]string{}
	}
	maps.Copy(job.Annotations, r.annotations)
	var pods []*corev1.Pod
	for _, p := range r.pods {
		pods = append(pods, p)
	}
	gone := r.gone.Of(r.uid)
	if r.stopped != nil {
		if job.DeletionTimestamp == nil {
			job.DeletionTimestamp = r.stopped
		}
		pods, gone = nil, append(gone[:len(gone):len(gone)], pods...)
	}
	return jobstatus.Observe(job, pods, gone)
}

// append puts an event at the end of the job's log.
func (r *Replay) append(data jobstatus.Event) Event {
	e, err := event.New(string(r.uid), "recording", string(r.uid), 0, r.now, data)
	if err != nil {
		panic("recording: " + err.Error()) // Decide gave no event's data
	}
	r.Log = jobstatus.LogOf(&e)
	out := Event{At: r.now, Type: e.Type, Status: e.Type.Status()}
	if failed, ok := data.(interface{ GetError() *jobsv1.Error }); ok {
		out.Code = jobstatus.Code(failed.GetError().GetErrorCode())
		out.Message = failed.GetError().GetMessage()
	}
	return out
}

// act takes the decision's step as done; false where that changes nothing.
func (r *Replay) act(d jobstatus.Decision) bool {
	switch d.Step {
	case jobstatus.StepMark:
		r.annotate(kubejob.AnnotationNotStarting, d.Value)
		return true
	case jobstatus.StepStop:
		r.annotate(kubejob.AnnotationStopReason, d.Value)
		return true
	case jobstatus.StepDelete:
		if r.stopped == nil {
			r.stopped = &metav1.Time{Time: r.now}
			return true
		}
	case jobstatus.StepNone, jobstatus.StepRelease:
	}
	return false
}

func (r *Replay) annotate(name, value string) {
	if r.annotations == nil {
		r.annotations = map[string]string{}
	}
	r.annotations[name] = value
}
