package watcher_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/services/watcher"
)

func TestMain(m *testing.M) {
	// client-go keeps its idle connection to an API server as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"))
}

const installation = "test"

// bench is a watcher over a simulated API and a log in memory.
type bench struct {
	t      *testing.T
	client *fake.Clientset
	log    *memory
	clock  *clock
	policy *request.Policy
}

// clock is the watcher's time.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// watch runs a watcher over the objects until the test ends.
func (b *bench) watch() {
	w := watcher.New(b.log, b.client, watcher.Options{Installation: installation, Workers: 2, Now: b.clock.Now, Policy: func() *request.Policy { return b.policy }},
		zerolog.New(zerolog.NewTestWriter(b.t)), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	b.await("the caches", func() bool { return w.Ready() == nil })
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, client: fake.NewClientset(), log: newMemory(), clock: &clock{now: time.Now().Truncate(time.Second)}}
}

func (b *bench) await(what string, ok func() bool) {
	b.t.Helper()
	err := wait.PollUntilContextTimeout(b.t.Context(), 2*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		b.t.Fatalf("%s never came; log: %q, job: %+v", what, b.log.types("svc", "id-1"), b.get())
	}
}

func (b *bench) awaitLog(want string) {
	b.t.Helper()
	b.await("log "+want, func() bool { return b.log.types("svc", "id-1") == want })
}

// accepted puts the request of id-1 where ingest would.
func (b *bench) accepted() *jobsv1.JobRequested {
	r := &jobsv1.JobRequested{
		Id: "id-1", Service: "svc", Hash: "hash", QueuedAt: timestamppb.New(b.clock.Now().Add(-time.Second)),
		Job: &jobsv1.Job{PrefixName: "bb", Namespace: "ns", Image: "tool:1", Command: []string{"run"}},
	}
	e, err := event.New(event.Key(r.GetId()), "source", r.GetId(), 0, b.clock.Now(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	e.Trace = "00-trace"
	b.log.requests[e.LogKey] = e
	return r
}

// launched is the Job of a request as the launcher and the Job controller have
// made it.
func (b *bench) launched(r *jobsv1.JobRequested, change ...func(*batchv1.Job)) *batchv1.Job {
	b.t.Helper()
	job, err := kubejob.Build(r, installation, kubejob.Name("bb", r.GetId()))
	if err != nil {
		b.t.Fatal(err)
	}
	now := metav1.NewTime(b.clock.Now())
	job.UID, job.ResourceVersion, job.CreationTimestamp = "job-uid", "1", now
	job.Status = batchv1.JobStatus{StartTime: &now, Active: 1}
	for _, c := range change {
		c(job)
	}
	if _, err := b.client.BatchV1().Jobs("ns").Create(b.t.Context(), job, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	return job
}

func (b *bench) get() *batchv1.Job {
	job, err := b.client.BatchV1().Jobs("ns").Get(b.t.Context(), kubejob.Name("bb", "id-1"), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return job
}

func (b *bench) released() bool {
	job := b.get()
	return job != nil && !slices.Contains(job.Finalizers, kubejob.Finalizer)
}

// pod is the Job's Pod.
func (b *bench) pod(job *batchv1.Job, phase corev1.PodPhase, s corev1.ContainerState) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: job.Name + "-x", Namespace: "ns", UID: "pod-uid", Labels: job.Spec.Template.Labels, CreationTimestamp: job.CreationTimestamp,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec:   corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "svc", Env: []corev1.EnvVar{{Name: "A", Value: "B"}}}}},
		Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{Name: "svc", State: s}}},
	}
}

func (b *bench) create(p *corev1.Pod) {
	b.t.Helper()
	if _, err := b.client.CoreV1().Pods("ns").Create(b.t.Context(), p, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) update(p *corev1.Pod, phase corev1.PodPhase, s corev1.ContainerState) {
	b.t.Helper()
	p = p.DeepCopy()
	p.Status.Phase, p.Status.ContainerStatuses[0].State = phase, s
	if _, err := b.client.CoreV1().Pods("ns").Update(b.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) finish(job *batchv1.Job, t batchv1.JobConditionType) {
	b.t.Helper()
	job = job.DeepCopy()
	ended(b.clock.Now(), t)(job)
	if _, err := b.client.BatchV1().Jobs("ns").Update(b.t.Context(), job, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func ended(now time.Time, t batchv1.JobConditionType) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		at := metav1.NewTime(now)
		job.Status.Active = 0
		job.Status.Conditions = []batchv1.JobCondition{{Type: t, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded", LastTransitionTime: at}}
		if t == batchv1.JobComplete {
			job.Status.CompletionTime = &at
		}
	}
}

func runs(at time.Time) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at)}}
}

