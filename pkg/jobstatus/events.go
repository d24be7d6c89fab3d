package jobstatus

import (
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Event is the data of an event, one of the messages of package jobsv1.
type Event = proto.Message

// Started is the event of a Job that exists, from the Job and its request.
// Both who created the Job and who finds it build it here, so that it is the
// same.
func Started(job *batchv1.Job, r *jobsv1.JobRequested) *jobsv1.JobStarted {
	var queued uint32
	if r.GetQueuedAt().IsValid() {
		queued = queueMilliseconds(job, r.GetQueuedAt().AsTime())
	}
	return &jobsv1.JobStarted{
		JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace,
		Service: r.GetService(), Image: r.GetJob().GetImage(), Resources: r.GetJob().GetResources(),
		QueueMilliseconds: queued,
	}
}

// queueMilliseconds is from the queue's receipt to the Job's creation, which
// Kubernetes gives in whole seconds; never below 0.
func queueMilliseconds(job *batchv1.Job, queuedAt time.Time) uint32 {
	return unsigned(job.CreationTimestamp.Sub(queuedAt).Milliseconds())
}

func podStarted(job *batchv1.Job, p *corev1.Pod) *jobsv1.PodStarted {
	return &jobsv1.PodStarted{
		JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace,
		PodId: string(p.UID), PodName: p.Name, NodeName: p.Spec.NodeName,
	}
}

// completed has the whole seconds from the Job's start to its completion, or,
// where Kubernetes did not get to write that, to the decision that it is one.
func completed(o Observation, c *batchv1.JobCondition) *jobsv1.JobCompleted {
	job, end := o.job, c.LastTransitionTime.Time
	if job.Status.CompletionTime != nil {
		end = job.Status.CompletionTime.Time
	}
	var ran time.Duration
	if job.Status.StartTime != nil {
		ran = end.Sub(job.Status.StartTime.Time)
	}
	return &jobsv1.JobCompleted{
		JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace,
		DurationSeconds: unsigned(int64(ran / time.Second)), Times: times(o, end),
	}
}

func failed(o Observation, c *batchv1.JobCondition, r Reason) *jobsv1.JobFailed {
	return &jobsv1.JobFailed{
		JobId: string(o.job.UID), JobName: o.job.Name, Namespace: o.job.Namespace,
		Error: r.proto(), Times: times(o, c.LastTransitionTime.Time), Evidence: evidence(o, r.Code),
	}
}

func exception(o Observation, r Reason) *jobsv1.JobException {
	var end time.Time
	if o.Deleting() {
		end = o.job.DeletionTimestamp.Time
	}
	return &jobsv1.JobException{
		JobId: string(o.job.UID), JobName: o.job.Name, Namespace: o.job.Namespace,
		Error: r.proto(), Times: times(o, end), Evidence: evidence(o, r.Code),
	}
}

// times are those of the Job and of the first Pod that ran.
func times(o Observation, end time.Time) *jobsv1.Times {
	out := &jobsv1.Times{CreatedAt: stamp(o.job.CreationTimestamp.Time), EndedAt: stamp(end)}
	if at, err := time.Parse(time.RFC3339, o.job.Annotations[kubejob.AnnotationQueuedAt]); err == nil {
		out.QueueMilliseconds = new(queueMilliseconds(o.job, at))
	}
	if o.job.Status.StartTime != nil {
		out.StartedAt = stamp(o.job.Status.StartTime.Time)
	}
	if o.ran == nil {
		return out
	}
	if c := podCondition(o.ran, corev1.PodScheduled, corev1.ConditionTrue); c != nil {
		out.ScheduleSeconds = seconds(o.ran.CreationTimestamp.Time, c.LastTransitionTime.Time)
	}
	if s := statusOf(o.ran, mainContainer(o.job)); s != nil && started(s.State.Terminated) {
		out.RunSeconds = seconds(s.State.Terminated.StartedAt.Time, s.State.Terminated.FinishedAt.Time)
	}
	return out
}

// witness is the Pod that tells why the Job failed, else the youngest, and the
// container of it that tells most; nil where there is none.
func witness(o Observation) (*corev1.Pod, *corev1.ContainerStatus) {
	p := o.failed
	if all := byCreation(append(append([]*corev1.Pod(nil), o.pods...), o.gone...)); p == nil && len(all) > 0 {
		p = all[len(all)-1]
	}
	if p == nil {
		return nil, nil
	}
	s := failedContainer(p, mainContainer(o.job))
	if s == nil {
		s = failedInit(p)
	}
	if s == nil {
		s = statusOf(p, mainContainer(o.job))
	}
	return p, s
}

// evidence is how the witness was last seen; nil where there is none.
func evidence(o Observation, code Code) *jobsv1.Evidence {
	p, s := witness(o)
	if p == nil {
		return nil
	}
	out := &jobsv1.Evidence{PodId: string(p.UID), PodName: p.Name, NodeName: p.Spec.NodeName, Reason: quote(p.Status.Reason, maxQuote)}
	if s == nil {
		return out
	}
	out.Container, out.RestartCount = s.Name, unsigned(int64(s.RestartCount))
	if t := s.State.Terminated; t != nil {
		out.ExitCode, out.Signal = t.ExitCode, t.Signal
		out.TerminationMessage = terminationMessage(code, t)
		if t.Reason != "" {
			out.Reason = quote(t.Reason, maxQuote)
		}
	} else if w := s.State.Waiting; w != nil {
		out.Reason = quote(w.Reason, maxQuote)
	}
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func seconds(from, to time.Time) uint32 { return unsigned(int64(to.Sub(from) / time.Second)) }

func (r Reason) proto() *jobsv1.Error {
	return &jobsv1.Error{ErrorCode: string(r.Code), Message: r.Message}
}

// JobID is the UID of the Job that an event is about; empty where the event is
// about none.
func JobID(e Event) types.UID {
	if m, ok := e.(interface{ GetJobId() string }); ok {
		return types.UID(m.GetJobId())
	}
	return ""
}

func unsigned(n int64) uint32 { return uint32(max(0, min(n, math.MaxUint32))) }
