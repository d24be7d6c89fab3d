package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "k8s.io/client-go/kubernetes/typed/batch/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

const (
	// decisionAge is how old a reading of the log may be when the create is
	// sent: a process that was frozen in between reads again.
	decisionAge = 10 * time.Second
	// callTimeout bounds one call to the API server.
	callTimeout = 30 * time.Second
	// A parked launch wakes up after a second, then after twice as long each
	// time, up to maxRetry: what it waits for is seen to be over within 5 s. That
	// is cheap however many wait: wakeRate bounds them.
	minRetry = time.Second
	maxRetry = 4 * time.Second
	// maxRetryAfter bounds the wait that the API server may ask for.
	maxRetryAfter = time.Minute
	// lateness is how long after its deadline a parked launch is tried once more,
	// so that its end has a cause; what is woken even later was nobody's for that
	// long.
	lateness = 2 * time.Minute
)

// launcher creates the Job of each request, once.
type launcher struct {
	broker       *broker.Broker
	jobs         batch.JobsGetter
	log          zerolog.Logger
	now          func() time.Time
	installation string
	finalizer    bool          // Jobs are held until their end is recorded
	deadline     time.Duration // from acceptance, where the policy says no other
	policy       func() *request.Policy
	rate         *rate.Limiter // of all launches of this replica
	services     *services
	metrics      *metrics
	spans        *telemetry.Spans
}

// wakeup is the payload of a parked launch.
type wakeup = broker.ParkedLaunch

// requested handles a message of REQUESTS.
func (l *launcher) requested(ctx context.Context, m broker.Message) error {
	e, err := broker.DecodeRequest(m.Header, m.Data)
	if err != nil {
		return broker.Permanent(err)
	}
	return l.launch(ctx, e, wakeup{Key: e.LogKey, Sent: m.Delivered > 1})
}

// woken handles a launch that was parked.
func (l *launcher) woken(ctx context.Context, m broker.Message) error {
	var w wakeup
	if err := json.Unmarshal(m.Data, &w); err != nil {
		return broker.Permanent(fmt.Errorf("wake-up: %w", err))
	}
	e, err := l.broker.Request(ctx, w.Key)
	if errors.Is(err, broker.ErrNotFound) {
		return nil // past its retention
	}
	if err != nil {
		return err
	}
	w.Sent = w.Sent || m.Delivered > 1
	return l.launch(ctx, e, w)
}

// launch brings one request to where its log has an event.
func (l *launcher) launch(ctx context.Context, e event.Event, w wakeup) error {
	r, ok := e.Data.(*jobsv1.JobRequested)
	if !ok {
		return broker.Permanent(fmt.Errorf("%s is no request", e.Type))
	}
	ctx, span := l.spans.Follow(ctx, "launch", trace.SpanKindConsumer, originOf(e),
		telemetry.AttrID.String(r.GetId()), telemetry.AttrKey.String(e.LogKey), telemetry.AttrService.String(r.GetService()))
	// What is written next comes of this span, and so is the trace of its lines.
	if own := span.Own(); own != "" {
		e.Span = own
	}
	err := l.bring(ctx, e, r, w)
	outcome := "settled"
	if err != nil {
		outcome = "again"
	}
	span.End(outcome, false)
	return err
}

// originOf is where the request comes from, for the spans.
func originOf(e event.Event) telemetry.Origin { return telemetry.Origin{Trace: e.Trace, Span: e.Span} }

// bring decides about a request and acts.
func (l *launcher) bring(ctx context.Context, e event.Event, r *jobsv1.JobRequested, w wakeup) error {
	read := l.now()
	tail, err := l.broker.Tail(ctx, r.GetService(), e.LogKey)
	if err != nil {
		return err
	}
	if !tail.Empty() {
		if r.GetAcceptedAt().AsTime().Sub(tail.Last.Time) > spentBefore {
			return l.spent(ctx, e, r)
		}
		l.metrics.launches.WithLabelValues(outcomeKnown).Inc()
		return nil
	}
	var job *batchv1.Job
	if w.Sent {
		if job, err = l.find(ctx, r); err != nil {
			return l.failed(ctx, e, r, tail, w, fmt.Errorf("%w: %w", errLook, err))
		}
		// It may have been and gone, its TTL over: then it must not run again.
		if job == nil {
			begun, err := l.broker.Begun(ctx, r.GetService(), e.LogKey)
			if err != nil {
				return err
			}
			if begun {
				return errTrails
			}
		}
	}
	adopted := job != nil
	if job == nil {
		if left := l.remaining(r); left < 0 && w.Tries == 0 || left < -lateness {
			return l.exception(ctx, e, r, tail, jobstatus.LaunchExpired, "the launch deadline of "+l.deadlineOf(r).String()+" passed before its Job could be tried; send it again under another id")
		}
		// Ingest allowed it; the policy may have changed while it waited.
		if denied := l.policy().Check(r); len(denied) > 0 {
			return l.exception(ctx, e, r, tail, jobstatus.PolicyDenied, "The policy changed after the request was accepted: "+request.Sentence(denied))
		}
		if err := l.hold(ctx, e.LogKey, r, w.Paced); err != nil {
			return l.failed(ctx, e, r, tail, w, err)
		}
		if l.now().Sub(read) > decisionAge {
			return l.failed(ctx, e, r, tail, w, errStale)
		}
		if job, adopted, err = l.create(ctx, r, originOf(e)); err != nil {
			return l.failed(ctx, e, r, tail, w, err)
		}
	}
	return l.started(ctx, e, r, tail, job, adopted)
}

