package jobstatus_test

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// TestAsksLogTail: one log is asked for, of the container that made the Job fail,
// and only where there is one.
func TestAsksLogTail(t *testing.T) {
	beside := func(name string, code int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, StartedAt: at(time.Second), FinishedAt: at(3 * time.Second)},
			}})
		}
	}
	initFailed := func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, StartedAt: at(time.Second), FinishedAt: at(3 * time.Second)},
		}}}
	}
	failure, exit := jobFailed(9*time.Second), exited(3, "Error", 8*time.Second)
	for _, c := range []struct {
		name       string
		job        *batchv1.Job
		pods, gone []*corev1.Pod
		want       jobstatus.LogSource
	}{
		{"the container", aJob(failure), pods(aPod("a", exit)), nil, jobstatus.LogSource{Pod: "a", Container: "main", Node: "n"}},
		{"the last of several Pods", aJob(failure), pods(aPod("b", exit, created(time.Minute)), aPod("a", exit)), nil, jobstatus.LogSource{Pod: "b", Container: "main", Node: "n"}},
		{"one beside it", aJob(failure), pods(aPod("a", exited(0, "Completed", 2*time.Second), beside("proxy", 7), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })), nil, jobstatus.LogSource{Pod: "a", Container: "proxy", Node: "n"}},
		{"one before it", aJob(failure), pods(aPod("a", initFailed)), nil, jobstatus.LogSource{Pod: "a", Container: "init", Node: "n"}},
		{"out of memory", aJob(failure), pods(aPod("a", exited(137, "OOMKilled", 8*time.Second))), nil, jobstatus.LogSource{Pod: "a", Container: "main", Node: "n"}},
		{"never started", aJob(failure), pods(aPod("a", unstarted("StartError", "no such file"))), nil, jobstatus.LogSource{}},
		{"lost while it ran", aJob(failure), pods(aPod("a", running, podReason("NodeLost"))), nil, jobstatus.LogSource{}},
		{"its Pod is gone", aJob(failure), nil, pods(aPod("a", exit)), jobstatus.LogSource{}},
		{"no Pod", aJob(failure), nil, nil, jobstatus.LogSource{}},
		{"success", aJob(complete(9 * time.Second)), pods(aPod("a", exited(0, "Completed", 8*time.Second))), nil, jobstatus.LogSource{}},
		{"deleted", aJob(deleted(9 * time.Second)), pods(aPod("a", exit)), nil, jobstatus.LogSource{}},
		{"cancelled", aJob(annotated(kubejob.AnnotationStopReason, stopped), deleted(9*time.Second)), pods(aPod("a", exit)), nil, jobstatus.LogSource{}},
		{"not ended", aJob(), pods(aPod("a", running)), nil, jobstatus.LogSource{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := jobstatus.Observe(c.job, c.pods, c.gone)
			d := jobstatus.Decide(o, hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
			got, asked := d.AsksLogTail(o)
			if got != c.want || asked != (c.want != jobstatus.LogSource{}) {
				t.Errorf("%+v %t after %s", got, asked, summary(d))
			}
		})
	}
}

// logTail is what an event has of a log, after which everything else must be as
// it was.
func logTail(tb rapid.TB, log string) string {
	o := jobstatus.Observe(aJob(jobFailed(9*time.Second)), pods(aPod("a", exited(3, "Error", 8*time.Second))), nil)
	before := jobstatus.Decide(o, hasRun, nil, t0.Add(time.Hour), jobstatus.DefaultDeadlines())
	after := before.WithLogTail([]byte(log))
	if summary(before) != summary(after) || before.Events[0].(*jobsv1.JobFailed).GetEvidence().GetLogTail() != "" {
		tb.Errorf("%s became %s", summary(before), summary(after))
	}
	return after.Events[0].(*jobsv1.JobFailed).GetEvidence().GetLogTail()
}

func TestWithLogTail(t *testing.T) {
	const most = jobstatus.MaxLogTail
	long := strings.Repeat("x", most)
	for _, c := range []struct{ name, log, want string }{
		{"as it is", "one\n  two\nthree\n", "one\n  two\nthree"},
		{"nothing", "", ""},
		{"nothing but lines", "\n\n\n", ""},
		{"control characters", "a\tb\r\n\x1b[31mred\x1b[0m\x00\x07", "a b\n[31mred[0m"},
		{"no UTF-8", "a\xff\xfeb\n\xf0\x9f", "ab"},
		{"just enough", long, long},
		{"a line that fits after one that does not", "first\n" + long, long},
		{"a line that is too long", "first\n" + "begin" + long, long},
		{"a line that is too long, with its end", "begin" + long + "\n", long[1:]},
		{"whole lines alone", strings.Repeat("y", most) + "\nsecond\nthird\n", "second\nthird"},
		{"a rune cut in two", "é" + long[1:], long[1:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := logTail(t, c.log); got != c.want {
				t.Errorf("got %d bytes %.80q, want %d %.80q", len(got), got, len(c.want), c.want)
			}
		})
	}
}

// Whatever a container writes, an event takes a bounded, clean end of it.
func TestWithLogTailOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"line\n", "\n", "\r", "\xff", "\x00", "ü", strings.Repeat("z", 1500), "a b"})
		log := strings.Join(rapid.SliceOf(piece).Draw(t, "log"), "")
		got := logTail(t, log)
		if len(got) > jobstatus.MaxLogTail || !utf8.ValidString(got) {
			t.Fatalf("%d bytes, %q", len(got), got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }); i >= 0 {
			t.Fatalf("%q at %d", got[i:], i)
		}
		// All that the watcher keeps of a log is its end.
		if end := log[max(0, len(log)-jobstatus.MaxLogTail-1):]; logTail(t, end) != got {
			t.Fatalf("%q of the whole, %q of its end", got, logTail(t, end))
		}
	})
}
