//go:build e2enode

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/request"
)

const (
	nodeName    = "k8s-node-1" // that the original's sample selects
	nodeTaint   = "key=value:NoSchedule"
	nodeAddress = "198.51.100.1" // of alone.sh's network namespace

	sampleID = "31a89a91-43d8-4786-a195-9b25cec28a44"

	patience = 2 * time.Minute // after it the test has failed
)

// ending is a message and what is to become of it on a real node.
type ending struct {
	id       string
	image    string // default busybox
	command  []string
	more     string // fields of job
	statuses []int
	code     string
	says     string // in the message of the last callback
	process  string // in its container's command line: it is gone with the end
}

// PID 1 of a container ignores SIGTERM: it is killed after its 30 s of grace.
var endings = []ending{
	{id: "exit-3", command: shell("echo no luck; exit 3"), statuses: []int{0, 1, 3}, code: "CONTAINER_EXIT_NONZERO", says: "on node k8s-node-1 failed: exit code 3"},
	{id: "oom", command: shell("sleep 1; exec dd if=/dev/zero of=/dev/null bs=64M count=1"), more: `"resources":{"limits":{"memory":"16Mi"}}`,
		statuses: []int{0, 1, 3}, code: "OOM_KILLED", says: "OOMKilled"},
	{id: "no-program", command: []string{"/no/such/program"}, statuses: []int{0, 3}, code: "CONTAINER_START_FAILED", says: "StartError"},
	{id: "no-image", image: "team/nosuch:1", command: shell("exit 0"), statuses: []int{0, 99}, code: "IMAGE_PULL_FAILED", says: "team/nosuch:1"},
	{id: "deadline", command: shell("sleep 31415; exit 0"), more: `"activeDeadlineSeconds":5`, statuses: []int{0, 1, 3}, code: "DEADLINE_EXCEEDED", process: "sleep 31415"},
	{id: "cancel", command: shell("sleep 27182; exit 0"), statuses: []int{0, 1, 99}, code: "CANCELLED", says: "it is not wanted", process: "sleep 27182"},
}

// TestRealNode: the four services as processes, and Jobs that run in containers of
// a real kubelet. `make e2e-node` runs it.
func TestRealNode(t *testing.T) {
	if out, err := exec.Command("sh", "needs.sh").CombinedOutput(); err != nil {
		t.Fatal(strings.TrimSpace(string(out)))
	}
	if os.Getenv("JOBRELAY_BIN") == "" {
		t.Fatal("JOBRELAY_BIN names no binary: run make e2e-node")
	}
	// An interrupt fails what waits, and the test ends as it always does: with
	// all that it started.
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b := &bench{ctx: ctx, dir: t.TempDir()}
	b.startStack(t)
	b.startNode(t)

	b.send(t, strings.Replace(string(request.Sample), "http://webhook.com", b.Hooks.URL(), 1))
	for _, e := range endings {
		b.send(t, b.message(e))
	}
	b.cancel(t, "cancel", "sleep 27182")
	for _, e := range endings {
		t.Run(e.id, func(t *testing.T) { b.ends(t, e) })
	}
	t.Run("the end of a log", b.logTail)
	t.Run("the original's sample", b.sample)
}

// bench is the stack and the node beside it.
type bench struct {
	*faults.Stack
	ctx context.Context // ends with the test or an interrupt
	dir string
}

