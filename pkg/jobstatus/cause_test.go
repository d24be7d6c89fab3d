package jobstatus_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

func TestCauses(t *testing.T) {
	died := func(code int32, reason string) func(*corev1.Pod) { return exited(code, reason, 5*time.Second) }
	sidecar := func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: "proxy", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 9, Reason: "Error"}}})
		p.Status.Phase = corev1.PodFailed
	}
	initFails := func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{
			Name: "setup", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 7, Reason: "Error"}}}}
	}
	lost := func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}})(p)
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want jobstatus.Code
		ran  bool
		says string
	}{
		{"exit code", aPod("a", died(3, "Error"), says("disk\tis\nfull\x00")), jobstatus.ContainerExitNonzero, true, "Container main of pod a on node n failed: exit code 3 (Error). Termination message: disk is full"},
		{"out of memory", aPod("a", died(137, "OOMKilled")), jobstatus.OOMKilled, true, "(OOMKilled)"},
		{"a child out of memory, the shell went on", aPod("a", died(5, "OOMKilled")), jobstatus.OOMKilled, true, "exit code 5"},
		{"killed", aPod("a", died(137, "Error")), jobstatus.ContainerKilled, true, "exit code 137"},
		{"terminated", aPod("a", died(143, "Error")), jobstatus.ContainerKilled, true, ""},
		{"never started", aPod("a", unstarted("StartError", "no such file")), jobstatus.ContainerStartFailed, false, "no such file"},
		{"its command is not told", aPod("a", unstarted("StartError", `exec: "curl -H \"secret\" x": no such file`)), jobstatus.ContainerStartFailed, false, `exec: "…": no such file`},
		{"cannot run", aPod("a", unstarted("ContainerCannotRun", "")), jobstatus.ContainerStartFailed, false, ""},
		{"pod deleted", aPod("a", died(137, "Error"), podDeleted(4*time.Second, 30)), jobstatus.PodDeleted, true, ""},
		{"pod deleted, exits by itself on SIGTERM", aPod("a", died(1, "Error"), podDeleted(4*time.Second, 30)), jobstatus.PodDeleted, true, ""},
		{"pod deleted after its end", aPod("a", died(1, "Error"), podDeleted(time.Minute, 0)), jobstatus.ContainerExitNonzero, true, ""},
		{"evicted by the API", aPod("a", died(143, "Error"), disruptedBy("EvictionByEvictionAPI", 4*time.Second), podDeleted(4*time.Second, 30)), jobstatus.PodEvictedAPI, true, "exit code was 143"},
		{"evicted after its end", aPod("a", died(3, "Error"), disruptedBy("EvictionByEvictionAPI", time.Minute)), jobstatus.ContainerExitNonzero, true, ""},
		{"preempted", aPod("a", died(143, "Error"), disruptedBy("PreemptionByScheduler", 4*time.Second)), jobstatus.Preempted, true, ""},
		{"taint", aPod("a", died(143, "Error"), disruptedBy("DeletionByTaintManager", 4*time.Second)), jobstatus.NodeLost, true, ""},
		{"orphaned by its node", aPod("a", died(143, "Error"), disruptedBy("DeletionByPodGC", 4*time.Second)), jobstatus.NodeLost, true, ""},
		{"evicted by the kubelet", aPod("a", died(137, "Error"), podReason("Evicted"), disruptedBy("TerminationByKubelet", 4*time.Second)), jobstatus.Evicted, true, "what the node says"},
		{"node shut down", aPod("a", died(143, "Error"), podReason("Terminated"), disruptedBy("TerminationByKubelet", 4*time.Second)), jobstatus.NodeShutdown, true, ""},
		{"refused by its node", aPod("a", podReason("OutOfcpu")), jobstatus.NodeAdmissionRejected, false, ""},
		{"refused by affinity", aPod("a", podReason("NodeAffinity")), jobstatus.NodeAdmissionRejected, false, ""},
		{"init container", aPod("a", initFails), jobstatus.InitContainerFailed, false, "Container setup"},
		{"lost by its node", aPod("a", lost), jobstatus.ContainerStatusUnknown, false, ""},
		{"another container", aPod("a", died(0, "Completed"), sidecar), jobstatus.ContainerExitNonzero, true, "Container proxy"},
		{"deleted before it ran", aPod("a", podDeleted(4*time.Second, 0)), jobstatus.PodDeleted, false, "pending"},
		{"a reason of tomorrow", aPod("a", podReason("Sunspots")), jobstatus.JobFailed, false, "The Job failed (BackoffLimitExceeded)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := jobstatus.Observe(aJob(jobFailed(10*time.Second)), pods(c.pod), nil)
			d := jobstatus.Decide(o, hasStarted, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
			if d.Reason.Code != c.want || !strings.Contains(d.Reason.Message, c.says) {
				t.Errorf("got %s %q, want %s %q", d.Reason.Code, d.Reason.Message, c.want, c.says)
			}
			if ran := len(d.Events) == 2; ran != c.ran {
				t.Errorf("ran: got %t, want %t", ran, c.ran)
			}
		})
	}
}

func TestCauseByTheJob(t *testing.T) {
	running := pods(aPod("a", running))
	deadline := int64(60)
	limited := func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &deadline }
	for _, c := range []struct {
		job  *batchv1.Job
		want jobstatus.Reason
	}{
		{aJob(limited, condition(batchv1.JobFailed, "DeadlineExceeded", time.Minute)),
			jobstatus.Reason{Code: jobstatus.DeadlineExceeded, Message: "The Job was active longer than its deadline of 60 seconds. Last seen: pod a on node n running."}},
		{aJob(condition(batchv1.JobFailed, "PodFailurePolicy", time.Minute)),
			jobstatus.Reason{Code: jobstatus.PodFailurePolicy, Message: "The Job's pod failure policy ended it: as Kubernetes says."}},
	} {
		d := jobstatus.Decide(jobstatus.Observe(c.job, nil, running), hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
		if d.Reason != c.want {
			t.Errorf("got %v, want %v", d.Reason, c.want)
		}
	}
}

// The last Pod's failure is the Job's, and it is the same in whatever order the
// Pods come.
func TestCauseOfRetries(t *testing.T) {
	a := aPod("a", exited(1, "Error", 5*time.Second))
	b := aPod("b", exited(137, "OOMKilled", 25*time.Second), created(20*time.Second))
	for _, p := range [][]*corev1.Pod{pods(a, b), pods(b, a)} {
		d := jobstatus.Decide(jobstatus.Observe(aJob(jobFailed(30*time.Second)), p, nil), hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
		if d.Reason.Code != jobstatus.OOMKilled {
			t.Errorf("got %v", d.Reason)
		}
	}
}

// A termination message is cut to 1 KiB and stays text.
func TestTerminationMessageIsBounded(t *testing.T) {
	p := aPod("a", exited(3, "Error", 5*time.Second), says("x"+strings.Repeat("é", 4096)))
	d := jobstatus.Decide(jobstatus.Observe(aJob(jobFailed(10*time.Second)), pods(p), nil), hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
	if m := d.Reason.Message; len(m) > 1200 || len(m) < 1000 || !utf8.ValidString(m) {
		t.Errorf("%d bytes, valid %t", len(m), utf8.ValidString(m))
	}
}
