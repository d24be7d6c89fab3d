package watcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// sight is what the API shows of a Job and its Pods; no Job: it is gone.
type sight struct {
	job  *batchv1.Job
	pods []corev1.Pod
}

// condition is the Job's, nil where it has none of the type.
func (s sight) condition(t batchv1.JobConditionType) *batchv1.JobCondition {
	if s.job == nil {
		return nil
	}
	i := slices.IndexFunc(s.job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &s.job.Status.Conditions[i]
}

func (s sight) is(t batchv1.JobConditionType) bool { return s.condition(t) != nil }

// state is how far a Job gets before something is done to it.
type state struct {
	image   string
	change  func(*jobsv1.JobRequested)
	log     string // what it has by then, where somebody watches
	reached func(sight) bool
}

// The states of the deletion table.
var (
	running = state{"sim/hang", nil, "0 1", func(s sight) bool {
		return len(s.pods) == 1 && s.pods[0].Status.Phase == corev1.PodRunning
	}}
	pending = state{"sim/hang", func(r *jobsv1.JobRequested) {
		r.Job.NodeSelector = &jobsv1.NodeSelector{MatchKey: "no-node", MatchValue: "has-it"}
	}, "0", func(s sight) bool {
		return len(s.pods) == 1 && slices.ContainsFunc(s.pods[0].Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Reason == corev1.PodReasonUnschedulable
		})
	}}
	podless = state{"sim/hang", func(r *jobsv1.JobRequested) { r.Job.ServiceAccount = "nobody" }, "0", func(s sight) bool {
		return s.job.Status.StartTime != nil && len(s.pods) == 0
	}}
	complete = state{"sim/succeed:100ms", nil, "0 1 2", func(s sight) bool { return s.is(batchv1.JobComplete) }}
	failed   = state{"sim/exit:3", nil, "0 1 3 CONTAINER_EXIT_NONZERO", func(s sight) bool {
		// Before what is done to it by Kubernetes' clock too, which has whole seconds.
		c := s.condition(batchv1.JobFailed)
		return c != nil && time.Since(c.LastTransitionTime.Time) > 2*time.Second
	}}
	retried = state{"sim/succeed:5s", func(r *jobsv1.JobRequested) { r.Job.BackoffLimit = 1 }, "0 1", running.reached}
)

// brief is the state of a Job whose TTL is over at once.
func (s state) brief() state {
	s.change = func(r *jobsv1.JobRequested) { r.Job.TtlSecondsAfterFinished = 1 }
	return s
}

// deed is what is done to a Job.
type deed struct {
	name  string
	do    func(*plant, *batchv1.Job)
	over  func(sight) bool // it has done all that it does while nobody watches
	keeps bool             // the Job
	frees bool             // the Pods from their Job, to run on without it
}

// The deeds of the deletion table.
var (
	background = deed{name: "background", do: deleted(metav1.DeletePropagationBackground), over: func(sight) bool { return true }}
	foreground = deed{name: "foreground", do: deleted(metav1.DeletePropagationForeground), over: func(s sight) bool { return len(s.pods) == 0 }}
	orphaned   = deed{name: "orphan", do: deleted(metav1.DeletePropagationOrphan), frees: true, over: func(s sight) bool {
		return s.job == nil || !slices.Contains(s.job.Finalizers, metav1.FinalizerOrphanDependents)
	}}
	pastTTL = deed{name: "TTL", do: func(*plant, *batchv1.Job) {}, over: func(s sight) bool {
		return s.job == nil || s.job.DeletionTimestamp != nil && len(s.pods) == 0
	}}
	podDeleted = deed{name: "the Pod alone", do: (*plant).deletePods, keeps: true, over: func(s sight) bool {
		return (s.is(batchv1.JobComplete) || s.is(batchv1.JobFailed)) && !slices.ContainsFunc(s.pods, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	}}
)

func deleted(policy metav1.DeletionPropagation) func(*plant, *batchv1.Job) {
	return func(p *plant, job *batchv1.Job) {
		p.t.Helper()
		err := p.client.BatchV1().Jobs(p.namespace).Delete(p.t.Context(), job.Name, metav1.DeleteOptions{PropagationPolicy: &policy})
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *plant) deletePods(job *batchv1.Job) {
	p.t.Helper()
	err := p.client.CoreV1().Pods(p.namespace).DeleteCollection(p.t.Context(), metav1.DeleteOptions{}, podsOf(job))
	if err != nil {
		p.t.Fatal(err)
	}
}

func podsOf(job *batchv1.Job) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name}
}