// startStack starts the control plane and the services. Its simulated node of the
// real one's name goes.
func (b *bench) startStack(t *testing.T) {
	var err error
	b.Stack, err = faults.Start(b.ctx, faults.Config{Dir: filepath.Join(b.dir, "stack"), Env: []string{"JOBRELAY_IMAGE_PULL_DEADLINE=5s", "JOBRELAY_LOG_TAIL=3"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	nodes := b.Client.CoreV1().Nodes()
	if err := nodes.Delete(b.ctx, nodeName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.until(t, "the simulated node is gone", func() bool {
		_, err := nodes.Get(b.ctx, nodeName, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// startNode attaches the real node. hold.sh ends it with this process, whichever
// way that ends.
func (b *bench) startNode(t *testing.T) {
	state := filepath.Join(b.dir, "node")
	hold := exec.Command("bash", "hold.sh", state, b.Kubeconfig, "--node", nodeName, "--taint", nodeTaint, "--address", nodeAddress)
	hold.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C in the terminal is for us alone
	life, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	hold.Stderr = hold.Stdout
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	up, read := make(chan struct{}), make(chan struct{})
	var said strings.Builder // read it after read is closed
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(io.TeeReader(out, &said)); lines.Scan(); {
			if lines.Text() == "up" {
				close(up)
			}
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the kubelet's last errors:\n%s", lastErrors(filepath.Join(state, "kubelet.log")))
		}
		run, _ := os.Readlink(filepath.Join(state, "run")) // none where up.sh did not come that far
		_ = life.Close()
		<-read
		err := hold.Wait()
		t.Logf("the node:\n%s", said.String())
		if err != nil {
			t.Errorf("the node did not end well: %v", err)
		}
		if left := processes(state); len(left) > 0 {
			t.Errorf("processes are left: %q", left)
		}
		if run != "" {
			if left := processes(run); len(left) > 0 {
				t.Errorf("processes are left: %q", left)
			}
		}
	})
	select {
	case <-up:
	case <-read:
		t.Fatal("the node did not start; what it said follows")
	case <-b.ctx.Done():
		t.Fatal("interrupted")
	}
}

// lastErrors are the last lines of a kubelet's log that say what went wrong.
func lastErrors(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	var errors []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "E") || strings.HasPrefix(line, "F") {
			errors = append(errors, line)
		}
	}
	return strings.Join(errors[max(0, len(errors)-10):], "")
}

// processes are the command lines on this machine that have the text.
func processes(text string) []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f) // one that has just ended has none
		line = bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte(" "))
		if err == nil && bytes.Contains(line, []byte(text)) {
			out = append(out, string(line))
		}
	}
	return out
}

func (b *bench) message(e ending) string {
	if e.image == "" {
		e.image = "busybox"
	}
	if e.more != "" {
		e.more += ","
	}
	command, _ := json.Marshal(e.command) // strings: no error
	return fmt.Sprintf(`{"id":%q,"service":"e2e","job":{"prefixName":"e2e","namespace":"default","image":%q,"command":%s,%s
		"nodeSelector":{"matchKey":"kubernetes.io/hostname","matchValue":%q},"toleration":{"key":"key","value":"value"}},"webhook":{"url":%q}}`,
		e.id, e.image, command, e.more, nodeName, b.Hooks.URL())
}

func (b *bench) send(t *testing.T, message string) {
	t.Helper()
	if err := b.SendBody(b.ctx, message); err != nil {
		t.Fatal(err)
	}
}