// spentBefore tells a log of an earlier request from a request's own, whose
// events are later than its acceptance by some clock: REQUESTS forgets an id
// after 15 days, and what that id's log says last is then days old.
const spentBefore = 6 * time.Hour

// spent refuses a request whose id has a log of an earlier one: EVENTS keeps it 2
// days longer than REQUESTS knows the id. Nobody waits for a callback: it would
// be for the job that ended days ago.
func (l *launcher) spent(ctx context.Context, e event.Event, r *jobsv1.JobRequested) error {
	body, err := event.DataJSON(e)
	if err != nil {
		return broker.Permanent(err)
	}
	problem := &jobsv1.Problem{Path: "$.id", Code: "reused", Message: "the id had a job before, whose events are kept for 17 days; send it under another id"}
	err = l.broker.Refuse(ctx, broker.Refusal{
		Rejection: broker.Rejection{
			LogKey: event.RejectedLogKey(r.GetId(), body), Body: body, ID: r.GetId(), Service: r.GetService(),
			Webhook: r.GetWebhook(), Problems: []*jobsv1.Problem{problem},
		},
		Code: string(jobstatus.IDReused), Message: problem.GetPath() + " " + problem.GetMessage(),
		Source: e.Source, Trace: e.Trace, Span: e.Span, At: l.now(),
	})
	if err != nil {
		return err
	}
	l.metrics.launches.WithLabelValues(outcomeSpent).Inc()
	l.line(zerolog.WarnLevel, e, r).Msg("the id had a job before; recorded among the rejections")
	return nil
}

// Causes of a failed launch that are not the create's own answer.
var (
	errNameTaken = errors.New("both of its names belong to Jobs of other ids")
	errLook      = errors.New("the Job that may be there cannot be looked at") // says nothing about the create
	errStale     = fmt.Errorf("the log was read more than %s ago", decisionAge)
	errBuild     = errors.New("the Job cannot be built")
	errLog       = errors.New("what the launch depends on cannot be read") // NATS
)

// errTrails has the request delivered again.
var errTrails = errors.New("the log has an event that the replica which was asked does not have yet")

// create sends the Job under its short name, or under its long one where
// another id has that. A Job of this very request is adopted.
func (l *launcher) create(ctx context.Context, r *jobsv1.JobRequested, o telemetry.Origin) (job *batchv1.Job, adopted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, span := l.spans.Within(ctx, "create Job", trace.SpanKindClient, o, attribute.String("k8s.namespace.name", r.GetJob().GetNamespace()))
	defer func() {
		if job != nil {
			span.Set(attribute.String("k8s.job.name", job.Name), attribute.String("k8s.job.uid", string(job.UID)))
		}
		span.End(created(adopted, err), err != nil)
	}()
	jobs := l.jobs.Jobs(r.GetJob().GetNamespace())
	for _, name := range names(r) {
		job, err := kubejob.Build(r, l.installation, name)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", errBuild, err)
		}
		if !l.finalizer {
			job.Finalizers = nil
		}
		kubejob.Lay(job, l.policy().Rules(r.GetService()).JobTemplate)
		if t := span.Traceparent(); t != "" {
			job.Annotations[kubejob.AnnotationTrace] = t
		}
		created, err := jobs.Create(ctx, job, metav1.CreateOptions{})
		if err == nil {
			return created, false, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, false, err
		}
		have, err := jobs.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", errLook, err)
		}
		if kubejob.Matches(have, r, l.installation) {
			return have, true, nil
		}
	}
	return nil, false, errNameTaken
}

