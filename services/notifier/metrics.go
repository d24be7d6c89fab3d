package notifier

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	attempts  *prometheus.CounterVec
	callbacks *prometheus.CounterVec
	letters   *prometheus.CounterVec
	replays   *prometheus.CounterVec
	inFlight  prometheus.Gauge
	held      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, e *endpoints, u *undelivered) *metrics {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_notifier_attempts_total", Help: "Attempts by what their outcome means: delivered, unwell, refused, gone.",
		}, []string{"class"}),
		callbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_notifier_callbacks_total", Help: "Callbacks by how they ended: delivered, or the reason why not.",
		}, []string{"end"}),
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_notifier_dead_letters_total", Help: "Dead letters stored, by the reason; those of a replay that failed again too.",
		}, []string{"reason"}),
		replays: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_notifier_replays_total", Help: "Dead letters replayed, by how that ended: delivered, or the reason why not.",
		}, []string{"end"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jobrelay_notifier_in_flight", Help: "Attempts under way.",
		}),
		held: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jobrelay_notifier_held_total", Help: "Callbacks parked without an attempt: their endpoint is left alone, or has no slot.",
		}),
	}
	reg.MustRegister(m.attempts, m.callbacks, m.letters, m.replays, m.inFlight, m.held, endpointCounts{e}, undeliveredAge{u})
	return m
}

// endpointCounts are how many endpoints are in each state, and what waits for them.
type endpointCounts struct{ of *endpoints }

var (
	endpointsDesc = prometheus.NewDesc("jobrelay_notifier_endpoints",
		"Endpoints that are known, by the state of their breaker: closed, open, half-open.", []string{"breaker"}, nil)
	waitingDesc = prometheus.NewDesc("jobrelay_notifier_waiting",
		"Callbacks in hand that wait for a slot at their endpoint.", nil, nil)
)

// Describe and Collect make it a prometheus.Collector.
func (c endpointCounts) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, to) }

// Collect asks now.
func (c endpointCounts) Collect(to chan<- prometheus.Metric) {
	waiting, states := c.of.tally()
	to <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(waiting))
	for state, n := range states {
		to <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, float64(n), string(state))
	}
}

// undeliveredAge is how old the oldest undelivered callback is, and how many wait.
type undeliveredAge struct{ of *undelivered }

var (
	oldestDesc = prometheus.NewDesc("jobrelay_notifier_oldest_undelivered_seconds",
		"Age of the oldest callback that is neither delivered nor given up, since it became due; 0: none. Looked for every 15 s, the same from every replica.", nil, nil)
	parkedDesc = prometheus.NewDesc("jobrelay_notifier_parked",
		"Callbacks that wait for a time to come, as last counted; the same from every replica.", nil, nil)
)

// Describe and Collect make it a prometheus.Collector.
func (a undeliveredAge) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(a, to) }

// Collect tells what the last look has found.
func (a undeliveredAge) Collect(to chan<- prometheus.Metric) {
	age, parked := a.of.now()
	to <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age.Seconds())
	to <- prometheus.MustNewConstMetric(parkedDesc, prometheus.GaugeValue, float64(parked))
}
