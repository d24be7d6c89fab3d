//go:build e2e

// Package e2e drives a whole jobrelay dev from outside, as its users do: SQS
// through the official SDK, Kubernetes through its API, events as a plain
// nats.go subscriber, callbacks at a receiver of the test's own.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

// devJSON is what jobrelay dev tells others.
type devJSON struct {
	SQS        struct{ Endpoint, QueueURL, Region string }
	NATS       struct{ URL, EventsStream string }
	Kubernetes struct{ Kubeconfig string }
	Webhooks   struct{ URL string }
	Metrics    struct{ Ingest, Launcher, Watcher, Notifier string }
}

// dev is one jobrelay dev process.
type dev struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	out  *tail

	devJSON
	queue *sqs.Client
	kube  kubernetes.Interface
}

// tail keeps the last lines of an output.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (l *tail) read(r io.Reader) {
	s := bufio.NewScanner(r)
	for s.Buffer(nil, 4<<20); s.Scan(); {
		l.mu.Lock()
		l.lines = append(l.lines, s.Text())
		if len(l.lines) > 200 {
			l.lines = l.lines[1:]
		}
		l.mu.Unlock()
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// startDev starts jobrelay dev on dir and waits until it is ready.
func startDev(t *testing.T, dir string, env ...string) *dev {
	t.Helper()
	binary := os.Getenv("JOBRELAY_BIN")
	if binary == "" {
		t.Fatal("JOBRELAY_BIN names no binary: run make e2e")
	}
	d := &dev{t: t, dir: dir, done: make(chan struct{}), out: &tail{}}
	d.cmd = exec.Command(binary, "dev", "--state-dir", dir)
	d.cmd.Env = append(os.Environ(), env...)
	// The shell's addresses lead nowhere: dev's own must win.
	d.cmd.Env = append(d.cmd.Env, "JOBRELAY_NATS_URL=nats://127.0.0.1:1", "JOBRELAY_SQS_QUEUE_URL=http://127.0.0.1:1/0/x",
		"AWS_ENDPOINT_URL_SQS=http://127.0.0.1:1", "KUBECONFIG=/nonexistent", "JOBRELAY_METRICS_ADDR=127.0.0.1:1")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stdout, d.cmd.Stderr = w, w
	// What a killed predecessor left says nothing about this one.
	if err := os.Remove(filepath.Join(dir, "dev.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	go d.out.read(r)
	go func() { _ = d.cmd.Wait(); close(d.done) }()
	t.Cleanup(d.stop)
	d.eventually("dev.json", 2*time.Minute, func() bool {
		select {
		case <-d.done:
			t.Fatalf("dev ended:\n%s", d.out)
		default:
		}
		b, err := os.ReadFile(filepath.Join(dir, "dev.json"))
		return err == nil && json.Unmarshal(b, &d.devJSON) == nil
	})
	t.Logf("ready in %s", time.Since(begin).Round(10*time.Millisecond))
	d.queue = sqs.New(sqs.Options{
		BaseEndpoint: &d.SQS.Endpoint, Region: d.SQS.Region, Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	})
	rest, err := clientcmd.BuildConfigFromFlags("", d.Kubernetes.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	rest.QPS, rest.Burst = 100, 200
	if d.kube, err = kubernetes.NewForConfig(rest); err != nil {
		t.Fatal(err)
	}
	return d
}

// stop ends dev in order, and sees that no process of it is left.
func (d *dev) stop() {
	select {
	case <-d.done:
		return
	default:
	}
	begin := time.Now()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
		d.t.Logf("stopped in %s", time.Since(begin).Round(10*time.Millisecond))
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			d.t.Errorf("dev ended with %d:\n%s", code, d.out)
		}
	case <-time.After(time.Minute):
		_ = d.cmd.Process.Kill()
		d.t.Errorf("dev did not stop:\n%s", d.out)
	}
	d.nobodyLeft()
}

// kill is SIGKILL; its parts must end by themselves.
func (d *dev) kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	<-d.done
	d.nobodyLeft()
}

// nobodyLeft waits until no live process names the state folder.
func (d *dev) nobodyLeft() {
	d.t.Helper()
	d.eventually("the end of every process of dev", 30*time.Second, func() bool {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(d.dir)) {
				return false
			}
		}
		return true
	})
}

