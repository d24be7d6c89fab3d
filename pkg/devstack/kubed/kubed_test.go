package kubed_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	inner := filepath.Join(root, "deploy", "inner")
	built := filepath.Join(root, "bin", "kubernetes")
	for file, content := range map[string]string{
		filepath.Join(root, "go.mod"):  "module github.com/jobrelay/jobrelay\n",
		filepath.Join(inner, "go.mod"): "module github.com/jobrelay/jobrelay/deploy/inner\n",
		built:                          "",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(inner)

	t.Setenv(kubed.BinaryEnv, "")
	const advice = "run `make bin/kubernetes` or set JOBRELAY_KUBE_BIN"
	if path, err := kubed.Find(); err == nil || !strings.Contains(err.Error(), advice) {
		t.Errorf("with a file that is not executable: %q, %v; want an error with %q", path, err, advice)
	}
	if err := os.Chmod(built, 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := kubed.Find(); err != nil || !sameFile(t, path, built) {
		t.Errorf("in an inner module: %q, %v; want %q", path, err, built)
	}
	t.Setenv(kubed.BinaryEnv, filepath.Join(root, "missing"))
	if path, err := kubed.Find(); err == nil || !strings.Contains(err.Error(), advice) {
		t.Errorf("with a wrong path: %q, %v; want an error with %q", path, err, advice)
	}
	t.Setenv(kubed.BinaryEnv, built)
	if path, err := kubed.Find(); err != nil || !sameFile(t, path, built) {
		t.Errorf("with its path: %q, %v; want %q", path, err, built)
	}
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

func TestStartSaysWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		config kubed.Config
		want   string
	}{
		"port taken":        {kubed.Config{Dir: tempDir(t), Port: taken.Addr().(*net.TCPAddr).Port}, "choose another --port"},
		"port out of range": {kubed.Config{Dir: tempDir(t), Port: 65536}, "choose 0 to 65535"},
		"folder is a file":  {kubed.Config{Dir: file}, "choose a --dir that you can write to"},
		"no folder":         {kubed.Config{}, "name a folder"},
		"no binary":         {kubed.Config{Dir: tempDir(t), Binary: file + "x"}, "cannot be run"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, err := kubed.Start(t.Context(), test.config)
			if err == nil {
				cluster.Stop(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %v; want one line with %q", err, test.want)
			}
		})
	}
}

// TestCluster follows one folder through a first cluster, its crash, and a second.
func TestCluster(t *testing.T) {
	dir := tempDir(t)
	var mu sync.Mutex
	var lines []string
	first := startCluster(t, kubed.Config{Dir: dir, Log: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}})
	mu.Lock()
	for _, want := range []string{"etcd", "API server", "controllers and nodes"} {
		if !slices.Contains(lines, want) {
			t.Errorf("the lines %q lack %q", lines, want)
		}
	}
	mu.Unlock()
	client := clientOf(t, first.Kubeconfig())
	pid := pidOf(t, dir)

	if group, err := syscall.Getpgid(pid); err != nil || group == syscall.Getpgrp() {
		t.Errorf("the child is in process group %d (%v), where Ctrl-C reaches it", group, err)
	}
	signalTo(t, pid, syscall.SIGINT) // what follows shows that it is ignored

	t.Run("uses", func(t *testing.T) {
		for name, use := range map[string]func(*testing.T, kubernetes.Interface){
			"nodes": testNodes, "claim": testClaim, "other node": testOtherNode,
			"complete": testComplete, "fail": testFail, "sample": testSample,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				use(t, client)
			})
		}
		t.Run("rbac", func(t *testing.T) {
			t.Parallel()
			testRBAC(t, first.Kubeconfig())
		})
	})

	kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), kept, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	signalTo(t, pid, syscall.SIGKILL)
	<-first.Done()
	if err := first.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Err after SIGKILL is %v", err)
	}

	second := startCluster(t, kubed.Config{Dir: dir})
	client = clientOf(t, second.Kubeconfig())
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("after SIGKILL and a new start: %v", err)
	}
	testNodes(t, client)
	testClaim(t, client)
	testComplete(t, client)
	for range 2 { // the second has nothing to do
		if err := second.Stop(t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	if err := second.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
	if runs, err := runsOn(dir); runs || err != nil {
		t.Errorf("it runs on after Stop, or its lock cannot be read: %v", err)
	}
}

func TestStartEndsWithContext(t *testing.T) {
	dir := tempDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := kubed.Start(ctx, kubed.Config{Dir: dir, Log: func(line string) {
		if line == "API server" {
			cancel()
		}
	}})
	if err == nil || ctx.Err() == nil || !strings.Contains(err.Error(), ctx.Err().Error()) {
		t.Errorf("Start is %v; want the context's error", err)
	}
	if runs, err := runsOn(dir); runs || err != nil {
		t.Errorf("the process is left, or its lock cannot be read: %v", err)
	}
}

func TestEndsWithParent(t *testing.T) {
	dir := tempDir(t)
	p := reexec(t, roleParent, dirEnv+"="+dir)
	if line := p.line(t); line != "up" {
		t.Fatalf("the parent says %q", line)
	}
	if runs, err := runsOn(dir); !runs || err != nil {
		t.Fatalf("it does not run on %s (%v)", dir, err)
	}
	signalTo(t, p.cmd.Process.Pid, syscall.SIGKILL)
	awaitEnd(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
		t.Error("the ready marker is left: its stop was not an ordered one")
	}
}

func startCluster(t *testing.T, config kubed.Config) *kubed.Cluster {
	t.Helper()
	cluster, err := kubed.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Stop(context.Background()) })
	return cluster
}