// TestRealDeletionTable: a Job comes to a state, something is done to it, and
// somebody sees it all or only what is left of it: each log has its one end, our
// finalizer comes off, and the Job goes with its Pods.
func TestRealDeletionTable(t *testing.T) {
	// What a log has in the end: seen by a watcher, and by one that is only started
	// when Kubernetes is through. The second has no status 1 and no cause where
	// the Pods are gone (docs/contract.md, promise 1).
	rows := []struct {
		state      string
		from       state
		deed       deed
		seen, late string
	}{
		{"running", running, background, "0 1 99 JOB_DELETED", "0 1 99 JOB_DELETED"},
		{"running", running, foreground, "0 1 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"running", running, orphaned, "0 1 99 JOB_DELETED", "0 1 99 JOB_DELETED"},
		{"running", running, podDeleted, "0 1 3 POD_DELETED", "0 3 JOB_FAILED"},
		{"to be retried", retried, podDeleted, "0 1 2", "0 1 2"},
		{"pending", pending, background, "0 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"pending", pending, foreground, "0 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"pending", pending, orphaned, "0 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"pending", pending, podDeleted, "0 3 POD_DELETED", "0 3 JOB_FAILED"},
		{"without a Pod", podless, background, "0 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"without a Pod", podless, foreground, "0 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"without a Pod", podless, orphaned, "0 99 JOB_DELETED", "0 99 JOB_DELETED"},
		{"complete", complete, background, "0 1 2", "0 1 2"},
		{"complete", complete, foreground, "0 1 2", "0 2"},
		{"complete", complete, orphaned, "0 1 2", "0 1 2"},
		{"complete", complete, podDeleted, "0 1 2", "0 2"},
		{"complete", complete.brief(), pastTTL, "0 1 2", "0 2"},
		{"failed", failed, background, "0 1 3 CONTAINER_EXIT_NONZERO", "0 1 3 CONTAINER_EXIT_NONZERO"},
		{"failed", failed, foreground, "0 1 3 CONTAINER_EXIT_NONZERO", "0 3 JOB_FAILED"},
		{"failed", failed, orphaned, "0 1 3 CONTAINER_EXIT_NONZERO", "0 1 3 CONTAINER_EXIT_NONZERO"},
		{"failed", failed.brief(), pastTTL, "0 1 3 CONTAINER_EXIT_NONZERO", "0 3 JOB_FAILED"},
	}
	for _, late := range []bool{false, true} {
		t.Run(map[bool]string{false: "seen", true: "late"}[late], func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			if !late {
				p.watch(quick())
			}
			ids, jobs := make([]string, len(rows)), make([]*batchv1.Job, len(rows))
			for i, r := range rows {
				ids[i] = r.state + ", " + r.deed.name
				jobs[i] = p.submit(ids[i], r.from.image, changes(r.from.change)...)
			}
			for i, r := range rows {
				if late {
					p.awaitSight(jobs[i], r.from.reached)
				} else {
					p.awaitLog(ids[i], r.from.log)
				}
				r.deed.do(p, jobs[i])
			}
			if late {
				for i, r := range rows {
					p.awaitSight(jobs[i], r.deed.over)
				}
				p.watch(quick())
			}
			for i, r := range rows {
				p.awaitEnd(ids[i])
				switch {
				case r.deed.keeps:
					p.awaitRelease(jobs[i])
				case r.deed.frees:
					p.awaitSight(jobs[i], func(s sight) bool { return s.job == nil })
				default:
					p.awaitGone(jobs[i])
				}
			}
			for i, r := range rows {
				want := map[bool]string{false: r.seen, true: r.late}[late]
				if got := p.outline(ids[i]); got != want {
					t.Errorf("%s: %s, want %s", ids[i], got, want)
				}
				if pods := p.see(jobs[i]).pods; r.deed.frees && r.state != "without a Pod" &&
					(len(pods) != 1 || pods[0].DeletionTimestamp != nil || len(pods[0].OwnerReferences) != 0) {
					t.Errorf("%s: Pods %v", ids[i], pods)
				}
			}
		})
	}
}

// TestRealNamespaceDeleted: a namespace goes with what is in it, whether somebody
// watches or starts to when nothing but our finalizer holds it.
func TestRealNamespaceDeleted(t *testing.T) {
	rows := []struct {
		name string
		from state
		late bool
		want []string
	}{
		// The Pods go first: the Job may fail of that before it is deleted.
		{"running", running, false, []string{"0 1 3 NAMESPACE_DELETED", "0 1 99 NAMESPACE_DELETED"}},
		{"running, late", running, true, []string{"0 3 NAMESPACE_DELETED", "0 99 NAMESPACE_DELETED"}},
		{"pending", pending, false, []string{"0 3 NAMESPACE_DELETED", "0 99 NAMESPACE_DELETED"}},
		{"pending, late", pending, true, []string{"0 3 NAMESPACE_DELETED", "0 99 NAMESPACE_DELETED"}},
		{"without a Pod", podless, false, []string{"0 99 NAMESPACE_DELETED"}},
		{"without a Pod, late", podless, true, []string{"0 99 NAMESPACE_DELETED"}},
		{"complete", complete, false, []string{"0 1 2"}},
		{"complete, late", complete, true, []string{"0 2"}},
		{"failed", failed, false, []string{"0 1 3 CONTAINER_EXIT_NONZERO"}},
		{"failed, late", failed, true, []string{"0 3 JOB_FAILED"}},
	}
	plants, jobs := make([]*plant, len(rows)), make([]*batchv1.Job, len(rows))
	for i, r := range rows {
		plants[i] = newPlant(t)
		if !r.late {
			plants[i].watch(quick())
		}
		jobs[i] = plants[i].submit("id", r.from.image, changes(r.from.change)...)
	}
	for i, r := range rows {
		p := plants[i]
		if r.late {
			p.awaitSight(jobs[i], r.from.reached)
		} else {
			p.awaitLog("id", r.from.log)
		}
		if err := p.client.CoreV1().Namespaces().Delete(t.Context(), p.namespace, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range rows {
		if r.late {
			plants[i].awaitSight(jobs[i], func(s sight) bool { return s.job.DeletionTimestamp != nil && len(s.pods) == 0 })
			plants[i].watch(quick())
		}
	}
	for i, r := range rows {
		p := plants[i]
		p.awaitEnd("id")
		p.await("the end of the namespace of "+r.name, func(ctx context.Context) (bool, error) {
			_, err := p.client.CoreV1().Namespaces().Get(ctx, p.namespace, metav1.GetOptions{})
			return apierrors.IsNotFound(err), nil
		})
		if got := p.outline("id"); !slices.Contains(r.want, got) {
			t.Errorf("%s: %s, want one of %v", r.name, got, r.want)
		}
	}
}

// TestRealSurplus: a Job of ours that no log wants is deleted with its Pods, and
// counted, however far it got and whoever deletes it already.
func TestRealSurplus(t *testing.T) {
	p := newPlant(t)
	over := &jobsv1.JobException{Error: &jobsv1.Error{ErrorCode: string(jobstatus.Cancelled), Message: "Cancelled before its Job was there."}}
	other := &jobsv1.JobStarted{JobId: "another-uid", JobName: "another"}
	rows := []struct {
		name    string
		from    state
		last    event.Event
		counted bool
	}{
		{"running, its log has ended", running, p.event("running, its log has ended", over), true},
		{"running, its log is another's", running, p.event("running, its log is another's", other), true},
		{"pending, its log has ended", pending, p.event("pending, its log has ended", over), true},
		{"complete, its log is another's", complete, p.event("complete, its log is another's", other), true},
		{"failed, its log has ended with another", failed, p.event("failed, its log has ended with another", &jobsv1.JobCompleted{JobId: "another-uid"}), true},
		{"deleted already, its log has ended", running, p.event("deleted already, its log has ended", over), false},
	}
	jobs := make([]*batchv1.Job, len(rows))
	for i, r := range rows {
		if _, err := p.broker.Append(t.Context(), "svc", broker.Tail{}, r.last); err != nil {
			t.Fatal(err)
		}
		jobs[i] = p.submit(r.name, r.from.image, changes(r.from.change)...)
	}
	want := 0
	for i, r := range rows {
		p.awaitSight(jobs[i], r.from.reached)
		if r.counted {
			want++
		} else {
			background.do(p, jobs[i])
		}
	}
	p.watch(quick())
	for i, r := range rows {
		p.awaitGone(jobs[i])
		tail, err := p.broker.Tail(t.Context(), "svc", event.Key(r.name))
		if err != nil || tail.Last.Type != r.last.Type || tail.Last.Sequence != 0 {
			t.Errorf("%s: the log goes on with %s, %v", r.name, tail.Last.Type, err)
		}
	}
	if got := p.counted("jobrelay_watcher_surplus_total"); got != float64(want) {
		t.Errorf("%v surplus Jobs are counted, %d were deleted", got, want)
	}
}

// TestRealOrphans: a Job with our finalizer and no request is let go once it has
// ended or is being deleted, and before that left alone; another installation's
// is never touched.
func TestRealOrphans(t *testing.T) {
	p := newPlant(t)
	orphan := func(id, installation, image string) *batchv1.Job {
		r := p.described(id, func(r *jobsv1.JobRequested) { r.Job.Image = image })
		job, err := kubejob.Build(r, installation, kubejob.Name("w", id))
		if err != nil {
			t.Fatal(err)
		}
		if job, err = p.client.BatchV1().Jobs(p.namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		return job
	}
	ours := map[string]*batchv1.Job{
		"complete": orphan("complete", p.namespace, complete.image),
		"failed":   orphan("failed", p.namespace, failed.image),
		"deleted":  orphan("deleted", p.namespace, running.image),
	}
	goesOn := orphan("goes on", p.namespace, running.image)
	theirs := []*batchv1.Job{
		orphan("theirs, ended", "another", complete.image), orphan("theirs, deleted", "another", running.image), orphan("theirs, goes on", "another", running.image),
	}
	p.awaitSight(ours["complete"], complete.reached)
	p.awaitSight(ours["failed"], failed.reached)
	p.awaitSight(theirs[0], complete.reached)
	for _, job := range append(theirs[1:], ours["deleted"], goesOn) {
		p.awaitSight(job, running.reached)
	}
	background.do(p, ours["deleted"])
	background.do(p, theirs[1])
	before := make([]string, len(theirs))
	for i, job := range theirs {
		before[i] = p.see(job).job.ResourceVersion
	}
	p.watch(quick())
	p.awaitRelease(ours["complete"])
	p.awaitRelease(ours["failed"])
	p.awaitGone(ours["deleted"])
	// A Job of ours that comes after them has its end when all were looked at.
	p.submit("after", "sim/ok")
	p.awaitEnd("after")
	p.await("the count", func(context.Context) (bool, error) {
		return p.counted("jobrelay_watcher_outcomes_total", "code", string(jobstatus.OutcomeUnknown)) == float64(len(ours)), nil
	})
	if s := p.see(goesOn); s.job == nil || s.job.DeletionTimestamp != nil || !slices.Contains(s.job.Finalizers, kubejob.Finalizer) || !running.reached(s) {
		t.Errorf("the one that goes on: %+v", s.job)
	}
	for i, job := range theirs {
		if s := p.see(job); s.job == nil || s.job.ResourceVersion != before[i] || !slices.Contains(s.job.Finalizers, kubejob.Finalizer) || len(s.pods) != 1 {
			t.Errorf("%s was touched: %+v", job.Annotations[kubejob.AnnotationID], s.job)
		}
	}
	for _, job := range append(theirs, goesOn) {
		p.release(job) // nobody else will, and the namespace is to go
	}
	for id := range ours {
		if got := p.outline(id); got != "" {
			t.Errorf("%s has a log: %s", id, got)
		}
	}
}

// TestRealFinalizerTakenOff: somebody takes our finalizer off while the Job runs.
// As long as the Job is there its end is seen; if it vanishes, nobody knows it.
func TestRealFinalizerTakenOff(t *testing.T) {
	p := newPlant(t)
	p.watch(quick())
	rows := []struct {
		name string
		from state
		do   func(*plant, *batchv1.Job)
		want string
	}{
		{"it goes on", retried, func(*plant, *batchv1.Job) {}, "0 1 2"},
		{"deleted in the background", running, background.do, "0 1 99 OUTCOME_UNKNOWN"},
		{"deleted in the foreground", running, foreground.do, "0 1 99 JOB_DELETED"},
		{"deleted without its Pods", running, orphaned.do, "0 1 99 JOB_DELETED"},
		{"deleted before anything ran", pending, background.do, "0 99 OUTCOME_UNKNOWN"},
	}
	jobs := make([]*batchv1.Job, len(rows))
	for i, r := range rows {
		jobs[i] = p.submit(r.name, r.from.image, changes(r.from.change)...)
	}
	for i, r := range rows {
		p.awaitLog(r.name, r.from.log)
		p.release(jobs[i])
		r.do(p, jobs[i])
	}
	for _, r := range rows {
		p.awaitEnd(r.name)
		if got := p.outline(r.name); got != r.want {
			t.Errorf("%s: %s, want %s", r.name, got, r.want)
		}
	}
}

// event is one of the id's log.
func (p *plant) event(id string, data jobstatus.Event) event.Event {
	p.t.Helper()
	e, err := event.New(event.Key(id), "source", id, 0, time.Now(), data)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

// counted is what the watcher that was run last says of a metric, of those with a
// label where one is given.
func (p *plant) counted(name string, label ...string) float64 {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (len(label) == 0 || m.GetLabel()[0].GetName() == label[0] && m.GetLabel()[0].GetValue() == label[1]) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// release takes every finalizer off by hand.
func (p *plant) release(job *batchv1.Job) {
	p.t.Helper()
	_, err := p.client.BatchV1().Jobs(p.namespace).Patch(p.t.Context(), job.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
}

func changes(f func(*jobsv1.JobRequested)) (out []func(*jobsv1.JobRequested)) {
	if f != nil {
		out = append(out, f)
	}
	return out
}

// see looks at a Job past every cache.
func (p *plant) see(job *batchv1.Job) sight {
	p.t.Helper()
	var out sight
	now, err := p.client.BatchV1().Jobs(p.namespace).Get(p.t.Context(), job.Name, metav1.GetOptions{})
	if err == nil && now.UID == job.UID {
		out.job = now
	}
	if err == nil || apierrors.IsNotFound(err) {
		var list *corev1.PodList
		if list, err = p.client.CoreV1().Pods(p.namespace).List(p.t.Context(), podsOf(job)); err == nil {
			out.pods = list.Items
		}
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *plant) awaitSight(job *batchv1.Job, ok func(sight) bool) {
	p.t.Helper()
	p.await("the state of "+job.Annotations[kubejob.AnnotationID], func(context.Context) (bool, error) { return ok(p.see(job)), nil })
}

func (p *plant) awaitLog(id, want string) {
	p.t.Helper()
	got := ""
	p.await("log "+want+" of "+id, func(context.Context) (bool, error) {
		got = p.outline(id)
		return got == want, nil
	})
}

// outline is the whole log of an id: the statuses, and the last code.
func (p *plant) outline(id string) string {
	p.t.Helper()
	stream, err := p.broker.JetStream().Stream(p.t.Context(), broker.StreamEvents)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for next := uint64(1); ; {
		m, err := stream.GetMsg(p.t.Context(), next, jetstream.WithGetMsgSubject(event.LogFilter("svc", event.Key(id))))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return strings.Join(out, " ")
		}
		if err != nil {
			p.t.Fatal(err)
		}
		e, err := event.Decode(m.Header, m.Data)
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, fmt.Sprint(e.Type.Status()))
		if code, _ := errorOf(e); code != "" {
			out = append(out, string(code))
		}
		next = m.Sequence + 1
	}
}
