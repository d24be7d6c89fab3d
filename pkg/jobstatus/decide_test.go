package jobstatus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// What a log may hold of the Job of these tests.
var (
	empty      = jobstatus.Log{}
	hasStarted = jobstatus.Log{JobID: "job-uid", Started: true}
	hasRun     = jobstatus.Log{JobID: "job-uid", Started: true, PodStarted: true}
	hasEnded   = jobstatus.Log{JobID: "job-uid", Started: true, Ended: true}
)

const (
	failureTarget = batchv1.JobFailureTarget
	criteriaMet   = batchv1.JobSuccessCriteriaMet
	backoff       = batchv1.JobReasonBackoffLimitExceeded
	foreground    = "foregroundDeletion"
	stopped       = `{"code":"START_TIMEOUT","message":"Nothing ran."}`
)

func TestDecide(t *testing.T) {
	stop := annotated(kubejob.AnnotationStopReason, stopped)
	ok, exit3 := exited(0, "Completed", 5*time.Second), exited(3, "Error", 5*time.Second)
	noFinalizer := func(j *batchv1.Job) { j.Finalizers = nil }
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pods []*corev1.Pod
		gone []*corev1.Pod
		log  jobstatus.Log
		now  time.Duration
		want string        // as summary writes it
		look time.Duration // 0: no look is asked for
	}{
		{name: "new", job: aJob(), log: empty, want: "started", look: 30 * time.Minute},
		{name: "waits", job: aJob(), pods: pods(aPod("a")), log: hasStarted, look: 30 * time.Minute},
		{name: "runs", job: aJob(), pods: pods(aPod("a", running)), log: hasStarted, want: "pod-started:a"},
		{name: "runs, known", job: aJob(), pods: pods(aPod("a", running)), log: hasRun},
		{name: "the first pod by creation", job: aJob(), pods: pods(aPod("b", running, created(time.Minute)), aPod("c", running)), log: hasStarted, want: "pod-started:c"},
		{name: "over at first sight", job: aJob(complete(6 * time.Second)), pods: pods(aPod("a", ok)), log: empty, want: "started pod-started:a completed:6 release"},
		{name: "completed at once", job: aJob(complete(0)), pods: pods(aPod("a", ok)), log: hasRun, want: "completed:0 release"},
		{name: "completed before it started", job: aJob(complete(-time.Second)), pods: pods(aPod("a", ok)), log: hasRun, want: "completed:0 release"},
		{name: "completed, the pods' watch is behind", job: aJob(complete(6 * time.Second)), pods: pods(aPod("a")), log: hasStarted, now: 6 * time.Second, look: 16 * time.Second},
		{name: "completed, no pod seen yet", job: aJob(complete(6 * time.Second)), log: hasStarted, now: 6 * time.Second, look: 16 * time.Second},
		{name: "completed long ago, pods gone", job: aJob(complete(6 * time.Second)), log: hasStarted, now: time.Hour, want: "completed:6 release"},
		{name: "completed, the pod remembered", job: aJob(complete(6 * time.Second)), gone: pods(aPod("a", ok)), log: hasStarted, now: 6 * time.Second, want: "pod-started:a completed:6 release"},
		{name: "completed, finalizer gone", job: aJob(complete(6*time.Second), noFinalizer), pods: pods(aPod("a", ok)), log: hasRun, want: "completed:6"},
		{name: "completed wins over our stop", job: aJob(stop, complete(6*time.Second), deleted(7*time.Second)), pods: pods(aPod("a", ok)), log: hasRun, want: "completed:6 release"},

		{name: "failed", job: aJob(jobFailed(6 * time.Second)), pods: pods(aPod("a", exit3)), log: hasRun, want: "failed:CONTAINER_EXIT_NONZERO release"},
		{name: "failed, the pods' watch is behind", job: aJob(jobFailed(6 * time.Second)), pods: pods(aPod("a", running)), log: hasRun, now: 6 * time.Second, look: 16 * time.Second},
		{name: "failed, the pods' watch never caught up", job: aJob(jobFailed(6 * time.Second)), pods: pods(aPod("a", running)), log: hasRun, now: 16 * time.Second, want: "failed:JOB_FAILED release"},
		{name: "failed, evidence expired", job: aJob(jobFailed(6 * time.Second)), log: hasStarted, now: time.Hour, want: "failed:JOB_FAILED release"},
		{name: "FailureTarget while a pod runs", job: aJob(condition(failureTarget, "DeadlineExceeded", time.Minute)), pods: pods(aPod("a", running, podDeleted(time.Minute, 30))), log: hasRun, now: time.Minute, look: time.Minute + 30*time.Second + 5*time.Minute},
		{name: "FailureTarget, pods ended", job: aJob(condition(failureTarget, backoff, 6*time.Second)), pods: pods(aPod("a", exit3)), log: hasRun, now: 6 * time.Second, look: 16 * time.Second},
		{name: "FailureTarget, pods ended, Failed never came", job: aJob(condition(failureTarget, backoff, 6*time.Second)), pods: pods(aPod("a", exit3)), log: hasRun, now: 16 * time.Second, want: "failed:CONTAINER_EXIT_NONZERO release"},
		{name: "FailureTarget, a pod never ends", job: aJob(condition(failureTarget, backoff, time.Minute)), pods: pods(aPod("a", running)), log: hasRun, now: time.Hour, want: "exception:TERMINATION_STUCK release"},
		{name: "SuccessCriteriaMet while a pod runs", job: aJob(condition(criteriaMet, "", time.Minute)), pods: pods(aPod("a", running)), log: hasRun, now: time.Minute, look: time.Minute + 30*time.Second + 5*time.Minute},
		{name: "SuccessCriteriaMet, then deleted", job: aJob(condition(criteriaMet, "", time.Minute), deleted(time.Minute)), pods: pods(aPod("a", ok)), log: hasRun, now: time.Minute, want: "completed:60 release"},

		{name: "deleted while it runs", job: aJob(deleted(time.Minute)), pods: pods(aPod("a", running)), log: hasStarted, want: "pod-started:a exception:JOB_DELETED release"},
		{name: "deleted before anything", job: aJob(deleted(time.Minute)), log: empty, want: "started exception:JOB_DELETED release"},
		{name: "failed, then deleted", job: aJob(jobFailed(6*time.Second), deleted(6*time.Second)), pods: pods(aPod("a", exit3)), log: hasRun, want: "failed:CONTAINER_EXIT_NONZERO release"},
		{name: "deleted, then failed", job: aJob(deleted(5*time.Second), jobFailed(6*time.Second)), pods: pods(aPod("a", exit3)), log: hasRun, want: "exception:JOB_DELETED release"},
		{name: "FailureTarget, then deleted", job: aJob(condition(failureTarget, "DeadlineExceeded", 5*time.Second), deleted(6*time.Second)), pods: pods(aPod("a", running)), log: hasRun, want: "failed:DEADLINE_EXCEEDED release"},

		{name: "stop: not deleted yet", job: aJob(stop), pods: pods(aPod("a")), log: hasStarted, want: "delete"},
		{name: "stop: wins over Failed", job: aJob(stop, jobFailed(6*time.Second)), pods: pods(aPod("a", exit3)), log: hasRun, want: "delete"},
		{name: "stop: pods go", job: aJob(stop, deleted(time.Minute, foreground)), pods: pods(aPod("a", running)), log: hasStarted, now: time.Minute, want: "pod-started:a", look: time.Minute + 30*time.Second + 5*time.Minute},
		{name: "stop: pods gone", job: aJob(stop, deleted(time.Minute)), log: hasStarted, now: time.Minute, want: "exception:START_TIMEOUT release"},
		{name: "stop: pods gone, collector not done", job: aJob(stop, deleted(time.Minute, foreground)), log: hasStarted, now: time.Minute, look: time.Minute + 10*time.Second},
		{name: "stop: somebody deleted it in the background", job: aJob(stop, deleted(time.Minute)), pods: pods(aPod("a", running)), log: hasRun, now: time.Minute, want: "delete", look: time.Minute + 30*time.Second + 5*time.Minute},
		{name: "stop: not confirmed", job: aJob(stop, deleted(time.Minute, foreground)), pods: pods(aPod("a", running)), log: hasRun, now: time.Hour, want: "exception:START_TIMEOUT"},
		{name: "stop: held after the end", job: aJob(stop, deleted(time.Minute, foreground)), pods: pods(aPod("a", running)), log: hasEnded, now: time.Hour},
		{name: "stop: released after the end", job: aJob(stop, deleted(time.Minute)), log: hasEnded, now: time.Hour, want: "release"},
		{name: "stop: written by hand", job: aJob(annotated(kubejob.AnnotationStopReason, `{"code":"NONSENSE"}`)), pods: pods(aPod("a", running)), log: hasRun},

		{name: "ended", job: aJob(jobFailed(6 * time.Second)), log: hasEnded, want: "release"},
		{name: "ended and released", job: aJob(jobFailed(6*time.Second), noFinalizer), log: hasEnded},
		{name: "ended as stuck", job: aJob(condition(failureTarget, backoff, 0)), pods: pods(aPod("a", running)), log: hasEnded, want: "release"},
		{name: "surplus: the log has ended", job: aJob(), pods: pods(aPod("a", running)), log: jobstatus.Log{Started: true, Ended: true}, want: "delete surplus"},
		{name: "surplus: the log is another Job's", job: aJob(), log: jobstatus.Log{JobID: "other", Started: true}, want: "delete surplus"},
		{name: "surplus: completed", job: aJob(complete(6 * time.Second)), log: jobstatus.Log{JobID: "other", Started: true}, want: "delete surplus"},
		{name: "surplus: being deleted", job: aJob(deleted(time.Minute, foreground)), pods: pods(aPod("a", running)), log: jobstatus.Log{JobID: "other", Started: true}, want: "release surplus"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := t0.Add(c.now)
			d := jobstatus.Decide(jobstatus.Observe(c.job, c.pods, c.gone), c.log, request(), now, jobstatus.DefaultDeadlines())
			if got := summary(d); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			var look time.Duration
			if !d.LookAt.IsZero() {
				look = d.LookAt.Sub(t0)
			}
			if look != c.look {
				t.Errorf("look at %s, want %s", look, c.look)
			}
		})
	}
}

