package jobstatus

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// stop ends the Job: the reason is written on it first, so that the end is the
// same whoever goes on with it.
func stop(r Reason) Decision {
	return Decision{Step: StepStop, Value: FormatReason(r), Reason: r}
}

// CancelReason is the reason of a job that an operator cancelled, with the
// operator's words.
func CancelReason(words string) Reason {
	text := "Cancelled by the operator"
	if words = quote(words, maxQuote); words != "" {
		text += ": " + words
	}
	return Reason{Cancelled, sentence(text)}
}

// FormatReason is the annotation stop-reason: JSON {code, message}.
func FormatReason(r Reason) string {
	b, err := json.Marshal(r)
	if err != nil {
		panic("jobstatus: two strings do not marshal: " + err.Error())
	}
	return string(b)
}

// maxReason bounds the message that is taken from the annotation, in bytes.
const maxReason = 2 << 10

// parseReason reads the annotation stop-reason; nil where it is absent or
// cannot be read, as when it was written by hand.
func parseReason(annotation string) *Reason {
	var r Reason
	if json.Unmarshal([]byte(annotation), &r) != nil || !r.Code.Known() {
		return nil
	}
	r.Message = quote(r.Message, maxReason)
	return &r
}

// stopping goes on with a Job that we end: delete it in the foreground, wait
// until its Pods are gone, append the reason. Pods that do not go, as on a dead
// node, are waited for until their grace period and d.Stuck have passed; the
// finalizer stays until they are gone even then.
func stopping(o Observation, now time.Time, d Deadlines) Decision {
	if !o.Deleting() {
		return Decision{Step: StepDelete}
	}
	if podsGone(o, now, d) {
		return end(o, exception(o, *o.stop), *o.stop)
	}
	deletion := o.job.DeletionTimestamp.Time
	if at := deletion.Add(o.grace() + d.Stuck); now.Before(at) {
		again := Decision{LookAt: at}
		if len(o.alive()) == 0 {
			again.LookAt = deletion.Add(d.Settle)
		} else if !o.foreground() {
			again.Step = StepDelete // somebody's background deletion leaves the Pods running
		}
		return again
	}
	r := *o.stop
	r.Message = sentence(r.Message) + " " + sentence("Not confirmed stopped: "+places(o.alive()))
	return Decision{Events: []Event{exception(o, r)}, Reason: r}
}

// foregroundDeletion is the finalizer that Kubernetes holds a Job with until
// its Pods are gone.
const foregroundDeletion = "foregroundDeletion"

func (o Observation) foreground() bool {
	for _, f := range o.job.Finalizers {
		if f == foregroundDeletion {
			return true
		}
	}
	return false
}

// podsGone reports whether nothing of a Job in deletion can run any more. The
// garbage collector's word is the best; where it is not in yet, the Pods' watch
// gets d.Settle to show a Pod that it has not shown.
func podsGone(o Observation, now time.Time, d Deadlines) bool {
	if len(o.alive()) > 0 {
		return false
	}
	return !o.foreground() || !now.Before(o.job.DeletionTimestamp.Add(d.Settle))
}

// maxPlaces bounds the Pods that a message names.
const maxPlaces = 3

func places(pods []*corev1.Pod) string {
	var names []string
	for _, p := range pods[:min(len(pods), maxPlaces)] {
		names = append(names, place(p))
	}
	if more := len(pods) - maxPlaces; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
