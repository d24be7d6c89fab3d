// Package telemetry is how a process is seen from outside: rate, errors and
// duration of what crosses its edges, and how old a job is at each step.
//
// Every label has a closed set of values, or one that the configuration bounds;
// services/jobrelay's tests hold the list.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Edge is what a call goes to.
type Edge string

// The edges.
const (
	SQS        Edge = "sqs"
	NATS       Edge = "nats"
	Kubernetes Edge = "kubernetes"
	Webhook    Edge = "webhook"
)

// Result is what became of a call.
type Result string

// The results. Only Limited, Refused and Failed are errors of an edge.
const (
	OK       Result = "ok"
	Conflict Result = "conflict" // somebody else wrote first, or it is there already
	Missing  Result = "missing"  // there is no such thing, which is an answer
	Limited  Result = "limited"  // asked to come later
	Refused  Result = "refused"  // the call itself is not taken
	Failed   Result = "failed"   // no answer, or one that says that it could not
)

// Results are all of them.
func Results() []Result { return []Result{OK, Conflict, Missing, Limited, Refused, Failed} }

// Status is the result that an HTTP status stands for; 0: no answer.
func Status(code int) Result {
	switch {
	case code >= 200 && code < 400:
		return OK
	case code == http.StatusConflict:
		return Conflict
	case code == http.StatusNotFound, code == http.StatusGone:
		return Missing
	case code == http.StatusTooManyRequests:
		return Limited
	case code >= 400 && code < 500:
		return Refused
	}
	return Failed
}

// Calls counts and times the calls of a process at all its edges. A nil *Calls
// does neither.
type Calls struct {
	count   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewCalls registers the two metrics; there is one Calls a process.
func NewCalls(reg prometheus.Registerer) *Calls {
	c := &Calls{
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_calls_total", Help: "Calls to SQS, NATS, Kubernetes and webhooks, by what became of them: ok, conflict, missing, limited, refused, failed. The last three are errors.",
		}, []string{"edge", "target", "operation", "result"}),
		seconds: prometheus.NewHistogramVec(native("jobrelay_call_seconds", "Duration of the calls, whatever became of them. A receive from SQS waits up to 20 s for a message; a watch is timed until its answer begins."), []string{"edge", "target", "operation"}),
	}
	reg.MustRegister(c.count, c.seconds)
	return c
}

// Begin starts the clock of a call; what it returns is called once, at its end.
// The target is a queue, a stream or a resource, never an address.
func (c *Calls) Begin(edge Edge, target, operation string) (end func(Result)) {
	if c == nil {
		return func(Result) {}
	}
	begin := time.Now()
	return func(r Result) {
		c.count.WithLabelValues(string(edge), target, operation, string(r)).Inc()
		c.seconds.WithLabelValues(string(edge), target, operation).Observe(time.Since(begin).Seconds())
	}
}