// eventually waits until ok.
func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	(&dev{t: t, out: &tail{}}).eventually(what, within, ok)
}

// serve serves on a free port until the test ends.
func serve(t *testing.T, s *http.Server) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

func (d *dev) eventually(what string, within time.Duration, ok func() bool) {
	d.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			d.t.Fatalf("%s: not within %s; dev says:\n%s", what, within, d.out)
		case <-tick.C:
		}
	}
}

// send puts messages on the queue, ten a call.
func (d *dev) send(messages ...string) {
	d.t.Helper()
	for len(messages) > 0 {
		n := min(10, len(messages))
		var entries []types.SendMessageBatchRequestEntry
		for i, m := range messages[:n] {
			entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), MessageBody: &m})
		}
		out, err := d.queue.SendMessageBatch(context.Background(), &sqs.SendMessageBatchInput{QueueUrl: &d.SQS.QueueURL, Entries: entries})
		if err == nil && len(out.Failed) > 0 {
			err = errors.New(aws.ToString(out.Failed[0].Code))
		}
		if err != nil {
			d.t.Fatal(err)
		}
		messages = messages[n:]
	}
}

// message is a message in namespace default.
func message(id, image, webhook string, extra string) string {
	return fmt.Sprintf(`{"id":%q,"service":"e2e","job":{"prefixName":"e2e","namespace":"default","image":%q,"command":["/bin/true"]%s},"webhook":{"url":%q}}`, id, image, extra, webhook)
}

// receiver is a webhook receiver with what it heard.
type receiver struct {
	*hookd.Server
	t *testing.T
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	s, err := hookd.Start(hookd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return &receiver{s, t}
}

// callback is a body as the original defines it.
type callback struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
	Detail struct {
		JobName string `json:"jobName"`
		PodName string `json:"podName"`
		Error   struct {
			ErrorCode string `json:"errorCode"`
			Message   string `json:"message"`
		} `json:"error"`
	} `json:"detail"`
	webhookID, raw string
}

// heard are the callbacks of each id in the order of arrival.
func heard(t testing.TB, calls []hookd.Call) map[string][]callback {
	out := map[string][]callback{}
	for _, c := range calls {
		var b callback
		if err := json.Unmarshal(c.Body, &b); err != nil {
			t.Fatal(err)
		}
		b.webhookID, b.raw = c.Header.Get("Webhook-Id"), string(c.Body)
		out[b.ID] = append(out[b.ID], b)
	}
	return out
}

// await waits until every id has its end (2, 3 or 99) and returns all.
func (r *receiver) await(d *dev, within time.Duration, ids ...string) map[string][]callback {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	missing := ""
	err := r.Wait(ctx, func(calls []hookd.Call) bool {
		got := heard(r.t, calls)
		missing = ""
		for _, id := range ids {
			if c := got[id]; len(c) == 0 || c[len(c)-1].Status < 2 {
				missing = id
				return false
			}
		}
		return true
	})
	if err != nil {
		r.t.Fatalf("%s has no end after %s (%v); dev says:\n%s", missing, within, err, d.out)
	}
	return heard(r.t, r.Calls())
}

// statuses of the callbacks, repeats of the same id and bytes left out.
func statuses(t *testing.T, calls []callback) (out []int, repeats int) {
	t.Helper()
	bodies := map[string]string{}
	for _, c := range calls {
		if have, ok := bodies[c.webhookID]; ok {
			if have != c.raw {
				t.Errorf("%s was repeated with other bytes:\n%s\n%s", c.webhookID, have, c.raw)
			}
			repeats++
			continue
		}
		bodies[c.webhookID] = c.raw
		out = append(out, c.Status)
	}
	return out, repeats
}

// run is one command of the binary, to its end.
func run(ctx context.Context, args, env []string) (output string, code int) {
	cmd := exec.CommandContext(ctx, os.Getenv("JOBRELAY_BIN"), args...)
	cmd.Env = append(os.Environ(), env...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}
