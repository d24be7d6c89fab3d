package watcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// errMovedOn means that the decision was made on what is no longer so: look
// again. It is nothing to report.
var errMovedOn = errors.New("the job has moved on")

// conflictTries bounds the decisions of one look whose append conflicted.
const conflictTries = 5

// reconcile looks at one Job and does what is missing. It returns when to look
// again though nothing changes; zero: no need.
func (w *Watcher) reconcile(ctx context.Context, uid types.UID) (time.Time, error) {
	job, pods, vanished, err := w.view.seen(uid)
	if err != nil || job == nil {
		return time.Time{}, err
	}
	if vanished {
		if err := w.lookBack(ctx, job, pods); err != nil {
			return time.Time{}, err
		}
		w.view.forget(uid)
		return time.Time{}, nil
	}
	for range conflictTries {
		again, err := w.look(ctx, job, pods)
		if !errors.Is(err, broker.ErrConflict) {
			return again, err
		}
		w.view.doubt(uid)
	}
	return time.Time{}, errMovedOn
}

// look decides once and acts. broker.ErrConflict: the log was not what the
// decision was made on.
func (w *Watcher) look(ctx context.Context, job *batchv1.Job, pods []*corev1.Pod) (time.Time, error) {
	gone := w.view.gone.Of(job.UID)
	o := jobstatus.Observe(job, pods, gone)
	s, err := w.subject(ctx, job)
	if err != nil {
		w.metrics.errors.WithLabelValues(operationLog).Inc()
		return time.Time{}, err
	}
	if !s.ours {
		return time.Time{}, w.orphan(ctx, o, job, s)
	}
	d := jobstatus.Decide(o, s.log, s.request, w.options.Now(), w.deadlines(s.service))
	if d.Blind(o, s.log) {
		if pods, err = w.listPods(ctx, job); err != nil {
			return time.Time{}, err
		}
		o = jobstatus.Observe(job, pods, gone)
		d = jobstatus.Decide(o, s.log, s.request, w.options.Now(), w.deadlines(s.service))
	}
	if d.Nothing() && o.Over(s.log) {
		w.view.forget(job.UID)
		return time.Time{}, nil
	}
	d = w.withLogTail(ctx, job, o, w.refine(ctx, job, pods, o, d))
	if err := w.append(ctx, job, s, d); err != nil {
		return time.Time{}, err
	}
	return d.LookAt, w.act(ctx, job, s, d)
}

// lookBack gives a Job that is gone its end, where its log has none.
func (w *Watcher) lookBack(ctx context.Context, job *batchv1.Job, pods []*corev1.Pod) error {
	s, err := w.subject(ctx, job)
	if err != nil {
		w.metrics.errors.WithLabelValues(operationLog).Inc()
		return err
	}
	if !s.ours {
		return nil
	}
	o := jobstatus.Observe(job, pods, w.view.gone.Of(job.UID))
	d := jobstatus.Vanished(o, s.log, s.request, w.options.Now(), w.deadlines(s.service))
	err = w.append(ctx, job, s, w.withLogTail(ctx, job, o, w.refine(ctx, job, pods, o, d)))
	if errors.Is(err, broker.ErrConflict) {
		w.view.doubt(job.UID)
		return errMovedOn
	}
	return err
}

// maxEvents bounds the Events that are read of one object.
const maxEvents = 100

// refine looks for what the decision asks for. What cannot be had, for want of a
// permission or of an answer, refines nothing.
func (w *Watcher) refine(ctx context.Context, job *batchv1.Job, pods []*corev1.Pod, o jobstatus.Observation, d jobstatus.Decision) jobstatus.Decision {
	var e jobstatus.Evidence
	switch {
	case d.AsksEvents():
		for _, uid := range append([]types.UID{job.UID}, uids(pods)...) {
			list, err := w.client.CoreV1().Events(job.Namespace).List(ctx, metav1.ListOptions{
				FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(uid)).String(), Limit: maxEvents,
			})
			if err != nil {
				w.logger.Warn().Err(err).Str("namespace", job.Namespace).Str("job", job.Name).Msg("Events are not read: the cause stays general")
				return d
			}
			e.Events = append(e.Events, list.Items...)
		}
	case d.AsksNamespace():
		ns, err := w.client.CoreV1().Namespaces().Get(ctx, job.Namespace, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			e.NamespaceDeleted = w.options.Now()
		case err != nil:
			w.logger.Warn().Err(err).Str("namespace", job.Namespace).Str("job", job.Name).Msg("the namespace is not read: the cause stays general")
		case ns.DeletionTimestamp != nil:
			e.NamespaceDeleted = ns.DeletionTimestamp.Time
		}
	default:
		return d
	}
	return jobstatus.Refine(o, d, e)
}

// maxPodsAsked bounds the Pods whose Events are read.
const maxPodsAsked = 3

func uids(pods []*corev1.Pod) (out []types.UID) {
	for _, p := range pods[:min(len(pods), maxPodsAsked)] {
		out = append(out, p.UID)
	}
	return out
}

// deadlines are those of a service: the policy's where it has some.
func (w *Watcher) deadlines(service string) jobstatus.Deadlines {
	d := w.options.Deadlines
	p := w.options.Policy().Rules(service).StartDeadlines
	if p == nil {
		return d
	}
	set := func(own *time.Duration, policy *metav1.Duration) {
		if policy != nil {
			*own = policy.Duration
		}
	}
	set(&d.Start, p.Start)
	set(&d.ImagePull, p.ImagePull)
	set(&d.Unstartable, p.Unstartable)
	return d
}

// maxListed bounds the Pods that are read of one Job, the first ones.
const maxListed = 500