// summary writes a decision as words: its events, its step.
func summary(d jobstatus.Decision) string {
	var out []string
	for _, data := range d.Events {
		switch e := data.(type) {
		case *jobsv1.JobStarted:
			out = append(out, "started")
		case *jobsv1.PodStarted:
			out = append(out, "pod-started:"+e.GetPodName())
		case *jobsv1.JobCompleted:
			out = append(out, fmt.Sprintf("completed:%d", e.GetDurationSeconds()))
		case *jobsv1.JobFailed:
			out = append(out, "failed:"+e.GetError().GetErrorCode())
		case *jobsv1.JobException:
			out = append(out, "exception:"+e.GetError().GetErrorCode())
		}
	}
	step := map[jobstatus.Step]string{
		jobstatus.StepMark: "mark " + d.Value, jobstatus.StepStop: "stop " + string(d.Reason.Code),
		jobstatus.StepDelete: "delete", jobstatus.StepRelease: "release",
	}[d.Step]
	if d.Surplus {
		step += " surplus"
	}
	if step != "" {
		out = append(out, step)
	}
	return strings.Join(out, " ")
}

// A decision that was carried out is not made again: the same look with the log
// that it led to appends nothing.
func TestDecideOnce(t *testing.T) {
	for name, job := range map[string]*batchv1.Job{
		"completed": aJob(complete(6 * time.Second)), "failed": aJob(jobFailed(6 * time.Second)), "deleted": aJob(deleted(6 * time.Second)),
	} {
		o := jobstatus.Observe(job, pods(aPod("a", exited(3, "Error", 5*time.Second))), nil)
		first := jobstatus.Decide(o, empty, request(), t0, jobstatus.DefaultDeadlines())
		if len(first.Events) != 3 {
			t.Fatalf("%s: %s", name, summary(first))
		}
		last, err := event.New("k", "s", "id", 2, t0, first.Events[2])
		if err != nil {
			t.Fatal(err)
		}
		if got := summary(jobstatus.Decide(o, jobstatus.LogOf(&last), nil, t0, jobstatus.DefaultDeadlines())); got != "release" {
			t.Errorf("%s: again %q", name, got)
		}
	}
}

