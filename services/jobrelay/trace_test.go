package jobrelay

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	awaiting "github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// spans is a collector: it takes OTLP over HTTP, as a real one does.
type spans struct {
	mu  sync.Mutex
	got []span
}

type span struct {
	*otlp.Span

	service string
}

func (s span) trace() string { return hex.EncodeToString(s.GetTraceId()) }
func (s span) id() string    { return hex.EncodeToString(s.GetSpanId()) }

func newSpans(t *testing.T) (*spans, string) {
	t.Helper()
	s := &spans{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var in collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &in) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, of := range in.GetResourceSpans() {
			service := ""
			for _, a := range of.GetResource().GetAttributes() {
				if a.GetKey() == "service.name" {
					service = a.GetValue().GetStringValue()
				}
			}
			for _, scope := range of.GetScopeSpans() {
				for _, one := range scope.GetSpans() {
					s.got = append(s.got, span{one, service})
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return s, server.URL
}

func (s *spans) all() []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// of are a service's spans of a name, within a trace.
func (s *spans) of(service, name, trace string) (out []span) {
	for _, one := range s.all() {
		if one.service == service && one.GetName() == name && one.trace() == trace {
			out = append(out, one)
		}
	}
	return out
}

// traced is a stack whose services send spans, and what its receiver was called
// with.
type traced struct {
	*stack
	*spans

	mu    sync.Mutex
	calls []hookd.Call
}

func startTraced(t *testing.T, log io.Writer, env map[string]string) *traced {
	t.Helper()
	collected, address := newSpans(t)
	t.Setenv("JOBRELAY_TRACES", "true")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms
	for name, value := range env {
		t.Setenv(name, value)
	}
	out := &traced{spans: collected}
	var err error
	out.stack, err = startStack(t.Context(), stackConfig{
		Dir: t.TempDir(), WebhookAllow: "127.0.0.0/8", Progress: io.Discard, Log: zerolog.New(log),
		OnCall: func(c hookd.Call) {
			out.mu.Lock()
			defer out.mu.Unlock()
			out.calls = append(out.calls, c)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	t.Cleanup(func() { once.Do(out.stop) })
	return out
}

func (s *traced) called() []hookd.Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// of are the calls for an id.
func (s *traced) callsOf(id string) (out []hookd.Call) {
	for _, c := range s.called() {
		if strings.Contains(string(c.Body), `"`+id+`"`) {
			out = append(out, c)
		}
	}
	return out
}

func (s *traced) send(t *testing.T, messages ...sqsqueue.Outgoing) {
	t.Helper()
	q, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: s.description.SQS.QueueURL, Endpoint: s.description.SQS.Endpoint, Region: devRegion})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.SendAll(t.Context(), slices.Values(messages), func(s sqsqueue.Sent) {
		if s.Err != nil {
			t.Error(s.Err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestOneTraceFromEndToEnd: a producer's trace goes through every process to the
// receiver, and each asynchronous hop is a link to the span that wrote the message.
func TestOneTraceFromEndToEnd(t *testing.T) {
	const (
		sampleID = "31a89a91-43d8-4786-a195-9b25cec28a44"
		trace    = "4bf92f3577b34da6a3ce929d0e0e4736"
		producer = "00f067aa0ba902b7"
		parent   = "00-" + trace + "-" + producer + "-01"
	)
	s := startTraced(t, io.Discard, nil)
	body := func(id string) []byte {
		r := strings.NewReplacer(sampleID, id, "http://webhook.com", s.description.Webhooks.URL+"/"+id)
		return []byte(r.Replace(string(request.Sample)))
	}
	s.send(t, sqsqueue.Outgoing{Body: body("traced"), Trace: parent}, sqsqueue.Outgoing{Body: body("untraced")})
	awaiting.That(t, "six callbacks", func() bool { return len(s.callsOf("traced")) == 3 && len(s.callsOf("untraced")) == 3 })
	awaiting.That(t, "the spans of three callbacks", func() bool { return len(s.of("jobrelay-notifier", "callback", trace)) == 3 })

	accept, launch, create := s.one(t, "ingest", "accept", trace), s.one(t, "launcher", "launch", trace), s.one(t, "launcher", "create Job", trace)
	records := s.of("jobrelay-watcher", "record", trace)
	if len(records) < 2 { // pod-started and completed; started, where it looked before the launcher wrote
		t.Errorf("%d spans of the watcher", len(records))
	}
	for _, one := range append([]span{accept, launch}, records...) {
		if hex.EncodeToString(one.GetParentSpanId()) != producer {
			t.Errorf("%s %s is no part of the producer's span", one.service, one.GetName())
		}
	}
	if hex.EncodeToString(create.GetParentSpanId()) != launch.id() {
		t.Error("the Job is not created within the launch")
	}
	if len(accept.GetLinks()) != 0 {
		t.Error("the first span has a link")
	}
	linked(t, launch, accept)

	// Over the log: each callback is linked to the span that wrote its event.
	b, err := broker.OpenReader(t.Context(), broker.Access{URL: s.description.NATS.URL}, zerolog.Nop(), broker.StreamRequests, broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	req, err := b.Request(t.Context(), event.Key("traced"))
	if err != nil || req.Trace != parent || req.Span != "00-"+trace+"-"+accept.id()+"-01" {
		t.Errorf("the request has %q and %q (%v)", req.Trace, req.Span, err)
	}
	tail, err := b.Tail(t.Context(), "example", event.Key("traced"))
	if err != nil || tail.Last.Trace != parent || telemetry.TraceID(tail.Last.Span) != trace {
		t.Errorf("the last event has %q and %q (%v)", tail.Last.Trace, tail.Last.Span, err)
	}
	writers := map[string]bool{launch.id(): true}
	for _, one := range records {
		writers[one.id()] = true
	}
	posts := map[string]bool{}
	for _, one := range s.of("jobrelay-notifier", "callback", trace) {
		posts[one.id()] = true
		if len(one.GetLinks()) != 1 || !writers[hex.EncodeToString(one.GetLinks()[0].GetSpanId())] {
			t.Errorf("a callback's links: %v", one.GetLinks())
			continue
		}
		delete(writers, hex.EncodeToString(one.GetLinks()[0].GetSpanId()))
	}

	// To the receiver: the header is that of the POST's span.
	for _, c := range s.callsOf("traced") {
		header := c.Header.Get("Traceparent")
		if telemetry.TraceID(header) != trace || !posts[strings.Split(header, "-")[2]] {
			t.Errorf("the receiver got %q", header)
		}
	}
	// Who sent no trace gets none, and its spans are one trace all the same.
	for _, c := range s.callsOf("untraced") {
		if header := c.Header.Get("Traceparent"); header != "" {
			t.Errorf("a receiver got %q that no producer sent", header)
		}
	}
	untraced, err := b.Request(t.Context(), event.Key("untraced"))
	if err != nil || untraced.Trace != "" {
		t.Fatal(untraced.Trace, err)
	}
	own := telemetry.TraceID(untraced.Span)
	awaiting.That(t, "the spans of the other message", func() bool { return len(s.of("jobrelay-notifier", "callback", own)) == 3 })
	linked(t, s.one(t, "launcher", "launch", own), s.one(t, "ingest", "accept", own))

	client, err := cluster.Client(s.description.Kubernetes.Kubeconfig, "test", "test")
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := client.BatchV1().Jobs("default").List(context.Background(), metav1.ListOptions{LabelSelector: kubejob.LabelKey + "=" + event.Key("traced")})
	if err != nil || len(jobs.Items) != 1 || jobs.Items[0].Annotations[kubejob.AnnotationTrace] != "00-"+trace+"-"+create.id()+"-01" {
		t.Errorf("%v %v", err, jobs.Items)
	}
}

// one is the only span of its kind.
func (s *spans) one(t *testing.T, role, name, trace string) span {
	t.Helper()
	found := s.of("jobrelay-"+role, name, trace)
	if len(found) != 1 {
		t.Fatalf("%d spans %s of %s", len(found), name, role)
	}
	return found[0]
}

// linked reports a span that is not linked to the one that wrote its message.
func linked(t *testing.T, to, from span) {
	t.Helper()
	if len(to.GetLinks()) != 1 || hex.EncodeToString(to.GetLinks()[0].GetSpanId()) != from.id() {
		t.Errorf("%s of %s is not linked to %s of %s: %v", to.GetName(), to.service, from.GetName(), from.service, to.GetLinks())
	}
}
