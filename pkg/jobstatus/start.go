package jobstatus

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// class is a cause of a Pod's not starting that has a clock of its own.
type class string

const (
	classImagePull       class = "image-pull"
	classImageName       class = "image-name"
	classImageNotPresent class = "image-not-present"
	classContainerConfig class = "container-config"
)

// classes maps a waiting container's reasons. They flap (ErrImagePull and
// ImagePullBackOff, back to ContainerCreating): the class is what stays.
var classes = map[string]class{
	"ErrImagePull":               classImagePull,
	"ImagePullBackOff":           classImagePull,
	"InvalidImageName":           classImageName,
	"ErrImageNeverPull":          classImageNotPresent,
	"CreateContainerConfigError": classContainerConfig,
}

func (c class) code() Code {
	switch c {
	case classImagePull:
		return ImagePullFailed
	case classImageName:
		return ImageNameInvalid
	case classImageNotPresent:
		return ImageNotPresent
	case classContainerConfig:
		return ContainerConfigError
	}
	return StartTimeout
}

func (c class) text() string {
	switch c {
	case classImagePull:
		return "the image could not be pulled"
	case classImageName:
		return "the image's name is not valid"
	case classImageNotPresent:
		return "the image is not on the node and may not be pulled"
	case classContainerConfig:
		return "the container's configuration is incomplete"
	}
	return "the container did not start"
}

func (c class) deadline(d Deadlines) time.Duration {
	switch c {
	case classImagePull:
		return d.ImagePull
	case classImageName, classImageNotPresent, classContainerConfig:
		return d.Unstartable
	}
	return d.Start
}

// clock runs from the first sight of a class.
type clock struct {
	class class
	since time.Time
}

// parseClocks reads the annotation not-starting: <class>@<RFC 3339>, several
// with commas where a Pod went from one cause to another. What cannot be read
// is passed over, and each class counts once: so they are four at most.
func parseClocks(annotation string) []clock {
	var out []clock
	for part := range strings.SplitSeq(annotation, ",") {
		name, at, _ := strings.Cut(part, "@")
		since, err := time.Parse(time.RFC3339, at)
		c := class(name)
		known := c.code() != StartTimeout
		if err == nil && known && !slices.ContainsFunc(out, func(k clock) bool { return k.class == c }) {
			out = append(out, clock{c, since})
		}
	}
	return out
}

func formatClocks(clocks []clock) string {
	parts := make([]string, 0, len(clocks))
	for _, c := range clocks {
		parts = append(parts, string(c.class)+"@"+c.since.UTC().Format(time.RFC3339))
	}
	return strings.Join(parts, ",")
}

// waiting is the first class that a Pod shows, with the evidence for it.
func waiting(pods []*corev1.Pod) (class, string, bool) {
	for _, p := range pods {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if w := s.State.Waiting; w != nil {
				if c, ok := classes[w.Reason]; ok {
					return c, fmt.Sprintf("container %s of %s waits with %s: %s", s.Name, place(p), w.Reason, quote(w.Message, maxQuote)), true
				}
			}
		}
	}
	return "", "", false
}

// start decides about a Job that nothing has run of: mark the first sight of a
// class, or stop it where a deadline has passed, or say when to look again.
// Suspended time does not count: Kubernetes takes status.startTime away.
func start(o Observation, now time.Time, d Deadlines) Decision {
	pods := o.alive()
	seen, evidence, found := waiting(pods)
	if found && !slices.ContainsFunc(o.clocks, func(c clock) bool { return c.class == seen }) {
		return Decision{Step: StepMark, Value: formatClocks(append(slices.Clone(o.clocks), clock{seen, now})),
			LookAt: now.Add(seen.deadline(d))}
	}
	var look time.Time
	for _, c := range o.clocks {
		at := c.since.Add(c.class.deadline(d))
		if !now.Before(at) {
			if c.class != seen {
				evidence = c.class.text()
			}
			return stop(Reason{c.class.code(), sentence(fmt.Sprintf("Nothing ran for %s since %s", c.class.deadline(d), evidence))})
		}
		look = earliest(look, at)
	}
	if o.job.Status.StartTime == nil {
		again := suspended(o, now, d)
		again.LookAt = earliest(look, again.LookAt)
		return again
	}
	at := o.job.Status.StartTime.Add(d.Start)
	if !now.Before(at) {
		return stop(notStarted(pods, d.Start))
	}
	return Decision{LookAt: earliest(look, at)}
}

// suspended ends a Job that was not resumed in time: launch wait, suspension,
// start and run together are to end within the retention of the streams.
func suspended(o Observation, now time.Time, d Deadlines) Decision {
	at := o.job.CreationTimestamp.Add(d.Suspended)
	if !now.Before(at) {
		return stop(Reason{StartTimeout, sentence(fmt.Sprintf("The Job was suspended %s after its creation, and not resumed", d.Suspended))})
	}
	return Decision{LookAt: at}
}

// notStarted is why nothing ran until the start deadline, as far as the Pods
// show it.
func notStarted(pods []*corev1.Pod, after time.Duration) Reason {
	code, evidence := StartTimeout, ""
	if c, text, ok := waiting(pods); ok {
		code, evidence = c.code(), text
	} else if len(pods) > 0 {
		code, evidence = pending(pods[0])
	} else {
		evidence = "the Job has no Pod"
	}
	return Reason{code, sentence(fmt.Sprintf("Nothing ran for %s: %s", after, evidence))}
}

func pending(p *corev1.Pod) (Code, string) {
	if c := podCondition(p, corev1.PodScheduled, corev1.ConditionFalse); c != nil {
		code := Unschedulable
		switch {
		case c.Reason == corev1.PodReasonSchedulingGated:
			code = SchedulingGated
		case missingClaim(c.Message):
			code = VolumeNotFound
		}
		return code, place(p) + " is not scheduled: " + quote(c.Message, maxQuote)
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil {
			code := StartTimeout
			if w.Reason == "CreateContainerError" {
				code = ContainerCreateFailed
			}
			return code, fmt.Sprintf("container %s of %s waits with %s: %s", s.Name, place(p), w.Reason, quote(w.Message, maxQuote))
		}
	}
	return StartTimeout, place(p) + " is " + strings.ToLower(string(p.Status.Phase))
}

// earliest is the earlier of two times; zero stands for never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