func created(adopted bool, err error) string {
	switch {
	case err != nil:
		return "failed"
	case adopted:
		return outcomeAdopted
	}
	return outcomeCreated
}

// find is the Job that an earlier try made, under either name, or nil.
func (l *launcher) find(ctx context.Context, r *jobsv1.JobRequested) (*batchv1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, name := range names(r) {
		have, err := l.jobs.Jobs(r.GetJob().GetNamespace()).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if kubejob.Matches(have, r, l.installation) {
			return have, nil
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

func names(r *jobsv1.JobRequested) []string {
	prefix, id := r.GetJob().GetPrefixName(), r.GetId()
	return []string{kubejob.Name(prefix, id), kubejob.LongName(prefix, id)}
}

// started records the Job. A log that has moved on names either this Job
// (nothing is left to do) or shows that this one is surplus: the watcher
// removes it.
func (l *launcher) started(ctx context.Context, e event.Event, r *jobsv1.JobRequested, tail broker.Tail, job *batchv1.Job, adopted bool) error {
	outcome := outcomeCreated
	if adopted {
		outcome = outcomeAdopted
	}
	next, err := l.event(e, r, jobstatus.Started(job, r))
	if err != nil {
		return err
	}
	_, err = l.broker.Append(ctx, r.GetService(), tail, next)
	if errors.Is(err, broker.ErrConflict) {
		now, err := l.broker.Tail(ctx, r.GetService(), e.LogKey)
		if err != nil {
			return err
		}
		if !about(now.Last, string(job.UID)) {
			outcome = outcomeSurplus
		}
	} else if err != nil {
		return err
	}
	l.metrics.launches.WithLabelValues(outcome).Inc()
	if outcome == outcomeCreated && r.GetQueuedAt().IsValid() {
		l.metrics.age.Reached(telemetry.StepLaunched, r.GetQueuedAt().AsTime(), l.now(), traceOf(e))
	}
	l.line(zerolog.InfoLevel, e, r).Str("namespace", job.Namespace).Str("job", job.Name).Str("outcome", outcome).Msg("job started")
	return nil
}

// about reports whether the event is about the Job with the UID.
func about(e event.Event, uid string) bool {
	d, ok := e.Data.(interface{ GetJobId() string })
	return ok && d.GetJobId() == uid
}

// failed parks the launch where another try may help, and ends the request
// with an exception where none will, or where its time is up.
func (l *launcher) failed(ctx context.Context, e event.Event, r *jobsv1.JobRequested, tail broker.Tail, w wakeup, cause error) error {
	v, wait, known := l.verdict(cause, r)
	if !known {
		return cause // of the log, not of the launch: it is delivered again
	}
	left := l.remaining(r)
	if !v.Retry || left < 0 {
		return l.exception(ctx, e, r, tail, v.Code, v.Message)
	}
	if v.Code == jobstatus.QuotaExceeded && l.policy().Rules(r.GetService()).MaxActive != nil {
		// Its place is for a Job that another namespace has room for.
		if err := l.release(ctx, r.GetService(), e.LogKey); err != nil {
			return err
		}
	}
	var turn *paceError
	paced := errors.As(cause, &turn)
	if !paced {
		wakes := l.services.get(r.GetService()).wakes.ReserveN(l.now(), 1)
		wait = max(wait, retryWait(w.Tries), min(v.RetryAfter, maxRetryAfter), wakes.DelayFrom(l.now()))
	}
	if wait > left { // it ends then, with this cause
		wait, paced = left, false
	}
	// What was held back was not sent, and what a quota refused is not there.
	sent := w.Sent || v.Code != jobstatus.LaunchExpired && v.Code != jobstatus.QuotaExceeded
	payload, err := json.Marshal(wakeup{Key: e.LogKey, Tries: w.Tries + 1, Sent: sent, Paced: paced, Cause: causeOf(cause, v)})
	if err != nil {
		return err
	}
	l.metrics.launches.WithLabelValues(outcomeParked).Inc()
	if w.Tries == 0 {
		l.line(zerolog.WarnLevel, e, r).Str("code", string(v.Code)).Str("cause", v.Message).Msg("launch is parked and tried again")
	}
	return broker.RetryAfter(wait, broker.Wakeup{Purpose: broker.PurposeLaunch, Token: e.LogKey, Payload: payload}, cause)
}

// causeOf is what a parked launch says of itself: nothing of the API server's text.
func causeOf(cause error, v cluster.Verdict) string {
	var turn *paceError
	if errors.Is(cause, errPaused) || errors.Is(cause, errFull) || errors.As(cause, &turn) {
		return cause.Error()
	}
	return string(v.Code)
}

// deadlineOf is how long the request may wait, from its acceptance.
func (l *launcher) deadlineOf(r *jobsv1.JobRequested) time.Duration {
	if d := l.policy().Rules(r.GetService()).LaunchDeadline; d != nil {
		return d.Duration
	}
	return l.deadline
}

// remaining is how long the request may still wait; below 0: its time is up.
func (l *launcher) remaining(r *jobsv1.JobRequested) time.Duration {
	return r.GetAcceptedAt().AsTime().Add(l.deadlineOf(r)).Sub(l.now())
}

// exception ends a request that gets no Job.
func (l *launcher) exception(ctx context.Context, e event.Event, r *jobsv1.JobRequested, tail broker.Tail, code jobstatus.Code, message string) error {
	next, err := l.event(e, r, &jobsv1.JobException{
		JobName: kubejob.Name(r.GetJob().GetPrefixName(), r.GetId()), Namespace: r.GetJob().GetNamespace(),
		Error: &jobsv1.Error{ErrorCode: string(code), Message: message},
	})
	if err != nil {
		return err
	}
	if _, err := l.broker.Append(ctx, r.GetService(), tail, next); err != nil {
		return err // a conflict is decided again on redelivery
	}
	l.metrics.launches.WithLabelValues(outcomeException).Inc()
	l.line(zerolog.WarnLevel, e, r).Str("namespace", r.GetJob().GetNamespace()).
		Str("job", kubejob.Name(r.GetJob().GetPrefixName(), r.GetId())).Str("code", string(code)).Str("cause", message).Msg("job not created")
	return nil
}

// verdict is what the cause means for the request, and how long it must wait at
// least where the cause says so. It is not known of what is no fault of the
// launch.
func (l *launcher) verdict(cause error, r *jobsv1.JobRequested) (v cluster.Verdict, wait time.Duration, known bool) {
	var turn *paceError
	waits := func(text string) cluster.Verdict {
		return cluster.Verdict{Retry: true, Code: jobstatus.LaunchExpired, Message: text + " until the launch deadline of " + l.deadlineOf(r).String() + "; send it again under another id."}
	}
	switch {
	case errors.Is(cause, errPaused):
		return waits("The operator paused service " + r.GetService()), 0, true
	case errors.Is(cause, errFull):
		return waits("As many Jobs of service " + r.GetService() + " ran as its maxActive allows"), 0, true
	case errors.As(cause, &turn):
		return waits("More Jobs were asked for than the rate of launches allows"), turn.wait, true
	case errors.Is(cause, errLook), errors.Is(cause, errStale), errors.Is(cause, errSwap):
		return cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, Message: "The API server was not available until the launch deadline."}, 0, true
	case errors.Is(cause, errBuild): // what was accepted can be built
		return cluster.Verdict{Code: jobstatus.InternalError, Message: "The accepted request could not be made into a Job; this is a defect of jobrelay."}, 0, true
	case errors.Is(cause, errNameTaken):
		return cluster.Verdict{Code: jobstatus.NameConflict, Message: errNameTaken.Error() + "; send the request with another id or prefixName"}, 0, true
	case errors.Is(cause, errLog):
		return cluster.Verdict{}, 0, false
	}
	return cluster.Classify(cause), 0, true
}

func (l *launcher) event(e event.Event, r *jobsv1.JobRequested, data proto.Message) (event.Event, error) {
	next, err := event.New(e.LogKey, event.SourceOfNamespace(l.installation, r.GetJob().GetNamespace()), r.GetId(), 0, l.now(), data)
	next.Trace, next.Span = e.Trace, e.Span
	return next, err
}

// line begins the one line of an outcome.
func (l *launcher) line(level zerolog.Level, e event.Event, r *jobsv1.JobRequested) *zerolog.Event {
	return telemetry.Traced(l.log.WithLevel(level), traceOf(e)).Str("id", r.GetId()).Str("key", e.LogKey).Str("service", r.GetService())
}

// traceOf is the producer's traceparent, else that of who wrote the message.
func traceOf(e event.Event) string {
	if e.Trace != "" {
		return e.Trace
	}
	return e.Span
}

// retryWait doubles from minRetry to maxRetry, varied by a fifth.
func retryWait(tries int) time.Duration {
	d := minRetry << min(tries, 6)
	return time.Duration(float64(min(d, maxRetry)) * (0.8 + 0.4*rand.Float64()))
}
