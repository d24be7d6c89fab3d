package kubejob

import (
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// Lay puts a Job that Build made on the operator's template; nil changes
// nothing. The message wins where both speak: of variables with one name its
// own comes last and counts, and of a resource that it names the template's
// limit and request are left out. Volumes, tolerations and required node terms
// of both hold. Labels, annotations and names of jobrelay stay.
func Lay(job *batchv1.Job, t *request.JobTemplate) {
	if t == nil {
		return
	}
	job.Labels = under(job.Labels, t.Metadata.Labels)
	job.Annotations = under(job.Annotations, t.Metadata.Annotations)
	template := &job.Spec.Template
	template.Labels = under(template.Labels, t.Spec.Template.Metadata.Labels)
	template.Annotations = under(template.Annotations, t.Spec.Template.Metadata.Annotations)

	message := template.Spec
	pod := t.Spec.Template.Spec.DeepCopy()
	pod.RestartPolicy, pod.ServiceAccountName = message.RestartPolicy, message.ServiceAccountName
	pod.Volumes = append(pod.Volumes, message.Volumes...)
	pod.Tolerations = append(pod.Tolerations, message.Tolerations...)
	pod.Affinity = bothAffinities(pod.Affinity, message.Affinity)
	var c corev1.Container
	if len(pod.Containers) > 0 {
		c = pod.Containers[0]
	}
	own := message.Containers[0]
	c.Name, c.Image, c.Command, c.Args = own.Name, own.Image, own.Command, own.Args
	c.Env = append(c.Env, own.Env...)
	c.VolumeMounts = append(c.VolumeMounts, own.VolumeMounts...)
	c.Resources = bothResources(c.Resources, own.Resources)
	pod.Containers = []corev1.Container{c}
	template.Spec = *pod
}

// under is own with what only the template has.
func under(own, template map[string]string) map[string]string {
	if len(template) == 0 {
		return own
	}
	out := maps.Clone(template)
	maps.Copy(out, own)
	return out
}

func bothResources(template, own corev1.ResourceRequirements) corev1.ResourceRequirements {
	named := func(name corev1.ResourceName) bool {
		_, limit := own.Limits[name]
		_, request := own.Requests[name]
		return limit || request
	}
	lay := func(base, top corev1.ResourceList) corev1.ResourceList {
		out := corev1.ResourceList{}
		for name, q := range base {
			if !named(name) {
				out[name] = q
			}
		}
		maps.Copy(out, top)
		return out
	}
	template.Limits, template.Requests = lay(template.Limits, own.Limits), lay(template.Requests, own.Requests)
	return template
}

// bothAffinities asks for the message's node in each term of the template: its
// terms are alternatives.
func bothAffinities(template, own *corev1.Affinity) *corev1.Affinity {
	if own == nil {
		return template
	}
	required := own.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if template == nil {
		template = &corev1.Affinity{}
	}
	if template.NodeAffinity == nil {
		template.NodeAffinity = &corev1.NodeAffinity{}
	}
	node := template.NodeAffinity
	if node.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		node.RequiredDuringSchedulingIgnoredDuringExecution = required
		return template
	}
	terms := node.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range terms {
		terms[i].MatchExpressions = append(terms[i].MatchExpressions, required.NodeSelectorTerms[0].MatchExpressions...)
	}
	return template
}
