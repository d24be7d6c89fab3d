package jobstatus_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// TestEvidence: a terminal event has how the Pod ended and the times, as fields;
// what could quote the command is left out.
func TestEvidence(t *testing.T) {
	stamp := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(t0.Add(d)) }
	scheduled := func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at(2 * time.Second)})
	}
	restarted := func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = 4 }
	pod := aPod("a")
	for _, c := range []struct {
		name     string
		job      *batchv1.Job
		pod      *corev1.Pod
		times    *jobsv1.Times
		evidence *jobsv1.Evidence
	}{
		{
			"exit 3", aJob(jobFailed(9 * time.Second)), aPod("a", exited(3, "Error", 8*time.Second), says("out of\nluck"), scheduled, restarted),
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second), ScheduleSeconds: 2, RunSeconds: 7},
			&jobsv1.Evidence{PodId: string(pod.UID), PodName: "a", NodeName: pod.Spec.NodeName, Container: "main", ExitCode: 3, Reason: "Error", RestartCount: 4, TerminationMessage: "out of luck"},
		},
		{
			"queued before", aJob(jobFailed(9*time.Second), annotated(kubejob.AnnotationQueuedAt, "2026-07-01T11:59:58.500Z")), nil,
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second), QueueMilliseconds: new(uint32(1500))}, nil,
		},
		{
			"queued after its creation, by the queue's clock", aJob(jobFailed(9*time.Second), annotated(kubejob.AnnotationQueuedAt, "2026-07-01T12:00:00.700Z")), nil,
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second), QueueMilliseconds: new(uint32(0))}, nil,
		},
		{
			"queued who knows when", aJob(jobFailed(9*time.Second), annotated(kubejob.AnnotationQueuedAt, "yesterday")), nil,
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second)}, nil,
		},
		{
			"start error", aJob(jobFailed(9 * time.Second)), aPod("a", unstarted("StartError", `exec: "/bin/secret": not found`)),
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second)},
			&jobsv1.Evidence{PodId: string(pod.UID), PodName: "a", NodeName: pod.Spec.NodeName, Container: "main", ExitCode: 128, Reason: "StartError", TerminationMessage: `exec: "…": not found`},
		},
		{
			"no Pod", aJob(jobFailed(9 * time.Second)), nil,
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second)}, nil,
		},
		{
			"deleted while it waits", aJob(deleted(time.Minute), func(j *batchv1.Job) { j.Status.StartTime = nil }), aPod("a", waits("ErrImagePull")),
			&jobsv1.Times{CreatedAt: stamp(0), EndedAt: stamp(time.Minute)},
			&jobsv1.Evidence{PodId: string(pod.UID), PodName: "a", NodeName: pod.Spec.NodeName, Container: "main", Reason: "ErrImagePull"},
		},
		{
			"complete", aJob(complete(9 * time.Second)), aPod("a", exited(0, "Completed", 8*time.Second)),
			&jobsv1.Times{CreatedAt: stamp(0), StartedAt: stamp(0), EndedAt: stamp(9 * time.Second), RunSeconds: 7}, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []*corev1.Pod
			if c.pod != nil {
				all = pods(c.pod)
			}
			jobstatus.Trim(c.job) // as the watcher keeps it
			d := jobstatus.Decide(jobstatus.Observe(c.job, all, nil), hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
			if len(d.Events) != 1 {
				t.Fatal(summary(d))
			}
			e := d.Events[0]
			if diff := cmp.Diff(c.times, e.(interface{ GetTimes() *jobsv1.Times }).GetTimes(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			var got *jobsv1.Evidence
			if with, ok := e.(interface{ GetEvidence() *jobsv1.Evidence }); ok {
				got = with.GetEvidence()
			}
			if diff := cmp.Diff(proto.Message(c.evidence), proto.Message(got), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
