package watcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// Log is what the watcher needs of the job's logs; *broker.Broker is one. Its
// methods' contract is the broker's.
type Log interface {
	Tail(ctx context.Context, service, logKey string) (broker.Tail, error)
	Append(ctx context.Context, service string, after broker.Tail, e event.Event) (broker.Tail, error)
	Request(ctx context.Context, key string) (event.Event, error)
}

// Options of a Watcher.
type Options struct {
	Installation string              // whose Jobs are watched; another's are never touched
	Namespace    string              // empty: all
	Workers      int                 // Jobs looked at at once; default 16
	Deadlines    jobstatus.Deadlines // zero: jobstatus.DefaultDeadlines
	// Policy may set the start deadlines of a service; default: none. A change
	// holds from the next look at a Job, so at the latest after Resync.
	Policy func() *request.Policy
	Lease  Lease // where to stand for election
	// LogTail is how many last lines of the log of the container that failed the
	// event of a failed Job carries; default 0: none.
	LogTail int
	Resync  time.Duration    // between two looks at a Job that does not change; default 10 minutes
	Now     func() time.Time // default time.Now
}

// Waits between two tries for a Job whose look failed: doubled from the least
// to the most.
const (
	leastRetry = 50 * time.Millisecond
	mostRetry  = 30 * time.Second
)

// Watcher looks after the Jobs of one installation. It has no state but caches.
type Watcher struct {
	log     Log
	client  kubernetes.Interface
	options Options
	logger  zerolog.Logger
	metrics *metrics

	factory  informers.SharedInformerFactory
	jobs     cache.SharedIndexInformer
	pods     cache.SharedIndexInformer
	queue    workqueue.TypedRateLimitingInterface[types.NamespacedName]
	tails    *tails
	logTails *logTails
	gone     jobstatus.Gone
	// vanished are the Jobs that went while their log had no end.
	vanished *vanishedJobs

	leadMu  sync.Mutex
	leading atomic.Bool
	leader  atomic.Pointer[string] // as the Lease last named it
}

// New is a Watcher that does nothing before Run.
func New(log Log, client kubernetes.Interface, o Options, logger zerolog.Logger, reg prometheus.Registerer) *Watcher {
	if o.Workers == 0 {
		o.Workers = 16
	}
	if o.Deadlines == (jobstatus.Deadlines{}) {
		o.Deadlines = jobstatus.DefaultDeadlines()
	}
	if o.Policy == nil {
		o.Policy = func() *request.Policy { return nil }
	}
	if o.Resync == 0 {
		o.Resync = 10 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	w := &Watcher{
		log: log, client: client, options: o, logger: logger, metrics: newMetrics(reg),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](leastRetry, mostRetry)),
		tails: newTails(), logTails: newLogTails(), vanished: newVanishedJobs(),
	}
	w.factory = informers.NewSharedInformerFactoryWithOptions(client, o.Resync,
		informers.WithNamespace(o.Namespace), informers.WithTransform(trim),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) {
			l.LabelSelector = labels.Set{kubejob.LabelInstallation: o.Installation}.String()
		}))
	w.jobs = w.factory.Batch().V1().Jobs().Informer()
	w.pods = w.factory.Core().V1().Pods().Informer()
	return w
}

// Run watches until ctx ends. It may be called once. It waits for the API
// server and for the log as long as it takes; its error is a bug's.
func (w *Watcher) Run(ctx context.Context) error {
	if err := w.listen(); err != nil {
		return err
	}
	w.factory.StartWithContext(ctx)
	defer w.factory.Shutdown()
	defer w.queue.ShutDown()
	if !cache.WaitForCacheSync(ctx.Done(), w.jobs.HasSynced, w.pods.HasSynced) {
		return nil // ctx ended
	}
	var workers errgroup.Group
	for range w.options.Workers {
		workers.Go(func() error {
			for w.next(ctx) {
			}
			return nil
		})
	}
	w.elect(ctx)
	<-ctx.Done()
	w.queue.ShutDown()
	return workers.Wait()
}

// Ready says what the watcher has not seen yet, or nil.
func (w *Watcher) Ready() error {
	if !w.jobs.HasSynced() || !w.pods.HasSynced() {
		return errors.New("Jobs and Pods are not listed yet")
	}
	return nil
}

// indexJob finds Pods by their Job's UID.
const indexJob = "job"

