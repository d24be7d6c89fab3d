package jobstatus

import (
	"fmt"
	"regexp"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Reason is a code and its message: one sentence that a person can act on, and
// what was quoted.
type Reason struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Reasons of a terminated container, as kubelet and runtime give them.
const (
	reasonOOMKilled              = "OOMKilled"
	reasonStartError             = "StartError"
	reasonContainerCannotRun     = "ContainerCannotRun"
	reasonContainerStatusUnknown = "ContainerStatusUnknown"
)

// Exit codes of a container that SIGKILL or SIGTERM ended.
const (
	exitSIGKILL = 137
	exitSIGTERM = 143
)

// cause is why a failed Job failed. The Job's condition decides where it says
// more than that Pods failed; else the Pod does.
func cause(o Observation, c *batchv1.JobCondition) Reason {
	switch c.Reason {
	case batchv1.JobReasonDeadlineExceeded:
		return deadlineExceeded(o)
	case batchv1.JobReasonPodFailurePolicy:
		return Reason{PodFailurePolicy, sentence("The Job's pod failure policy ended it: " + quote(c.Message, maxQuote))}
	}
	if p := o.failed; p != nil {
		if r, ok := podCause(p, mainContainer(o.job)); ok {
			return r
		}
	}
	text := fmt.Sprintf("The Job failed (%s): %s", quote(c.Reason, maxQuote), quote(c.Message, maxQuote))
	if len(o.pods)+len(o.gone) == 0 {
		return Reason{JobFailed, sentence(text) + " No Pod is left to say why: evidence expired."}
	}
	return Reason{JobFailed, sentence(text)}
}

func deadlineExceeded(o Observation) Reason {
	text := "The Job was active longer than its deadline"
	if s := o.job.Spec.ActiveDeadlineSeconds; s != nil {
		text += fmt.Sprintf(" of %d seconds", *s)
	}
	text += "."
	if o.ran == nil && len(o.clocks) > 0 {
		text += fmt.Sprintf(" Nothing ran: %s.", o.clocks[len(o.clocks)-1].class.text())
	} else if last := lastSeen(o); last != "" {
		text += " Last seen: " + sentence(last)
	}
	return Reason{DeadlineExceeded, text}
}

// lastSeen says what the youngest known Pod was doing.
func lastSeen(o Observation) string {
	all := byCreation(append(append([]*corev1.Pod(nil), o.pods...), o.gone...))
	if len(all) == 0 {
		return ""
	}
	p := all[len(all)-1]
	if c := podCondition(p, corev1.PodScheduled, corev1.ConditionFalse); c != nil {
		return place(p) + " not scheduled: " + quote(c.Message, maxQuote)
	}
	s := statusOf(p, mainContainer(o.job))
	switch {
	case s == nil:
		return place(p) + " " + strings.ToLower(string(p.Status.Phase))
	case s.State.Running != nil:
		return place(p) + " running"
	case s.State.Terminated != nil:
		return fmt.Sprintf("%s ended with exit code %d (%s)", place(p), s.State.Terminated.ExitCode, quote(s.State.Terminated.Reason, maxQuote))
	case s.State.Waiting != nil:
		return place(p) + " waiting: " + quote(s.State.Waiting.Reason, maxQuote)
	}
	return place(p) + " " + strings.ToLower(string(p.Status.Phase))
}

// podCause is why a Pod failed; false where it does not say. What the kernel
// did to the container comes first, then what was done to the Pod, then how
// the container ended by itself.
func podCause(p *corev1.Pod, container string) (Reason, bool) {
	s := failedContainer(p, container)
	if s != nil && s.State.Terminated.Reason == reasonOOMKilled {
		return terminated(OOMKilled, p, s, "ran out of memory"), true
	}
	if r, ok := disrupted(p, s); ok {
		return r, true
	}
	if s == nil {
		if i := failedInit(p); i != nil {
			return terminated(InitContainerFailed, p, i, "failed before the container ran"), true
		}
		if p.DeletionTimestamp != nil {
			return Reason{PodDeleted, fmt.Sprintf("Somebody deleted %s while it was %s.", place(p), strings.ToLower(string(p.Status.Phase)))}, true
		}
		return Reason{}, false
	}
	t := s.State.Terminated
	killed := t.ExitCode == exitSIGKILL || t.ExitCode == exitSIGTERM
	switch {
	case t.Reason == reasonStartError || t.Reason == reasonContainerCannotRun:
		return terminated(ContainerStartFailed, p, s, "could not be started"), true
	case t.Reason == reasonContainerStatusUnknown:
		return terminated(ContainerStatusUnknown, p, s, "was lost by its node"), true
	case p.DeletionTimestamp != nil && (killed || !t.FinishedAt.Time.Before(deletedAt(p))):
		return terminated(PodDeleted, p, s, "ended because somebody deleted the Pod"), true
	case killed:
		return terminated(ContainerKilled, p, s, "was killed"), true
	}
	return terminated(ContainerExitNonzero, p, s, "failed"), true
}

// quoted is what a runtime quotes when it cannot start a container: the command,
// which must not stand where taps read.
var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`)

// terminated is a reason with a container's end as its evidence.
func terminated(code Code, p *corev1.Pod, s *corev1.ContainerStatus, what string) Reason {
	t := s.State.Terminated
	text := fmt.Sprintf("Container %s of %s %s: exit code %d", s.Name, place(p), what, t.ExitCode)
	if t.Reason != "" {
		text += " (" + quote(t.Reason, maxQuote) + ")"
	}
	text += "."
	if m := terminationMessage(code, t); m != "" {
		text += " Termination message: " + m
	}
	return Reason{code, text}
}

// terminationMessage is the container's own, or what the runtime says instead,
// without the command that it quotes.
func terminationMessage(code Code, t *corev1.ContainerStateTerminated) string {
	message := t.Message
	if code == ContainerStartFailed || t.Reason == reasonStartError || t.Reason == reasonContainerCannotRun {
		message = quoted.ReplaceAllString(message, `"…"`)
	}
	return quote(message, maxTermination)
}
