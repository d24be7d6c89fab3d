package launcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// bench is a real API server, a real NATS, and a launcher between them.
type bench struct {
	*launcher

	t         *testing.T
	nats      *natsd.Server
	client    kubernetes.Interface
	namespace string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	shared := kubedtest.Shared(t)
	client, err := cluster.Client(shared.Kubeconfig(), "launcher", process.Version())
	if err != nil {
		t.Fatal(err)
	}
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	b, err := broker.Open(t.Context(), broker.Config{URL: n.URL(), Role: "launcher"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &bench{
		launcher: &launcher{
			broker: b, jobs: client.BatchV1(), log: zerolog.New(zerolog.NewTestWriter(t)), now: time.Now,
			installation: "test", finalizer: true, deadline: time.Hour, policy: func() *request.Policy { return nil },
			rate: (&Config{}).limiter(), services: newServices(), metrics: newMetrics(prometheus.NewRegistry(), cluster.NewLimit(32)),
		},
		t: t, nats: n, client: client, namespace: shared.Namespace(t),
	}
}

// request is an accepted request, as ingest would have stored it.
func (b *bench) request(id string, change func(*jobsv1.JobRequested)) event.Event {
	b.t.Helper()
	r := &jobsv1.JobRequested{
		Id: id, Service: "example", Hash: "hash of " + id, AcceptedAt: timestamppb.Now(), QueuedAt: timestamppb.Now(),
		Job: &jobsv1.Job{
			PrefixName: "bb", Namespace: b.namespace, Image: "busybox", Command: []string{"true"}, ServiceAccount: "default",
			TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 600,
		},
	}
	if change != nil {
		change(r)
	}
	e, err := event.New(event.Key(id), "s", id, 0, time.Now(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.broker.Accept(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
	return e
}

// setPolicy puts a policy in force.
func (b *bench) setPolicy(text string) {
	b.t.Helper()
	p, err := request.ParsePolicy([]byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	b.policy = func() *request.Policy { return p }
}

// run consumes as the service does; it returns what ends it.
func (b *bench) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var all sync.WaitGroup
	consume := func(c broker.Consumer, h broker.Handler) {
		all.Go(func() {
			if err := b.broker.Consume(ctx, c, broker.ConsumeOptions{}, h); err != nil {
				b.t.Error(err)
			}
		})
	}
	consume(broker.LauncherRequests, b.requested)
	consume(broker.LauncherWakeups, b.woken)
	consume(broker.LauncherEnds, b.ended)
	return func() {
		cancel()
		all.Wait()
	}
}

// tail is the last event of a request's log.
func (b *bench) tail(id string) event.Event {
	b.t.Helper()
	tail, err := b.broker.Tail(b.t.Context(), "example", event.Key(id))
	if err != nil {
		b.t.Fatal(err)
	}
	return tail.Last
}

func (b *bench) jobNames() []string {
	b.t.Helper()
	list, err := b.client.BatchV1().Jobs(b.namespace).List(b.t.Context(), metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, j := range list.Items {
		out = append(out, j.Name)
	}
	return out
}

func TestARequestBecomesOneJob(t *testing.T) {
	b := newBench(t)
	const id = "31a89a91-43d8-4786-a195-9b25cec28a44"
	e := b.request(id, nil)
	for range 3 { // redelivered, and known
		if err := b.launch(t.Context(), e, wakeup{}); err != nil {
			t.Fatal(err)
		}
	}
	job, err := b.client.BatchV1().Jobs(b.namespace).Get(t.Context(), "bb-fbe70e59", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := &jobsv1.JobStarted{JobId: string(job.UID), JobName: "bb-fbe70e59", Namespace: b.namespace, Service: "example", Image: "busybox"}
	got := b.tail(id)
	started := proto.CloneOf(got.Data.(*jobsv1.JobStarted))
	started.Resources, started.QueueMilliseconds = nil, 0
	if !proto.Equal(started, want) || got.Sequence != 0 {
		t.Errorf("%v", got)
	}
	if names := b.jobNames(); len(names) != 1 || job.Finalizers[0] != kubejob.Finalizer {
		t.Errorf("%v %v", names, job.Finalizers)
	}
}

// TestKilledBetweenCreateAndAppend: the Job that an earlier try made is adopted,
// whether the redelivery looks first or the create says that it exists.
func TestKilledBetweenCreateAndAppend(t *testing.T) {
	b := newBench(t)
	for _, again := range []bool{true, false} {
		id := fmt.Sprint("killed ", again)
		e := b.request(id, nil)
		made, adopted, err := b.create(t.Context(), e.Data.(*jobsv1.JobRequested), telemetry.Origin{})
		if err != nil || adopted {
			t.Fatal(adopted, err)
		}
		if err := b.launch(t.Context(), e, wakeup{Sent: again}); err != nil {
			t.Fatal(err)
		}
		if got := b.tail(id); jobstatus.JobID(got.Data) != made.UID {
			t.Errorf("the log names %s, the Job is %s", jobstatus.JobID(got.Data), made.UID)
		}
	}
	if names := b.jobNames(); len(names) != 2 {
		t.Errorf("%v", names)
	}
}

// TestAParkedLaunchEndsByTheLeadersWord: a replica of REQUESTS that trails ends none.
func TestAParkedLaunchEndsByTheLeadersWord(t *testing.T) {
	b := newBench(t)
	wake := func(id string) error {
		return b.woken(t.Context(), broker.Message{Delivered: 1, Data: []byte(`{"key":"` + event.Key(id) + `"}`)})
	}
	b.request("parked", nil)
	catchUp, err := b.nats.Trail(broker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	if err := wake("nobody"); err != nil {
		t.Errorf("one without a request never ends: %v", err)
	}
	sent := b.broker.JetStream().Conn().Stats().OutMsgs
	woken := make(chan error, 1)
	go func() { woken <- wake("parked") }()
	await.That(t, "it has asked again", func() bool { return b.broker.JetStream().Conn().Stats().OutMsgs > sent+2 })
	catchUp()
	if err := <-woken; err != nil {
		t.Error(err)
	}
	if got := b.tail("parked"); got.Type != event.TypeJobStarted {
		t.Errorf("%+v", got)
	}
}

// TestAJobThatWentDoesNotRunAgain: a request is delivered again when its Job has been
// and gone, and a replica of EVENTS that trails knows of neither.
func TestAJobThatWentDoesNotRunAgain(t *testing.T) {
	b := newBench(t)
	b.finalizer = false
	e := b.request("gone", nil)
	if err := b.launch(t.Context(), e, wakeup{}); err != nil {
		t.Fatal(err)
	}
	jobs := b.client.BatchV1().Jobs(b.namespace)
	background := metav1.DeletePropagationBackground
	if err := jobs.Delete(t.Context(), b.jobNames()[0], metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the Job is gone", func() bool { return len(b.jobNames()) == 0 })
	catchUp, err := b.nats.Trail(broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.launch(t.Context(), e, wakeup{Sent: true}); !errors.Is(err, errTrails) {
		t.Errorf("it ends with %v", err)
	}
	catchUp()
	if err := b.launch(t.Context(), e, wakeup{Sent: true}); err != nil {
		t.Error(err)
	}
	if names := b.jobNames(); len(names) > 0 {
		t.Errorf("it ran again: %v", names)
	}
}

// TestTwoReplicasAtOnce: one Job and one event, whoever wins.
func TestTwoReplicasAtOnce(t *testing.T) {
	b := newBench(t)
	for i := range 10 {
		id := fmt.Sprint("race ", i)
		e := b.request(id, nil)
		var replicas sync.WaitGroup
		for range 4 {
			replicas.Go(func() {
				if err := b.launch(t.Context(), e, wakeup{}); err != nil {
					t.Error(err)
				}
			})
		}
		replicas.Wait()
		if got := b.tail(id); got.Type != event.TypeJobStarted || got.Sequence != 0 {
			t.Errorf("%+v", got)
		}
	}
	if names := b.jobNames(); len(names) != 10 {
		t.Errorf("%d Jobs", len(names))
	}
}

// TestASpentID: an id that REQUESTS has forgotten and whose log is still there
// is refused, once, and recorded; nothing is silent.
func TestASpentID(t *testing.T) {
	b := newBench(t)
	old, err := event.New(event.Key("spent"), "s", "spent", 0, time.Now().Add(-4*24*time.Hour), &jobsv1.JobCompleted{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.broker.Append(t.Context(), "example", broker.Tail{}, old); err != nil {
		t.Fatal(err)
	}
	e := b.request("spent", nil)
	for range 2 { // killed before its acknowledgement
		if err := b.launch(t.Context(), e, wakeup{}); err != nil {
			t.Fatal(err)
		}
	}
	body, err := event.DataJSON(e)
	if err != nil {
		t.Fatal(err)
	}
	logKey := event.RejectedLogKey("spent", body)
	r, err := b.broker.Rejection(t.Context(), logKey)
	if err != nil || r.Service != "example" || len(r.Problems) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	tail, err := b.broker.Tail(t.Context(), "example", logKey)
	d, ok := tail.Last.Data.(*jobsv1.RequestRejected)
	if err != nil || !ok || d.GetError().GetErrorCode() != string(jobstatus.IDReused) || d.GetCallback() || tail.Last.Sequence != 0 {
		t.Errorf("%v %v", tail.Last.Data, err)
	}
	if got := b.tail("spent"); got.Type != event.TypeJobCompleted || len(b.jobNames()) != 0 {
		t.Errorf("%v, %v", got, b.jobNames())
	}
}

func TestNamesOfOtherIDs(t *testing.T) {
	b := newBench(t)
	e := b.request("mine", nil)
	r := e.Data.(*jobsv1.JobRequested)
	take := func(name string) {
		other := proto.CloneOf(r)
		other.Id = "another"
		job, err := kubejob.Build(other, "test", name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.client.BatchV1().Jobs(b.namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	take(kubejob.Name("bb", "mine"))
	if err := b.launch(t.Context(), e, wakeup{}); err != nil {
		t.Fatal(err)
	}
	if got := b.tail("mine").Data.(*jobsv1.JobStarted); got.GetJobName() != kubejob.LongName("bb", "mine") {
		t.Errorf("%v", got)
	}
	third := b.request("third", nil)
	r = third.Data.(*jobsv1.JobRequested)
	take(kubejob.Name("bb", "third"))
	take(kubejob.LongName("bb", "third"))
	if err := b.launch(t.Context(), third, wakeup{}); err != nil {
		t.Fatal(err)
	}
	b.exceptionIs("third", jobstatus.NameConflict)
}

func (b *bench) exceptionIs(id string, code jobstatus.Code) {
	b.t.Helper()
	d, ok := b.tail(id).Data.(*jobsv1.JobException)
	if !ok || d.GetError().GetErrorCode() != string(code) || d.GetError().GetMessage() == "" {
		b.t.Errorf("%s: %v, want %s", id, b.tail(id).Data, code)
	}
}

func TestWhatIsRefusedEnds(t *testing.T) {
	b := newBench(t)
	for id, c := range map[string]struct {
		change func(*jobsv1.JobRequested)
		code   jobstatus.Code
	}{
		"nowhere": {func(r *jobsv1.JobRequested) { r.Job.Namespace = "nowhere" }, jobstatus.NamespaceNotFound},
		"bad":     {func(r *jobsv1.JobRequested) { r.Job.ActiveDeadlineSeconds = -1 }, jobstatus.JobSpecInvalid},
		"late":    {func(r *jobsv1.JobRequested) { r.AcceptedAt = timestamppb.New(time.Now().Add(-2 * time.Hour)) }, jobstatus.LaunchExpired},
	} {
		if err := b.launch(t.Context(), b.request(id, c.change), wakeup{}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		b.exceptionIs(id, c.code)
	}
	if names := b.jobNames(); len(names) != 0 {
		t.Errorf("%v", names)
	}
}

// TestQuotaIsWaitedFor: a launch that a quota refuses is parked, wakes up, and
// goes through once the quota allows it; past its deadline it ends.
func TestQuotaIsWaitedFor(t *testing.T) {
	b := newBench(t)
	quotas := b.client.CoreV1().ResourceQuotas(b.namespace)
	_, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await.That(t, "the quota", func() bool {
		q, err := quotas.Get(t.Context(), "none", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0
	})
	defer b.run()()
	b.request("patient", nil)
	b.request("out of time", func(r *jobsv1.JobRequested) {
		r.AcceptedAt = timestamppb.New(time.Now().Add(500*time.Millisecond - b.deadline))
	})
	await.That(t, "the end of the one whose time is up", func() bool { return b.tail("out of time").Type == event.TypeJobException })
	b.exceptionIs("out of time", jobstatus.QuotaExceeded)
	if got := b.tail("patient"); got.Type != "" {
		t.Fatalf("%+v", got)
	}
	if err := quotas.Delete(t.Context(), "none", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the launch", func() bool { return b.tail("patient").Type == event.TypeJobStarted })
}

// TestCancelledWhileCreating: the log ended before the Job was recorded; the
// launch says no more, and the Job is the watcher's to remove.
func TestCancelledWhileCreating(t *testing.T) {
	b := newBench(t)
	e := b.request("cancelled", nil)
	r := e.Data.(*jobsv1.JobRequested)
	job, _, err := b.create(t.Context(), r, telemetry.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	end, err := event.New(e.LogKey, "s", "cancelled", 0, time.Now(), &jobsv1.JobException{Error: &jobsv1.Error{ErrorCode: "CANCELLED", Message: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.broker.Append(t.Context(), "example", broker.Tail{}, end); err != nil {
		t.Fatal(err)
	}
	if err := b.started(t.Context(), e, r, broker.Tail{}, job, false); err != nil {
		t.Fatal(err)
	}
	if got := b.tail("cancelled"); got.Type != event.TypeJobException {
		t.Errorf("%+v", got)
	}
}

// TestADecisionThatIsTooOldIsTakenAgain: a process frozen between its reading
// of the log and its create does not create.
func TestADecisionThatIsTooOldIsTakenAgain(t *testing.T) {
	b := newBench(t)
	e := b.request("frozen", nil)
	clock := time.Now()
	b.now = func() time.Time { clock = clock.Add(decisionAge); return clock }
	b.deadline = 100 * time.Hour
	if err := b.launch(t.Context(), e, wakeup{}); !errors.Is(err, errStale) {
		t.Errorf("got %v", err)
	}
	if names := b.jobNames(); len(names) != 0 {
		t.Errorf("%v", names)
	}
}

func TestClassOfARetry(t *testing.T) {
	for name, err := range map[string]error{
		"429": apierrors.NewTooManyRequests("slow down", 7), "500": apierrors.NewInternalError(errors.New("x")),
		"timeout": context.DeadlineExceeded,
	} {
		if v := cluster.Classify(err); !v.Retry {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if retryWait(0) < 500*time.Millisecond || retryWait(100) > 2*maxRetry {
		t.Errorf("%s %s", retryWait(0), retryWait(100))
	}
}

// TestWithoutFinalizer: a launcher that is told so holds nothing.
func TestWithoutFinalizer(t *testing.T) {
	b := newBench(t)
	b.finalizer = false
	if err := b.launch(t.Context(), b.request("free", nil), wakeup{}); err != nil {
		t.Fatal(err)
	}
	job, err := b.client.BatchV1().Jobs(b.namespace).Get(t.Context(), kubejob.Name("bb", "free"), metav1.GetOptions{})
	if err != nil || len(job.Finalizers) != 0 {
		t.Errorf("%v %v", job.Finalizers, err)
	}
}

// TestPolicyOfTheLauncher: what the policy denies by now gets no Job, its
// deadline is the service's own, and what it allows is laid on the template,
// which the API server takes.
func TestPolicyOfTheLauncher(t *testing.T) {
	b := newBench(t)
	set := b.setPolicy
	set("services: {example: {images: [alpine]}}")
	if err := b.launch(t.Context(), b.request("denied", nil), wakeup{}); err != nil {
		t.Fatal(err)
	}
	b.exceptionIs("denied", jobstatus.PolicyDenied)
	set("services: {example: {launchDeadline: 1m}}")
	late := b.request("late", func(r *jobsv1.JobRequested) { r.AcceptedAt = timestamppb.New(time.Now().Add(-2 * time.Minute)) })
	if err := b.launch(t.Context(), late, wakeup{}); err != nil {
		t.Fatal(err)
	}
	b.exceptionIs("late", jobstatus.LaunchExpired)
	set(`default: {jobTemplate: {metadata: {labels: {team: a}}, spec: {template: {spec: {
		imagePullSecrets: [{name: s}], securityContext: {runAsUser: 7}, volumes: [{name: tmp, emptyDir: {}}],
		containers: [{env: [{name: A, value: template}], volumeMounts: [{name: tmp, mountPath: /tmp}], securityContext: {readOnlyRootFilesystem: true}}]}}}}}`)
	e := b.request("laid", func(r *jobsv1.JobRequested) { r.Job.Env = []*jobsv1.EnvVar{{Name: "A", Value: "message"}} })
	if err := b.launch(t.Context(), e, wakeup{}); err != nil {
		t.Fatal(err)
	}
	job, err := b.client.BatchV1().Jobs(b.namespace).Get(t.Context(), kubejob.Name("bb", "laid"), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	c := pod.Containers[0]
	if job.Labels["team"] != "a" || job.Labels["app"] != "example" || *pod.SecurityContext.RunAsUser != 7 || len(pod.ImagePullSecrets) != 1 ||
		c.Name != "example" || c.Image != "busybox" || len(c.VolumeMounts) != 1 || c.Env[len(c.Env)-1].Value != "message" || !*c.SecurityContext.ReadOnlyRootFilesystem {
		t.Errorf("%+v", job)
	}
}