func (w *Watcher) listen() error {
	err := w.pods.AddIndexers(cache.Indexers{indexJob: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok {
			if ref := jobstatus.JobOf(pod); ref != nil {
				return []string{string(ref.UID)}, nil
			}
		}
		return nil, nil
	}})
	if err != nil {
		return fmt.Errorf("index of Pods: %w", err)
	}
	for _, i := range []cache.SharedIndexInformer{w.jobs, w.pods} {
		if err := i.SetWatchErrorHandlerWithContext(w.watchFailed); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	_, err = w.jobs.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: w.enqueue, UpdateFunc: func(_, obj any) { w.enqueue(obj) }, DeleteFunc: w.jobGone,
	})
	if err != nil {
		return fmt.Errorf("watch of Jobs: %w", err)
	}
	_, err = w.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: w.enqueue, UpdateFunc: func(_, obj any) { w.enqueue(obj) }, DeleteFunc: w.podGone,
	})
	if err != nil {
		return fmt.Errorf("watch of Pods: %w", err)
	}
	return nil
}

// enqueue asks for a look at a Job, or at a Pod's Job.
func (w *Watcher) enqueue(obj any) {
	switch o := obj.(type) {
	case *batchv1.Job:
		w.queue.Add(types.NamespacedName{Namespace: o.Namespace, Name: o.Name})
	case *corev1.Pod:
		if ref := jobstatus.JobOf(o); ref != nil {
			w.queue.Add(types.NamespacedName{Namespace: o.Namespace, Name: ref.Name})
		}
	}
}

func (w *Watcher) jobGone(obj any) {
	job, ok := last(obj).(*batchv1.Job)
	if !ok {
		return
	}
	if k, cached := w.tails.get(job.UID); !w.leading.Load() || cached && k.tail.Last.Type.Terminal() {
		w.forget(job)
		return
	}
	w.vanished.add(job)
	w.enqueue(job)
}

// forget drops all that is kept of a Job that is gone.
func (w *Watcher) forget(job *batchv1.Job) {
	w.vanished.drop(job)
	w.tails.drop(job.UID)
	w.gone.Drop(job.UID)
}

func (w *Watcher) podGone(obj any) {
	if pod, ok := last(obj).(*corev1.Pod); ok {
		if ref := jobstatus.JobOf(pod); ref != nil && w.there(pod.Namespace, ref) {
			w.gone.Add(ref.UID, pod)
		}
		w.enqueue(pod)
	}
}

// there reports whether a Pod's Job is still watched: a Pod that goes after its
// Job is nobody's evidence.
func (w *Watcher) there(namespace string, ref *metav1.OwnerReference) bool {
	obj, ok, err := w.jobs.GetIndexer().GetByKey(namespace + "/" + ref.Name)
	if err != nil || !ok {
		return false
	}
	job, ok := obj.(*batchv1.Job)
	return ok && job.UID == ref.UID
}

// trim makes an object what the caches keep of it.
func trim(obj any) (any, error) {
	jobstatus.Trim(obj)
	return obj, nil
}

// last is a deleted object as it was last seen.
func last(obj any) any {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return d.Obj
	}
	return obj
}

func (w *Watcher) watchFailed(ctx context.Context, _ *cache.Reflector, err error) {
	if ctx.Err() == nil {
		w.metrics.errors.WithLabelValues(operationWatch).Inc()
		w.logger.Warn().Err(err).Msg("watch broke off and is taken up again")
	}
}

// next looks at one Job; false when the queue has ended.
func (w *Watcher) next(ctx context.Context) bool {
	name, end := w.queue.Get()
	if end {
		return false
	}
	defer w.queue.Done(name)
	if !w.leading.Load() {
		w.queue.Forget(name)
		return true // whoever takes the lead looks at all
	}
	again, err := w.reconcile(ctx, name)
	switch {
	case err == nil:
		w.queue.Forget(name)
		if !again.IsZero() {
			w.queue.AddAfter(name, again.Sub(w.options.Now()))
		}
	case ctx.Err() != nil: // whoever starts next goes on
	case errors.Is(err, errMovedOn):
		w.queue.AddRateLimited(name)
	default:
		w.queue.AddRateLimited(name)
		w.logger.Warn().Err(err).Str("namespace", name.Namespace).Str("job", name.Name).Msg("look at job failed and is repeated")
	}
	return true
}
