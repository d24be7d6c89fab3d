package k8s_test

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// job is what the launcher makes of a request.
func job(namespace, id string) *batchv1.Job {
	j, err := kubejob.Build(&jobsv1.JobRequested{
		Id: id, Service: "example", Hash: "hash",
		Job: &jobsv1.Job{
			PrefixName: "bb", Namespace: namespace, Image: "sim/hang", Command: []string{"true"}, ServiceAccount: "default",
			TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 600,
		},
	}, "default", kubejob.Name("bb", id))
	if err != nil {
		panic(err)
	}
	return j
}

// TestAStolenTokenOfTheLauncher creates the Jobs that the launcher would create, and
// nothing else.
func TestAStolenTokenOfTheLauncher(t *testing.T) {
	p := newPlane(t)
	p.install(t)
	thief := p.as(t, "launcher")
	other := "not-for-jobs"
	if _, err := p.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func(namespace string, change func(*batchv1.Job)) error {
		j := job(namespace, "stolen")
		change(j)
		_, err := thief.BatchV1().Jobs(namespace).Create(t.Context(), j, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	nothing := func(*batchv1.Job) {}
	two := int32(2)
	yes := true
	for _, c := range []struct {
		name      string
		namespace string
		change    func(*batchv1.Job)
		refused   string // empty: accepted
	}{
		{"what the launcher creates", "jobs", nothing, ""},
		{"the same under its long name", "jobs", func(j *batchv1.Job) { j.Name = kubejob.LongName("bb", "stolen") }, ""},
		{"the same without the finalizer", "jobs", func(j *batchv1.Job) { j.Finalizers = nil }, ""},
		{"in a namespace that is not for Jobs", other, nothing, "namespaces with the label"},
		{"in kube-system", "kube-system", nothing, "namespaces with the label"},
		{"in its own namespace", "jobrelay", nothing, "namespaces with the label"},
		// Kubernetes gives a Job without any label those of its Pods.
		{"without labels", "jobs", func(j *batchv1.Job) { j.Labels = map[string]string{"app": "x"} }, "labels and annotations of its request"},
		{"with a key that is none", "jobs", func(j *batchv1.Job) { j.Labels[kubejob.LabelKey] = "x" }, "labels and annotations of its request"},
		{"of no installation", "jobs", func(j *batchv1.Job) { delete(j.Labels, kubejob.LabelInstallation) }, "labels and annotations of its request"},
		{"without an id", "jobs", func(j *batchv1.Job) { delete(j.Annotations, kubejob.AnnotationID) }, "labels and annotations of its request"},
		{"without a hash", "jobs", func(j *batchv1.Job) { delete(j.Annotations, kubejob.AnnotationHash) }, "labels and annotations of its request"},
		{"with a name of another key", "jobs", func(j *batchv1.Job) { j.Name = "bb-00000000" }, "the beginning of its key"},
		{"with Pods that nobody sees", "jobs", func(j *batchv1.Job) { j.Spec.Template.Labels = nil }, "Pods of a Job"},
		{"with Pods of another key", "jobs", func(j *batchv1.Job) { j.Spec.Template.Labels[kubejob.LabelKey] = event.Key("other") }, "Pods of a Job"},
		{"with a finalizer of another", "jobs", func(j *batchv1.Job) { j.Finalizers = append(j.Finalizers, "example.com/for-ever") }, "no finalizer but"},
		{"with an owner", "jobs", func(j *batchv1.Job) {
			j.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "y"}}
		}, "no owner"},
		{"with many Pods", "jobs", func(j *batchv1.Job) { j.Spec.Parallelism = &two }, "one Pod at a time"},
		{"with many completions", "jobs", func(j *batchv1.Job) { j.Spec.Completions = &two }, "one Pod at a time"},
		{"suspended", "jobs", func(j *batchv1.Job) { j.Spec.Suspend = &yes }, "one Pod at a time"},
		{"for ever", "jobs", func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = nil }, "a day at most"},
		{"for two days", "jobs", func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(172800)) }, "a day at most"},
		{"that stays", "jobs", func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = nil }, "goes by itself"},
		{"restarted in place", "jobs", func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }, "one Pod at a time"},
		{"of another controller", "jobs", func(j *batchv1.Job) { j.Spec.ManagedBy = new("example.com/mine") }, "one Pod at a time"},
		{"as another account", "jobs", func(j *batchv1.Job) { j.Spec.Template.Spec.ServiceAccountName = "admin" }, "run as default"},
	} {
		err := create(c.namespace, c.change)
		refused(t, "a Job "+c.name, err, "jobrelay-launcher", c.refused)
	}
}

