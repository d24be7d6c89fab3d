package jobstatus_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// recordings are watch streams of a real node and control plane (v1.37.2), cut
// to what is read here, and what each must lead to: the events' types, and the
// code and message of the last.
var recordings = map[string]struct {
	events  string
	message string
}{
	"success-fast":                     {"started pod-started completed", ""},
	"exit-3":                           {"started pod-started failed CONTAINER_EXIT_NONZERO", "Container main of pod job-jz26m on node k8s-node-1 failed: exit code 3 (Error)."},
	"oom":                              {"started pod-started failed OOM_KILLED", ""},
	"deadline-running":                 {"started pod-started failed DEADLINE_EXCEEDED", ""},
	"deadline-image-pull":              {"started failed DEADLINE_EXCEEDED", ""},
	"deadline-unschedulable":           {"started failed DEADLINE_EXCEEDED", ""},
	"pod-evicted":                      {"started pod-started failed POD_EVICTED_API", ""},
	"pod-deleted":                      {"started pod-started failed POD_DELETED", ""},
	"node-lost":                        {"started pod-started failed NODE_LOST", ""},
	"namespace-deleted":                {"started pod-started failed POD_DELETED", ""},
	"finalizer-job-deleted-foreground": {"started pod-started exception JOB_DELETED", ""},
	"finalizer-job-deleted-background": {"started pod-started exception JOB_DELETED", ""},
	"finalizer-ttl":                    {"started pod-started completed", ""},
	"termination-message-from-log":     {"started pod-started failed CONTAINER_EXIT_NONZERO", ""},
	"two-containers-one-fails":         {"started pod-started failed CONTAINER_EXIT_NONZERO", ""},
	"node-wiped-two-containers":        {"started pod-started failed CONTAINER_EXIT_NONZERO", ""},
	"image-unreachable":                {"started", ""},
	"unschedulable":                    {"started", ""},
	"suspended-while-running":          {"started pod-started", ""},
}

func TestRecordings(t *testing.T) {
	for name, want := range recordings {
		t.Run(name, func(t *testing.T) {
			r := newReplay(load(t, name))
			for !r.done() {
				r.read()
				r.look()
			}
			r.settle()
			if got := r.summary(); got != want.events {
				t.Errorf("events: got %q, want %q", got, want.events)
			}
			if got := r.message(); want.message != "" && got != want.message {
				t.Errorf("message:\n got %q\nwant %q", got, want.message)
			}
			t.Log(r.message())
		})
	}
}

// The same events come whatever is missed, seen twice, or forgotten by a
// restart, as long as somebody looks before the evidence goes.
func TestRecordingsWithGaps(t *testing.T) {
	for name, want := range recordings {
		lines := load(t, name)
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				r := newReplay(lines)
				for !r.done() {
					lost := r.read()
					for range rapid.IntRange(0, 2).Draw(t, "looks") {
						r.look()
					}
					if lost {
						r.look()
					}
				}
				r.settle()
				if got := r.summary(); got != want.events {
					t.Errorf("events: got %q, want %q", got, want.events)
				}
			})
		})
	}
}

// line is one of a recording.
type line struct {
	Received time.Time       `json:"received"`
	Type     string          `json:"type"`
	Object   json.RawMessage `json:"object"`
}

func load(t *testing.T, name string) []line {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []line
	for s := bufio.NewScanner(f); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// replay is a watcher over a recording.
type replay struct {
	lines  []line
	now    time.Time
	job    *batchv1.Job
	pods   map[types.UID]*corev1.Pod
	gone   []*corev1.Pod
	log    []event.Event
	lookAt time.Time
	marks  string
}

func newReplay(lines []line) *replay { return &replay{lines: lines, pods: map[types.UID]*corev1.Pod{}} }

func (r *replay) done() bool { return len(r.lines) == 0 }

// read takes in one line. It reports whether the next one takes away what has
// to be seen before: the Job itself, or its first condition or deletion.
func (r *replay) read() bool {
	l := r.lines[0]
	r.lines = r.lines[1:]
	r.now = l.Received
	var kind struct{ Kind string }
	must(json.Unmarshal(l.Object, &kind))
	if kind.Kind == "Job" {
		r.job = nil
		if l.Type != "DELETED" {
			r.job = new(batchv1.Job)
			must(json.Unmarshal(l.Object, r.job))
		}
	} else {
		p := new(corev1.Pod)
		must(json.Unmarshal(l.Object, p))
		delete(r.pods, p.UID)
		if l.Type == "DELETED" {
			r.gone = append(r.gone, p)
		} else {
			r.pods[p.UID] = p
		}
	}
	return len(r.lines) > 0 && r.lines[0].Type == "DELETED"
}

func (r *replay) look() {
	if r.job == nil {
		return
	}
	var pods []*corev1.Pod
	for _, p := range r.pods {
		pods = append(pods, p)
	}
	job := r.job.DeepCopy()
	job.Annotations = map[string]string{kubejob.AnnotationNotStarting: r.marks}
	d := jobstatus.Decide(jobstatus.Observe(job, pods, r.gone), r.held(), request(), r.now, jobstatus.DefaultDeadlines())
	for _, data := range d.Events {
		e, err := event.New("key", "source", "id", len(r.log), r.now, data)
		must(err)
		r.log = append(r.log, e)
	}
	if d.Step == jobstatus.StepMark {
		r.marks = d.Value
	}
	r.lookAt = d.LookAt
}

// settle looks again at the end, once when the last look asked for it.
func (r *replay) settle() {
	r.look()
	if !r.lookAt.IsZero() && r.lookAt.Sub(r.now) < time.Minute {
		r.now = r.lookAt
		r.look()
	}
}

func (r *replay) held() jobstatus.Log {
	if len(r.log) == 0 {
		return jobstatus.LogOf(nil)
	}
	return jobstatus.LogOf(&r.log[len(r.log)-1])
}

func (r *replay) summary() string {
	var out []string
	for _, e := range r.log {
		subject := event.Subject("s", "k", e.Type)
		out = append(out, subject[strings.LastIndex(subject, ".")+1:])
		if d, ok := e.Data.(interface{ GetError() *jobsv1.Error }); ok {
			out = append(out, d.GetError().GetErrorCode())
		}
	}
	return strings.Join(out, " ")
}

func (r *replay) message() string {
	if d, ok := r.log[len(r.log)-1].Data.(interface{ GetError() *jobsv1.Error }); ok {
		return d.GetError().GetMessage()
	}
	return ""
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Every recording here is replayed.
func TestRecordingsAreAllReplayed(t *testing.T) {
	files, err := filepath.Glob("testdata/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for _, f := range files {
		have = append(have, strings.TrimSuffix(filepath.Base(f), ".jsonl"))
	}
	for name := range recordings {
		want = append(want, name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if d := cmp.Diff(want, have); d != "" {
		t.Error(d)
	}
}
