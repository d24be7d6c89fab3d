package process

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Tracing says whether a service sends spans to a collector. All else is told by
// the variables of OpenTelemetry's SDK; its tag is a flag.
type Tracing struct {
	On bool `name:"traces" help:"Send spans by OTLP over HTTP to the collector that OpenTelemetry's own variables name: OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318), OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and others."`
}

// Bounds of what a process does for a collector. What it cannot send is dropped,
// 2,048 spans at most are held, and no work waits for it.
const (
	exportTimeout   = 5 * time.Second
	shutdownTimeout = 2 * time.Second
	exportNotice    = time.Minute // between lines that say that it fails
)

// Start is the tracer of a service, which does nothing where tracing is off, and
// what ends it: the spans that are held are sent then.
func (t Tracing) Start(ctx context.Context, role, instance string, log zerolog.Logger) (api.Tracer, func(), error) {
	if !t.On {
		return noop.NewTracerProvider().Tracer(""), func() {}, nil
	}
	hushSDK()
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		// Not err itself: it may quote a variable, and that a secret.
		return nil, nil, errors.New("--traces: the exporter cannot be made; check the variables OTEL_EXPORTER_OTLP_…")
	}
	of, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "jobrelay-"+role), attribute.String("service.namespace", "jobrelay"),
		attribute.String("service.instance.id", instance), attribute.String("service.version", Version()),
	), resource.WithFromEnv())
	if err != nil {
		return nil, nil, errors.New("--traces: OTEL_RESOURCE_ATTRIBUTES cannot be read; it has the form name=value,name=value")
	}
	provider := trace.NewTracerProvider(trace.WithResource(of), trace.WithBatcher(&quiet{SpanExporter: exporter, log: log}, trace.WithExportTimeout(exportTimeout)))
	return provider.Tracer("github.com/jobrelay/jobrelay", api.WithInstrumentationVersion(Version())), func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		_ = provider.Shutdown(ctx) // what was not sent is said by quiet
	}, nil
}

// hushSDK drops what the SDK itself says: it quotes its variables, and headers hold
// secrets.
var hushSDK = sync.OnceFunc(func() {
	otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
})

// quiet says that spans are not taken, without the collector's address and answer.
type quiet struct {
	trace.SpanExporter

	log zerolog.Logger

	mu   sync.Mutex
	said time.Time
}

// ExportSpans never fails: what was not taken is gone.
func (q *quiet) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if time.Since(q.said) < exportNotice {
		return nil
	}
	q.said = time.Now()
	line := q.log.Warn().Int("spans", len(spans))
	var link *net.OpError
	switch {
	case errors.As(err, &link):
		line.Str("cause", link.Op+" failed")
	case errors.Is(err, context.DeadlineExceeded):
		line.Str("cause", "no answer in time")
	}
	line.Msg("spans are dropped: the collector of OTEL_EXPORTER_OTLP_ENDPOINT does not take them")
	return nil
}
