//go:build e2ecompose

// Package compose drives the stack of compose.yaml from outside, as a person
// does with make, and kills its containers: see deploy/docker/e2e.sh.
package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// stack is the running one.
type stack struct {
	root    string // of the repository
	project string
	ports   map[string]int
}

// newStack chooses ports, and leaves what docker keeps of an earlier run behind.
func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{project: os.Getenv("COMPOSE_PROJECT_NAME"), ports: map[string]int{}}
	if s.project == "" {
		t.Fatal("COMPOSE_PROJECT_NAME is not set: run make e2e-compose")
	}
	var err error
	if s.root, err = filepath.Abs("../../.."); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"NATS_PORT", "NATS_MONITOR_PORT", "SQS_PORT", "KUBERNETES_PORT", "WEBHOOKS_PORT", "CONSOLE_PORT", "TOXIPROXY_PORT"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // when all are chosen, so that they differ
		s.ports[name] = l.Addr().(*net.TCPAddr).Port
	}
	return s
}

// try runs a command in the repository's root.
func (s *stack) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.root
	cmd.Env = append(os.Environ(), "KUBECONFIG_OUT="+s.kubeconfig())
	for key, port := range s.ports {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", key, port))
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *stack) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (s *stack) make(t *testing.T, args ...string) string {
	t.Helper()
	began := time.Now()
	out := s.run(t, "make", append([]string{"-s"}, args...)...)
	t.Logf("make %s: %s", strings.Join(args, " "), time.Since(began).Round(100*time.Millisecond))
	return out
}

// console is the address of the pages.
func (s *stack) console() string { return fmt.Sprintf("http://127.0.0.1:%d", s.ports["CONSOLE_PORT"]) }

func (s *stack) kubeconfig() string { return filepath.Join(s.root, "bin", "e2e-compose.kubeconfig") }

// container is what docker inspect says.
type container struct {
	ID           string `json:"Id"`
	Name         string
	RestartCount int
	State        struct {
		Status    string
		Pid       int
		StartedAt time.Time
		Health    *struct{ Status string }
	}
	Config struct {
		User   string
		Labels map[string]string
	}
	HostConfig struct {
		ReadonlyRootfs bool
		CapAdd         []string
		CapDrop        []string
		SecurityOpt    []string
		Privileged     bool
		Memory         int64
		PidsLimit      *int64
		RestartPolicy  struct{ Name string }
		LogConfig      struct {
			Type   string
			Config map[string]string
		}
		PortBindings map[string][]struct{ HostIP string }
	}
}

func (c container) service() string { return c.Config.Labels["com.docker.compose.service"] }

func (c container) healthy() bool {
	return c.State.Status == "running" && c.State.Health != nil && c.State.Health.Status == "healthy"
}

// containers are all of the stack, or those of one service.
func (s *stack) containers(t *testing.T, service string) []container {
	t.Helper()
	args := []string{"ps", "-a", "-q", "--no-trunc", "--filter", "label=com.docker.compose.project=" + s.project}
	if service != "" {
		args = append(args, "--filter", "label=com.docker.compose.service="+service)
	}
	ids := strings.Fields(s.run(t, "docker", args...))
	if len(ids) == 0 {
		return nil
	}
	var out []container
	if err := json.Unmarshal([]byte(s.run(t, "docker", append([]string{"inspect"}, ids...)...)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitHealth returns how long it took until every container was healthy.
func (s *stack) awaitHealth(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	sick := ""
	s.eventually(t, within, func() bool {
		sick = ""
		for _, c := range s.containers(t, "") {
			if !c.healthy() {
				sick += c.Name + " is " + c.State.Status + " "
			}
		}
		return sick == ""
	}, func() string { return "health: " + sick })
	return time.Since(began)
}

func (s *stack) eventually(t *testing.T, within time.Duration, ok func() bool, what func() string) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s\n%s", within, what(), s.logs())
		case <-tick.C:
		}
	}
}

// logs is the end of what every container said.
func (s *stack) logs() string {
	out, _ := s.try("docker", "ps", "-a", "-q", "--filter", "label=com.docker.compose.project="+s.project)
	all := ""
	for _, id := range strings.Fields(out) {
		said, _ := s.try("docker", "logs", "--tail", "15", id)
		all += id + ":\n" + said
	}
	return all
}

// crash kills a container's process as a crash or the kernel does: the restart
// policy applies. docker kill would switch that off.
func (s *stack) crash(t *testing.T, c container) {
	t.Helper()
	where, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.State.Pid))
	if c.State.Pid > 1 && err == nil && bytes.Contains(where, []byte(c.ID)) {
		if err := syscall.Kill(c.State.Pid, syscall.SIGKILL); err == nil {
			return
		}
	}
	t.Logf("the process of %s is not ours to kill: docker kill and docker start instead", c.Name)
	s.run(t, "docker", "kill", "-s", "KILL", c.ID)
	s.run(t, "docker", "start", c.ID)
}