func testNodes(t *testing.T, client kubernetes.Interface) {
	want := map[string][]corev1.Taint{
		"k8s-node-1": {{Key: "key", Value: "value", Effect: corev1.TaintEffectNoSchedule}},
		"k8s-node-2": nil,
	}
	for name, taints := range want {
		node, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			continue
		}
		if !isReady(node) {
			t.Errorf("%s is not ready: %v", name, node.Status.Conditions)
		}
		if !slices.Equal(node.Spec.Taints, taints) {
			t.Errorf("%s has the taints %v; want %v", name, node.Spec.Taints, taints)
		}
		if got := node.Labels[corev1.LabelHostname]; got != name {
			t.Errorf("%s has the host name %q", name, got)
		}
		if cpu, pods := node.Status.Allocatable.Cpu().Value(), node.Status.Allocatable.Pods().Value(); cpu != 1000 || pods != 10000 {
			t.Errorf("%s has %d CPUs and %d Pods; want 1000 and 10000", name, cpu, pods)
		}
	}
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func testClaim(t *testing.T, client kubernetes.Interface) {
	claim, err := client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "ps-pvc", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if claim.Status.Phase != corev1.ClaimBound {
		t.Errorf("the claim is %s; want Bound", claim.Status.Phase)
	}
}

// testOtherNode shows that kwok leaves a node without the project's label alone,
// after it has served another that came later.
func testOtherNode(t *testing.T, client kubernetes.Interface) {
	nodes := client.CoreV1().Nodes()
	for _, node := range []*corev1.Node{
		{ObjectMeta: metav1.ObjectMeta{Name: "real"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "simulated", Labels: map[string]string{"jobrelay.dev/simulated": "true"}}},
	} {
		if _, err := nodes.Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nodes.Delete(context.Background(), node.Name, metav1.DeleteOptions{}) })
	}
	eventually(t, "the labelled node is ready", func(ctx context.Context) (bool, error) {
		node, err := nodes.Get(ctx, "simulated", metav1.GetOptions{})
		return err == nil && isReady(node), err
	})
	if node, err := nodes.Get(t.Context(), "real", metav1.GetOptions{}); err != nil || isReady(node) {
		t.Errorf("kwok serves a node that is not its own (%v)", err)
	}
}

func testComplete(t *testing.T, client kubernetes.Interface) {
	job := runJob(t, client, oneContainer("busybox"))
	if job.Status.Succeeded != 1 {
		t.Errorf("the Job is %+v; want it complete", job.Status)
	}
}

func testFail(t *testing.T, client kubernetes.Interface) {
	job := runJob(t, client, oneContainer("sim/exit:3"))
	if job.Status.Failed != 1 {
		t.Errorf("the Job is %+v; want it failed", job.Status)
	}
	if got := podOf(t, client, job).Status.ContainerStatuses[0].State.Terminated.ExitCode; got != 3 {
		t.Errorf("the exit code is %d; want 3", got)
	}
}

// testSample runs a Pod as the sample request asks for: on the tainted node,
// with the claim.
func testSample(t *testing.T, client kubernetes.Interface) {
	spec := oneContainer("sim/succeed:100ms")
	spec.NodeSelector = map[string]string{corev1.LabelHostname: "k8s-node-1"}
	spec.Tolerations = []corev1.Toleration{{Key: "key", Operator: corev1.TolerationOpEqual, Value: "value", Effect: corev1.TaintEffectNoSchedule}}
	spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "ps-pvc"},
	}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	job := runJob(t, client, spec)
	if node := podOf(t, client, job).Spec.NodeName; job.Status.Succeeded != 1 || node != "k8s-node-1" {
		t.Errorf("the Job ran on %q and is %+v; want it complete on k8s-node-1", node, job.Status)
	}
}

func oneContainer(image string) corev1.PodSpec {
	return corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers:    []corev1.Container{{Name: "main", Image: image}},
	}
}

// runJob creates a Job in the default namespace and returns it when it is finished.
func runJob(t *testing.T, client kubernetes.Interface, spec corev1.PodSpec) *batchv1.Job {
	t.Helper()
	jobs := client.BatchV1().Jobs("default")
	job, err := jobs.Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
		Spec:       batchv1.JobSpec{BackoffLimit: new(int32), Template: corev1.PodTemplateSpec{Spec: spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Job's end", func(ctx context.Context) (bool, error) {
		if job, err = jobs.Get(ctx, job.Name, metav1.GetOptions{}); err != nil {
			return false, err
		}
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		}), nil
	})
	return job
}

func podOf(t *testing.T, client kubernetes.Interface, job *batchv1.Job) *corev1.Pod {
	t.Helper()
	pods, err := client.CoreV1().Pods(job.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("the Job has %d Pods (%v); want 1", len(pods.Items), err)
	}
	return &pods.Items[0]
}

// testRBAC gives a service account the right to list Jobs, and finds that it has
// that right and no other.
func testRBAC(t *testing.T, kubeconfig string) {
	admin := clientOf(t, kubeconfig)
	meta := metav1.ObjectMeta{Name: "lister"}
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := admin.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), meta.Name, &authv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	lister, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lister.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without a role, listing Jobs gives %v; want it forbidden", err)
	}
	if _, err := admin.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: meta,
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: "default"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the role takes effect", func(ctx context.Context) (bool, error) {
		_, err := lister.BatchV1().Jobs("default").List(ctx, metav1.ListOptions{})
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	})
	if _, err := lister.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("with a role for Jobs, listing Pods gives %v; want it forbidden", err)
	}
}
