package broker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// TestAConsumerTellsHowFarItTrails: one request is in hand, two wait.
func TestAConsumerTellsHowFarItTrails(t *testing.T) {
	reg := prometheus.NewRegistry()
	b, err := broker.Open(t.Context(), broker.Config{URL: server(t).URL(), Role: "test", Topology: broker.Create, Registerer: reg, Calls: telemetry.NewCalls(reg)}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, id := range []string{"a", "b", "c"} {
		if err := b.Accept(t.Context(), newEvent(t, event.Key(id), &jobsv1.JobRequested{Id: id})); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Accept(t.Context(), newEvent(t, event.Key("a"), &jobsv1.JobRequested{Id: "a"})); !errors.Is(err, broker.ErrConflict) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- b.Consume(ctx, broker.LauncherRequests, broker.ConsumeOptions{InFlight: 1, Pull: 1}, func(_ context.Context, m broker.Message) error {
			if m.Sequence == 1 {
				close(begun)
				<-release
				return nil
			}
			if m.Sequence == 2 {
				return errors.New("later")
			}
			return broker.Permanent(errors.New("unreadable"))
		})
	}()
	<-begun
	value := func(name string, labels ...string) float64 { return gathered(t, reg, name, labels...) }
	const consumer = "REQUESTS/launcher"
	await.That(t, "what is pending", func() bool { return value("jobrelay_consumer_pending", "consumer", consumer) >= 1 })
	if n := value("jobrelay_consumer_in_hand", "consumer", consumer); n != 1 {
		t.Errorf("%v in hand", n)
	}
	if value("jobrelay_consumer_oldest_seconds", "consumer", consumer) <= 0 {
		t.Error("what is in hand has no age")
	}
	close(release)
	for outcome, n := range map[string]float64{"acked": 1, "left": 1, "dropped": 1, "parked": 0} {
		await.That(t, outcome, func() bool {
			return value("jobrelay_consumer_messages_total", "consumer", consumer, "outcome", outcome) == n
		})
	}
	await.That(t, "nothing in hand", func() bool { return value("jobrelay_consumer_oldest_seconds", "consumer", consumer) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := value("jobrelay_consumer_lag_seconds", "consumer", consumer); n != 3 {
		t.Errorf("%v deliveries were timed", n)
	}
	for result, n := range map[string]float64{"ok": 3, "conflict": 1, "failed": 0} {
		if have := value("jobrelay_calls_total", "edge", "nats", "target", "REQUESTS", "operation", "publish", "result", result); have != n {
			t.Errorf("%v publishes ended with %s", have, result)
		}
	}
	if value("jobrelay_nats_connected") != 1 {
		t.Error("not connected")
	}
}

// gathered is the value of a metric with these labels, the count of a histogram;
// 0: it is not there.
func gathered(t *testing.T, g prometheus.Gatherer, name string, labels ...string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if has(m, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func has(m *dto.Metric, labels []string) bool {
	found := 0
	for _, l := range m.GetLabel() {
		for i := 0; i < len(labels); i += 2 {
			if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
				found++
			}
		}
	}
	return found == len(labels)/2
}
