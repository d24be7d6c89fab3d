//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// end is how one job is brought to its end. Its id is its code, and its service
// the code in small letters.
type end struct {
	code      jobstatus.Code // empty: success
	how       string         // in words, for the list
	want      string         // statuses of its callbacks; alternatives with |
	image     string         // default sim/hang
	job       string         // more fields of the message's job
	namespace string         // default "default"
	rules     string         // of the policy, for its service
	kubelet   report         // what a kubelet says of its Pod, which is on the played node
	once      func(job, pod string)
}

func (e end) id() string {
	if e.code == "" {
		return "COMPLETED"
	}
	return string(e.code)
}

func (e end) service() string { return strings.ToLower(strings.ReplaceAll(e.id(), "_", "-")) }

// ends are all that can be produced here. What is done to a Job is done once it
// runs; what it finds when it is launched is there before (scene.go).
func (s *scene) ends() []end {
	background := metav1.DeletePropagationBackground
	jobs, pods := s.Client.BatchV1().Jobs("default"), s.Client.CoreV1().Pods("default")
	ctx := s.t.Context()
	return []end{
		{how: "runs and exits 0", image: "sim/succeed:100ms", want: "0 1 2"},

		{code: jobstatus.MessageInvalid, how: "a TTL of 1 second", job: `,"ttlSecondsAfterFinished":1`, want: "99"},
		{code: jobstatus.PolicyDenied, how: "an image of another registry than the policy's", rules: "images: [registry.example/]", want: "99"},
		{code: jobstatus.JobSpecInvalid, how: "the operator's template has a user below 0", rules: template("securityContext: {runAsUser: -1}"), want: "99"},
		{code: jobstatus.AdmissionDenied, how: "a ValidatingAdmissionPolicy", namespace: "policed", want: "99"},
		{code: jobstatus.NamespaceNotFound, how: "no such namespace", namespace: "nowhere", want: "99"},
		{code: jobstatus.NamespaceTerminating, how: "a namespace that is held by a finalizer while it goes", namespace: "terminating", want: "99"},
		{code: jobstatus.QuotaExceeded, how: "a quota of no Jobs, for a launch deadline of 3 s", namespace: "full", rules: "launchDeadline: 3s", want: "99"},
		{code: jobstatus.NameConflict, how: "Jobs of nobody with both of its names", want: "99"},
		{code: jobstatus.LaunchExpired, how: "jobrelay pause, for a launch deadline of 3 s", rules: "launchDeadline: 3s", want: "99"},

		{code: jobstatus.PodQuotaExceeded, how: "a quota of less memory", namespace: "measured", job: `,"resources":{"limits":{"memory":"2Gi"}}`, want: "0 99"},
		{code: jobstatus.PodForbidden, how: "a quota of memory, and no limit", namespace: "measured", want: "0 99"},
		{code: jobstatus.ServiceAccountNotFound, how: "no such service account", job: `,"serviceAccount":"nobody"`, want: "0 99"},
		{code: jobstatus.Unschedulable, how: "a label that no node has", job: `,"nodeSelector":{"matchKey":"no-node","matchValue":"has-it"}`, want: "0 99"},
		{code: jobstatus.SchedulingGated, how: "a scheduling gate in the operator's template", rules: template("schedulingGates: [{name: example.com/gate}]"), want: "0 99"},
		{code: jobstatus.VolumeNotFound, how: "no such claim", job: `,"volume":{"mountPath":"/v","pvc":"no-claim"}`, want: "0 99"},
		{code: jobstatus.ImageNameInvalid, how: "simulated node", image: "sim/bad-name", want: "0 99"},
		{code: jobstatus.ImagePullFailed, how: "simulated node", image: "sim/pull-fail", want: "0 99"},
		{code: jobstatus.ContainerConfigError, how: "simulated node", image: "sim/config-error", want: "0 99"},
		{code: jobstatus.ImageNotPresent, kubelet: waiting("ErrImageNeverPull"), want: "0 99"},
		{code: jobstatus.ContainerCreateFailed, kubelet: waiting("CreateContainerError"), want: "0 99"},
		{code: jobstatus.VolumeMountFailed, kubelet: waiting("ContainerCreating").with("FailedMount"), want: "0 99"},
		{code: jobstatus.SandboxFailed, kubelet: waiting("ContainerCreating").with("FailedCreatePodSandBox"), want: "0 99"},
		{code: jobstatus.StartTimeout, kubelet: waiting("ContainerCreating"), want: "0 99"},

		{code: jobstatus.ContainerExitNonzero, how: "exit code 3", image: "sim/exit:3", want: "0 1 3"},
		{code: jobstatus.OOMKilled, how: "simulated node", image: "sim/oom", want: "0 1 3"},
		{code: jobstatus.ContainerKilled, how: "exit code 137", image: "sim/exit:137", want: "0 1 3"},
		{code: jobstatus.DeadlineExceeded, how: "a deadline of 3 s", job: `,"activeDeadlineSeconds":3`, want: "0 1 3"},
		{code: jobstatus.Evicted, how: "simulated node", image: "sim/evict", want: "0 1 3"},
		{code: jobstatus.PodFailurePolicy, how: "a MutatingAdmissionPolicy adds a rule for exit code 42", namespace: "mutated", image: "sim/exit:42", want: "0 1 3"},
		{code: jobstatus.ContainerStartFailed, kubelet: failedPod("", &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", StartedAt: metav1.Unix(0, 0)}), want: "0 3"},
		{code: jobstatus.ContainerStatusUnknown, kubelet: failedPod("", &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}), want: "0 3"},
		{code: jobstatus.NodeShutdown, kubelet: failedPod("Terminated", killed()), want: "0 1 3"},
		{code: jobstatus.NodeAdmissionRejected, kubelet: failedPod("OutOfcpu", nil), want: "0 3"},
		{code: jobstatus.InitContainerFailed, kubelet: initFails, rules: template("nodeName: " + playedNode + ", initContainers: [{name: prepare, image: busybox}]"), want: "0 3"},
		{code: jobstatus.JobFailed, kubelet: failedPod("", nil), want: "0 3"},
		{code: jobstatus.NodeLost, how: "a NoExecute taint on its node", rules: template("nodeName: " + lostNode), want: "0 1 3", once: func(string, string) {
			s.taint(lostNode, corev1.Taint{Key: "lost", Effect: corev1.TaintEffectNoExecute})
		}},
		{code: jobstatus.Preempted, how: "a Pod of a higher priority on a node with room for one", rules: template("priorityClassName: low"), job: smallNode, want: "0 1 3", once: func(string, string) {
			s.dev.send(in("default", "urgent", message("urgent", "sim/succeed:100ms", s.hooks.URL(), smallNode)))
		}},
		{code: jobstatus.PodEvictedAPI, how: "the eviction API", want: "0 1 3", once: func(_, pod string) {
			s.must(pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod}}))
		}},
		{code: jobstatus.PodDeleted, how: "the Pod is deleted", want: "0 1 3", once: func(_, pod string) {
			s.must(pods.Delete(ctx, pod, metav1.DeleteOptions{}))
		}},

		{code: jobstatus.JobDeleted, how: "the Job is deleted", want: "0 1 99", once: func(job, _ string) {
			s.must(jobs.Delete(ctx, job, metav1.DeleteOptions{PropagationPolicy: &background}))
		}},
		{code: jobstatus.NamespaceDeleted, how: "its namespace is deleted", namespace: "doomed", want: "0 1 3|0 1 99", once: func(string, string) {
			s.must(s.Client.CoreV1().Namespaces().Delete(ctx, "doomed", metav1.DeleteOptions{}))
		}},
		{code: jobstatus.Cancelled, how: "jobrelay cancel", want: "0 1 99", once: func(string, string) {
			s.jobrelay("cancel", string(jobstatus.Cancelled))
		}},
		{code: jobstatus.OutcomeUnknown, how: "the finalizer is taken off, and the Job deleted", want: "0 1 99", once: func(job, _ string) {
			_, err := jobs.Patch(ctx, job, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			s.must(err)
			s.must(jobs.Delete(ctx, job, metav1.DeleteOptions{PropagationPolicy: &background}))
		}},
	}
}

