package ingest

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// intake decides what becomes of one message.
type intake struct {
	broker       *broker.Broker
	log          zerolog.Logger
	installation string
	options      request.Options
	policy       func() *request.Policy
	metrics      *metrics
	spans        *telemetry.Spans
	// parsing bounds the messages being parsed: a hostile one of 1 MiB may take
	// 80 MB while it is.
	parsing chan struct{}
}

// take brings a message to where it may be deleted: accepted, known already,
// or recorded as rejected. After an error it may be called again; whatever was
// stored then is found.
func (in *intake) take(ctx context.Context, from queue, m *sqsqueue.Message) error {
	ctx, span := in.spans.Follow(ctx, "accept", trace.SpanKindConsumer, telemetry.Origin{Trace: traceOf(m)},
		attribute.String("messaging.system", "aws_sqs"), attribute.String("messaging.destination.name", from.name))
	outcome, err := in.decide(ctx, from, m, span)
	if err != nil {
		outcome = "failed"
	}
	span.End(outcome, err != nil)
	return err
}

// decide says what became of the message, its outcome.
func (in *intake) decide(ctx context.Context, from queue, m *sqsqueue.Message, span *telemetry.Span) (outcome string, err error) {
	queue := from.name
	in.parsing <- struct{}{}
	parsed := request.Parse(m.Body, in.options)
	<-in.parsing
	if from.service != "" && parsed.Service != "" && parsed.Service != from.service {
		parsed.Request = nil
		parsed.Problems = append(parsed.Problems, request.Problem{
			Path: "$.service", Code: request.CodeConflict, Message: "must be " + from.service + ": that is the service of queue " + queue,
		})
	}
	if parsed.Request == nil {
		return in.reject(ctx, queue, m, span, parsed, jobstatus.MessageInvalid, parsed.Problems)
	}
	r := parsed.Request
	if denied := in.policy().Check(r); len(denied) > 0 {
		return in.denied(ctx, queue, m, span, parsed, denied)
	}
	span.Set(telemetry.AttrID.String(r.GetId()), telemetry.AttrKey.String(event.Key(r.GetId())), telemetry.AttrService.String(r.GetService()))
	r.AcceptedAt = timestamppb.Now()
	if !m.SentAt.IsZero() {
		r.QueuedAt = timestamppb.New(m.SentAt)
	}
	key := event.Key(r.GetId())
	e, err := event.New(key, event.SourceOfQueue(in.installation, queue), r.GetId(), 0, r.GetAcceptedAt().AsTime(), r)
	if err != nil {
		return "", err
	}
	e.Trace, e.Span = traceOf(m), span.Own()
	err = in.broker.Accept(ctx, e)
	switch {
	case err == nil:
		in.metrics.age.Reached(telemetry.StepAccepted, m.SentAt, time.Now(), m.Trace)
		in.settled(outcomeAccepted, zerolog.InfoLevel, r.GetId(), r.GetService(), span).Int("warnings", len(parsed.Warnings)).Msg("request accepted")
		return outcomeAccepted, nil
	case errors.Is(err, broker.ErrConflict):
		return in.known(ctx, queue, m, span, parsed)
	default:
		return "", err
	}
}

// denied rejects what the policy does not allow, unless the same request was
// accepted before the policy changed: then it is known.
func (in *intake) denied(ctx context.Context, queue string, m *sqsqueue.Message, span *telemetry.Span, parsed request.Result, problems []request.Problem) (string, error) {
	stored, err := in.broker.Request(ctx, event.Key(parsed.ID))
	switch first, ok := stored.Data.(*jobsv1.JobRequested); {
	case err == nil && ok && first.GetHash() == parsed.Request.GetHash():
		in.settled(outcomeDuplicate, zerolog.InfoLevel, parsed.ID, parsed.Service, span).Msg("request known already")
		return outcomeDuplicate, nil
	case err != nil && !errors.Is(err, broker.ErrNotFound):
		return "", err
	}
	return in.reject(ctx, queue, m, span, parsed, jobstatus.PolicyDenied, problems)
}

