package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

const (
	// depthEvery is the least time between two questions for a queue's depth: each
	// is a request that SQS charges for.
	depthEvery = 30 * time.Second
	// depthBelieved is how old an answer may be that is still shown.
	depthBelieved = 5 * time.Minute
)

// depth shows how many messages a queue has. It asks while somebody scrapes, and
// in the background: a scrape shows what the one before it asked for.
type depth struct {
	*receiver

	desc *prometheus.Desc

	mu    sync.Mutex
	asked time.Time
	at    time.Time // of the answer; zero: none yet
	now   sqsqueue.Depth
}

func newDepth(r *receiver) *depth {
	return &depth{receiver: r, desc: prometheus.NewDesc("jobrelay_ingest_queue_messages",
		"Messages of the queue, as SQS counts them about: visible, in flight, delayed. The same from every replica; asked for at most every 30 s, and only while somebody scrapes.",
		[]string{"state"}, prometheus.Labels{"queue": r.name})}
}

// Describe is a prometheus.Collector's.
func (d *depth) Describe(out chan<- *prometheus.Desc) { out <- d.desc }

// Collect is a prometheus.Collector's.
func (d *depth) Collect(out chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.opened(); q != nil && time.Since(d.asked) >= depthEvery {
		d.asked = time.Now()
		go d.ask(q)
	}
	if time.Since(d.at) > depthBelieved {
		return
	}
	for state, n := range map[string]int{"visible": d.now.Visible, "in flight": d.now.InFlight, "delayed": d.now.Delayed} {
		out <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, float64(n), state)
	}
}

func (d *depth) ask(q *sqsqueue.Queue) {
	now, err := q.Depth(context.Background()) // has its own timeout
	if err != nil {
		d.log.Debug().Err(err).Msg("depth of the queue")
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now, d.at = now, time.Now()
}
