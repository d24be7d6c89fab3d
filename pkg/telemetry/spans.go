package telemetry

import (
	"context"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Names of the spans' attributes that are not OpenTelemetry's own.
const (
	AttrID      = attribute.Key("jobrelay.id")
	AttrKey     = attribute.Key("jobrelay.key")
	AttrService = attribute.Key("jobrelay.service")
	AttrOutcome = attribute.Key("jobrelay.outcome")
	AttrStatus  = attribute.Key("jobrelay.status")
)

// Origin is where a message comes from: the producer's traceparent, and that of
// the span that wrote the message. Either may be empty.
type Origin struct{ Trace, Span string }

// Spans begins a service's spans. A nil *Spans begins none, as one whose tracer
// does nothing: then the producer's traceparent goes on as it came.
type Spans struct{ tracer trace.Tracer }

// NewSpans uses a tracer of a provider.
func NewSpans(tracer trace.Tracer) *Spans { return &Spans{tracer} }

// Span is one piece of work of a job.
type Span struct {
	span   trace.Span
	origin Origin
}

// Follow begins a span for a message that another process wrote: a part of the
// producer's trace, or of the writer's where the producer sent none, with a link
// to the writer's span. Nobody waited in between.
func (s *Spans) Follow(ctx context.Context, name string, kind trace.SpanKind, o Origin, attributes ...attribute.KeyValue) (context.Context, *Span) {
	if s == nil {
		return ctx, &Span{noop.Span{}, o}
	}
	parent, writer := remote(o.Trace), remote(o.Span)
	options := []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(attributes...)}
	if writer.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: writer}))
	}
	if !parent.IsValid() {
		parent = writer
	}
	ctx, span := s.tracer.Start(trace.ContextWithRemoteSpanContext(trace.ContextWithSpan(ctx, nil), parent), name, options...)
	return ctx, &Span{span, o}
}

// Within begins a span inside that of ctx.
func (s *Spans) Within(ctx context.Context, name string, kind trace.SpanKind, o Origin, attributes ...attribute.KeyValue) (context.Context, *Span) {
	if s == nil {
		return ctx, &Span{noop.Span{}, o}
	}
	ctx, span := s.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	return ctx, &Span{span, o}
}

// Own is the span's traceparent; empty where tracing is off.
func (s *Span) Own() string {
	if !s.recorded() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), s.span), carrier)
	return carrier["traceparent"]
}

// recorded tells a span of ours from one that only hands its parent on.
func (s *Span) recorded() bool {
	_, off := s.span.(noop.Span)
	return !off && s.span.SpanContext().IsValid()
}

// Traceparent is the span's own, else the producer's, else the writer's.
func (s *Span) Traceparent() string {
	for _, t := range []string{s.Own(), s.origin.Trace, s.origin.Span} {
		if t != "" {
			return t
		}
	}
	return ""
}

// Set adds attributes.
func (s *Span) Set(attributes ...attribute.KeyValue) { s.span.SetAttributes(attributes...) }

// End ends the span with what became of it; failed makes it one that is looked
// for. The outcome is a constant, never an error's text.
func (s *Span) End(outcome string, failed bool) {
	s.span.SetAttributes(AttrOutcome.String(outcome))
	if failed {
		s.span.SetStatus(codes.Error, outcome)
	}
	s.span.End()
}

func remote(traceparent string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
	return trace.SpanContextFromContext(ctx)
}

// Traced adds the trace to a line of the log, where there is one.
func Traced(line *zerolog.Event, traceparent string) *zerolog.Event {
	if id := TraceID(traceparent); id != "" {
		line.Str("trace", id)
	}
	return line
}
