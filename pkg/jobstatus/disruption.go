package jobstatus

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// disruptions maps the reasons of a Pod's condition DisruptionTarget. A Job
// says of all of them only BackoffLimitExceeded.
var disruptions = map[string]Code{
	corev1.PodReasonPreemptionByScheduler: Preempted,
	"DeletionByTaintManager":              NodeLost,
	"DeletionByPodGC":                     NodeLost,
	"EvictionByEvictionAPI":               PodEvictedAPI,
	corev1.PodReasonTerminationByKubelet:  Evicted, // where the Pod's own reason says no better
}

// podReasons maps a failed Pod's own reason, as kubelet and node lifecycle set
// it.
var podReasons = map[string]Code{
	"Evicted":      Evicted,
	"Preempting":   Preempted, // by the kubelet, for a critical Pod
	"Terminated":   NodeShutdown,
	"NodeShutdown": NodeShutdown,
	"Shutdown":     NodeShutdown,
	"NodeLost":     NodeLost,
}

// admissionReasons are those of a Pod that its node refused, beside OutOf….
var admissionReasons = []string{
	"NodeAffinity", "NodeName", "NodePorts", "TaintToleration", "NodeUnschedulable", "UnexpectedAdmissionError",
	"AppArmor", "SysctlForbidden", "TopologyAffinityError", "PodOSNotSupported", "PodFeatureUnsupported", "InvalidNodeInfo",
}

// disrupted is what was done to the Pod from outside; false where nothing was,
// or where its container s had ended by itself before.
func disrupted(p *corev1.Pod, s *corev1.ContainerStatus) (Reason, bool) {
	code, known := podReasons[p.Status.Reason]
	if !known && s == nil && (strings.HasPrefix(p.Status.Reason, "OutOf") || slices.Contains(admissionReasons, p.Status.Reason)) {
		code, known = NodeAdmissionRejected, true
	}
	text := p.Status.Reason + ": " + p.Status.Message
	if c := disruption(p); c != nil && !known {
		if s != nil && started(s.State.Terminated) && s.State.Terminated.FinishedAt.Before(&c.LastTransitionTime) {
			return Reason{}, false
		}
		if code, known = disruptions[c.Reason]; known {
			text = c.Reason + ": " + c.Message
		}
	}
	if !known {
		return Reason{}, false
	}
	text = fmt.Sprintf("Kubernetes ended %s (%s)", place(p), quote(text, maxQuote))
	if s != nil {
		text += fmt.Sprintf("; its container's exit code was %d", s.State.Terminated.ExitCode)
	}
	return Reason{code, sentence(text)}, true
}
