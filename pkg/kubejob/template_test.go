package kubejob_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
)

func TestLay(t *testing.T) {
	p, err := request.ParsePolicy([]byte(`
default:
  jobTemplate:
    metadata: {labels: {team: a}, annotations: {owner: b}}
    spec:
      template:
        metadata: {annotations: {owner: c}}
        spec:
          priorityClassName: low
          volumes: [{name: tmp, emptyDir: {}}]
          tolerations: [{key: t}]
          affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
            {matchExpressions: [{key: x, operator: Exists}]}, {matchExpressions: [{key: y, operator: Exists}]}]}}}
          containers:
            - env: [{name: FROM, value: template}]
              resources: {limits: {cpu: 100m, ephemeral-storage: 1Gi}, requests: {memory: 9Gi}}
`))
	if err != nil {
		t.Fatal(err)
	}
	template := p.Rules("any").JobTemplate
	build := func() *corev1.PodTemplateSpec {
		job, err := kubejob.Build(sample(t), "default", "n")
		if err != nil {
			t.Fatal(err)
		}
		kubejob.Lay(job, template)
		if job.Labels["team"] != "a" || job.Annotations["owner"] != "b" || job.Annotations[kubejob.AnnotationID] != sampleID || !kubejob.Matches(job, sample(t), "default") {
			t.Errorf("%v %v", job.Labels, job.Annotations)
		}
		return &job.Spec.Template
	}
	got := build()
	if diff := cmp.Diff(got, build()); diff != "" {
		t.Errorf("the template was changed: %s", diff)
	}
	pod, c := got.Spec, got.Spec.Containers[0]
	terms := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 2 || len(terms[0].MatchExpressions) != 2 || len(terms[1].MatchExpressions) != 2 {
		t.Errorf("%v", terms)
	}
	if len(pod.Volumes) != 2 || len(pod.Tolerations) != 2 || pod.PriorityClassName != "low" || got.Annotations["owner"] != "c" || got.Labels["team"] != "" {
		t.Errorf("%+v", got)
	}
	if c.Image != "busybox" || c.Env[0].Value != "template" || pod.RestartPolicy != corev1.RestartPolicyNever || pod.ServiceAccountName == "" {
		t.Errorf("%+v", c)
	}
	own, err := kubejob.Build(sample(t), "default", "n")
	if err != nil {
		t.Fatal(err)
	}
	want := own.Spec.Template.Spec.Containers[0].Resources
	if !c.Resources.Limits.Cpu().Equal(*want.Limits.Cpu()) || !c.Resources.Requests.Memory().Equal(*want.Requests.Memory()) || c.Resources.Limits.StorageEphemeral().IsZero() {
		t.Errorf("%+v", c.Resources)
	}
	kubejob.Lay(own, nil)
	kubejob.Lay(own, &request.JobTemplate{})
	if own.Spec.Template.Spec.Containers[0].Image != "busybox" {
		t.Error("an empty template changes the Job")
	}
}
