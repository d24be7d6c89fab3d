package cluster

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

func TestNoNameBecomesALabel(t *testing.T) {
	for _, c := range []struct{ method, path, resource, verb string }{
		{http.MethodPost, "/apis/batch/v1/namespaces/secret/jobs", "jobs", "create"},
		{http.MethodGet, "/apis/batch/v1/namespaces/secret/jobs/secret", "jobs", "get"},
		{http.MethodGet, "/apis/batch/v1/jobs?watch=true&labelSelector=secret", "jobs", "watch"},
		{http.MethodGet, "/api/v1/pods?limit=500", "pods", "list"},
		{http.MethodGet, "/api/v1/namespaces/secret/pods/secret/log", "pods/log", "get"},
		{http.MethodGet, "/api/v1/namespaces/secret", "namespaces", "get"},
		{http.MethodPatch, "/apis/batch/v1/namespaces/secret/jobs/secret", "jobs", "patch"},
		{http.MethodPut, "/apis/coordination.k8s.io/v1/namespaces/secret/leases/secret", "leases", "update"},
		{http.MethodDelete, "/apis/batch/v1/namespaces/secret/jobs/secret", "jobs", "delete"},
		{http.MethodGet, "/api/v1/namespaces/secret/secrets/secret", "other", "get"},
		{http.MethodGet, "/api/v1/namespaces/secret/pods/secret/secret", "other", "get"},
		{http.MethodOptions, "/api/v1/namespaces/secret/pods", "pods", "other"},
		{http.MethodGet, "/version", "other", "other"},
		{http.MethodGet, "/", "other", "other"},
	} {
		resource, verb := called(httptest.NewRequest(c.method, c.path, nil))
		if resource != c.resource || verb != c.verb || !slices.Contains(Resources(), resource) || !slices.Contains(Verbs(), verb) {
			t.Errorf("%s %s: %s %s", c.method, c.path, verb, resource)
		}
	}
}

func TestCallsAreCountedByTheirAnswer(t *testing.T) {
	status := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	reg := prometheus.NewRegistry()
	transport := Counted(telemetry.NewCalls(reg))(http.DefaultTransport)
	call := func(address string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/apis/batch/v1/namespaces/n/jobs", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
	}
	for _, status = range []int{201, 409, 429, 403, 404, 500, 503} {
		call(server.URL)
	}
	call("http://127.0.0.1:1")
	want := map[telemetry.Result]float64{
		telemetry.OK: 1, telemetry.Conflict: 1, telemetry.Limited: 1, telemetry.Refused: 1, telemetry.Missing: 1, telemetry.Failed: 3,
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(reg, "jobrelay_calls_total"); n != len(want) {
		t.Errorf("%d results", n)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "jobrelay_call_seconds" && m.GetHistogram().GetSampleCount() != 8 {
				t.Errorf("%d calls are timed", m.GetHistogram().GetSampleCount())
			}
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" && m.GetCounter().GetValue() != want[telemetry.Result(l.GetValue())] {
					t.Errorf("%v", m)
				}
			}
		}
	}
}
