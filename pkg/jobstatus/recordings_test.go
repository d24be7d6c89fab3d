package jobstatus_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/recording"
)

// recordings are watch streams of a real node and control plane, and what
// happens in them. testdata/recordings/README.md says how they were made.
var recordings = map[string]string{
	"command-missing":                  "a program that the image does not have",
	"config-missing":                   "a variable of a ConfigMap that is not there; 30 s",
	"config-missing-key":               "a key of a ConfigMap that is not there; 40 s",
	"deadline-image-pull":              "a deadline of 5 s, and an image that cannot be pulled",
	"deadline-running":                 "a deadline of 5 s; the process ignores SIGTERM",
	"deadline-running-exits-0":         "a deadline of 5 s; the process exits with 0 at SIGTERM",
	"deadline-running-obeys":           "a deadline of 5 s; the process ends at SIGTERM",
	"deadline-unschedulable":           "a deadline of 5 s, and no node that fits",
	"exit-137-self-kill":               "the process is killed with SIGKILL from inside",
	"exit-3":                           "the container exits with 3",
	"finalizer-job-deleted-background": "our finalizer on the Job; deleted in the background while it runs",
	"finalizer-job-deleted-foreground": "our finalizer on the Job; deleted in the foreground while it runs",
	"finalizer-ttl":                    "our finalizer on the Job; it completes, and its TTL of 3 s passes",
	"image-invalid-name":               "an image name that is not valid; 30 s",
	"image-never":                      "an image that is not on the node, with imagePullPolicy Never; 30 s",
	"image-not-found":                  "an image that the registry does not have; 90 s",
	"image-pull-always":                "imagePullPolicy Always; the container exits with 0",
	"image-unreachable":                "an image of a registry that does not answer; 90 s",
	"init-fails":                       "the init container exits with 7",
	"job-deleted-background":           "no finalizer on the Job; deleted in the background while it runs: it vanishes at once",
	"job-deleted-foreground":           "no finalizer on the Job; deleted in the foreground while it runs",
	"kubelet-restart":                  "the kubelet stands still for 10 s while the container exits with 3",
	"namespace-deleted":                "the namespace is deleted while the Job runs",
	"node-lost":                        "the kubelet stands still until the Pod is given up, and comes back",
	"node-lost-for-good":               "the kubelet stands still until the Pod is given up, and the Pod is deleted by force",
	"node-wiped-two-containers":        "the node loses its containers while one of two has exited with 3; recorded from the middle",
	"oom":                              "the container needs more memory than its limit",
	"oom-child":                        "a child of the process needs more memory than the limit; the process exits with 5",
	"pod-deleted":                      "somebody deletes the Pod; the process ignores SIGTERM",
	"pod-deleted-exits-0":              "somebody deletes the Pod; the process exits with 0 at SIGTERM",
	"pod-deleted-obeys":                "somebody deletes the Pod; the process ends at SIGTERM",
	"pod-evicted":                      "the Pod is evicted through the API",
	"pod-evicted-by-kubelet":           "the container writes more than its limit of ephemeral storage; the process ends at SIGTERM",
	"pvc-missing":                      "a claim that does not exist; 20 s",
	"quota":                            "a quota of no Pods; 35 s",
	"seed-job":                         "the original's sample: a claim, 30 s of work, exit code 0",
	"service-account-missing":          "a service account that does not exist; 35 s",
	"success":                          "2 s of work, exit code 0; the TTL deletes the Job",
	"success-fast":                     "the container exits with 0 at once",
	"suspended-deleted":                "a suspended Job is deleted, without our finalizer",
	"suspended-while-running":          "the Job is suspended while it runs",
	"termination-message":              "exit code 4, and a termination message",
	"termination-message-from-log":     "exit code 4, with the end of the log as termination message",
	"two-containers-one-fails":         "one of two containers exits with 3, the other goes on for 7 s",
	"unschedulable":                    "a node selector that no node has; 20 s",
	"unschedulable-taint":              "no toleration for the node's taint; 10 s",
	"volume-missing-configmap":         "a volume of a ConfigMap that does not exist; 30 s",
}

// run is a recording and what it leads to.
type run struct {
	name     string
	lines    []recording.Line
	events   []recording.Event
	lastSeen string            // where there is no end
	later    []recording.Event // where there is no end: those of the next hour, if nothing changes
}

