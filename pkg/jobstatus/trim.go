package jobstatus

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Trim drops what no decision reads before a Job or a Pod is kept: a Job stays
// at some 2 KiB and a Pod at 1, whatever their commands, environments and
// volumes. It changes the object in place, which nobody else may have yet; any
// other object is left as it is.
func Trim(obj any) {
	switch o := obj.(type) {
	case *batchv1.Job:
		trimMeta(&o.ObjectMeta)
		o.Spec = batchv1.JobSpec{
			ActiveDeadlineSeconds: o.Spec.ActiveDeadlineSeconds,
			Template:              corev1.PodTemplateSpec{Spec: trimPodSpec(o.Spec.Template.Spec)},
		}
	case *corev1.Pod:
		trimMeta(&o.ObjectMeta)
		o.Annotations, o.Finalizers = nil, nil
		o.Spec = trimPodSpec(o.Spec)
		o.Status = trimPodStatus(o.Status)
	}
}

// lastApplied is kubectl's copy of the whole object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func trimMeta(m *metav1.ObjectMeta) {
	m.ManagedFields = nil
	delete(m.Annotations, lastApplied)
}

func trimPodSpec(s corev1.PodSpec) corev1.PodSpec {
	out := corev1.PodSpec{NodeName: s.NodeName, TerminationGracePeriodSeconds: s.TerminationGracePeriodSeconds}
	for _, c := range s.Containers {
		out.Containers = append(out.Containers, corev1.Container{Name: c.Name})
	}
	return out
}

func trimPodStatus(s corev1.PodStatus) corev1.PodStatus {
	out := corev1.PodStatus{Phase: s.Phase, Reason: s.Reason, Message: s.Message}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodScheduled || c.Type == corev1.DisruptionTarget {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.InitContainerStatuses = trimContainers(s.InitContainerStatuses)
	out.ContainerStatuses = trimContainers(s.ContainerStatuses)
	return out
}

func trimContainers(in []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range in {
		out = append(out, corev1.ContainerStatus{Name: c.Name, State: c.State, LastTerminationState: c.LastTerminationState, RestartCount: c.RestartCount})
	}
	return out
}

// JobOf is the Job that owns a Pod, nil where none does.
func JobOf(p *corev1.Pod) *metav1.OwnerReference {
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != "Job" || ref.APIVersion != batchv1.SchemeGroupVersion.String() {
		return nil
	}
	return ref
}
