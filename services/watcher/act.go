package watcher

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rs/zerolog"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// act does the decision's step. errMovedOn: the Job was not what the decision
// was made on, and nothing was done.
func (w *Watcher) act(ctx context.Context, job *batchv1.Job, s subject, d jobstatus.Decision) error {
	var err error
	switch d.Step {
	case jobstatus.StepNone:
	case jobstatus.StepMark:
		err = w.annotate(ctx, job, kubejob.AnnotationNotStarting, d.Value)
	case jobstatus.StepStop:
		if err = w.annotate(ctx, job, kubejob.AnnotationStopReason, d.Value); err == nil {
			w.metrics.stops.WithLabelValues(string(d.Reason.Code)).Inc()
			w.line(job, s).Str("code", string(d.Reason.Code)).Msg("job is being ended")
		}
	case jobstatus.StepDelete:
		if err = w.remove(ctx, job); err == nil && d.Surplus {
			w.metrics.surplus.Inc()
			w.line(job, s).Str("uid", string(job.UID)).Msg("surplus job deleted: its log has ended or is about another Job")
		}
	case jobstatus.StepRelease:
		err = cluster.Release(ctx, w.client, job)
	}
	return w.moved(job, err)
}

// orphan releases a Job that has our finalizer and is not ours, for it has no
// request or is a copy of a Job that has, once it has ended or is being deleted:
// nobody else would. Any other Job that is not ours is left alone.
func (w *Watcher) orphan(ctx context.Context, o jobstatus.Observation, job *batchv1.Job, s subject) error {
	if !o.Owned() || !o.Finished() && !o.Deleting() {
		return nil
	}
	err := cluster.Release(ctx, w.client, job)
	if err == nil && s.unknown {
		w.metrics.outcome(jobstatus.OutcomeUnknown)
		w.line(job, s).Str("code", string(jobstatus.OutcomeUnknown)).Msg("job without a request released")
	}
	return w.moved(job, err)
}

// moved sorts the errors of a write to a Job. One that is gone needs nothing;
// one that changed (409; 422 for a patch's failed test) is looked at again.
func (w *Watcher) moved(job *batchv1.Job, err error) error {
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err), apierrors.IsInvalid(err):
		return errMovedOn
	}
	w.metrics.errors.WithLabelValues(operationJob).Inc()
	return fmt.Errorf("Job %s/%s: %w", job.Namespace, job.Name, err)
}

// annotate writes an annotation on the Job as it was seen.
func (w *Watcher) annotate(ctx context.Context, job *batchv1.Job, name, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": job.UID, "resourceVersion": job.ResourceVersion, "annotations": map[string]string{name: value},
	}})
	if err != nil {
		return err
	}
	_, err = w.client.BatchV1().Jobs(job.Namespace).Patch(ctx, job.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// remove deletes the Job as it was seen, in the foreground: its Pods go first.
func (w *Watcher) remove(ctx context.Context, job *batchv1.Job) error {
	foreground := metav1.DeletePropagationForeground
	return w.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
		PropagationPolicy: &foreground,
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	})
}

// line begins the one line of an outcome.
func (w *Watcher) line(job *batchv1.Job, s subject) *zerolog.Event {
	trace := s.trace
	if trace == "" {
		trace = s.span
	}
	return telemetry.Traced(w.logger.Info(), trace).Str("id", s.id).Str("key", s.key).Str("service", s.service).
		Str("namespace", job.Namespace).Str("job", job.Name)
}
