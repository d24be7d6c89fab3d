package jobstatus

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Deadlines are how long is waited for what.
type Deadlines struct {
	Start       time.Duration // from status.startTime until something runs
	ImagePull   time.Duration // from the first sight of an image that cannot be pulled
	Unstartable time.Duration // from the first sight of what cannot heal by itself
	Stuck       time.Duration // beyond their grace period, for Pods that should be gone
	Settle      time.Duration // for the watch of Pods to catch up with that of Jobs
	Suspended   time.Duration // from its creation, for a Job that is suspended
}

// DefaultDeadlines are those of the contract.
func DefaultDeadlines() Deadlines {
	return Deadlines{
		Start: 30 * time.Minute, ImagePull: 5 * time.Minute, Unstartable: time.Minute,
		Stuck: 5 * time.Minute, Settle: 10 * time.Second, Suspended: 11 * 24 * time.Hour,
	}
}

// Log is what a job's log holds.
type Log struct {
	JobID      types.UID // of the Job that it is about; empty where it is about none
	Started    bool      // it has job.started, or more
	PodStarted bool      // it has pod.started; unknown after the end
	Ended      bool      // it has its terminal event
}

// LogOf is what a log holds whose last event is last; nil for an empty log.
// The types come in one order and each event carries the Job's UID, so the
// last one tells it all.
func LogOf(last *event.Event) Log {
	if last == nil {
		return Log{}
	}
	return Log{
		JobID: JobID(last.Data), Started: true,
		PodStarted: last.Type == event.TypePodStarted, Ended: last.Type.Terminal(),
	}
}

// Step is what to do with the Job once the events are in the log.
type Step int

// The steps. Each is safe to repeat, and to leave undone until the next look.
const (
	StepNone    Step = iota
	StepMark         // write the annotation not-starting
	StepStop         // write the annotation stop-reason
	StepDelete       // delete the Job in the foreground
	StepRelease      // take our finalizer off
)

// Decision is what to do about a Job.
type Decision struct {
	Events  []Event   // append in this order; a terminal one comes last
	Step    Step      // then do this
	Value   string    // the annotation's new value, for StepMark and StepStop
	Reason  Reason    // why the Job ends or is to be ended; zero for success
	Surplus bool      // StepDelete or StepRelease is for a Job that no log wants
	LookAt  time.Time // look again then, even if nothing changed; zero: no need
}

// Decide compares what is seen with what the log holds. The request r is read
// only where the log is empty; then it must be the Job's own.
//
// The precedence: success, then our own reason to end the Job, then its
// failure unless it was deleted before, then its deletion.
func Decide(o Observation, l Log, r *jobsv1.JobRequested, now time.Time, d Deadlines) Decision {
	if l.Ended || l.Started && l.JobID != o.job.UID {
		return afterEnd(o, l, now, d)
	}
	var events []Event
	if !l.Started {
		events = append(events, Started(o.job, r))
	}
	if !l.PodStarted && o.ran != nil {
		events = append(events, podStarted(o.job, o.ran))
		l.PodStarted = true
	}
	out := verdict(o, l, now, d)
	out.Events = append(events, out.Events...)
	return out
}

// Blind reports whether d is an end that is decided although the Pods have not
// told all that they must: their watch is behind, by more than d.Settle, for
// client-go takes up a watch that broke off after a while, each by itself; or no
// Pod is known, as where a deletion took them from their Job and left them. Who
// decides looks at the Pods themselves then, and decides again.
func (d Decision) Blind(o Observation, l Log) bool {
	return d.terminal() && (!o.settled(l) || len(o.pods)+len(o.gone) == 0)
}

// Nothing reports whether there is nothing to do, now or later.
func (d Decision) Nothing() bool {
	return len(d.Events) == 0 && d.Step == StepNone && d.LookAt.IsZero()
}

func verdict(o Observation, l Log, now time.Time, d Deadlines) Decision {
	if c := o.condition(batchv1.JobComplete); c != nil {
		if at := c.LastTransitionTime.Add(d.Settle); !l.PodStarted && !o.settled(l) && now.Before(at) {
			return Decision{LookAt: at}
		}
		return end(o, completed(o, c), Reason{})
	}
	if c := o.condition(batchv1.JobSuccessCriteriaMet); c != nil {
		return decided(o, c, completed(o, c), Reason{}, now, d)
	}
	if o.stop != nil {
		return stopping(o, now, d)
	}
	if c := o.failure(); c != nil {
		r := cause(o, c)
		f := o.condition(batchv1.JobFailed)
		if f == nil {
			return decided(o, c, failed(o, c, r), r, now, d)
		}
		if at := f.LastTransitionTime.Add(d.Settle); !o.settled(l) && now.Before(at) && !o.Deleting() {
			return Decision{LookAt: at}
		}
		return end(o, failed(o, f, r), r)
	}
	if o.Deleting() {
		// At once: in a background deletion the Pods go after the Job.
		r := Reason{JobDeleted, "Somebody deleted Job " + o.job.Name + " before it ended."}
		return end(o, exception(o, r), r)
	}
	if l.PodStarted && o.job.Status.StartTime == nil {
		return suspended(o, now, d)
	}
	if l.PodStarted {
		return Decision{}
	}
	return start(o, now, d)
}

// decided waits, while a Pod runs, for Kubernetes to end a Job whose end c is
// decided; not where the Job is being deleted, for then it never does.
func decided(o Observation, c *batchv1.JobCondition, e Event, r Reason, now time.Time, d Deadlines) Decision {
	since := c.LastTransitionTime.Time
	alive := o.alive()
	switch stuckAt, settledAt := since.Add(o.grace()+d.Stuck), since.Add(d.Settle); {
	case o.Deleting(), len(alive) == 0 && !now.Before(settledAt):
		return end(o, e, r)
	case len(alive) == 0:
		return Decision{LookAt: settledAt}
	case now.Before(stuckAt):
		return Decision{LookAt: stuckAt}
	}
	r = Reason{TerminationStuck, sentence("The Job is decided (" + quote(c.Reason, maxQuote) + ") but does not end: " + places(alive) + " did not terminate")}
	return end(o, exception(o, r), r)
}

// end appends the terminal event and releases the Job.
func end(o Observation, e Event, r Reason) Decision {
	d := Decision{Events: []Event{e}, Reason: r}
	if o.Owned() {
		d.Step = StepRelease
	}
	return d
}

// afterEnd is for a Job whose log needs nothing more from it. One that
// Kubernetes has ended or is ending is released. One that goes on, or that is
// not the log's own, is surplus: deleted, then released. One that we ended is
// held until its Pods are gone.
func afterEnd(o Observation, l Log, now time.Time, d Deadlines) Decision {
	surplus := l.JobID != o.job.UID || !o.ending() && !o.Deleting()
	switch {
	case surplus && !o.Deleting():
		return Decision{Step: StepDelete, Surplus: true}
	case !o.Owned():
		return Decision{}
	case l.JobID == o.job.UID && o.stop != nil && o.Deleting() && !podsGone(o, now, d):
		again := Decision{}
		if len(o.alive()) == 0 {
			again.LookAt = o.job.DeletionTimestamp.Add(d.Settle)
		} else if !o.foreground() {
			again.Step = StepDelete
		}
		return again
	}
	return Decision{Step: StepRelease, Surplus: surplus}
}
