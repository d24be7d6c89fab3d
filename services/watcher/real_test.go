package watcher_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// plant is the real parts: a control plane, NATS and the broker. Its
// installation is the test's namespace, so that tests keep apart.
type plant struct {
	t         *testing.T
	client    kubernetes.Interface
	broker    *broker.Broker
	namespace string
	registry  *prometheus.Registry // of the watcher that was run last
}

func newPlant(t *testing.T) *plant {
	shared := kubedtest.Shared(t)
	p := &plant{t: t, namespace: shared.Namespace(t)}
	config, err := cluster.Config(shared.Kubeconfig(), "watcher", "test")
	if err != nil {
		t.Fatal(err)
	}
	if p.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	server, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	p.broker, err = broker.Open(t.Context(), broker.Config{URL: server.URL(), Topology: broker.Create, Replicas: 1, Role: "watcher"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.broker.Close)
	return p
}

// watch runs a watcher until the returned function, or the test's end.
func (p *plant) watch(d jobstatus.Deadlines) (stop func()) {
	w, stop := p.run(watcher.Options{Deadlines: d})
	p.await("the caches", func(context.Context) (bool, error) { return w.Ready() == nil, nil })
	return stop
}

// run runs a watcher of the test's namespace until the returned function, or
// the test's end.
func (p *plant) run(o watcher.Options) (w *watcher.Watcher, stop func()) {
	o.Installation, o.Namespace = p.namespace, p.namespace
	p.registry = prometheus.NewRegistry()
	w = watcher.New(p.broker, p.client, o, zerolog.New(zerolog.NewTestWriter(p.t)).With().Str("instance", o.Lease.Identity).Logger(), p.registry)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			if err := <-done; err != nil {
				p.t.Error(err)
			}
		}
	}
	p.t.Cleanup(stop)
	return w, stop
}

// described is a request that nobody has accepted yet.
func (p *plant) described(id string, change ...func(*jobsv1.JobRequested)) *jobsv1.JobRequested {
	r := &jobsv1.JobRequested{
		Id: id, Service: "svc", Hash: "hash", QueuedAt: timestamppb.Now(),
		Job: &jobsv1.Job{
			PrefixName: "w", Namespace: p.namespace, Image: "sim/hang", Command: []string{"run"}, ServiceAccount: "default",
			TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 600,
		},
	}
	for _, c := range change {
		c(r)
	}
	return r
}

