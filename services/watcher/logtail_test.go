package watcher_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// node is a node of the shared control plane that is its test's alone: no Pod is
// scheduled to it. The API server asks its kubelet, which is the test, for logs.
type node struct {
	*plant

	name string

	mu   sync.Mutex
	logs map[string]http.HandlerFunc // by the Job's name
	asks map[string][]string         // query of each request, by the same
}

func newNode(p *plant) *node {
	p.t.Helper()
	n := &node{plant: p, name: p.namespace, logs: map[string]http.HandlerFunc{}, asks: map[string][]string{}}
	server := httptest.NewTLSServer(n)
	p.t.Cleanup(server.Close)
	addr := server.Listener.Addr().(*net.TCPAddr)
	nodes := p.client.CoreV1().Nodes()
	if _, err := nodes.Create(p.t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec:       corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.IP.String()}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(addr.Port)}},
		},
	}, metav1.CreateOptions{}); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), n.name, metav1.DeleteOptions{}); err != nil {
			p.t.Error(err)
		}
	})
	return n
}

// ServeHTTP is GET /containerLogs/<namespace>/<pod>/<container>.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 5 || parts[1] != "containerLogs" || parts[2] != n.namespace || parts[4] != "svc" {
		http.NotFound(w, r)
		return
	}
	job := parts[3][:strings.LastIndex(parts[3], "-")]
	n.mu.Lock()
	n.asks[job] = append(n.asks[job], r.URL.RawQuery)
	log := n.logs[job]
	n.mu.Unlock()
	log(w, r)
}

// fail runs a job whose container exits with 3 after it wrote the log.
func (n *node) fail(id string, log http.HandlerFunc) *batchv1.Job {
	n.t.Helper()
	job, err := kubejob.Build(n.accept(id), n.namespace, kubejob.Name("w", id))
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.logs[job.Name] = log
	n.mu.Unlock()
	job.Spec.Template.Spec.NodeName = n.name
	if job, err = n.client.BatchV1().Jobs(n.namespace).Create(n.t.Context(), job, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	pods := n.client.CoreV1().Pods(n.namespace)
	n.await("the Pod of "+id, func(ctx context.Context) (bool, error) {
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name})
		if err != nil || len(list.Items) == 0 {
			return false, err
		}
		pod, now := &list.Items[0], metav1.Now()
		pod.Status.Phase = corev1.PodFailed
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "svc", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", StartedAt: now, FinishedAt: now},
		}}}
		if _, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
			return false, nil
		}
		return err == nil, err
	})
	return job
}

// tailOf is what the event of the failed job has of its log; the end itself must
// be as ever.
func (n *node) tailOf(id string) string {
	n.t.Helper()
	last := n.awaitEnd(id)
	code, says := errorOf(last)
	e, ok := last.Data.(*jobsv1.JobFailed)
	if !ok || code != jobstatus.ContainerExitNonzero || strings.Contains(says, "line") {
		n.t.Fatalf("%s: %s %s %q", id, last.Type, code, says)
	}
	return e.GetEvidence().GetLogTail()
}

func (n *node) asked(job *batchv1.Job) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asks[job.Name]
}

// lines is a log, as a node gives the end of it.
func lines(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tail, err := strconv.Atoi(r.URL.Query().Get("tailLines"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		all := strings.SplitAfter(text, "\n")
		fmt.Fprint(w, strings.Join(all[max(0, len(all)-1-tail):], "")) // after the last end of a line is nothing
	}
}

// TestRealLogTail: the log comes from a node through a real API server.
func TestRealLogTail(t *testing.T) {
	n := newNode(newPlant(t))
	n.run(watcher.Options{LogTail: 2})
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			fmt.Fprint(w, strings.Repeat("line without an end\n", 1000))
		}
	}
	gone := func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
	broken := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "unable to retrieve container logs", http.StatusInternalServerError)
	}
	plain := n.fail("plain", lines("line 1\nline 2\n  line 3\n"))
	n.fail("binary", lines("\x00\x01\xff\xfe\x7fELF\nline\x1b[0m 2\n"))
	n.fail("endless", endless)
	n.fail("gone", gone)
	n.fail("broken", broken)
	for id, want := range map[string]string{"plain": "line 2\n  line 3", "binary": "ELF\nline[0m 2", "gone": "", "broken": ""} {
		if got := n.tailOf(id); got != want {
			t.Errorf("%s: got %q, want %q", id, got, want)
		}
	}
	if got := n.tailOf("endless"); len(got) > jobstatus.MaxLogTail || !strings.HasPrefix(got, "line without an end\nline") {
		t.Errorf("endless: %d bytes %.60q", len(got), got)
	}
	if got := n.asked(plain); len(got) != 1 || got[0] != "limitBytes=32768&tailLines=2" {
		t.Errorf("asked %q", got)
	}
	n.awaitRelease(plain)
}

// TestRealLogTailHangs: a node that does not answer delays the first end by the
// timeout, and the next by nothing.
func TestRealLogTailHangs(t *testing.T) {
	for name, says := range map[string]string{"at once": "", "half way": "line 1\n"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(newPlant(t))
			n.run(watcher.Options{LogTail: 2})
			first := n.fail("first", func(w http.ResponseWriter, r *http.Request) {
				if says != "" {
					fmt.Fprint(w, says)
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			})
			if got := n.tailOf("first"); got != "" {
				t.Errorf("half a log: %q", got)
			}
			second := n.fail("second", lines("line 1\n"))
			if got := n.tailOf("second"); got != "" || len(n.asked(first)) != 1 || len(n.asked(second)) != 0 {
				t.Errorf("%q; asked %d and %d times", got, len(n.asked(first)), len(n.asked(second)))
			}
		})
	}
}

// TestRealLogTailForbidden: without the permission the end goes without the log.
func TestRealLogTailForbidden(t *testing.T) {
	n := newNode(newPlant(t))
	admin := n.client
	n.client = account(t, admin, n.namespace,
		rbacv1.PolicyRule{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"get", "list", "watch", "patch", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}})
	n.run(watcher.Options{LogTail: 2})
	n.client = admin
	job := n.fail("id", lines("line 1\n"))
	if got := n.tailOf("id"); got != "" || len(n.asked(job)) != 0 {
		t.Errorf("%q", got)
	}
}

// TestRealLogTailOff: no log is read unless it is asked for.
func TestRealLogTailOff(t *testing.T) {
	n := newNode(newPlant(t))
	n.run(watcher.Options{})
	job := n.fail("id", lines("line 1\n"))
	if got := n.tailOf("id"); got != "" || len(n.asked(job)) != 0 {
		t.Errorf("%q", got)
	}
}

// account is a client with the rules alone, in the namespace.
func account(t *testing.T, admin kubernetes.Interface, namespace string, rules ...rbacv1.PolicyRule) kubernetes.Interface {
	t.Helper()
	config, err := cluster.Config(kubedtest.Shared(t).Kubeconfig(), "watcher", "test")
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate.UserName = namespace
	meta := metav1.ObjectMeta{Name: "account"}
	if _, err := admin.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: namespace}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
