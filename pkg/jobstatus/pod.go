package jobstatus

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// mainContainer is the name of the container that the request describes; the
// cluster may add others.
func mainContainer(job *batchv1.Job) string {
	if c := job.Spec.Template.Spec.Containers; len(c) > 0 {
		return c[0].Name
	}
	return ""
}

// ran reports whether the Pod's container started. A container that could not
// be started is terminated with a startedAt of 1970, one that the node lost
// with none.
func ran(p *corev1.Pod, container string) bool {
	if p.Status.Phase == corev1.PodSucceeded {
		return true
	}
	s := statusOf(p, container)
	return s != nil && (s.State.Running != nil || started(s.State.Terminated) || started(s.LastTerminationState.Terminated))
}

func started(t *corev1.ContainerStateTerminated) bool {
	return t != nil && t.StartedAt.Unix() > 0
}

// ended reports whether the Pod can run no more.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// silent reports whether a Failed Pod does not say why yet.
func silent(p *corev1.Pod, container string) bool {
	if p.Status.Reason != "" || disruption(p) != nil || failedInit(p) != nil || failedContainer(p, container) != nil {
		return false
	}
	return p.DeletionTimestamp == nil
}

func statusOf(p *corev1.Pod, container string) *corev1.ContainerStatus {
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; s.Name == container {
			return s
		}
	}
	return nil
}

// failedContainer is the status of the container that made the Pod fail: the
// main one, else the first other that failed; nil where none did.
func failedContainer(p *corev1.Pod, container string) *corev1.ContainerStatus {
	failed := func(s *corev1.ContainerStatus) bool {
		t := s.State.Terminated
		return t != nil && (t.ExitCode != 0 || t.Reason == reasonOOMKilled)
	}
	if s := statusOf(p, container); s != nil && failed(s) {
		return s
	}
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; failed(s) {
			return s
		}
	}
	return nil
}

// failedInit is the first init container that failed, nil where none did.
func failedInit(p *corev1.Pod) *corev1.ContainerStatus {
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return s
		}
	}
	return nil
}

// disruption is the Pod's condition DisruptionTarget where it is true.
func disruption(p *corev1.Pod) *corev1.PodCondition {
	return podCondition(p, corev1.DisruptionTarget, corev1.ConditionTrue)
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType, status corev1.ConditionStatus) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t && c.Status == status {
			return c
		}
	}
	return nil
}

// deletedAt is when the Pod's deletion was asked for, zero where it was not.
// The API's deletionTimestamp is the end of the grace period, and moves back
// when the node is done with the Pod.
func deletedAt(p *corev1.Pod) time.Time {
	if p.DeletionTimestamp == nil {
		return time.Time{}
	}
	at := p.DeletionTimestamp.Time
	if s := p.DeletionGracePeriodSeconds; s != nil {
		at = at.Add(-time.Duration(*s) * time.Second)
	}
	return at
}

// place names a Pod and its node for a message.
func place(p *corev1.Pod) string {
	if p.Spec.NodeName == "" {
		return "pod " + p.Name
	}
	return "pod " + p.Name + " on node " + p.Spec.NodeName
}
