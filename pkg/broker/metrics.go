package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Outcomes of a delivery, the label of its metric.
const (
	settledAcked     = "acked"      // done
	settledParked    = "parked"     // left with a schedule
	settledLeft      = "left"       // not acknowledged: it is delivered again
	settledDropped   = "dropped"    // unreadable
	settledGivenBack = "given back" // not begun, or not done, before the stop
)

// Settled are all of them.
func Settled() []string {
	return []string{settledAcked, settledParked, settledLeft, settledDropped, settledGivenBack}
}

// metrics of a Broker: of its connection, and of the consumers that it serves.
type metrics struct {
	messages      *prometheus.CounterVec
	handling, lag *prometheus.HistogramVec

	mu      sync.Mutex
	serving []*consumption
}

func newMetrics(reg prometheus.Registerer, b *Broker) *metrics {
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobrelay_consumer_messages_total", Help: "Messages handed out by a durable consumer, by what became of them: acked, parked (left with a schedule), left (delivered again after the ack wait), dropped (unreadable), given back (at a stop).",
		}, []string{"consumer", "outcome"}),
		handling: telemetry.NewHistogram("jobrelay_consumer_handling_seconds", "From a message's delivery until it is settled.", "consumer"),
		lag:      telemetry.NewHistogram("jobrelay_consumer_lag_seconds", "From the storing of a message in its stream to its first delivery.", "consumer"),
	}
	if reg != nil {
		reg.MustRegister(m.messages, m.handling, m.lag, consumers{m}, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "jobrelay_nats_connected", Help: "1 while there is a connection to NATS.",
		}, func() float64 {
			if conn := b.connection(); conn != nil && conn.IsConnected() {
				return 1
			}
			return 0
		}), prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "jobrelay_nats_reconnects_total", Help: "Connections to NATS that were lost and made again.",
		}, func() float64 {
			conn := b.connection()
			if conn == nil {
				return 0
			}
			return float64(conn.Stats().Reconnects)
		}))
	}
	return m
}

// String is the consumer's name with its stream's, as in metrics and logs.
func (c Consumer) String() string { return c.Stream + "/" + c.Name }

func (m *metrics) serve(r *consumption) {
	for _, outcome := range Settled() {
		m.messages.WithLabelValues(r.consumer.String(), outcome) // begins with 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.serving = append(m.serving, r)
}

func (m *metrics) settled(c Consumer, outcome string) {
	m.messages.WithLabelValues(c.String(), outcome).Inc()
}

// delivered counts a delivery's wait in its stream; a repeat has waited for
// something else.
func (m *metrics) delivered(c Consumer, meta *jetstream.MsgMetadata) {
	if meta.NumDelivered == 1 {
		m.lag.WithLabelValues(c.String()).Observe(max(0, time.Since(meta.Timestamp).Seconds()))
	}
}

const (
	// lagEvery is between two questions for a consumer's state.
	lagEvery = 10 * time.Second
	// lagBelieved is how old an answer may be that is still shown: what NATS does
	// not tell is not shown.
	lagBelieved = time.Minute
)

// watchLag asks for the consumer's state until ctx ends.
func (r *consumption) watchLag(ctx context.Context) {
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	for {
		info, err := r.info(ctx)
		if err != nil && ctx.Err() == nil {
			r.broker.log.Debug().Err(err).Str("consumer", r.consumer.String()).Msg("state of a consumer")
		}
		if err == nil {
			r.mu.Lock()
			r.state, r.stateAt = info, time.Now()
			r.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *consumption) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if !r.broker.Connected() {
		return nil, errors.New("NATS is not connected")
	}
	c, err := r.broker.js.Consumer(ctx, r.consumer.Stream, r.consumer.Name)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// oldest is the number of messages in hand, and when the oldest was stored.
func (r *consumption) oldest() (n int, at time.Time) {
	r.inHand.Range(func(_, stored any) bool {
		n++
		if t, ok := stored.(time.Time); ok && (at.IsZero() || t.Before(at)) {
			at = t
		}
		return true
	})
	return n, at
}

// consumers shows the state of what is consumed: the replicas of a role show the
// same numbers, but for what is in hand.
type consumers struct{ *metrics }

func consumerDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("jobrelay_consumer_"+name, help, []string{"consumer"}, nil)
}

var (
	pendingDesc     = consumerDesc("pending", "Messages that no replica was handed yet, as NATS last said; the same from every replica.")
	ackPendingDesc  = consumerDesc("ack_pending", "Messages that replicas have in hand or left for a repeat, as NATS last said; the same from every replica.")
	redeliveredDesc = consumerDesc("redelivered", "Those of them that were delivered more than once, as NATS last said; the same from every replica.")
	inHandDesc      = consumerDesc("in_hand", "Messages that this replica is handling.")
	oldestDesc      = consumerDesc("oldest_seconds", "Age of the oldest message that this replica is handling, since it was stored; 0: none. Messages are handed out in order, so what is pending is younger.")
)

// Describe is a prometheus.Collector's.
func (consumers) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pendingDesc, ackPendingDesc, redeliveredDesc, inHandDesc, oldestDesc} {
		out <- d
	}
}

// Collect is a prometheus.Collector's.
func (c consumers) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	serving := append([]*consumption(nil), c.serving...)
	c.mu.Unlock()
	for _, r := range serving {
		show := func(d *prometheus.Desc, v float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, r.consumer.String())
		}
		n, stored := r.oldest()
		age := 0.0
		if !stored.IsZero() {
			age = max(0, time.Since(stored).Seconds())
		}
		show(inHandDesc, float64(n))
		show(oldestDesc, age)
		r.mu.Lock()
		info, at := r.state, r.stateAt
		r.mu.Unlock()
		if info == nil || time.Since(at) > lagBelieved {
			continue
		}
		show(pendingDesc, float64(info.NumPending))
		show(ackPendingDesc, float64(info.NumAckPending))
		show(redeliveredDesc, float64(info.NumRedelivered))
	}
}