// accept accepts a request, as ingest does.
func (p *plant) accept(id string, change ...func(*jobsv1.JobRequested)) *jobsv1.JobRequested {
	p.t.Helper()
	r := p.described(id, change...)
	e, err := event.New(event.Key(id), event.SourceOfQueue(p.namespace, "q"), id, 0, time.Now(), r)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.broker.Accept(p.t.Context(), e); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// request is the accepted request of an id.
func (p *plant) request(id string) *jobsv1.JobRequested {
	p.t.Helper()
	e, err := p.broker.Request(p.t.Context(), event.Key(id))
	if err != nil {
		p.t.Fatal(err)
	}
	return e.Data.(*jobsv1.JobRequested)
}

// submit accepts a request and creates its Job, as ingest and launcher do.
func (p *plant) submit(id, image string, change ...func(*jobsv1.JobRequested)) *batchv1.Job {
	p.t.Helper()
	r := p.accept(id, append([]func(*jobsv1.JobRequested){func(r *jobsv1.JobRequested) { r.Job.Image = image }}, change...)...)
	job, err := kubejob.Build(r, p.namespace, kubejob.Name("w", id))
	if err != nil {
		p.t.Fatal(err)
	}
	job, err = p.client.BatchV1().Jobs(p.namespace).Create(p.t.Context(), job, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return job
}

// jobOf is the Job of an id.
func (p *plant) jobOf(id string) *batchv1.Job {
	p.t.Helper()
	job, err := p.client.BatchV1().Jobs(p.namespace).Get(p.t.Context(), kubejob.Name("w", id), metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return job
}

// strip takes the finalizer off by hand and deletes the Job.
func (p *plant) strip(job *batchv1.Job) {
	p.t.Helper()
	p.release(job)
	background.do(p, job)
}

// awaitCaches waits for the caches of watchers that run.
func (p *plant) awaitCaches(watchers ...*watcher.Watcher) {
	p.t.Helper()
	for _, w := range watchers {
		p.await("the caches", func(context.Context) (bool, error) { return w.Ready() == nil, nil })
	}
}

func (p *plant) awaitNoJobs() {
	p.t.Helper()
	p.await("the end of every Job", func(ctx context.Context) (bool, error) {
		list, err := p.client.BatchV1().Jobs(p.namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
}

// awaitEnd waits for the end of the id's log and returns its last event.
func (p *plant) awaitEnd(id string) event.Event {
	p.t.Helper()
	var last event.Event
	p.await("end of "+id, func(ctx context.Context) (bool, error) {
		tail, err := p.broker.Tail(ctx, "svc", event.Key(id))
		last = tail.Last
		return err == nil && last.Type.Terminal(), err
	})
	return last
}

// awaitTail waits for an event of the type at the end of the id's log.
func (p *plant) awaitTail(id string, t event.Type) {
	p.t.Helper()
	p.await(string(t)+" of "+id, func(ctx context.Context) (bool, error) {
		tail, err := p.broker.Tail(ctx, "svc", event.Key(id))
		return err == nil && tail.Last.Type == t, err
	})
}

// awaitRelease waits until our finalizer, or the Job, is gone.
func (p *plant) awaitRelease(job *batchv1.Job) {
	p.t.Helper()
	p.await("release of "+job.Name, func(ctx context.Context) (bool, error) {
		now, err := p.client.BatchV1().Jobs(p.namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return err == nil && !slices.Contains(now.Finalizers, kubejob.Finalizer), err
	})
}

func (p *plant) await(what string, ok wait.ConditionWithContextFunc) {
	p.t.Helper()
	if err := wait.PollUntilContextTimeout(p.t.Context(), 20*time.Millisecond, 60*time.Second, true, ok); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

// quick deadlines, long enough for a simulated node.
func quick() jobstatus.Deadlines {
	d := jobstatus.DefaultDeadlines()
	d.ImagePull, d.Unstartable = 3*time.Second, 2*time.Second
	return d
}

// Every end that the simulated nodes can give, by one watcher.
func TestRealJobs(t *testing.T) {
	p := newPlant(t)
	p.watch(quick())
	limited := func(r *jobsv1.JobRequested) { r.Job.ActiveDeadlineSeconds = 2 }
	cases := []struct {
		image  string
		change func(*jobsv1.JobRequested)
		events int // in the log
		typ    event.Type
		code   jobstatus.Code
		says   string
	}{
		{"sim/succeed:100ms", nil, 3, event.TypeJobCompleted, "", ""},
		{"sim/exit:3", nil, 3, event.TypeJobFailed, jobstatus.ContainerExitNonzero, "exit code 3"},
		{"sim/oom", nil, 3, event.TypeJobFailed, jobstatus.OOMKilled, "OOMKilled"},
		{"sim/evict", nil, 3, event.TypeJobFailed, jobstatus.Evicted, ""},
		{"sim/hang", limited, 3, event.TypeJobFailed, jobstatus.DeadlineExceeded, "2 seconds"},
		{"sim/pull-fail", nil, 2, event.TypeJobException, jobstatus.ImagePullFailed, "Nothing ran for 3s"},
		{"sim/bad-name", nil, 2, event.TypeJobException, jobstatus.ImageNameInvalid, "InvalidImageName"},
		{"sim/config-error", nil, 2, event.TypeJobException, jobstatus.ContainerConfigError, "CreateContainerConfigError"},
	}
	jobs := make([]*batchv1.Job, len(cases))
	for i, c := range cases {
		if c.change == nil {
			c.change = func(*jobsv1.JobRequested) {}
		}
		jobs[i] = p.submit(c.image, c.image, c.change)
	}
	for i, c := range cases {
		last := p.awaitEnd(c.image)
		code, says := errorOf(last)
		if last.Type != c.typ || code != c.code || !strings.Contains(says, c.says) || last.Sequence+1 != c.events {
			t.Errorf("%s: %s %s %q as event %d", c.image, last.Type, code, says, last.Sequence)
		}
		if jobstatus.JobID(last.Data) != jobs[i].UID {
			t.Errorf("%s: about Job %q", c.image, jobstatus.JobID(last.Data))
		}
		p.awaitRelease(jobs[i])
	}
}

func errorOf(e event.Event) (jobstatus.Code, string) {
	if d, ok := e.Data.(interface{ GetError() *jobsv1.Error }); ok {
		return jobstatus.Code(d.GetError().GetErrorCode()), d.GetError().GetMessage()
	}
	return "", ""
}

// TestRealStuckStarts: nothing runs, and the Events or the Pod say why.
func TestRealStuckStarts(t *testing.T) {
	p := newPlant(t)
	quotas := p.client.CoreV1().ResourceQuotas(p.namespace)
	_, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "memory"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceLimitsMemory: resource.MustParse("1Gi")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.await("the quota", func(ctx context.Context) (bool, error) {
		q, err := quotas.Get(ctx, "memory", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0, err
	})
	d := quick()
	d.Start = 5 * time.Second
	p.watch(d)
	memory := func(limit string) func(*jobsv1.JobRequested) {
		return func(r *jobsv1.JobRequested) {
			r.Job.Resources = &jobsv1.Resources{Limits: &jobsv1.Quantities{Memory: limit}}
		}
	}
	small := memory("1Mi")
	cases := map[jobstatus.Code]struct {
		change []func(*jobsv1.JobRequested)
		says   string
	}{
		jobstatus.PodQuotaExceeded:       {[]func(*jobsv1.JobRequested){memory("2Gi")}, "exceeded quota: memory"},
		jobstatus.PodForbidden:           {nil, "must specify limits.memory"},
		jobstatus.ServiceAccountNotFound: {[]func(*jobsv1.JobRequested){small, func(r *jobsv1.JobRequested) { r.Job.ServiceAccount = "nobody" }}, `"nobody" not found`},
		jobstatus.VolumeNotFound:         {[]func(*jobsv1.JobRequested){small, func(r *jobsv1.JobRequested) { r.Job.Volume = &jobsv1.Volume{MountPath: "/v", Pvc: "no-claim"} }}, `"no-claim" not found`},
		jobstatus.Unschedulable: {[]func(*jobsv1.JobRequested){small, func(r *jobsv1.JobRequested) {
			r.Job.NodeSelector = &jobsv1.NodeSelector{MatchKey: "a", MatchValue: "b"}
		}}, "affinity"},
	}
	jobs := map[jobstatus.Code]*batchv1.Job{}
	for code, c := range cases {
		jobs[code] = p.submit(string(code), "sim/hang", c.change...)
	}
	for code, c := range cases {
		last := p.awaitEnd(string(code))
		if got, says := errorOf(last); last.Type != event.TypeJobException || got != code || !strings.Contains(says, c.says) {
			t.Errorf("%s: %s %s %q", code, last.Type, got, says)
		}
		p.awaitGone(jobs[code])
	}
}

func (p *plant) awaitGone(job *batchv1.Job) {
	p.t.Helper()
	p.await("deletion of "+job.Name, func(ctx context.Context) (bool, error) {
		_, err := p.client.BatchV1().Jobs(p.namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return false, err
		}
		pods, err := p.client.CoreV1().Pods(p.namespace).List(ctx, metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
		return err == nil && len(pods.Items) == 0, err
	})
}

// A Job that ran from its start to its end while nobody watched has all its
// events, once.
func TestRealJobUnwatched(t *testing.T) {
	p := newPlant(t)
	job := p.submit("id", "sim/exit:3")
	p.await("end of the Job", func(ctx context.Context) (bool, error) {
		now, err := p.client.BatchV1().Jobs(p.namespace).Get(ctx, job.Name, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(now.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobFailed }), err
	})
	p.watch(quick())
	last := p.awaitEnd("id")
	if last.Type != event.TypeJobFailed || last.Sequence != 2 {
		t.Fatalf("got %s as event %d", last.Type, last.Sequence)
	}
	times, started := last.Data.(*jobsv1.JobFailed).GetTimes(), jobstatus.Started(job, p.request("id"))
	if times.QueueMilliseconds == nil || times.GetQueueMilliseconds() != started.GetQueueMilliseconds() {
		t.Errorf("queue time %v, and %d when it started", times.QueueMilliseconds, started.GetQueueMilliseconds())
	}
	p.awaitRelease(job)
}

// Our own end of a Job goes on where the last watcher left it, and gets the
// Pods down even after somebody's background deletion, which leaves them
// running.
func TestRealStopGoesOn(t *testing.T) {
	p := newPlant(t)
	stop := p.watch(quick())
	job := p.submit("id", "sim/hang")
	p.awaitTail("id", event.TypePodStarted)
	stop()
	jobs := p.client.BatchV1().Jobs(p.namespace)
	reason := jobstatus.FormatReason(jobstatus.Reason{Code: jobstatus.Cancelled, Message: "Cancelled by a test."})
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{kubejob.AnnotationStopReason: reason}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.Patch(t.Context(), job.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	background := metav1.DeletePropagationBackground
	if err := jobs.Delete(t.Context(), job.Name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	p.watch(quick())
	last := p.awaitEnd("id")
	if code, says := errorOf(last); last.Type != event.TypeJobException || code != jobstatus.Cancelled || says != "Cancelled by a test." {
		t.Errorf("got %s %s %q", last.Type, code, says)
	}
	p.awaitGone(job)
}

// Two watchers at once do no harm.
func TestRealTwoWatchers(t *testing.T) {
	p := newPlant(t)
	p.watch(quick())
	p.watch(quick())
	var jobs []*batchv1.Job
	for _, id := range []string{"a", "b", "c", "d"} {
		jobs = append(jobs, p.submit(id, "sim/succeed:200ms"))
	}
	for i, id := range []string{"a", "b", "c", "d"} {
		if last := p.awaitEnd(id); last.Type != event.TypeJobCompleted || last.Sequence != 2 {
			t.Errorf("%s: %s as event %d", id, last.Type, last.Sequence)
		}
		p.awaitRelease(jobs[i])
	}
}

// TestRealTerminationStuck: a Job's end is decided, and the Pod on a node without
// a kubelet does not go: after its grace period and 5 minutes that is the end.
func TestRealTerminationStuck(t *testing.T) {
	p := newPlant(t)
	n := newNode(p)
	job, err := kubejob.Build(p.accept("id", func(r *jobsv1.JobRequested) { r.Job.ActiveDeadlineSeconds = 1 }), p.namespace, kubejob.Name("w", "id"))
	if err != nil {
		t.Fatal(err)
	}
	job.Spec.Template.Spec.NodeName = n.name
	if job, err = p.client.BatchV1().Jobs(p.namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.awaitSight(job, func(s sight) bool { return s.is(batchv1.JobFailureTarget) && len(s.pods) == 1 })
	var later atomic.Int64
	w, _ := p.run(watcher.Options{
		Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }, Resync: time.Second,
	})
	p.awaitCaches(w)
	p.awaitLog("id", "0")
	later.Store(int64(6 * time.Minute))
	if code, says := errorOf(p.awaitEnd("id")); code != jobstatus.TerminationStuck || !strings.Contains(says, "on node "+n.name) {
		t.Errorf("%s %q", code, says)
	}
	p.awaitRelease(job)
	// The node's operator gives the Pod up, and the Job fails after its end.
	pod := p.see(job).pods[0].Name
	if err := p.client.CoreV1().Pods(p.namespace).Delete(t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	p.awaitSight(job, func(s sight) bool { return s.is(batchv1.JobFailed) && len(s.pods) == 0 })
	if got := p.outline("id"); got != "0 99 TERMINATION_STUCK" {
		t.Error(got)
	}
}