func loadAll(t *testing.T) []run {
	t.Helper()
	var out []run
	for name := range recordings {
		out = append(out, loadRecording(t, name))
	}
	slices.SortFunc(out, func(a, b run) int { return strings.Compare(a.name, b.name) })
	return out
}

func loadRecording(t *testing.T, name string) run {
	t.Helper()
	f, err := os.Open("testdata/recordings/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := run{name: name}
	for l, err := range recording.Read(f) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out.lines = append(out.lines, l)
	}
	var r recording.Replay
	out.events = replay(t, &r, out.lines, true)
	if !r.Log.Ended {
		out.lastSeen = r.LastSeen()
		hour := recording.Line{Received: out.lines[len(out.lines)-1].Received.Add(time.Hour), Type: recording.Action}
		if out.later, err = r.Next(hour); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// replay looks after each line. At the end of the watch it waits for what the
// last look asked for.
func replay(t *testing.T, r *recording.Replay, lines []recording.Line, end bool) []recording.Event {
	t.Helper()
	var out []recording.Event
	for _, l := range lines {
		events, err := r.Next(l)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, events...)
	}
	if !end {
		return out
	}
	events, err := r.End()
	if err != nil {
		t.Fatal(err)
	}
	return append(out, events...)
}

// terminal is the last event where it is an end, else nil.
func terminal(events []recording.Event) *recording.Event {
	if n := len(events); n > 0 && events[n-1].Type.Terminal() {
		return &events[n-1]
	}
	return nil
}

func (r run) write(e recording.Event) string {
	after := e.At.Sub(r.lines[0].Received).Round(time.Millisecond)
	return strings.TrimSpace(fmt.Sprintf("+%s %s %d %s", after, e.Type, e.Status, e.Code))
}

// expected is what the golden file has of a recording.
func (r run) expected() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.name)
	for _, e := range r.events {
		fmt.Fprintln(&b, "  "+r.write(e))
	}
	if r.lastSeen != "" {
		fmt.Fprintln(&b, "  no end; last seen: "+r.lastSeen)
	}
	for _, e := range r.later {
		fmt.Fprintln(&b, "  if nothing changes: "+r.write(e))
	}
	return b.String()
}

// Each recording leads to the events of testdata/recordings/expected.txt, and
// every recording that is there is replayed.
func TestRecordings(t *testing.T) {
	const golden = "testdata/recordings/expected.txt"
	var got strings.Builder
	for _, r := range loadAll(t) {
		got.WriteString(r.expected())
		t.Log(r.expected())
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("go test ./pkg/jobstatus -run TestRecordings -update writes it anew:\n%s", d)
	}
	files, err := filepath.Glob("testdata/recordings/*.jsonl")
	if err != nil || len(files) != len(recordings) {
		t.Errorf("%d recordings are there, %d are replayed: %v", len(files), len(recordings), err)
	}
}

// TestRecordingsPage: docs/recordings.md is what the recordings lead to now.
func TestRecordingsPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("<!-- Generated from pkg/jobstatus/recordings_test.go; do not edit. -->\n# Recordings of a real node\n\n")
	b.WriteString("Watch streams of a real kubelet and control plane, and the end that each leads to. They are in\n" +
		"[pkg/jobstatus/testdata/recordings](../pkg/jobstatus/testdata/recordings/README.md);\n" +
		"`jobrelay explain FILE` shows one of them, or your own.\n\n" +
		"In brackets: what the watcher makes of it with its default deadlines where nothing changes after the recording's end.\n\n")
	b.WriteString("| recording | what happens | status | code | after |\n|---|---|---|---|---|\n")
	for _, r := range loadAll(t) {
		status, code, after := "none", "", ""
		if e := terminal(r.events); e != nil {
			status, code, after = r.cells(*e)
		} else if e := terminal(r.later); e != nil {
			status, code, after = r.cells(*e)
			status, code, after = "("+status+")", "("+code+")", "("+after+")"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", r.name, recordings[r.name], status, code, after)
	}
	isPage(t, "../../docs/recordings.md", b.String())
}

func (r run) cells(e recording.Event) (status, code, after string) {
	if e.Code != "" {
		code = "`" + string(e.Code) + "`"
	}
	return fmt.Sprint(e.Status), code, e.At.Sub(r.lines[0].Received).Round(100 * time.Millisecond).String()
}