func exits(at time.Time, code int32) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", StartedAt: metav1.NewTime(at), FinishedAt: metav1.NewTime(at)}}
}

func TestJobToItsEnd(t *testing.T) {
	b := newBench(t)
	job := b.launched(b.accepted())
	b.watch()
	b.awaitLog("started") // the launcher died before it could
	pod := b.pod(job, corev1.PodRunning, runs(b.clock.Now()))
	b.create(pod)
	b.awaitLog("started pod-started")
	b.update(pod, corev1.PodSucceeded, exits(b.clock.Now(), 0))
	b.finish(job, batchv1.JobComplete)
	b.awaitLog("started pod-started completed")
	b.await("release", b.released)
	for n, e := range b.log.logs["svc/"+event.Key("id-1")] {
		if e.Sequence != n || e.ID != "id-1" || e.Trace != "00-trace" || e.Source != "jobrelay://test/namespaces/ns" || jobstatus.JobID(e.Data) != "job-uid" {
			t.Errorf("event %d: %+v", n, e)
		}
	}
}

func TestOverAtFirstSight(t *testing.T) {
	b := newBench(t)
	job := b.launched(b.accepted(), ended(b.clock.Now(), batchv1.JobFailed))
	b.create(b.pod(job, corev1.PodFailed, exits(b.clock.Now(), 3)))
	b.watch()
	b.awaitLog("started pod-started failed")
	b.await("release", b.released)
}

// A Pod that went before its Job says why is remembered.
func TestGonePodIsEvidence(t *testing.T) {
	b := newBench(t)
	job := b.launched(b.accepted())
	pod := b.pod(job, corev1.PodFailed, exits(b.clock.Now(), 3))
	b.create(pod)
	b.watch()
	b.awaitLog("started pod-started")
	if err := b.client.CoreV1().Pods("ns").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.finish(job, batchv1.JobFailed)
	b.awaitLog("started pod-started failed")
	tail, _ := b.log.Tail(t.Context(), "svc", event.Key("id-1"))
	if d, ok := tail.Last.Data.(*jobsv1.JobFailed); !ok || d.GetError().GetErrorCode() != string(jobstatus.ContainerExitNonzero) {
		t.Errorf("got %v", tail.Last.Data)
	}
}

// Two writers at once: one of them decides again.
func TestConflict(t *testing.T) {
	b := newBench(t)
	r := b.accepted()
	var raced atomic.Bool
	b.log.before = func(e event.Event) error {
		if raced.Swap(true) {
			return nil
		}
		other := e // the launcher gets there first
		other.Data = jobstatus.Started(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{UID: "job-uid"}}, r)
		_, err := b.log.Append(context.Background(), "svc", broker.Tail{}, other)
		return err
	}
	job := b.launched(r)
	b.create(b.pod(job, corev1.PodRunning, runs(b.clock.Now())))
	b.watch()
	b.awaitLog("started pod-started")
}

// While the log cannot be reached nothing is released, and afterwards all is
// made up for.
func TestLogDown(t *testing.T) {
	b := newBench(t)
	var mu sync.Mutex
	tries, down := 0, true
	b.log.before = func(event.Event) error {
		mu.Lock()
		defer mu.Unlock()
		tries++
		if down {
			return errDown
		}
		return nil
	}
	b.launched(b.accepted(), ended(b.clock.Now().Add(-time.Hour), batchv1.JobFailed))
	b.watch()
	b.await("three tries", func() bool { mu.Lock(); defer mu.Unlock(); return tries >= 3 })
	if b.released() {
		t.Error("released without a record")
	}
	mu.Lock()
	down = false
	mu.Unlock()
	b.awaitLog("started failed")
	b.await("release", b.released)
}

