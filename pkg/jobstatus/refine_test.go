package jobstatus_test

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

// anEvent is a Kubernetes Event about a Job or Pod, after a time.
func anEvent(kind, reason, message string, after time.Duration) corev1.Event {
	uid := aJob().UID
	if kind == "Pod" {
		uid = aPod("a").UID
	}
	return corev1.Event{
		InvolvedObject: corev1.ObjectReference{Kind: kind, UID: uid}, Reason: reason, Message: message,
		EventTime: metav1.NewMicroTime(at(after).Time),
	}
}

// TestEventsRefine: an Event gives a stuck start its cause, and nothing else
// changes; Events alone decide nothing.
func TestEventsRefine(t *testing.T) {
	const (
		quota   = `Error creating: pods "bb-x" is forbidden: exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0`
		account = `Error creating: pods "bb-" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found`
		webhook = `Error creating: admission webhook "x.example" denied the request: no`
	)
	for _, c := range []struct {
		name   string
		pods   []*corev1.Pod
		now    time.Duration
		events []corev1.Event
		want   string
		says   string
	}{
		{"quota", nil, 30 * time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", quota, 0)}, "stop POD_QUOTA_EXCEEDED", "exceeded quota: none"},
		{"service account", nil, 30 * time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", account, 0)}, "stop SERVICE_ACCOUNT_NOT_FOUND", `"nobody" not found`},
		{"webhook", nil, 30 * time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", webhook, 0)}, "stop POD_FORBIDDEN", "x.example"},
		{"the youngest counts", nil, 30 * time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", account, time.Minute), anEvent("Job", "FailedCreate", quota, 0)}, "stop SERVICE_ACCOUNT_NOT_FOUND", ""},
		{"another refusal", nil, 30 * time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", "Error creating: timeout", 0)}, "stop START_TIMEOUT", "no Pod"},
		{"mount", pods(aPod("a")), 30 * time.Minute, []corev1.Event{anEvent("Pod", "FailedMount", "MountVolume.SetUp failed", 0)}, "stop VOLUME_MOUNT_FAILED", "SetUp"},
		{"attach", pods(aPod("a")), 30 * time.Minute, []corev1.Event{anEvent("Pod", "FailedAttachVolume", "x", 0)}, "stop VOLUME_MOUNT_FAILED", ""},
		{"sandbox", pods(aPod("a")), 30 * time.Minute, []corev1.Event{anEvent("Pod", "FailedCreatePodSandBox", "no\nnetwork", 0)}, "stop SANDBOX_FAILED", "no network"},
		{"the Job's are old where it has a Pod", pods(aPod("a")), 30 * time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", quota, 0)}, "stop START_TIMEOUT", ""},
		{"a cause of its own is kept", pods(aPod("a", unscheduled("Unschedulable"))), 30 * time.Minute, []corev1.Event{anEvent("Pod", "FailedMount", "x", 0)}, "stop UNSCHEDULABLE", ""},
		{"another's", nil, 30 * time.Minute, []corev1.Event{{InvolvedObject: corev1.ObjectReference{Kind: "Job", UID: "other"}, Reason: "FailedCreate", Message: quota}}, "stop START_TIMEOUT", ""},
		{"nothing is decided", nil, time.Minute, []corev1.Event{anEvent("Job", "FailedCreate", quota, 0)}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := jobstatus.Observe(aJob(), c.pods, nil)
			d := jobstatus.Refine(o, jobstatus.Decide(o, hasStarted, nil, t0.Add(c.now), jobstatus.DefaultDeadlines()), jobstatus.Evidence{Events: c.events})
			if got := summary(d); got != c.want || !strings.Contains(d.Value, c.says) && !strings.Contains(d.Reason.Message, c.says) {
				t.Errorf("got %q %q, want %q", got, d.Reason.Message, c.want)
			}
			if d.Step == jobstatus.StepStop && d.Value != jobstatus.FormatReason(d.Reason) {
				t.Errorf("annotation %s of reason %v", d.Value, d.Reason)
			}
		})
	}
}

// TestNamespaceDeleted: the end keeps its status, 99 or 3, and gets the code.
func TestNamespaceDeleted(t *testing.T) {
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pod  *corev1.Pod // nil: none is left
		want string
	}{
		{"deleted", aJob(deleted(time.Minute)), aPod("a", running), "exception:NAMESPACE_DELETED release"},
		{"failed before", aJob(jobFailed(time.Minute), deleted(time.Minute)), aPod("a", running, podDeleted(time.Minute, 30)), "failed:NAMESPACE_DELETED release"},
		{"failed by itself", aJob(jobFailed(time.Minute), deleted(time.Minute)), aPod("a", exited(3, "Error", 5*time.Second)), "failed:CONTAINER_EXIT_NONZERO release"},
		{"failed when its Pod went", aJob(jobFailed(time.Minute), deleted(time.Minute)), nil, "failed:NAMESPACE_DELETED release"},
		{"failed long before", aJob(jobFailed(30*time.Second), deleted(time.Minute)), nil, "failed:JOB_FAILED release"},
		{"failed and does not say why", aJob(jobFailed(time.Minute), deleted(time.Minute)), aPod("a", podReason("Other")), "failed:JOB_FAILED release"},
	} {
		var left []*corev1.Pod
		if c.pod != nil {
			left = pods(c.pod)
		}
		o := jobstatus.Observe(c.job, left, nil)
		d := jobstatus.Decide(o, hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
		if got := summary(jobstatus.Refine(o, d, jobstatus.Evidence{NamespaceDeleted: at(45 * time.Second).Time})); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := summary(jobstatus.Refine(o, d, jobstatus.Evidence{})); got != summary(d) || d.AsksNamespace() && strings.Contains(got, "NAMESPACE") {
			t.Errorf("%s: %s without the evidence", c.name, got)
		}
	}
}

// TestVanished: how a Job was last seen tells its end, or nobody knows it; what
// the log has already stays.
func TestVanished(t *testing.T) {
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pod  *corev1.Pod
		log  jobstatus.Log
		want string
	}{
		{"while it ran", aJob(), aPod("a", running), hasRun, "exception:OUTCOME_UNKNOWN"},
		{"before anything", aJob(), aPod("a"), empty, "started exception:OUTCOME_UNKNOWN"},
		{"its Pod was not told yet", aJob(), aPod("a", running), hasStarted, "pod-started:a exception:OUTCOME_UNKNOWN"},
		{"complete", aJob(complete(6 * time.Second)), aPod("a", exited(0, "Completed", 5*time.Second)), hasRun, "completed:6"},
		{"complete, its Pod unseen", aJob(complete(6 * time.Second)), aPod("a"), hasStarted, "completed:6"},
		{"failed", aJob(jobFailed(6 * time.Second)), aPod("a", exited(3, "Error", 5*time.Second)), hasRun, "failed:CONTAINER_EXIT_NONZERO"},
		{"deleted", aJob(deleted(time.Second)), aPod("a", running), hasRun, "exception:JOB_DELETED"},
		{"stuck", aJob(), aPod("a", waits("ErrImagePull")), hasStarted, "exception:OUTCOME_UNKNOWN"},
		{"ended", aJob(), aPod("a", running), hasEnded, ""},
		{"another's log", aJob(), aPod("a", running), jobstatus.Log{JobID: "other", Started: true}, ""},
	} {
		o := jobstatus.Observe(c.job, pods(c.pod), nil)
		d := jobstatus.Vanished(o, c.log, request(), t0.Add(6*time.Second), jobstatus.DefaultDeadlines())
		if got := summary(d); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if last := len(d.Events) - 1; last >= 0 {
			if e, ok := d.Events[last].(*jobsv1.JobException); ok && e.GetError().GetMessage() == "" {
				t.Errorf("%s: no message", c.name)
			}
		}
	}
}