// elsewhere are the codes that are not produced here, and why.
var elsewhere = map[jobstatus.Code]string{
	jobstatus.TerminationStuck: "after 5 minutes: TestRealTerminationStuck of services/watcher, whose clock is set forward",
	jobstatus.InternalError:    "a defect of ours, which nothing produces on purpose",
}

// TestEveryEnd: each end of a job that a control plane without a real node can
// give is produced through the whole pipeline, and its callbacks have exactly its
// status and code. It lists them.
func TestEveryEnd(t *testing.T) {
	s := newScene(t)
	ends := s.ends()
	s.set(ends)
	var ids []string
	for _, e := range ends {
		ids = append(ids, e.id())
		s.dev.send(s.message(e))
	}
	for _, e := range ends {
		if e.once != nil {
			e.once(s.awaitRunning(e.id()))
		}
	}
	// The same id again with another request has no callback; it is recorded.
	s.dev.send(strings.Replace(s.message(ends[0]), `"/bin/true"`, `"/bin/false"`, 1))
	produced := list{}
	produced.add(jobstatus.IDReused, "-", "another request under the id of the first")
	s.awaitReused(ends[0].id())

	got := s.hooks.await(s.dev, 90*time.Second, ids...)
	for _, e := range ends {
		s.check(e, got[e.id()])
		how := e.how
		if how == "" {
			how = "the test reports as a kubelet does: " + e.kubelet.words
		}
		produced.add(e.code, lastStatus(got[e.id()]), how)
	}
	for _, e := range s.withoutTheAPI() {
		calls := s.hooks.await(s.dev, time.Minute, e.id())[e.id()]
		s.check(e, calls)
		produced.add(e.code, lastStatus(calls), e.how)
	}

	for _, d := range jobstatus.Codes() {
		why, excused := elsewhere[d.Code]
		_, here := produced[d.Code]
		switch {
		case here == excused:
			t.Errorf("%s: produced %v, excused %v", d.Code, here, excused)
		case excused:
			produced.add(d.Code, "", "not here: "+why)
		}
	}
	t.Logf("ends and how each was produced:\n%s", produced.table(t))
}

