package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// metrics of the service. The label queue is bounded by the configuration.
type metrics struct {
	reg       prometheus.Registerer
	messages  *prometheus.CounterVec
	requests  *prometheus.CounterVec
	undeleted *prometheus.CounterVec
	age       *telemetry.Age
}

// Outcomes of a message, the label of their metric.
const (
	outcomeAccepted  = "accepted"
	outcomeDuplicate = "duplicate"
	outcomeRejected  = "rejected"
	outcomeGivenBack = "given back"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		reg: reg,
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_ingest_messages_total", Help: "Messages by what became of them: accepted, duplicate, rejected, given back.",
		}, []string{"outcome"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_ingest_sqs_requests_total", Help: "Calls to SQS: receive, delete, visibility. The SDK's own repeats are not counted.",
		}, []string{"queue", "action"}),
		undeleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_ingest_undeleted_total", Help: "Messages that are settled and could not be deleted: they come again and are known.",
		}, []string{"queue"}),
		age: telemetry.NewAge(reg),
	}
	reg.MustRegister(m.messages, m.requests, m.undeleted)
	for _, outcome := range []string{outcomeAccepted, outcomeDuplicate, outcomeRejected, outcomeGivenBack} {
		m.messages.WithLabelValues(outcome) // begins with 0
	}
	return m
}

// queueMetrics are those of one queue.
type queueMetrics struct {
	requests             *prometheus.CounterVec
	undeleted, givenBack prometheus.Counter
}

func (m *queueMetrics) calls(action string, n int) {
	m.requests.WithLabelValues(action).Add(float64(n))
}

// queue registers what is read of a receiver.
func (m *metrics) queue(r *receiver) *queueMetrics {
	labels := prometheus.Labels{"queue": r.name}
	gauge := func(name, help string, value func() float64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
	}
	gauge("jobrelay_ingest_in_flight", "Messages held now: received and not deleted.", func() float64 { n, _, _ := r.now(); return float64(n) })
	gauge("jobrelay_ingest_receivers", "Receivers that poll now.", func() float64 { _, n, _ := r.now(); return float64(n) })
	gauge("jobrelay_ingest_last_poll_timestamp_seconds", "When the queue last answered a poll; 0: never.", func() float64 {
		_, _, at := r.now()
		if at.IsZero() {
			return 0
		}
		return float64(at.UnixMilli()) / 1000
	})
	gauge("jobrelay_ingest_oldest_seconds", "Age of the oldest message held, since its SentTimestamp; 0: none.", func() float64 {
		if sent := r.oldest(); !sent.IsZero() {
			return max(0, time.Since(sent).Seconds())
		}
		return 0
	})
	m.reg.MustRegister(newDepth(r))
	return &queueMetrics{
		requests:  m.requests.MustCurryWith(labels),
		undeleted: m.undeleted.With(labels), givenBack: m.messages.WithLabelValues(outcomeGivenBack),
	}
}
