package sqsd

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsPath answers a GET with what the endpoint counts, for Prometheus: a
// look from outside, which is no request of SQS and counts as none.
const metricsPath = "/metrics"

// calls are the requests of one action.
type calls struct {
	arrived, answered atomic.Int64
	first, last       atomic.Int64 // Unix time in ns: the first arrival, the last answer; 0: none yet
}

func (c *calls) arrive(now time.Time) {
	c.arrived.Add(1)
	c.first.CompareAndSwap(0, now.UnixNano())
}

func (c *calls) answer(now time.Time) {
	c.last.Store(now.UnixNano())
	c.answered.Add(1)
}

// metrics is the endpoint's collector.
type metrics struct {
	account *account
	calls   map[string]*calls // by action; every action has its own
}

func newMetrics(a *account) *metrics {
	m := &metrics{account: a, calls: map[string]*calls{}}
	for name := range actions {
		m.calls[name] = &calls{}
	}
	return m
}

func (m *metrics) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

var (
	requestsDesc = prometheus.NewDesc("sqsd_requests_total", "Requests by action, as they arrive.", []string{"action"}, nil)
	openDesc     = prometheus.NewDesc("sqsd_requests_in_progress", "Requests that are not answered yet; long polls among them.", []string{"action"}, nil)
	firstDesc    = prometheus.NewDesc("sqsd_first_request_timestamp_seconds", "When the first request of the action arrived.", []string{"action"}, nil)
	lastDesc     = prometheus.NewDesc("sqsd_last_answer_timestamp_seconds", "When the last request of the action was answered.", []string{"action"}, nil)
	messagesDesc = prometheus.NewDesc("sqsd_messages", "Messages by queue and state: visible, in_flight, delayed.", []string{"queue", "state"}, nil)
)

// Describe is prometheus.Collector's.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, openDesc, firstDesc, lastDesc, messagesDesc} {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for name, c := range m.calls {
		answered := c.answered.Load() // before arrived: their difference is never negative
		arrived := c.arrived.Load()
		ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(arrived), name)
		gauge(openDesc, float64(arrived-answered), name)
		if first := c.first.Load(); first != 0 {
			gauge(firstDesc, float64(first)/1e9, name)
		}
		if last := c.last.Load(); last != 0 {
			gauge(lastDesc, float64(last)/1e9, name)
		}
	}
	for name, n := range m.account.countAll() {
		gauge(messagesDesc, float64(n.visible), name, "visible")
		gauge(messagesDesc, float64(n.inFlight), name, "in_flight")
		gauge(messagesDesc, float64(n.delayed), name, "delayed")
	}
}

// counts are the messages of one queue.
type counts struct{ visible, inFlight, delayed int }

func (a *account) countAll() map[string]counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	all := map[string]counts{}
	for name, q := range a.queues {
		var n counts
		n.visible, n.inFlight, n.delayed = q.counts(now)
		all[name] = n
	}
	return all
}
