//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/request"
)

const sampleID = "31a89a91-43d8-4786-a195-9b25cec28a44"

// TestPipeline is the main path, on one stack.
func TestPipeline(t *testing.T) {
	d := startDev(t, filepath.Join(t.TempDir(), "dev"))
	t.Run("the original's sample", d.sample)
	t.Run("the same message five times", d.same)
	t.Run("cancel", d.cancel)
	t.Run("two hundred at once", d.burst)
	t.Run("metrics", d.metrics)
}

func (d *dev) sample(t *testing.T) {
	r := newReceiver(t)
	read := tap(t, d.NATS.URL, d.NATS.EventsStream)
	d.send(strings.Replace(string(request.Sample), "http://webhook.com", r.URL(), 1))
	calls := r.await(d, time.Minute, sampleID)[sampleID]
	job, err := d.kube.BatchV1().Jobs("default").Get(t.Context(), "bb-fbe70e59", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := d.kube.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=bb-fbe70e59"})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%v %v", pods, err)
	}
	pod := pods.Items[0]
	want := []string{
		fmt.Sprintf(`{"id":%q,"status":0,"detail":{"jobId":%q,"jobName":"bb-fbe70e59"}}`, sampleID, job.UID),
		fmt.Sprintf(`{"id":%q,"status":1,"detail":{"podId":%q,"podName":%q}}`, sampleID, pod.UID, pod.Name),
		fmt.Sprintf(`{"id":%q,"status":2,"detail":{"duration":%d}}`, sampleID, int(job.Status.CompletionTime.Sub(job.Status.StartTime.Time).Seconds())),
	}
	for i, w := range want {
		if i >= len(calls) || calls[i].raw != w {
			t.Fatalf("callback %d of %d:\ngot  %+v\nwant %s", i, len(calls), calls, w)
		}
	}
	if pod.Spec.NodeName != "k8s-node-1" || pod.Labels["app"] != "example" || *job.Spec.TTLSecondsAfterFinished != 60 ||
		*job.Spec.ActiveDeadlineSeconds != 600 || *job.Spec.BackoffLimit != 0 || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "ps-pvc" ||
		pod.Spec.Containers[0].VolumeMounts[0].MountPath != "/workdir" || pod.Spec.Containers[0].Resources.Limits.Memory().String() != "512Mi" {
		t.Errorf("Job %+v", job.Spec)
	}
	types := ""
	for range 3 {
		m := read()
		for _, name := range []string{"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"} {
			if m.Headers().Get(name) == "" {
				t.Errorf("%s has no %s", m.Subject(), name)
			}
		}
		if m.Headers().Get("ce-subject") != sampleID || !strings.Contains(string(m.Data()), string(job.UID)) || strings.Contains(string(m.Data()), r.URL()) {
			t.Errorf("%v %s", m.Headers(), m.Data())
		}
		types += m.Headers().Get("ce-type") + " "
	}
	if types != "dev.jobrelay.job.started.v1 dev.jobrelay.pod.started.v1 dev.jobrelay.job.completed.v1 " {
		t.Errorf("events %s", types)
	}
}

