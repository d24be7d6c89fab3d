package jobstatus

import (
	"cmp"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Observation is what a Job and its Pods show at one look.
type Observation struct {
	job    *batchv1.Job
	pods   []*corev1.Pod // in the API, by creation
	gone   []*corev1.Pod // as last seen before they went, by creation
	ran    *corev1.Pod   // the first Pod whose container started; nil: none is known
	failed *corev1.Pod   // the Pod that tells why the Job failed; nil: none does
	stop   *Reason       // why we end the Job; nil: we do not
	clocks []clock       // causes of a Pod's not starting, by first sight
}

// Observe looks at a Job and those of its Pods that are in the API. gone are
// Pods as they were last seen before they went, as far as somebody remembers
// them: evidence that a Pod ran and how it ended, and nothing else. Nothing is
// modified or kept beyond the Observation.
func Observe(job *batchv1.Job, pods, gone []*corev1.Pod) Observation {
	o := Observation{job: job, pods: byCreation(pods), gone: byCreation(gone)}
	all := byCreation(slices.Concat(pods, gone))
	for _, p := range all {
		if o.ran == nil && ran(p, mainContainer(job)) {
			o.ran = p
		}
		if p.Status.Phase == corev1.PodFailed || (p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded) {
			o.failed = p // the youngest: Kubernetes gave up after it
		}
	}
	o.stop = parseReason(job.Annotations[kubejob.AnnotationStopReason])
	o.clocks = parseClocks(job.Annotations[kubejob.AnnotationNotStarting])
	return o
}

// byCreation sorts Pods by creation, then name, each once.
func byCreation(pods []*corev1.Pod) []*corev1.Pod {
	out := slices.Clone(pods)
	slices.SortStableFunc(out, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return slices.CompactFunc(out, func(a, b *corev1.Pod) bool { return a.UID == b.UID })
}

// Owned reports whether our finalizer holds the Job.
func (o Observation) Owned() bool { return slices.Contains(o.job.Finalizers, kubejob.Finalizer) }

// Deleting reports whether the Job is being deleted.
func (o Observation) Deleting() bool { return o.job.DeletionTimestamp != nil }

// Finished reports whether Kubernetes has given the Job its end.
func (o Observation) Finished() bool {
	return o.condition(batchv1.JobComplete) != nil || o.condition(batchv1.JobFailed) != nil
}

// Over reports whether the Job is done with: Kubernetes has given it its end, the
// log l has it too, and we do not hold it.
func (o Observation) Over(l Log) bool {
	return l.Ended && l.JobID == o.job.UID && o.Finished() && !o.Owned()
}

// ending reports whether Kubernetes has decided the Job's end.
func (o Observation) ending() bool {
	return o.Finished() || o.condition(batchv1.JobFailureTarget) != nil || o.condition(batchv1.JobSuccessCriteriaMet) != nil
}

// condition is the Job's condition of a type where it is true, else nil.
func (o Observation) condition(t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range o.job.Status.Conditions {
		if c := &o.job.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// failure is the first of the Job's conditions Failed and FailureTarget, nil
// where it has neither. A Job deleted before that did not fail.
func (o Observation) failure() *batchv1.JobCondition {
	c, f := o.condition(batchv1.JobFailureTarget), o.condition(batchv1.JobFailed)
	if c == nil || f != nil && f.LastTransitionTime.Before(&c.LastTransitionTime) {
		c = f
	}
	if c != nil && o.Deleting() && c.LastTransitionTime.After(o.job.DeletionTimestamp.Time) {
		return nil
	}
	return c
}

// alive are the Pods in the API that have not ended.
func (o Observation) alive() []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range o.pods {
		if !ended(p) {
			out = append(out, p)
		}
	}
	return out
}

// defaultGrace is Kubernetes' own terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

// grace is the longest grace period of the Pods that have not ended.
func (o Observation) grace() time.Duration {
	longest := defaultGrace
	for _, p := range o.alive() {
		if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
			longest = max(longest, time.Duration(*s)*time.Second)
		}
	}
	return longest
}

// settled reports whether the Pods tell all that they will: the watches of
// Jobs and Pods are two, and the Job's may be ahead.
func (o Observation) settled(l Log) bool {
	if len(o.pods)+len(o.gone) == 0 {
		return l.PodStarted || o.job.Status.Succeeded+o.job.Status.Failed == 0
	}
	for _, p := range o.pods {
		if !ended(p) || p.Status.Phase == corev1.PodFailed && silent(p, mainContainer(o.job)) {
			return false
		}
	}
	return true
}
