package watcher

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Operations of the errors' metric.
const (
	operationWatch = "watch"
	operationLog   = "log"
	operationJob   = "job"
)

// succeeded is the outcomes' label for an end without a code.
const succeeded = "COMPLETED"

// metrics of the service. Labels are bounded: types and codes are constants.
type metrics struct {
	events   *prometheus.CounterVec
	outcomes *prometheus.CounterVec
	stops    *prometheus.CounterVec
	surplus  prometheus.Counter
	cancels  *prometheus.CounterVec
	logTails *prometheus.CounterVec
	leading  prometheus.Gauge
	looks    prometheus.Counter
	errors   *prometheus.CounterVec
	age      *telemetry.Age
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_watcher_events_total", Help: "Events appended by the watcher, by type.",
		}, []string{"type"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_watcher_outcomes_total", Help: "Ends recorded by the watcher, by error code; COMPLETED for success.",
		}, []string{"code"}),
		stops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_watcher_stops_total", Help: "Jobs that the watcher decided to end, by error code.",
		}, []string{"code"}),
		cancels: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_watcher_cancels_total", Help: "Commands to cancel a job by what became of them: ended, stopped, late, unknown.",
		}, []string{"outcome"}),
		logTails: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_watcher_log_tails_total", Help: "Logs of failed containers whose last lines were wanted (--log-tail), by what became of it: read, gone, forbidden, timeout, skipped (its node timed out within the minute), failed.",
		}, []string{"outcome"}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jobrelay_watcher_leading", Help: "1 while this replica leads, 0 while it stands by.",
		}),
		looks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jobrelay_watcher_looks_total", Help: "Looks at a Job that were carried through.",
		}),
		surplus: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jobrelay_watcher_surplus_total", Help: "Jobs deleted because no log wants them.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_watcher_errors_total", Help: "Failures that are tried again: watch (broke off), log (reads and appends), job (patches and deletes).",
		}, []string{"operation"}),
		age: telemetry.NewAge(reg),
	}
	for _, c := range jobstatus.Codes() {
		m.outcomes.WithLabelValues(string(c.Code)) // begins with 0
	}
	m.outcomes.WithLabelValues(succeeded)
	for _, operation := range []string{operationWatch, operationLog, operationJob} {
		m.errors.WithLabelValues(operation)
	}
	reg.MustRegister(m.events, m.outcomes, m.stops, m.cancels, m.logTails, m.surplus, m.leading, m.looks, m.errors)
	return m
}

// states are the gauges of what the watcher holds.
func (w *Watcher) states(reg prometheus.Registerer) {
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "jobrelay_watcher_jobs", Help: "Jobs that are kept: those in the cluster, but for what is done with.",
		}, func() float64 { return float64(w.view.size()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "jobrelay_watcher_changes_total", Help: "Changes of kept Jobs and their Pods that the watches have shown; one that no decision reads asks for no look.",
		}, w.view.shown),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "jobrelay_watcher_waiting", Help: "Jobs that wait for a look.",
		}, func() float64 { return float64(w.queue.Len()) }),
	)
}

func (m *metrics) outcome(c jobstatus.Code) {
	if c == "" {
		c = succeeded
	}
	m.outcomes.WithLabelValues(string(c)).Inc()
}
