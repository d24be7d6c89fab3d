package cluster_test

import (
	"context"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

// What a real API server answers to a Job's creation.
func TestClassifyRealAnswers(t *testing.T) {
	shared := kubedtest.Shared(t)
	config, err := cluster.Config(shared.Kubeconfig(), "test", "v1")
	if err != nil {
		t.Fatal(err)
	}
	nobody := rest.CopyConfig(config)
	nobody.Impersonate.UserName = "nobody"
	admin, stranger := client(t, config), client(t, nobody)
	namespace, full, going := shared.Namespace(t), shared.Namespace(t), shared.Namespace(t)
	fill(t, admin, full)
	terminate(t, admin, going)

	create := func(c kubernetes.Interface, job *batchv1.Job) error {
		_, err := c.BatchV1().Jobs(job.Namespace).Create(t.Context(), job, metav1.CreateOptions{})
		return err
	}
	if err := create(admin, job(namespace, "twice")); err != nil {
		t.Fatal(err)
	}
	invalid := job(namespace, "invalid")
	invalid.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	for _, c := range []struct {
		name string
		err  error
		want cluster.Verdict
		says string
	}{
		{"exists", create(admin, job(namespace, "twice")), cluster.Verdict{Exists: true}, ""},
		{"invalid", create(admin, invalid), cluster.Verdict{Code: jobstatus.JobSpecInvalid}, "restartPolicy"},
		{"no namespace", create(admin, job("no-such-namespace", "j")), cluster.Verdict{Code: jobstatus.NamespaceNotFound}, "no-such-namespace"},
		{"RBAC", create(stranger, job(namespace, "j")), cluster.Verdict{Code: jobstatus.LaunchForbidden}, "nobody"},
		{"quota", create(admin, job(full, "j")), cluster.Verdict{Retry: true, Code: jobstatus.QuotaExceeded}, "none-left"},
		{"terminating", create(admin, job(going, "j")), cluster.Verdict{Code: jobstatus.NamespaceTerminating}, "terminated"},
	} {
		got := cluster.Classify(c.err)
		if !strings.Contains(got.Message, c.says) {
			t.Errorf("%s: message %q lacks %q", c.name, got.Message, c.says)
		}
		got.Message = ""
		if c.err == nil || got != c.want {
			t.Errorf("%s: %v: got %+v, want %+v", c.name, c.err, got, c.want)
		}
	}
}

func client(t *testing.T, c *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func job(namespace, name string) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "job", Image: "sim/hang"}},
		}}},
	}
}

// fill gives a namespace a quota without room, and waits until it is in force.
func fill(t *testing.T, c kubernetes.Interface, namespace string) {
	t.Helper()
	quotas := c.CoreV1().ResourceQuotas(namespace)
	_, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none-left"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "quota", func(ctx context.Context) (bool, error) {
		q, err := quotas.Get(ctx, "none-left", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0, err
	})
}

// terminate deletes a namespace that a finalizer keeps.
func terminate(t *testing.T, c kubernetes.Interface, namespace string) {
	t.Helper()
	keep := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "keep", Finalizers: []string{"jobrelay.dev/test"}}}
	maps := c.CoreV1().ConfigMaps(namespace)
	if _, err := maps.Create(t.Context(), keep, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := maps.Patch(context.Background(), "keep", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	if err := c.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "end of the namespace", func(ctx context.Context) (bool, error) {
		n, err := c.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return err == nil && n.Status.Phase == corev1.NamespaceTerminating, err
	})
}

func eventually(t *testing.T, what string, ok func(context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 30*time.Second, true, ok); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