// refused checks that the policy refuses what was tried, for that reason; without a
// reason, that nothing does.
func refused(t *testing.T, what string, err error, policy, reason string) {
	t.Helper()
	switch {
	case reason == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case reason != "" && (err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), policy)):
		t.Errorf("%s: %v; want a refusal with %q", what, err, reason)
	case reason != "":
		t.Logf("refused: %s: %s", what, reason)
	default:
		t.Logf("accepted: %s", what)
	}
}

// TestAStolenTokenOfTheWatcher ends jobrelay's Jobs, which is its work, and harms no
// others.
func TestAStolenTokenOfTheWatcher(t *testing.T) {
	p := newPlane(t)
	p.install(t)
	thief := p.as(t, "watcher").BatchV1().Jobs("jobs")
	admin := p.client.BatchV1().Jobs("jobs")
	create := func(j *batchv1.Job) string {
		t.Helper()
		made, err := admin.Create(t.Context(), j, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = admin.Patch(t.Context(), made.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		})
		return made.Name
	}
	foreign := create(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{GenerateName: "of-others-", Labels: map[string]string{"app": "other"}}, Spec: job("jobs", "x").Spec})
	own := create(job("jobs", "of jobrelay"))
	for _, c := range []struct {
		name, job, patch string // no patch: delete
		refused          string // empty: accepted
	}{
		{"a note on a Job", own, `{"metadata":{"annotations":{"jobrelay.dev/not-starting":"x@2026-01-01T00:00:00Z"}}}`, ""},
		{"the finalizer off", own, `{"metadata":{"finalizers":null}}`, ""},
		{"the end of a Job", own, "", ""},
		{"the end of another's Job", foreign, "", "no others"},
		{"a note on another's Job", foreign, `{"metadata":{"annotations":{"a":"b"}}}`, "no others"},
		{"another's Job made one's own", foreign, `{"metadata":{"labels":{"jobrelay.dev/key":"a","jobrelay.dev/installation":"default"}}}`, "no others"},
		{"a Job suspended", own, `{"spec":{"suspend":true}}`, "what a Job runs"},
		{"more Pods", own, `{"spec":{"parallelism":100}}`, "what a Job runs"},
		{"a longer life", own, `{"spec":{"activeDeadlineSeconds":86000}}`, "what a Job runs"},
		{"another label", own, `{"metadata":{"labels":{"jobrelay.dev/installation":"other"}}}`, "sets annotations"},
		{"another finalizer", own, `{"metadata":{"finalizers":["example.com/for-ever"]}}`, "sets annotations"},
		{"one finalizer more", own, `{"metadata":{"finalizers":["jobrelay.dev/recorded","example.com/for-ever"]}}`, "sets annotations"},
	} {
		var err error
		if c.patch == "" {
			err = thief.Delete(t.Context(), c.job, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
		} else {
			_, err = thief.Patch(t.Context(), c.job, types.MergePatchType, []byte(c.patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		}
		refused(t, c.name, err, "jobrelay-watcher", c.refused)
	}
}

// TestPoliciesFollowAnInstallation: in another namespace, with another name, the
// policies hold all the same.
func TestPoliciesFollowAnInstallation(t *testing.T) {
	p := newPlane(t)
	p.applyCRDs(t)
	p.apply(t, render(t, "job-namespace"))
	all := overlay(t, "namespace: second\nnamePrefix: b-\nresources: [BASE]\ncomponents: [COMPONENTS/admission]\n")
	p.apply(t, running(all))
	thief := kubernetes.NewForConfigOrDie(p.configOf(t, "second", "b-jobrelay-launcher"))
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	await.That(t, "its rights", func() bool {
		_, err := thief.BatchV1().Jobs("jobs").Create(t.Context(), job("jobs", "second"), dry)
		return err == nil
	})
	await.That(t, "its policy", func() bool {
		_, err := thief.BatchV1().Jobs("kube-system").Create(t.Context(), job("kube-system", "second"), dry)
		return err != nil && strings.Contains(err.Error(), "namespaces with the label")
	})
}
