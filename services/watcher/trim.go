package watcher

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// trim drops what no decision reads before an object is cached: a Job stays
// at some 2 KiB and a Pod at 1, whatever their commands, environments and
// volumes. It changes the object in place, which nobody else has yet.
func trim(obj any) (any, error) {
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
	return obj, nil
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

// jobOf is the Job that owns a Pod, nil where none does.
func jobOf(obj any) *metav1.OwnerReference {
	if pod, ok := obj.(*corev1.Pod); ok {
		if ref := metav1.GetControllerOf(pod); ref != nil && ref.Kind == "Job" && ref.APIVersion == batchv1.SchemeGroupVersion.String() {
			return ref
		}
	}
	return nil
}