// TestBlind: an end is taken again with the Pods themselves where they have not told
// all, or none is known.
func TestBlind(t *testing.T) {
	failed := aJob(jobFailed(6 * time.Second))
	failed.Status.Failed = 1
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pods []*corev1.Pod
		log  jobstatus.Log
		want bool
	}{
		{"its Pod tells", failed, pods(aPod("a", exited(3, "Error", 5*time.Second))), hasRun, false},
		{"its Pod seems to run", failed, pods(aPod("a", running)), hasRun, true},
		{"its Pod is not known", failed, nil, hasStarted, true},
		{"its Pod is not known any more", failed, nil, hasRun, true},
		{"deleted, and its Pod is not known", aJob(deleted(6 * time.Second)), nil, hasStarted, true},
		{"no end", aJob(), nil, hasStarted, false},
	} {
		o := jobstatus.Observe(c.job, c.pods, nil)
		if got := jobstatus.Decide(o, c.log, nil, t0.Add(time.Minute), jobstatus.DefaultDeadlines()).Blind(o, c.log); got != c.want {
			t.Errorf("%s: blind %v", c.name, got)
		}
	}
}

func TestNotConfirmedStopped(t *testing.T) {
	job := aJob(annotated(kubejob.AnnotationStopReason, stopped), deleted(0, foreground))
	d := jobstatus.Decide(jobstatus.Observe(job, pods(aPod("a", running)), nil), hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
	if want := "Nothing ran. Not confirmed stopped: pod a on node n."; d.Reason.Message != want {
		t.Errorf("got %q, want %q", d.Reason.Message, want)
	}
}

func TestStarted(t *testing.T) {
	e := jobstatus.Started(aJob(), request())
	if e.GetJobId() != "job-uid" || e.GetService() != "svc" || e.GetImage() != "tool:1" || e.GetQueueMilliseconds() != 1500 {
		t.Errorf("got %v", e)
	}
	r := request()
	r.QueuedAt = nil
	if n := jobstatus.Started(aJob(), r).GetQueueMilliseconds(); n != 0 {
		t.Errorf("without a queue time: %d", n)
	}
}
