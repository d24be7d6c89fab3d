package jobstatus

import (
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Event is the data of an event, one of the messages of package jobsv1.
type Event = proto.Message

// Started is the event of a Job that exists, from the Job and its request.
// Both who created the Job and who finds it build it here, so that it is the
// same. Queue time is that from the queue's receipt to the Job's creation,
// which Kubernetes gives in whole seconds; never below 0.
func Started(job *batchv1.Job, r *jobsv1.JobRequested) *jobsv1.JobStarted {
	var queued time.Duration
	if r.GetQueuedAt().IsValid() {
		queued = job.CreationTimestamp.Sub(r.GetQueuedAt().AsTime())
	}
	return &jobsv1.JobStarted{
		JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace,
		Service: r.GetService(), Image: r.GetJob().GetImage(), Resources: r.GetJob().GetResources(),
		QueueMilliseconds: unsigned(queued.Milliseconds()),
	}
}

func podStarted(job *batchv1.Job, p *corev1.Pod) *jobsv1.PodStarted {
	return &jobsv1.PodStarted{
		JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace,
		PodId: string(p.UID), PodName: p.Name, NodeName: p.Spec.NodeName,
	}
}

// completed has the whole seconds from the Job's start to its completion, or,
// where Kubernetes did not get to write that, to the decision that it is one.
func completed(job *batchv1.Job, c *batchv1.JobCondition) *jobsv1.JobCompleted {
	end := c.LastTransitionTime.Time
	if job.Status.CompletionTime != nil {
		end = job.Status.CompletionTime.Time
	}
	var ran time.Duration
	if job.Status.StartTime != nil {
		ran = end.Sub(job.Status.StartTime.Time)
	}
	return &jobsv1.JobCompleted{
		JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace,
		DurationSeconds: unsigned(int64(ran / time.Second)),
	}
}

func failed(job *batchv1.Job, r Reason) *jobsv1.JobFailed {
	return &jobsv1.JobFailed{JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace, Error: r.proto()}
}

func exception(job *batchv1.Job, r Reason) *jobsv1.JobException {
	return &jobsv1.JobException{JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace, Error: r.proto()}
}

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
