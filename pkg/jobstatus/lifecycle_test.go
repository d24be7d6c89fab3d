package jobstatus_test

import (
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// accepted is the state of an empty log.
const accepted event.Type = ""

// states are those of the drawing.
var states = map[string]event.Type{
	"accepted": accepted, "started": event.TypeJobStarted, "podStarted": event.TypePodStarted,
	"completed": event.TypeJobCompleted, "failed": event.TypeJobFailed, "exception": event.TypeJobException,
}

type transition struct{ From, To event.Type }

// TestLifecyclePage: the arrows drawn are the transitions that there are.
func TestLifecyclePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/lifecycle.md")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[transition]bool{}
	for _, arrow := range regexp.MustCompile(`(?m)^ +(\S+) --> (\S+?)(?::.*)?$`).FindAllStringSubmatch(string(page), -1) {
		from, to := arrow[1], arrow[2]
		switch {
		case from == "[*]" && to == "accepted":
		case to == "[*]" && states[from].Terminal():
		default:
			if _, known := states[from]; !known || states[to] == accepted {
				t.Errorf("%q is no transition", arrow[0])
			}
			drawn[transition{states[from], states[to]}] = true
		}
	}
	if d := cmp.Diff(transitions(t), drawn); d != "" {
		t.Errorf("docs/lifecycle.md (+) is not what the code does (-):\n%s", d)
	}
}

// transitions are those of Decide over what Jobs and Pods can show, from every
// log that it leads to, and the launcher's, where no Job could be made.
func transitions(t *testing.T) map[transition]bool {
	t.Helper()
	out := map[transition]bool{}
	for _, d := range jobstatus.Codes() {
		if d.Phase == jobstatus.PhaseLaunch && d.Phase.Status() == event.TypeJobException.Status() {
			out[transition{accepted, event.TypeJobException}] = true
		}
	}
	reached := []*event.Event{nil}
	seen := map[event.Type]bool{accepted: true}
	for len(reached) > 0 {
		log := reached[0]
		reached = reached[1:]
		everything(func(o jobstatus.Observation, now time.Time) {
			last := log
			for _, data := range jobstatus.Decide(o, jobstatus.LogOf(log), request(), now, jobstatus.DefaultDeadlines()).Events {
				e, err := event.New("key", "source", "id", 0, now, data)
				if err != nil {
					t.Fatal(err)
				}
				from := accepted
				if last != nil {
					from = last.Type
				}
				out[transition{from, e.Type}] = true
				last = &e
				if !seen[e.Type] {
					seen[e.Type] = true
					reached = append(reached, last)
				}
			}
		})
	}
	return out
}

// everything calls look with each thing that a Job and its Pods can show: every
// verdict with or without our reason to end it, deleted or not, with each kind
// of Pod, there or gone, at once and long after.
func everything(look func(jobstatus.Observation, time.Time)) {
	none := func(*batchv1.Job) {}
	verdicts := []func(*batchv1.Job){none, complete(6 * time.Second), jobFailed(6 * time.Second),
		condition(failureTarget, backoff, 6*time.Second), condition(failureTarget, batchv1.JobReasonDeadlineExceeded, 6*time.Second),
		condition(criteriaMet, "", 6*time.Second), condition(batchv1.JobSuspended, "", 6*time.Second)}
	stops := []func(*batchv1.Job){none, annotated(kubejob.AnnotationStopReason, stopped), annotated(kubejob.AnnotationNotStarting, "image-pull@2026-07-01T12:00:00Z")}
	deletions := []func(*batchv1.Job){none, deleted(5 * time.Second), deleted(7*time.Second, foreground)}
	pod := []*corev1.Pod{nil, aPod("a"), aPod("a", unscheduled("Unschedulable")), aPod("a", waits("ErrImagePull")), aPod("a", running),
		aPod("a", exited(0, "Completed", 5*time.Second)), aPod("a", exited(3, "Error", 5*time.Second)), aPod("a", unstarted("StartError", "no such file")),
		aPod("a", running, podDeleted(5*time.Second, 30))}
	for _, verdict := range verdicts {
		for _, stop := range stops {
			for _, deletion := range deletions {
				job := aJob(verdict, stop, deletion)
				for _, p := range pod {
					there := pods(p)
					if p == nil {
						there = nil
					}
					for _, now := range []time.Duration{8 * time.Second, time.Hour} {
						look(jobstatus.Observe(job, there, nil), t0.Add(now))
						look(jobstatus.Observe(job, nil, there), t0.Add(now))
					}
				}
			}
		}
	}
}
