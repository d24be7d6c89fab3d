package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of a native histogram: each bucket is at most 10 % wider than the one
// below, and there are never more than so many of them.
const (
	bucketFactor = 1.1
	maxBuckets   = 160
	minReset     = time.Hour
)

func native(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help,
		NativeHistogramBucketFactor: bucketFactor, NativeHistogramMaxBucketNumber: maxBuckets, NativeHistogramMinResetDuration: minReset,
	}
}

// NewHistogram is a native histogram of seconds by one label.
func NewHistogram(name, help, label string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(native(name, help), []string{label})
}

// Step is a place on a job's way.
type Step string

// The steps, in the order of a job's life; those of callbacks are CallbackStep's.
const (
	StepReceived Step = "received" // ingest has the message
	StepAccepted Step = "accepted" // its request is stored
	StepLaunched Step = "launched" // its Job is made
	StepEnded    Step = "ended"    // its end is recorded
)

// CallbackStep is the 2xx of the callback with the status.
func CallbackStep(status int) Step {
	switch status {
	case 0:
		return "callback 0"
	case 1:
		return "callback 1"
	case 2:
		return "callback 2"
	case 3:
		return "callback 3"
	}
	return "callback 99"
}

// Steps are all of them.
func Steps() []Step {
	out := []Step{StepReceived, StepAccepted, StepLaunched, StepEnded}
	for _, status := range []int{0, 1, 2, 3, 99} {
		out = append(out, CallbackStep(status))
	}
	return out
}

// Age tells how old jobs are at the steps that a process takes. A nil *Age tells
// nothing.
type Age struct {
	seconds *prometheus.HistogramVec
	// exemplar is when a step had one last, in nanoseconds of Unix time.
	exemplar map[Step]*atomic.Int64
}

// exemplarEvery is the least time between two exemplars of a step: each costs more
// than all the rest of an observation.
const exemplarEvery = 250 * time.Millisecond

// NewAge registers the metric.
func NewAge(reg prometheus.Registerer) *Age {
	a := &Age{exemplar: map[Step]*atomic.Int64{}, seconds: NewHistogram("jobrelay_job_age_seconds", "Time from a message's SentTimestamp in SQS to a step of its job; its exemplars, at most four a second, have the trace_id. A callback counts at its 2xx, and not in a replay.", "step")}
	for _, s := range Steps() {
		a.exemplar[s] = &atomic.Int64{}
	}
	reg.MustRegister(a.seconds)
	return a
}

// Reached says that a job whose message was sent at sent has come to the step
// now. A zero sent is passed over: the queue did not say. The exemplar is the
// traceparent's trace.
func (a *Age) Reached(s Step, sent, now time.Time, traceparent string) {
	if a == nil || sent.IsZero() {
		return
	}
	age := max(0, now.Sub(sent).Seconds()) // two clocks
	observer := a.seconds.WithLabelValues(string(s))
	last, at := a.exemplar[s], now.UnixNano()
	if before := last.Load(); at-before < int64(exemplarEvery) || !last.CompareAndSwap(before, at) {
		observer.Observe(age)
		return
	}
	if id := TraceID(traceparent); id != "" {
		if o, ok := observer.(prometheus.ExemplarObserver); ok {
			o.ObserveWithExemplar(age, prometheus.Labels{"trace_id": id})
			return
		}
	}
	observer.Observe(age)
}