func TestMessageHasTheEvidence(t *testing.T) {
	const want = "Container main of pod job-jz26m on node k8s-node-1 failed: exit code 3 (Error)."
	if got := terminal(loadRecording(t, "exit-3").events).Message; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What comes of the first lines is never contradicted by those that follow.
func TestRecordingsCutShort(t *testing.T) {
	for _, r := range loadAll(t) {
		t.Run(r.name, func(t *testing.T) {
			for n := range r.lines {
				for _, end := range []bool{false, true} {
					got := replay(t, &recording.Replay{}, r.lines[:n], end && shown(t, r.lines[:n]).job)
					if len(got) > len(r.events) {
						t.Fatalf("%d lines lead to %d events, all to %d", n, len(got), len(r.events))
					}
					for i, e := range got {
						if w := r.events[i]; e.Type != w.Type || e.Code != w.Code {
							t.Errorf("%d lines, end %v: got %s %s, then %s %s", n, end, e.Type, e.Code, w.Type, w.Code)
						}
					}
				}
			}
		})
	}
}

// An event that a watcher did not see, or saw twice, does not change the end.
func TestRecordingsWithAnEventLostOrTwice(t *testing.T) {
	for _, r := range loadAll(t) {
		t.Run(r.name, func(t *testing.T) {
			for n, l := range r.lines {
				lost := slices.Delete(slices.Clone(r.lines), n, n+1)
				r.same(t, fmt.Sprintf("without line %d", n+1), lost, replay(t, &recording.Replay{}, lost, true))
				twice := slices.Insert(slices.Clone(r.lines), n, l)
				r.same(t, fmt.Sprintf("with line %d twice", n+1), twice, replay(t, &recording.Replay{}, twice, true))
			}
		})
	}
}

// A watcher that starts anywhere, with an empty log or one that another watcher
// wrote until then, comes to the same end.
func TestRecordingsListedAnew(t *testing.T) {
	for _, r := range loadAll(t) {
		t.Run(r.name, func(t *testing.T) {
			all := held(t, r.lines)
			for n := range all {
				there, rest := listed(t, all[:n+1]), all[n+1:]
				lines := slices.Concat(there, rest)
				got := replayListed(t, jobstatus.Log{}, there, rest)
				r.same(t, fmt.Sprintf("listed at line %d", n+1), lines, got)

				var before recording.Replay
				got = replay(t, &before, all[:n+1], false)
				got = append(got, replayListed(t, before.Log, there, rest)...)
				r.sameEnd(t, fmt.Sprintf("listed anew at line %d", n+1), lines, got)
			}
		})
	}
}

// held leaves out that a Job with our finalizer went: the recorder took it off,
// where a watcher holds the Job until its end is in the log.
func held(t *testing.T, lines []recording.Line) []recording.Line {
	t.Helper()
	if !shown(t, lines).held {
		return lines
	}
	return slices.DeleteFunc(slices.Clone(lines), func(l recording.Line) bool {
		return l.Type == recording.Deleted && shown(t, []recording.Line{l}).job
	})
}

// replayListed is replay where the first look is at a whole list.
func replayListed(t *testing.T, log jobstatus.Log, there, rest []recording.Line) []recording.Event {
	t.Helper()
	r := recording.Replay{Log: log}
	got, err := r.Next(there...)
	if err != nil {
		t.Fatal(err)
	}
	return append(got, replay(t, &r, rest, shown(t, slices.Concat(there, rest)).job)...)
}

// The same events come however many changes one look takes in, as long as
// somebody looks before an object goes.
func TestRecordingsWithFewLooks(t *testing.T) {
	for _, r := range loadAll(t) {
		t.Run(r.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				var watcher recording.Replay
				var got []recording.Event
				for from, to := 0, 1; from < len(r.lines); from, to = to, to+1 {
					for to < len(r.lines) && r.lines[to].Type != recording.Deleted && rapid.Bool().Draw(rt, "more") {
						to++
					}
					events, err := watcher.Next(r.lines[from:to]...)
					if err != nil {
						rt.Fatal(err)
					}
					got = append(got, events...)
				}
				events, err := watcher.End()
				if err != nil {
					rt.Fatal(err)
				}
				if d := cmp.Diff(outline(r.events), outline(append(got, events...))); d != "" {
					rt.Error(d)
				}
			})
		})
	}
}

func outline(events []recording.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprintf("%s %s", e.Type, e.Code))
	}
	return out
}