// callback is a call that the webhook receiver printed.
type callback struct {
	ID     string
	Status int
	Detail struct{ JobName string }

	webhookID, raw string
}

// heard are the callbacks by id in the order of arrival, and their number.
func (s *stack) heard(t *testing.T) (map[string][]callback, int) {
	t.Helper()
	receiver := s.containers(t, "webhooks")
	if len(receiver) != 1 {
		t.Fatalf("%d webhook receivers", len(receiver))
	}
	byID, n := map[string][]callback{}, 0
	for line := range strings.Lines(s.run(t, "docker", "logs", receiver[0].ID)) {
		var call struct{ WebhookID, Body string }
		var c callback
		if json.Unmarshal([]byte(line), &call) != nil || call.WebhookID == "" || json.Unmarshal([]byte(call.Body), &c) != nil {
			continue // other lines; and one that a kill cut off was never answered
		}
		c.webhookID, c.raw = call.WebhookID, call.Body
		byID[c.ID] = append(byID[c.ID], c)
		n++
	}
	return byID, n
}

// batch is n messages of one service, whose callbacks go to host.
type batch struct {
	*stack
	service string
	ids     []string
	bodies  []string
}

func (s *stack) batch(service, host string, n int) *batch {
	b := &batch{stack: s, service: service}
	for i := range n {
		id := fmt.Sprintf("%s %d", service, i)
		b.ids = append(b.ids, id)
		b.bodies = append(b.bodies, fmt.Sprintf(
			`{"id":%q,"service":%q,"job":{"prefixName":"e2e","namespace":"default","image":"busybox","command":["/bin/true"],"ttlSecondsAfterFinished":7200},"webhook":{"url":"http://%s:8080/%s"}}`,
			id, service, host, service))
	}
	return b
}

// send puts messages on the queue, ten a call.
func (s *stack) send(t *testing.T, bodies ...string) {
	t.Helper()
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", s.ports["SQS_PORT"])
	queue := sqs.New(sqs.Options{BaseEndpoint: &endpoint, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")})
	for len(bodies) > 0 {
		n := min(10, len(bodies))
		var entries []types.SendMessageBatchRequestEntry
		for i, m := range bodies[:n] {
			entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), MessageBody: &m})
		}
		out, err := queue.SendMessageBatch(context.Background(), &sqs.SendMessageBatchInput{QueueUrl: aws.String(endpoint + "/000000000000/jobs"), Entries: entries})
		if err != nil || len(out.Failed) > 0 {
			t.Fatalf("send: %v %+v", err, out)
		}
		bodies = bodies[n:]
	}
}

// awaitCalls waits until so many callbacks of the batch are there.
func (b *batch) awaitCalls(t *testing.T, want int) {
	t.Helper()
	have := 0
	b.eventually(t, 2*time.Minute, func() bool {
		have = 0
		all, _ := b.heard(t)
		for _, id := range b.ids {
			have += len(all[id])
		}
		return have >= want
	}, func() string { return fmt.Sprintf("%d callbacks of %s, have %d", want, b.service, have) })
}

// check waits for every end, then: each id has 0, 1, 2 in order, a repeat only
// with the same webhook-id and bytes, and one Job. It returns the repeats.
func (b *batch) check(t *testing.T, within time.Duration) (repeats int) {
	t.Helper()
	var all map[string][]callback
	missing := ""
	b.eventually(t, within, func() bool {
		all, _ = b.heard(t)
		for _, id := range b.ids {
			if c := all[id]; len(c) == 0 || c[len(c)-1].Status < 2 {
				missing = fmt.Sprintf("%s has %v", id, c)
				return false
			}
		}
		return true
	}, func() string { return "the end of " + missing })
	names, once := map[string]bool{}, 0
	for _, id := range b.ids {
		seen, statuses := map[string]string{}, []int{}
		for _, c := range all[id] {
			if raw, again := seen[c.webhookID]; again {
				if raw != c.raw {
					t.Errorf("%s: repeated with other bytes:\n%s\n%s", id, raw, c.raw)
				}
				repeats++
				continue
			}
			seen[c.webhookID] = c.raw
			statuses = append(statuses, c.Status)
			once++
		}
		if fmt.Sprint(statuses) != "[0 1 2]" {
			t.Errorf("%s: callbacks %v", id, statuses)
		}
		names[all[id][0].Detail.JobName] = true
	}
	if once != 3*len(b.ids) {
		t.Errorf("%d callbacks, want %d", once, 3*len(b.ids))
	}
	jobs := b.jobs(t, b.service)
	if len(jobs) != len(b.ids) || len(names) != len(b.ids) {
		t.Errorf("%d Jobs, %d named by callbacks, want %d", len(jobs), len(names), len(b.ids))
	}
	for _, j := range jobs {
		if !names[j.Name] {
			t.Errorf("Job %s is in no callback", j.Name)
		}
	}
	return repeats
}

// jobs are those of a service.
func (s *stack) jobs(t *testing.T, service string) []batchv1.Job {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + service})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}
