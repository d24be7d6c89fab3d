package jobstatus

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Evidence is what is looked for only where a Decision asks: Kubernetes Events
// are best effort, and a namespace is watched by nobody. It refines a code and
// never decides whether a Job ends.
type Evidence struct {
	Events           []corev1.Event // in any order; those of other objects are passed over
	NamespaceDeleted time.Time      // when its deletion was asked for, or now where it is gone; zero: it was not
}

// AsksEvents reports whether Events may say why nothing ran.
func (d Decision) AsksEvents() bool { return d.Step == StepStop && d.Reason.Code == StartTimeout }

// AsksNamespace reports whether the end may be that of its namespace.
func (d Decision) AsksNamespace() bool {
	switch d.Reason.Code {
	case JobDeleted, PodDeleted, JobFailed:
		return len(d.Events) > 0
	}
	return false
}

// Refine is the decision with the reason that the evidence gives, where d asks
// for it and the evidence has one.
func Refine(o Observation, d Decision, e Evidence) Decision {
	switch {
	case d.AsksEvents():
		if r, ok := eventReason(o, e.Events); ok {
			return stop(r)
		}
	case d.AsksNamespace() && o.wentWith(d.Reason.Code, e.NamespaceDeleted):
		r := Reason{NamespaceDeleted, sentence("Namespace " + o.job.Namespace + " was deleted before the Job ended: " + d.Reason.Message)}
		return d.with(r)
	}
	return d
}

// wentWith reports whether a Job that ended with the code did so because its
// namespace was deleted at a time. One that failed and has no Pod left to say why
// did so if it failed from then on.
func (o Observation) wentWith(c Code, namespaceDeleted time.Time) bool {
	if namespaceDeleted.IsZero() || c != JobFailed {
		return !namespaceDeleted.IsZero()
	}
	f := o.failure()
	return len(o.pods)+len(o.gone) == 0 && f != nil && !f.LastTransitionTime.Time.Before(namespaceDeleted)
}

// with is the decision with another reason in its last event.
func (d Decision) with(r Reason) Decision {
	last := len(d.Events) - 1
	e := proto.Clone(d.Events[last])
	switch e := e.(type) {
	case *jobsv1.JobFailed:
		e.Error = r.proto()
	case *jobsv1.JobException:
		e.Error = r.proto()
	default:
		return d
	}
	d.Events = append(d.Events[:last:last], e)
	d.Reason = r
	return d
}

// eventCauses are the Events that say why nothing ran, by what they are about.
// The text is the API server's or the kubelet's own.
var eventCauses = []struct {
	kind, reason string
	says         *regexp.Regexp
	code         Code
}{
	{"Job", "FailedCreate", regexp.MustCompile(`exceeded quota`), PodQuotaExceeded},
	{"Job", "FailedCreate", regexp.MustCompile(`(?i)service ?account .*not found`), ServiceAccountNotFound},
	{"Job", "FailedCreate", regexp.MustCompile(`forbidden|denied`), PodForbidden},
	{"Pod", "FailedMount", nil, VolumeMountFailed},
	{"Pod", "FailedAttachVolume", nil, VolumeMountFailed},
	{"Pod", "FailedCreatePodSandBox", nil, SandboxFailed},
}

// eventReason is the cause that the youngest of the Events names: those of the
// Job count where it has no Pod, else those of its Pods.
func eventReason(o Observation, events []corev1.Event) (Reason, bool) {
	kind, about := "Pod", map[types.UID]bool{}
	for _, p := range o.alive() {
		about[p.UID] = true
	}
	if len(about) == 0 {
		kind, about[o.job.UID] = "Job", true
	}
	var found Reason
	var at time.Time
	for i := range events {
		e := &events[i]
		if !about[e.InvolvedObject.UID] || e.InvolvedObject.Kind != kind || !seen(e).After(at) {
			continue
		}
		for _, c := range eventCauses {
			if c.kind == kind && c.reason == e.Reason && (c.says == nil || c.says.MatchString(e.Message)) {
				found, at = Reason{c.code, sentence(fmt.Sprintf("Nothing ran: %s: %s", e.Reason, quote(e.Message, maxQuote)))}, seen(e)
				break
			}
		}
	}
	return found, found.Code != ""
}

// seen is when an Event last came; an Event without a count has only a time.
func seen(e *corev1.Event) time.Time {
	at := e.LastTimestamp.Time
	for _, t := range []time.Time{e.EventTime.Time, e.FirstTimestamp.Time, e.CreationTimestamp.Time} {
		if at.IsZero() {
			at = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	return at
}

// missingClaim is how the scheduler says that a Pod's claim does not exist.
func missingClaim(message string) bool {
	return strings.Contains(message, "persistentvolumeclaim ") && strings.Contains(message, "not found")
}

// Vanished decides about a Job that is not in the API any more and whose log has
// no end: somebody took its finalizer off. How it was last seen may tell its end;
// else nobody knows it.
func Vanished(o Observation, l Log, r *jobsv1.JobRequested, now time.Time, d Deadlines) Decision {
	if l.Ended || l.Started && l.JobID != o.job.UID {
		return Decision{}
	}
	var out Decision
	for _, at := range []time.Time{now, now.Add(2 * d.Settle)} { // what the Pods' watch has not shown yet it will not
		out = Decide(o, l, r, at, d)
		if out.terminal() {
			return Decision{Events: out.Events, Reason: out.Reason}
		}
	}
	unknown := Reason{OutcomeUnknown, sentence("Job " + o.job.Name + " vanished and nobody saw how it ended: it was deleted without the finalizer that holds it")}
	return Decision{Events: append(out.Events, exception(o, unknown)), Reason: unknown}
}

func (d Decision) terminal() bool {
	if len(d.Events) == 0 {
		return false
	}
	switch d.Events[len(d.Events)-1].(type) {
	case *jobsv1.JobCompleted, *jobsv1.JobFailed, *jobsv1.JobException:
		return true
	}
	return false
}