// evidence is what lines show.
type evidence struct {
	job  bool      // the Job
	held bool      // our finalizer on it
	end  bool      // the Job with a verdict or being deleted
	pods bool      // a Pod of it
	ran  time.Time // when first a Pod whose container ran; zero: never
	gone time.Time // when the Job went; zero: never
}

// shown reads the objects for itself: it shares nothing with what is tested.
func shown(t *testing.T, lines []recording.Line) evidence {
	t.Helper()
	var out evidence
	for _, l := range lines {
		if l.Type == recording.Action {
			continue
		}
		var o struct {
			metav1.TypeMeta
			metav1.ObjectMeta `json:"metadata"`
			Status            json.RawMessage
		}
		unmarshal(t, l.Object, &o)
		switch o.Kind {
		case "Job":
			out.job = true
			out.held = out.held || slices.Contains(o.Finalizers, kubejob.Finalizer)
			if l.Type == recording.Deleted {
				out.gone = l.Received
				break
			}
			var status batchv1.JobStatus
			unmarshal(t, o.Status, &status)
			verdict := slices.ContainsFunc(status.Conditions, func(c batchv1.JobCondition) bool { return c.Type != batchv1.JobSuspended })
			out.end = out.end || verdict || o.DeletionTimestamp != nil
		case "Pod":
			out.pods = true
			var status corev1.PodStatus
			unmarshal(t, o.Status, &status)
			if out.ran.IsZero() && slices.ContainsFunc(status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
				return c.Name == "main" && (c.State.Running != nil || c.State.Terminated != nil && c.State.Terminated.StartedAt.Unix() > 0)
			}) {
				out.ran = l.Received
			}
		}
	}
	return out
}

func unmarshal(t *testing.T, data []byte, to any) {
	t.Helper()
	if len(data) == 0 {
		return
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

// listed is what a watcher sees that starts after these lines: what is there,
// each object once and as it is, and nothing of what has gone.
func listed(t *testing.T, lines []recording.Line) []recording.Line {
	t.Helper()
	now := lines[len(lines)-1].Received
	var order []types.UID
	there := map[types.UID]recording.Line{}
	for _, l := range lines {
		if l.Type == recording.Action {
			continue
		}
		var o metav1.PartialObjectMetadata
		unmarshal(t, l.Object, &o)
		if _, known := there[o.UID]; !known {
			order = append(order, o.UID)
		}
		there[o.UID] = recording.Line{Received: now, Type: l.Type, Object: l.Object}
	}
	var out []recording.Line
	for _, uid := range order {
		if l := there[uid]; l.Type != recording.Deleted {
			l.Type = recording.Added
			out = append(out, l)
		}
	}
	return out
}

// same checks what other lines of the same story lead to: everything that they
// show, in order, each once.
func (r run) same(t *testing.T, how string, lines []recording.Line, got []recording.Event) {
	t.Helper()
	r.sameEnd(t, how, lines, got)
	e := shown(t, lines)
	var want []event.Type
	if e.job && (e.gone.IsZero() || lines[0].Received.Before(e.gone)) {
		want = append(want, event.TypeJobStarted)
	}
	over := e.gone
	end := terminal(got)
	if end != nil {
		over = end.At
	}
	if e.job && !e.ran.IsZero() && (over.IsZero() || !over.Before(e.ran)) {
		want = append(want, event.TypePodStarted)
	}
	if end != nil {
		want = append(want, end.Type)
	}
	var types []event.Type
	for _, e := range got {
		types = append(types, e.Type)
	}
	if d := cmp.Diff(want, types); d != "" {
		t.Errorf("%s: %s", how, d)
	}
}

// sameEnd checks the end alone. The status is the same wherever the lines show
// an end at all; only a Job without our finalizer may go before its end is sure.
// So is the code, but where no Pod is left to say why the Job failed.
func (r run) sameEnd(t *testing.T, how string, lines []recording.Line, got []recording.Event) {
	t.Helper()
	e, want, end := shown(t, lines), terminal(r.events), terminal(got)
	switch {
	case want == nil && end == nil, end == nil && !e.end:
	case want == nil || end == nil || end.Status != want.Status:
		t.Errorf("%s: got %v, want %v", how, end, want)
	case end.Code == want.Code:
	case end.Code != jobstatus.JobFailed || e.pods:
		t.Errorf("%s: got %s, want %s", how, end.Code, want.Code)
	}
}