// tap reads events with the plain nats.go client.
func tap(t *testing.T, url, stream string) (next func() jetstream.Msg) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.OrderedConsumer(t.Context(), stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"events.example.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return func() jetstream.Msg {
		t.Helper()
		m, err := c.Next(jetstream.FetchMaxWait(20 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func (d *dev) same(t *testing.T) {
	r := newReceiver(t)
	m := message("same", "busybox", r.URL(), "")
	spaced := strings.ReplaceAll(m, `,"`, `, "`)
	d.send(m, m, spaced, m, m)
	r.await(d, time.Minute, "same")
	d.send(message("after", "busybox", r.URL(), "")) // what comes later has overtaken nothing
	got := r.await(d, time.Minute, "same", "after")
	if s, repeats := statuses(t, got["same"]); fmt.Sprint(s) != "[0 1 2]" || repeats != 0 {
		t.Errorf("%v, %d repeats", s, repeats)
	}
	jobs, err := d.kube.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=e2e"})
	if err != nil || len(jobs.Items) != 2 {
		t.Errorf("%d Jobs, %v", len(jobs.Items), err)
	}
}

// cancel ends a Job that runs and one that is not there yet, and is too late for
// one that has its end.
func (d *dev) cancel(t *testing.T) {
	operator := func(args ...string) (string, int) {
		t.Helper()
		out, code := run(t.Context(), append(args, "--nats-url", d.NATS.URL), nil)
		t.Logf("jobrelay %s: exit %d\n%s", strings.Join(args, " "), code, out)
		return out, code
	}
	r := newReceiver(t)
	operator("pause", "held")
	d.send(message("cancel me", "sim/hang", r.URL(), ""), message("over", "busybox", r.URL(), ""), in("default", "held", message("not yet", "busybox", r.URL(), "")))
	r.await(d, time.Minute, "over")
	d.eventually("callback 1 of the one that hangs", time.Minute, func() bool { return len(heard(t, r.Calls())["cancel me"]) == 2 })
	if out, code := operator("cancel", "cancel me", "not yet", "--reason", "it hangs"); code != 0 || strings.Count(out, "cancelled: status 99 CANCELLED") != 2 {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code := operator("cancel", "over"); code != 1 || !strings.Contains(out, "over too late: status 2") {
		t.Errorf("exit %d: %s", code, out)
	}
	operator("resume", "held")
	got := r.await(d, time.Minute, "cancel me", "not yet")
	for id, want := range map[string]string{"cancel me": "[0 1 99]", "not yet": "[99]", "over": "[0 1 2]"} {
		if s, _ := statuses(t, got[id]); fmt.Sprint(s) != want {
			t.Errorf("%s: %v", id, s)
		}
	}
	if last := got["cancel me"][2]; last.Detail.Error.Message != "Cancelled by the operator: it hangs." {
		t.Error(last.raw)
	}
}

func (d *dev) burst(t *testing.T) {
	const n = 200
	r := newReceiver(t)
	var ids, messages []string
	for i := range n {
		ids = append(ids, fmt.Sprint("burst ", i))
		messages = append(messages, message(ids[i], "busybox", r.URL(), ""))
	}
	begin := time.Now()
	d.send(messages...)
	got := r.await(d, 3*time.Minute, ids...)
	t.Logf("%d messages to %d callbacks in %s", n, len(r.Calls()), time.Since(begin).Round(10*time.Millisecond))
	uids := map[string]bool{}
	for _, id := range ids {
		if s, repeats := statuses(t, got[id]); fmt.Sprint(s) != "[0 1 2]" || repeats != 0 {
			t.Errorf("%s: %v, %d repeats", id, s, repeats)
		}
		uids[got[id][0].raw] = true
	}
	if len(uids) != n || len(r.Calls()) != 3*n {
		t.Errorf("%d Jobs and %d callbacks", len(uids), len(r.Calls()))
	}
}

func (d *dev) metrics(t *testing.T) {
	for address, metric := range map[string]string{
		d.Metrics.Ingest:   `jobrelay_ingest_messages_total{outcome="duplicate"} 4`,
		d.Metrics.Launcher: `jobrelay_launcher_launches_total{outcome="created"}`,
		d.Metrics.Watcher:  `jobrelay_watcher_`,
		d.Metrics.Notifier: `jobrelay_notifier_callbacks_total{end="delivered"}`,
	} {
		res, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !strings.Contains(string(b), metric) {
			t.Errorf("%s has no %s (%v)", address, metric, err)
		}
	}
}

// TestKill: SIGKILL of dev, three times during 50 jobs, each with a start on the
// same folder: one Job each, every id 0, 1, 2 in order, a repeat only with the same
// webhook-id and bytes.
func TestKill(t *testing.T) {
	const n = 50
	dir := filepath.Join(t.TempDir(), "dev")
	r := newReceiver(t)
	d := startDev(t, dir)
	before := d.devJSON
	var ids, messages []string
	for i := range n {
		ids = append(ids, fmt.Sprint("kill ", i))
		messages = append(messages, message(ids[i], "busybox", r.URL(), ""))
	}
	d.send(messages...)
	for _, after := range []int{1, n, 2*n + n/2} { // callbacks: at intake, in the middle, near the end
		d.eventually("the moment to kill", 2*time.Minute, func() bool { return len(r.Calls()) >= after })
		d.kill()
		t.Logf("killed after %d callbacks", len(r.Calls()))
		d = startDev(t, dir)
		if d.Webhooks != before.Webhooks || d.NATS != before.NATS || d.SQS != before.SQS {
			t.Errorf("the addresses moved: %+v, before %+v", d.devJSON, before)
		}
	}
	got := r.await(d, 3*time.Minute, ids...)
	jobs, repeats := map[string]bool{}, 0
	for _, id := range ids {
		s, again := statuses(t, got[id])
		repeats += again
		if fmt.Sprint(s) != "[0 1 2]" {
			t.Errorf("%s: %v", id, s)
		}
		jobs[got[id][0].raw] = true
	}
	if len(jobs) != n {
		t.Errorf("%d Jobs", len(jobs))
	}
	t.Logf("%d callbacks, %d of them repeats", len(r.Calls()), repeats)
}

// TestBadStarts: one line that says what to do, and a non-zero exit.
func TestBadStarts(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"a bad schedule":   {[]string{"JOBRELAY_RETRY_SCHEDULE=5"}, nil, "retry schedule"},
		"no control plane": {[]string{"JOBRELAY_KUBE_BIN=/nonexistent"}, nil, "JOBRELAY_KUBE_BIN"},
		"a bad flag":       {nil, []string{"--state-dirs=x"}, "--help"},
		"a bad folder":     {nil, []string{"--state-dir=/proc/x"}, "--state-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, code := run(ctx, append([]string{"dev", "--state-dir=" + t.TempDir()}, c.args...), c.env)
			last := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
			if code == 0 || !strings.Contains(last, c.want) {
				t.Errorf("exit %d, want one line with %q:\n%s", code, c.want, out)
			}
		})
	}
	if _, err := os.Stat("/proc/x"); err == nil {
		t.Error("/proc/x was made")
	}
}
