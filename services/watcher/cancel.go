package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Outcomes of a cancel, the label of its metric.
const (
	cancelEnded   = "ended"   // there was no Job: the log has its end
	cancelStopped = "stopped" // the Job is marked to be ended
	cancelLate    = "late"    // the job has its end, or is about to
	cancelUnknown = "unknown" // there is no such request
)

// Cancel serves the commands of broker.WatcherCommands; any replica may, whether
// it leads or not. A job without a Job gets its end at once: the launcher then
// launches nothing, and a Job that it was just creating is surplus. A Job is only
// marked with the reason: what follows is the leader's usual look, and where the
// Job ended by itself before, that end counts.
func (w *Watcher) Cancel(ctx context.Context, m broker.Message) error {
	var c broker.Cancel
	if err := json.Unmarshal(m.Data, &c); err != nil {
		return broker.Permanent(fmt.Errorf("cancel: %w", err))
	}
	e, err := w.log.Request(ctx, event.Key(c.ID))
	if errors.Is(err, broker.ErrNotFound) {
		w.metrics.cancels.WithLabelValues(cancelUnknown).Inc()
		w.logger.Warn().Str("id", c.ID).Msg("cancel of an id that is not known")
		return nil
	}
	if err != nil {
		return err
	}
	r, ok := e.Data.(*jobsv1.JobRequested)
	if !ok {
		return broker.Permanent(fmt.Errorf("the request of %s is a %T", c.ID, e.Data))
	}
	for range conflictTries {
		outcome, err := w.cancel(ctx, e, r, jobstatus.CancelReason(c.Reason))
		if errors.Is(err, broker.ErrConflict) || errors.Is(err, errMovedOn) {
			continue // decide again
		}
		if err != nil {
			return err
		}
		w.metrics.cancels.WithLabelValues(outcome).Inc()
		w.logger.Info().Str("id", c.ID).Str("key", e.LogKey).Str("service", r.GetService()).Str("by", c.By).Str("outcome", outcome).Msg("cancel")
		return nil
	}
	return errMovedOn
}

// cancel decides once.
func (w *Watcher) cancel(ctx context.Context, request event.Event, r *jobsv1.JobRequested, reason jobstatus.Reason) (outcome string, err error) {
	tail, err := w.log.Tail(ctx, r.GetService(), request.LogKey)
	if err != nil {
		return "", err
	}
	if tail.Last.Type.Terminal() {
		return cancelLate, nil
	}
	end := &jobsv1.JobException{
		JobName: kubejob.Name(r.GetJob().GetPrefixName(), r.GetId()), Namespace: r.GetJob().GetNamespace(),
		Error: &jobsv1.Error{ErrorCode: string(reason.Code), Message: reason.Message},
	}
	if !tail.Empty() {
		d, ok := tail.Last.Data.(interface {
			GetJobId() string
			GetJobName() string
		})
		if !ok {
			return "", fmt.Errorf("the log of %s ends with a %T", r.GetId(), tail.Last.Data)
		}
		job, err := w.client.BatchV1().Jobs(end.GetNamespace()).Get(ctx, d.GetJobName(), metav1.GetOptions{})
		switch {
		case err == nil && string(job.UID) == d.GetJobId():
			return w.markStopped(ctx, job, reason)
		case err != nil && !apierrors.IsNotFound(err):
			return "", fmt.Errorf("Job %s/%s: %w", end.GetNamespace(), d.GetJobName(), err)
		}
		end.JobId, end.JobName = d.GetJobId(), d.GetJobName() // it is gone: nobody else ends its log
	}
	next, err := event.New(request.LogKey, event.SourceOfNamespace(w.options.Installation, end.GetNamespace()), r.GetId(), 0, w.options.Now(), end)
	if err != nil {
		return "", err
	}
	ctx, span := w.spans(ctx, subject{known: known{service: r.GetService(), id: r.GetId(), trace: request.Trace, span: request.Span}, key: request.LogKey}, next.Type)
	next.Trace, next.Span = request.Trace, span.Own()
	defer func() { span.End(appended(err), err != nil && !errors.Is(err, broker.ErrConflict)) }()
	if _, err := w.log.Append(ctx, r.GetService(), tail, next); err != nil {
		return "", err
	}
	w.metrics.events.WithLabelValues(string(next.Type)).Inc()
	w.metrics.outcome(reason.Code)
	return cancelEnded, nil
}

// markStopped writes the reason on a Job that has no end and no reason yet.
func (w *Watcher) markStopped(ctx context.Context, job *batchv1.Job, reason jobstatus.Reason) (string, error) {
	if jobstatus.Observe(job, nil, nil).Finished() || job.Annotations[kubejob.AnnotationStopReason] != "" {
		return cancelLate, nil
	}
	if err := w.moved(job, w.annotate(ctx, job, kubejob.AnnotationStopReason, jobstatus.FormatReason(reason))); err != nil {
		return "", err
	}
	w.metrics.stops.WithLabelValues(string(reason.Code)).Inc()
	return cancelStopped, nil
}
