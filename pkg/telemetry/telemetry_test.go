package telemetry_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// TestAgesAreNativeHistogramsWithExemplars looks at what Prometheus is sent.
func TestAgesAreNativeHistogramsWithExemplars(t *testing.T) {
	reg := prometheus.NewRegistry()
	age := telemetry.NewAge(reg)
	sent := time.UnixMilli(1_700_000_000_000)
	age.Reached(telemetry.StepAccepted, sent, sent.Add(3*time.Second), trace)
	age.Reached(telemetry.StepAccepted, sent, sent.Add(-time.Second), "no trace")
	age.Reached(telemetry.StepAccepted, time.Time{}, sent, trace)
	(*telemetry.Age)(nil).Reached(telemetry.StepAccepted, sent, sent, trace)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || len(families[0].GetMetric()) != 1 {
		t.Fatalf("%v %v", families, err)
	}
	h := families[0].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 2 || h.GetSampleSum() != 3 || len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) > 1 {
		t.Errorf("%v", h)
	}
	if len(h.GetExemplars()) != 1 || h.GetExemplars()[0].GetLabel()[0].GetValue() != telemetry.TraceID(trace) {
		t.Errorf("exemplars: %v", h.GetExemplars())
	}
}

func TestEachCallbackHasAStep(t *testing.T) {
	seen := map[telemetry.Step]bool{}
	for _, s := range telemetry.Steps() {
		if seen[s] {
			t.Errorf("%s twice", s)
		}
		seen[s] = true
	}
	for _, status := range []int{0, 1, 2, 3, 99} {
		if !seen[telemetry.CallbackStep(status)] {
			t.Errorf("%d has none", status)
		}
	}
}

func TestTraceparents(t *testing.T) {
	for s, id := range map[string]string{
		trace: "4bf92f3577b34da6a3ce929d0e0e4736", "": "", "x" + trace: "", trace + "x": "",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01": "", trace + "\n": "",
	} {
		if telemetry.TraceID(s) != id || telemetry.IsTraceparent(s) != (id != "") {
			t.Errorf("%q", s)
		}
	}
}

func TestNoCallsAreCountedWithoutThem(t *testing.T) {
	(*telemetry.Calls)(nil).Begin(telemetry.NATS, "EVENTS", "get")(telemetry.OK)
	reg := prometheus.NewRegistry()
	telemetry.NewCalls(reg).Begin(telemetry.NATS, "EVENTS", "get")(telemetry.Failed)
	if families, err := reg.Gather(); err != nil || len(families) != 2 {
		t.Errorf("%v %v", families, err)
	}
}