// cancel cancels a job once its container runs.
func (b *bench) cancel(t *testing.T, id, process string) {
	b.until(t, "its container runs", func() bool { return len(processes(process)) > 0 })
	b.await(t, id, 1)
	cmd := exec.CommandContext(b.ctx, os.Getenv("JOBRELAY_BIN"), "cancel", id, "--reason", "it is not wanted", "--wait", "0s", "--nats-url", b.NATSURL)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// ends waits for the end of a job and compares.
func (b *bench) ends(t *testing.T, e ending) {
	calls := b.await(t, e.id, e.statuses[len(e.statuses)-1])
	if left := processes(e.process); e.process != "" && len(left) > 0 {
		t.Errorf("at the end its container still runs: %q", left)
	}
	last := calls[len(calls)-1]
	t.Log(last.Body)
	if got := statuses(calls); !slices.Equal(got, e.statuses) || last.Code != e.code || !strings.Contains(last.Body, e.says) {
		t.Errorf("callbacks %v, the last %s; want %v, %s with %q", got, last.Body, e.statuses, e.code, e.says)
	}
	if last.Status == 99 { // ended by us: nothing of it is left
		b.until(t, "its Job and Pod are gone", func() bool {
			jobs, err := b.Jobs(b.ctx)
			if err != nil || len(jobs[e.id]) > 0 {
				return false
			}
			var started struct{ Detail struct{ JobName string } }
			if err := json.Unmarshal([]byte(calls[0].Body), &started); err != nil {
				t.Fatal(err)
			}
			pods, err := b.pods(started.Detail.JobName)
			return err == nil && len(pods) == 0
		})
	}
}

// logTail looks, as a tap does, for the event of a failed Job with the end of its
// container's log.
func (b *bench) logTail(t *testing.T) {
	nc, err := nats.Connect(b.NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	failed, err := js.OrderedConsumer(b.ctx, "EVENTS", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"events.e2e.*.failed"}})
	if err != nil {
		t.Fatal(err)
	}
	for { // all have their callbacks already, so all are there
		m, err := failed.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatalf("no event has what the container said last: %v", err)
		}
		if m.Headers().Get("ce-subject") == "exit-3" {
			if !bytes.Contains(m.Data(), []byte("no luck")) {
				t.Errorf("%s", m.Data())
			}
			return
		}
	}
}

// sample is the original's: its container says Hello World and works for 30 s.
func (b *bench) sample(t *testing.T) {
	calls := b.await(t, sampleID, 2)
	if got := statuses(calls); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("callbacks %v", got)
	}
	for _, c := range calls {
		t.Logf("%s  %s", c.At.Format("15:04:05.000"), c.Body)
	}
	pods, err := b.pods("bb-fbe70e59")
	if err != nil || len(pods) != 1 {
		t.Fatalf("%d Pods: %v", len(pods), err)
	}
	pod := pods[0]
	log, err := b.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(b.ctx)
	if err != nil || string(log) != "Hello World\n" {
		t.Errorf("its log is %q, %v", log, err)
	}
	t.Logf("its log: %s", log)
	var end struct{ Detail struct{ Duration int } }
	if err := json.Unmarshal([]byte(calls[2].Body), &end); err != nil || end.Detail.Duration < 30 {
		t.Errorf("it slept for 30 s: %s", calls[2].Body)
	}
	if c := pod.Status.ContainerStatuses; pod.Spec.NodeName != nodeName || len(c) != 1 || !strings.HasPrefix(c[0].ContainerID, "containerd://") {
		t.Errorf("it ran on %s: %+v", pod.Spec.NodeName, c)
	}
}

func (b *bench) pods(job string) ([]corev1.Pod, error) {
	list, err := b.Client.CoreV1().Pods("default").List(b.ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + job})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// await waits until an id has had a callback with the status, or its end, and
// returns its callbacks in the order of arrival.
func (b *bench) await(t *testing.T, id string, status int) []faults.Callback {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	var got []faults.Callback
	err := b.Hooks.Wait(ctx, func(calls []hookd.Call) bool {
		got = slices.DeleteFunc(faults.Callbacks(calls), func(c faults.Callback) bool { return c.ID != id })
		return slices.ContainsFunc(got, func(c faults.Callback) bool { return c.Status == status || c.Status >= 2 })
	})
	if err != nil {
		t.Fatalf("%s has no callback %d (%v), only %v", id, status, err, got)
	}
	return got
}

// statuses of callbacks, a repeat of the same once.
func statuses(calls []faults.Callback) []int {
	var out []int
	known := map[string]bool{}
	for _, c := range calls {
		if !known[c.WebhookID] {
			out = append(out, c.Status)
		}
		known[c.WebhookID] = true
	}
	return out
}

// until waits for ok.
func (b *bench) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	for ; !ok(); pause(ctx, 50*time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", what, ctx.Err())
		}
	}
}
