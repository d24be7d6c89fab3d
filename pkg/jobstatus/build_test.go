package jobstatus_test

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// t0 is when every Job of these tests is created and started.
var t0 = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) metav1.Time { return metav1.NewTime(t0.Add(d)) }

func request() *jobsv1.JobRequested {
	return &jobsv1.JobRequested{
		Id: "id", Service: "svc", Job: &jobsv1.Job{Namespace: "ns", Image: "tool:1", Resources: &jobsv1.Resources{}},
		QueuedAt: timestamppb.New(t0.Add(-1500 * time.Millisecond)),
	}
}

// aJob is a running Job that our finalizer holds, changed by the options.
func aJob(options ...func(*batchv1.Job)) *batchv1.Job {
	start := at(0)
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: "job", Namespace: "ns", UID: "job-uid", CreationTimestamp: at(0),
			Finalizers: []string{kubejob.Finalizer}, Annotations: map[string]string{kubejob.AnnotationID: "id"},
		},
		Spec: batchv1.JobSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}},
		},
		Status: batchv1.JobStatus{StartTime: &start, Active: 1},
	}
	for _, o := range options {
		o(j)
	}
	return j
}

func condition(t batchv1.JobConditionType, reason string, after time.Duration) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{
			Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: "as Kubernetes says", LastTransitionTime: at(after),
		})
	}
}

func complete(after time.Duration) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		condition(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, after)(j)
		end := at(after)
		j.Status.CompletionTime, j.Status.Succeeded = &end, 1
	}
}

func jobFailed(after time.Duration) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		condition(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, after)(j)
		j.Status.Failed = 1
	}
}

func deleted(after time.Duration, finalizers ...string) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		d := at(after)
		j.DeletionTimestamp = &d
		j.Finalizers = append(j.Finalizers, finalizers...)
	}
}

func annotated(name, value string) func(*batchv1.Job) {
	return func(j *batchv1.Job) { j.Annotations[name] = value }
}

// aPod is a Pod on node n that waits for its container, changed by the options.
func aPod(name string, options ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name + "-uid"), CreationTimestamp: at(0)},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	waits("ContainerCreating")(p)
	for _, o := range options {
		o(p)
	}
	return p
}

func state(s corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: s}}
	}
}

func waits(reason string) func(*corev1.Pod) {
	return state(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "why it waits"}})
}

func running(p *corev1.Pod) {
	p.Status.Phase = corev1.PodRunning
	state(corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(time.Second)}})(p)
}

// exited is the end of a container that ran from second 1 to after.
func exited(code int32, reason string, after time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		if code == 0 {
			p.Status.Phase = corev1.PodSucceeded
		}
		state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, StartedAt: at(time.Second), FinishedAt: at(after),
		}})(p)
	}
}

// unstarted is the end of a container that never ran: startedAt is 1970.
func unstarted(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 128, Reason: reason, Message: message, StartedAt: metav1.Unix(0, 0), FinishedAt: at(2 * time.Second),
		}})(p)
	}
}

func says(message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Terminated.Message = message }
}

func podDeleted(asked time.Duration, grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		d := at(asked + time.Duration(grace)*time.Second)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &d, &grace
	}
}

func disruptedBy(reason string, after time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: "as it says", LastTransitionTime: at(after),
		})
	}
}

func unscheduled(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.NodeName = ""
		p.Status.ContainerStatuses = nil
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: "0/2 nodes are available",
		}}
	}
}

func podReason(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, reason, "what the node says"
	}
}

func created(after time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.CreationTimestamp = at(after) }
}

func pods(p ...*corev1.Pod) []*corev1.Pod { return p }
