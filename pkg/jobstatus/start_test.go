package jobstatus_test

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

func TestStartDeadlines(t *testing.T) {
	marked := func(v string) func(*batchv1.Job) { return annotated(kubejob.AnnotationNotStarting, v) }
	pull := marked("image-pull@2026-07-01T12:01:00Z") // at minute 1
	suspended := func(j *batchv1.Job) { j.Status.StartTime = nil }
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pod  *corev1.Pod
		now  time.Duration
		want string
		look time.Duration
	}{
		{"first sight", aJob(), aPod("a", waits("ErrImagePull")), time.Minute, "mark image-pull@2026-07-01T12:01:00Z", 6 * time.Minute},
		{"the reason flaps", aJob(pull), aPod("a", waits("ImagePullBackOff")), 2 * time.Minute, "", 6 * time.Minute},
		{"back to creating", aJob(pull), aPod("a"), 2 * time.Minute, "", 6 * time.Minute},
		{"image pull deadline", aJob(pull), aPod("a", waits("ImagePullBackOff")), 6 * time.Minute, "stop IMAGE_PULL_FAILED", 0},
		{"image pull deadline, while it flaps", aJob(pull), aPod("a"), 6 * time.Minute, "stop IMAGE_PULL_FAILED", 0},
		{"it runs after all", aJob(pull), aPod("a", running), 6 * time.Minute, "pod-started:a", 0},
		{"another cause", aJob(pull), aPod("a", waits("CreateContainerConfigError")), 2 * time.Minute, "mark image-pull@2026-07-01T12:01:00Z,container-config@2026-07-01T12:02:00Z", 3 * time.Minute},
		{"bad name", aJob(marked("image-name@2026-07-01T12:01:00Z")), aPod("a", waits("InvalidImageName")), 2 * time.Minute, "stop IMAGE_NAME_INVALID", 0},
		{"never pull", aJob(marked("image-not-present@2026-07-01T12:01:00Z")), aPod("a", waits("ErrImageNeverPull")), 2 * time.Minute, "stop IMAGE_NOT_PRESENT", 0},
		{"config", aJob(marked("container-config@2026-07-01T12:01:00Z")), aPod("a", waits("CreateContainerConfigError")), 2 * time.Minute, "stop CONTAINER_CONFIG_ERROR", 0},
		{"a mark by hand", aJob(marked("nonsense@yesterday")), aPod("a", waits("ErrImagePull")), time.Minute, "mark image-pull@2026-07-01T12:01:00Z", 6 * time.Minute},
		{"start deadline", aJob(), aPod("a"), 30 * time.Minute, "stop START_TIMEOUT", 0},
		{"no pod at all", aJob(), nil, 30 * time.Minute, "stop START_TIMEOUT", 0},
		{"unschedulable", aJob(), aPod("a", unscheduled("Unschedulable")), 30 * time.Minute, "stop UNSCHEDULABLE", 0},
		{"gated", aJob(), aPod("a", unscheduled("SchedulingGated")), 30 * time.Minute, "stop SCHEDULING_GATED", 0},
		{"create error", aJob(), aPod("a", waits("CreateContainerError")), 30 * time.Minute, "stop CONTAINER_CREATE_FAILED", 0},
		{"the earliest deadline counts", aJob(marked("image-pull@2026-07-01T12:29:00Z")), aPod("a", waits("ErrImagePull")), 29 * time.Minute, "", 30 * time.Minute},
		{"no claim", aJob(), aPod("a", unscheduled("Unschedulable"), func(p *corev1.Pod) {
			p.Status.Conditions[len(p.Status.Conditions)-1].Message = `0/2 nodes are available: persistentvolumeclaim "ps-pvc" not found.`
		}), 30 * time.Minute, "stop VOLUME_NOT_FOUND", 0},
		{"suspended", aJob(suspended), nil, 48 * time.Hour, "", 11 * 24 * time.Hour},
		{"suspended for too long", aJob(suspended), nil, 11 * 24 * time.Hour, "stop START_TIMEOUT", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []*corev1.Pod
			if c.pod != nil {
				all = pods(c.pod)
			}
			d := jobstatus.Decide(jobstatus.Observe(c.job, all, nil), hasStarted, nil, t0.Add(c.now), jobstatus.DefaultDeadlines())
			if got := summary(d); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.look != 0 && !d.LookAt.Equal(t0.Add(c.look)) || c.look == 0 && !d.LookAt.IsZero() {
				t.Errorf("look at %s, want %s after the start", d.LookAt, c.look)
			}
		})
	}
}

// The reason is on the Job before anything is done, and is read back as it was.
func TestStopReasonOnTheJob(t *testing.T) {
	d := jobstatus.Decide(jobstatus.Observe(aJob(), pods(aPod("a", unscheduled("Unschedulable"))), nil), hasStarted, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
	for _, part := range []string{"Nothing ran for 30m0s", "pod a is not scheduled", "0/2 nodes are available."} {
		if !strings.Contains(d.Reason.Message, part) {
			t.Errorf("message %q lacks %q", d.Reason.Message, part)
		}
	}
	job := aJob(annotated(kubejob.AnnotationStopReason, d.Value), deleted(time.Hour))
	end := jobstatus.Decide(jobstatus.Observe(job, nil, nil), hasStarted, nil, t0.Add(2*time.Hour), jobstatus.DefaultDeadlines())
	if end.Reason != d.Reason {
		t.Errorf("got %v, want %v", end.Reason, d.Reason)
	}
}