// check compares the callbacks of a job with what was expected.
func (s *scene) check(e end, calls []callback) {
	s.t.Helper()
	got, repeats := statuses(s.t, calls)
	text := strings.Trim(fmt.Sprint(got), "[]")
	last := calls[len(calls)-1]
	if !slices.Contains(strings.Split(e.want, "|"), text) || repeats != 0 {
		s.t.Errorf("%s: callbacks %s and %d repeats, want %s", e.id(), text, repeats, e.want)
	}
	if e.code != jobstatus.Code(last.Detail.Error.ErrorCode) || e.code != "" && last.Detail.Error.Message == "" {
		s.t.Errorf("%s: %s", e.id(), last.raw)
	}
}

func lastStatus(calls []callback) string { return fmt.Sprint(calls[len(calls)-1].Status) }

// awaitRunning waits for callback 1 of an id and returns its Job and Pod.
func (s *scene) awaitRunning(id string) (job, pod string) {
	s.t.Helper()
	s.dev.eventually("callback 1 of "+id, time.Minute, func() bool {
		calls := heard(s.t, s.hooks.Calls())[id]
		if len(calls) > 1 {
			job, pod = calls[0].Detail.JobName, calls[1].Detail.PodName
		}
		return len(calls) > 1
	})
	return job, pod
}

// list is what was produced, by its code.
type list map[jobstatus.Code][2]string

func (l list) add(c jobstatus.Code, status, how string) { l[c] = [2]string{status, how} }

// table has each code in its order, and the recordings of a real node that lead
// to it.
func (l list) table(t *testing.T) string {
	t.Helper()
	golden, err := os.ReadFile(filepath.Join("..", "..", "pkg", "jobstatus", "testdata", "recordings", "expected.txt"))
	if err != nil {
		t.Fatal(err)
	}
	recorded, name := map[jobstatus.Code][]string{}, ""
	code := regexp.MustCompile(`^  .* dev\.jobrelay\.job\.(?:failed|exception)\.v1 \d+ ([A-Z_]+)$`)
	for line := range strings.Lines(string(golden)) {
		line = strings.TrimRight(line, "\n")
		if m := code.FindStringSubmatch(line); m != nil {
			recorded[jobstatus.Code(m[1])] = append(recorded[jobstatus.Code(m[1])], name)
		} else if !strings.HasPrefix(line, " ") {
			name = line
		}
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "code\tstatus\thow\trecordings of a real node")
	all := []jobstatus.Code{""}
	for _, d := range jobstatus.Codes() {
		all = append(all, d.Code)
	}
	for _, c := range all {
		shown := string(c)
		if c == "" {
			shown = "(success)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", shown, l[c][0], l[c][1], strings.Join(recorded[c], ", "))
	}
	_ = w.Flush() // into memory
	return out.String()
}

// names are those that a Job of an id has, the second where the first is taken.
func names(id string) []string {
	return []string{kubejob.Name("e2e", id), kubejob.LongName("e2e", id)}
}