// known tells the same request again from another one under the same id.
func (in *intake) known(ctx context.Context, queue string, m *sqsqueue.Message, span *telemetry.Span, parsed request.Result) (string, error) {
	stored, err := in.broker.Request(ctx, event.Key(parsed.ID))
	if err != nil {
		return "", err
	}
	first, ok := stored.Data.(*jobsv1.JobRequested)
	if ok && first.GetHash() == parsed.Request.GetHash() {
		in.settled(outcomeDuplicate, zerolog.InfoLevel, parsed.ID, parsed.Service, span).Msg("request known already")
		return outcomeDuplicate, nil
	}
	return in.reject(ctx, queue, m, span, parsed, jobstatus.IDReused, []request.Problem{{
		Path: "$.id", Code: "reused", Message: "the id was accepted before with a different request; an id is spent for 15 days",
	}})
}

// reject records the raw message and its reasons, then appends the rejection
// to a log of its own.
func (in *intake) reject(ctx context.Context, queue string, m *sqsqueue.Message, span *telemetry.Span, parsed request.Result, code jobstatus.Code, problems []request.Problem) (string, error) {
	listed := make([]*jobsv1.Problem, 0, len(problems))
	for _, p := range problems {
		listed = append(listed, &jobsv1.Problem{Path: p.Path, Code: p.Code, Message: p.Message})
	}
	logKey := event.RejectedLogKey(parsed.ID, m.Body)
	callback, err := in.wantsCallback(ctx, parsed, code)
	if err != nil {
		return "", err
	}
	if err := in.broker.Refuse(ctx, broker.Refusal{
		Rejection: broker.Rejection{LogKey: logKey, Body: m.Body, ID: parsed.ID, Service: parsed.Service, Webhook: parsed.Webhook, Problems: listed},
		Code:      string(code), Message: request.Sentence(problems), Callback: callback,
		Source: event.SourceOfQueue(in.installation, queue), Trace: traceOf(m), Span: span.Own(), At: time.Now(),
	}); err != nil {
		return "", err
	}
	in.settled(outcomeRejected, zerolog.WarnLevel, parsed.ID, parsed.Service, span).
		Str("code", string(code)).Str("log", logKey).Str("reason", request.Sentence(problems)).Msg("message rejected")
	return outcomeRejected, nil
}

// traceOf is the producer's trace context, where it is one: it becomes a header
// of every callback.
func traceOf(m *sqsqueue.Message) string {
	if !telemetry.IsTraceparent(m.Trace) {
		return ""
	}
	return m.Trace
}

// wantsCallback is true where the id and the webhook can be read and the id is
// nobody's yet: a 99 for an accepted id would tell that its Job failed.
func (in *intake) wantsCallback(ctx context.Context, parsed request.Result, code jobstatus.Code) (bool, error) {
	if code == jobstatus.IDReused || parsed.ID == "" || parsed.Webhook == nil {
		return false, nil
	}
	for _, p := range in.policy().Check(&jobsv1.JobRequested{Service: parsed.Service, Webhook: parsed.Webhook}) {
		if p.Path == request.PathWebhookURL {
			return false, nil // nor may a 99 go where the policy allows no callback
		}
	}
	_, err := in.broker.Request(ctx, event.Key(parsed.ID))
	if errors.Is(err, broker.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// settled counts what became of a message, and begins its one line.
func (in *intake) settled(outcome string, level zerolog.Level, id, service string, span *telemetry.Span) *zerolog.Event {
	in.metrics.messages.WithLabelValues(outcome).Inc()
	line := telemetry.Traced(in.log.WithLevel(level), span.Traceparent())
	if id != "" {
		line = line.Str("id", id).Str("key", event.Key(id))
	}
	return line.Str("service", service)
}