func TestSurplusIsDeleted(t *testing.T) {
	b := newBench(t)
	r := b.accepted()
	e, err := event.New(event.Key("id-1"), "source", "id-1", 0, b.clock.Now(), &jobsv1.JobException{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.log.Append(t.Context(), "svc", broker.Tail{}, e); err != nil {
		t.Fatal(err)
	}
	b.launched(r)
	b.watch()
	b.await("deletion", func() bool { return b.get() == nil })
	for _, a := range b.client.Actions() {
		if d, ok := a.(ktesting.DeleteActionImpl); ok {
			o := d.DeleteOptions
			if o.Preconditions == nil || *o.Preconditions.UID != types.UID("job-uid") || *o.PropagationPolicy != metav1.DeletePropagationForeground {
				t.Errorf("deleted with %+v", o)
			}
		}
	}
	if got := b.log.types("svc", "id-1"); got != "exception" {
		t.Errorf("log %q", got)
	}
}

// A Job is ours only if its request says so: labels prove nothing.
func TestJobsOfNobody(t *testing.T) {
	running := func(*batchv1.Job) {}
	for name, c := range map[string]struct {
		change   func(*batchv1.Job)
		request  bool
		released bool
	}{
		"no request, running": {running, false, false},
		"no request, ended":   {ended(time.Now(), batchv1.JobComplete), false, true},
		"forged":              {func(j *batchv1.Job) { j.Annotations[kubejob.AnnotationHash] = "other" }, true, false},
		"forged, another key": {func(j *batchv1.Job) { j.Labels[kubejob.LabelKey] = event.Key("id-2") }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := b.accepted()
			if !c.request {
				clear(b.log.requests)
			}
			b.launched(r, c.change)
			b.watch()
			b.await("a look", func() bool { return b.log.asked() > 0 })
			if c.released {
				b.await("release", b.released)
			} else if b.released() {
				t.Error("released")
			}
			if got := b.log.types("svc", "id-1"); got != "" || b.get() == nil {
				t.Errorf("log %q, job %v", got, b.get())
			}
		})
	}
}

// A changed label app does not lead to another log: the request's word counts.
func TestServiceIsTheRequests(t *testing.T) {
	b := newBench(t)
	b.launched(b.accepted(), func(j *batchv1.Job) { j.Labels[kubejob.LabelApp] = "other" })
	b.watch()
	b.awaitLog("started")
}

func TestStartDeadlineEndsTheJob(t *testing.T) {
	b := newBench(t)
	b.client.PrependReactor("delete", "jobs", b.deleteInForeground)
	job := b.launched(b.accepted())
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}
	pod := b.pod(job, corev1.PodPending, waiting)
	b.create(pod)
	b.watch()
	b.await("mark", func() bool { return b.get().Annotations[kubejob.AnnotationNotStarting] != "" })
	b.await("deletion", func() bool {
		// The time goes on while it looks: the simulated API has no resource
		// versions, so a look at a cache without the mark writes it anew.
		b.clock.advance(time.Minute)
		b.update(pod, corev1.PodPending, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: "ImagePullBackOff", Message: "not found at " + time.Now().String(), // a change asks for a look
		}})
		return b.get().DeletionTimestamp != nil
	})
	if b.log.types("svc", "id-1") != "started" {
		t.Error("ended before its Pods were gone")
	}
	if err := b.client.CoreV1().Pods("ns").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.awaitLog("started exception")
	b.await("release", b.released)
	tail, _ := b.log.Tail(t.Context(), "svc", event.Key("id-1"))
	if d, ok := tail.Last.Data.(*jobsv1.JobException); !ok || d.GetError().GetErrorCode() != string(jobstatus.ImagePullFailed) {
		t.Errorf("got %v", tail.Last.Data)
	}
}

// TestStartDeadlineOfTheService: the policy's deadline of a service holds for it,
// and for no other.
func TestStartDeadlineOfTheService(t *testing.T) {
	for service, waits := range map[string]time.Duration{"svc": 40 * time.Second, "other": jobstatus.DefaultDeadlines().Start} {
		t.Run("the policy of "+service, func(t *testing.T) {
			p, err := request.ParsePolicy([]byte("services: {" + service + ": {startDeadlines: {start: 40s}}}"))
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t)
			b.policy = p
			b.client.PrependReactor("delete", "jobs", b.deleteInForeground)
			pod := b.pod(b.launched(b.accepted()), corev1.PodPending, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}})
			b.create(pod)
			b.watch()
			b.awaitLog("started")
			b.clock.advance(waits)
			b.update(pod, corev1.PodPending, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}})
			b.await("deletion", func() bool { return b.get().DeletionTimestamp != nil })
			if reason := b.get().Annotations[kubejob.AnnotationStopReason]; !strings.Contains(reason, "Nothing ran for "+waits.String()) {
				t.Error(reason)
			}
		})
	}
}

// deleteInForeground does what the API server does to a Job with a finalizer.
func (b *bench) deleteInForeground(a ktesting.Action) (bool, runtime.Object, error) {
	jobs := batchv1.SchemeGroupVersion.WithResource("jobs")
	obj, err := b.client.Tracker().Get(jobs, "ns", kubejob.Name("bb", "id-1"))
	if job, ok := obj.(*batchv1.Job); ok && err == nil {
		job = job.DeepCopy()
		now := metav1.NewTime(b.clock.Now())
		job.DeletionTimestamp = &now
		err = b.client.Tracker().Update(jobs, job, a.GetNamespace())
	}
	return true, nil, err
}
