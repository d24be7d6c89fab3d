package jobstatus

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Trim drops what no decision reads before a Job or a Pod is kept, whatever their
// commands, environments and volumes. It changes the object in place, which nobody
// else may have yet; any other object is left as it is.
func Trim(obj any) {
	switch o := obj.(type) {
	case *batchv1.Job:
		o.ObjectMeta = trimMeta(o.ObjectMeta)
		o.Status = trimJobStatus(o.Status)
		o.Spec = batchv1.JobSpec{
			ActiveDeadlineSeconds: o.Spec.ActiveDeadlineSeconds,
			Template:              corev1.PodTemplateSpec{Spec: trimPodSpec(o.Spec.Template.Spec)},
		}
	case *corev1.Pod:
		o.ObjectMeta = trimMeta(o.ObjectMeta)
		o.Labels, o.Annotations, o.Finalizers = nil, nil, nil
		o.Spec = trimPodSpec(o.Spec)
		o.Status = trimPodStatus(o.Status)
	}
}

func trimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds,
		Labels: ours(m.Labels), Annotations: ours(m.Annotations), Finalizers: m.Finalizers, OwnerReferences: controllers(m.OwnerReferences),
	}
}

// ours are the labels or annotations that are read.
func ours(all map[string]string) map[string]string {
	out := map[string]string{}
	for _, name := range []string{
		kubejob.LabelApp, kubejob.LabelKey, kubejob.LabelInstallation,
		kubejob.AnnotationID, kubejob.AnnotationHash, kubejob.AnnotationQueuedAt, kubejob.AnnotationNotStarting, kubejob.AnnotationStopReason,
	} {
		if value, ok := all[name]; ok {
			out[name] = value
		}
	}
	return out
}

func controllers(refs []metav1.OwnerReference) []metav1.OwnerReference {
	for _, r := range refs {
		if r.Controller != nil && *r.Controller {
			return []metav1.OwnerReference{r}
		}
	}
	return nil
}

func trimJobStatus(s batchv1.JobStatus) batchv1.JobStatus {
	return batchv1.JobStatus{
		Conditions: s.Conditions, StartTime: s.StartTime, CompletionTime: s.CompletionTime,
		Active: s.Active, Succeeded: s.Succeeded, Failed: s.Failed,
	}
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
		out = append(out, corev1.ContainerStatus{
			Name: c.Name, State: trimState(c.State), LastTerminationState: trimState(c.LastTerminationState), RestartCount: c.RestartCount,
		})
	}
	return out
}

func trimState(s corev1.ContainerState) corev1.ContainerState {
	if s.Terminated != nil {
		s.Terminated.ContainerID = ""
	}
	return s
}

// JobOf is the Job that owns a Pod, nil where none does.
func JobOf(p *corev1.Pod) *metav1.OwnerReference {
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != "Job" || ref.APIVersion != batchv1.SchemeGroupVersion.String() {
		return nil
	}
	return ref
}