// listPods reads a Job's Pods from the API, past the cache.
func (w *Watcher) listPods(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	list, err := w.client.CoreV1().Pods(job.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{batchv1.ControllerUidLabel: string(job.UID)}.String(), Limit: maxListed,
	})
	if err != nil {
		return nil, fmt.Errorf("Pods of Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	var pods []*corev1.Pod
	for i := range list.Items {
		jobstatus.Trim(&list.Items[i])
		pods = append(pods, &list.Items[i])
	}
	return pods, nil
}

// subject is the job that a Job is of, as its log and its request say.
type subject struct {
	known

	ours    bool
	unknown bool // there is no request of that key
	key     string
	request *jobsv1.JobRequested // read only where the log is empty, or is about another Job
}

// subject reads the log of the key that the Job carries. A label alone proves
// nothing: the Job is ours where the log names its UID, else where the request
// exists and describes it. The service too is the request's word.
func (w *Watcher) subject(ctx context.Context, job *batchv1.Job) (subject, error) {
	s := subject{key: keyOf(job), known: known{id: job.Annotations[kubejob.AnnotationID]}}
	if s.key == "" {
		s.unknown = true
		return s, nil
	}
	if k, ok := w.view.log(job.UID); ok {
		s.known = k
	} else if err := w.read(ctx, &s, job.Labels[kubejob.LabelApp]); err != nil {
		return s, err
	}
	s.ours = s.sequence > 0 && s.log.JobID == job.UID
	if !s.ours {
		if err := w.claim(ctx, job, &s); err != nil {
			return s, err
		}
	}
	if s.ours {
		w.view.remember(job.UID, s.known)
	}
	return s, nil
}

// keyOf is the key that a Job says to be of; empty: none.
func keyOf(job *batchv1.Job) string {
	key, id := job.Labels[kubejob.LabelKey], job.Annotations[kubejob.AnnotationID]
	if key == "" && id != "" {
		return event.Key(id)
	}
	return key
}

// read takes the end of the log of a service.
func (w *Watcher) read(ctx context.Context, s *subject, service string) error {
	tail, err := w.log.Tail(ctx, service, s.key)
	if err == nil {
		id := s.id
		if s.known = knownOf(service, tail); tail.Empty() {
			s.id = id
		}
	}
	return err
}

// claim asks the request whether the Job is its own.
func (w *Watcher) claim(ctx context.Context, job *batchv1.Job, s *subject) error {
	e, err := w.log.Request(ctx, s.key)
	if errors.Is(err, broker.ErrNotFound) {
		s.unknown = true
		return nil
	}
	if err != nil {
		return err
	}
	r, ok := e.Data.(*jobsv1.JobRequested)
	if !ok {
		return fmt.Errorf("the request of key %s is a %T", s.key, e.Data)
	}
	if !w.named(job, r) {
		return nil
	}
	if s.service != r.GetService() { // the Job's label was changed
		if err := w.read(ctx, s, r.GetService()); err != nil {
			return err
		}
	}
	s.ours, s.request, s.id, s.trace = true, r, r.GetId(), e.Trace
	if s.span == "" {
		s.span = e.Span
	}
	return nil
}

func (w *Watcher) named(job *batchv1.Job, r *jobsv1.JobRequested) bool {
	prefix := r.GetJob().GetPrefixName()
	return kubejob.Matches(job, r, w.options.Installation) &&
		(job.Name == kubejob.Name(prefix, r.GetId()) || job.Name == kubejob.LongName(prefix, r.GetId()))
}

// append writes the decision's events, each after the one before.
func (w *Watcher) append(ctx context.Context, job *batchv1.Job, s subject, d jobstatus.Decision) error {
	source := event.SourceOfNamespace(w.options.Installation, job.Namespace)
	for _, data := range d.Events {
		e, err := event.New(s.key, source, s.id, 0, w.options.Now(), data)
		if err != nil {
			return err
		}
		ctx, span := w.spans(ctx, s, e.Type)
		e.Trace, e.Span = s.trace, span.Own()
		tail, err := w.log.Append(ctx, s.service, s.tail(), e)
		span.End(appended(err), err != nil && !errors.Is(err, broker.ErrConflict))
		if err != nil {
			if !errors.Is(err, broker.ErrConflict) {
				w.view.doubt(job.UID)
				w.metrics.errors.WithLabelValues(operationLog).Inc()
			}
			return err
		}
		s.move(tail)
		w.view.remember(job.UID, s.known)
		w.metrics.events.WithLabelValues(string(e.Type)).Inc()
		if e.Type.Terminal() {
			w.metrics.outcome(d.Reason.Code)
			if sent, err := time.Parse(time.RFC3339, job.Annotations[kubejob.AnnotationQueuedAt]); err == nil {
				w.metrics.age.Reached(telemetry.StepEnded, sent, e.Time, span.Traceparent())
			}
			w.line(job, s).Str("type", string(e.Type)).Str("code", string(d.Reason.Code)).Msg("job ended")
		}
	}
	return nil
}

// spans begins the span of an event that is appended behind s.
func (w *Watcher) spans(ctx context.Context, s subject, t event.Type) (context.Context, *telemetry.Span) {
	return w.options.Spans.Follow(ctx, "record", trace.SpanKindProducer, telemetry.Origin{Trace: s.trace, Span: s.span},
		telemetry.AttrID.String(s.id), telemetry.AttrKey.String(s.key), telemetry.AttrService.String(s.service),
		attribute.String("cloudevents.event_type", string(t)))
}

func appended(err error) string {
	switch {
	case err == nil:
		return "recorded"
	case errors.Is(err, broker.ErrConflict):
		return "conflict"
	}
	return "failed"
}
