package watcher

import (
	"context"
	"errors"
	"math"
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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Log is what the watcher needs of the job's logs; *broker.Broker is one. Its
// methods' contract is the broker's.
type Log interface {
	Tail(ctx context.Context, service, logKey string) (broker.Tail, error)
	Tails(ctx context.Context, logs []broker.LogName) (map[broker.LogName]broker.Tail, error)
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
	Lease  Lease            // where to stand for election
	Spans  *telemetry.Spans // default: none
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

	view     *view
	queue    workqueue.TypedRateLimitingInterface[types.UID] // of Jobs
	logTails *logTails

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
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](leastRetry, mostRetry)),
		logTails: newLogTails(),
	}
	w.view = newView(w.enqueue, w.leading.Load)
	w.states(reg)
	return w
}

// Run watches until ctx ends. It may be called once. It waits for the API
// server and for the log as long as it takes; its error is a bug's.
func (w *Watcher) Run(ctx context.Context) error {
	var watches sync.WaitGroup
	defer watches.Wait()
	for _, r := range w.reflectors() {
		watches.Go(func() { r.RunWithContext(ctx) })
	}
	defer w.queue.ShutDown()
	if !cache.WaitForCacheSync(ctx.Done(), w.view.ready) {
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
	if !w.view.ready() {
		return errors.New("Jobs and Pods are not listed yet")
	}
	return nil
}

// Waits between two tries for a watch that broke off: doubled from the least to
// the most, and up to as much again at random. Client-go's own go up to a minute,
// for which a job's callbacks would wait once the API server is back.
const (
	leastRewatch = 200 * time.Millisecond
	mostRewatch  = 5 * time.Second
)

// reflectors are the watches of the installation's Jobs and of their Pods.
func (w *Watcher) reflectors() []*cache.Reflector {
	selector := labels.Set{kubejob.LabelInstallation: w.options.Installation}.String()
	jobs := w.client.BatchV1().Jobs(w.options.Namespace)
	pods := w.client.CoreV1().Pods(w.options.Namespace)
	return []*cache.Reflector{
		w.reflector(&batchv1.Job{}, jobWatch{w.view}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = selector
				return noted(w, func() (*batchv1.JobList, error) { return jobs.List(ctx, o) })
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = selector
				return noted(w, func() (watch.Interface, error) { return jobs.Watch(ctx, o) })
			},
		}),
		w.reflector(&corev1.Pod{}, podWatch{w.view}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = selector
				return noted(w, func() (*corev1.PodList, error) { return pods.List(ctx, o) })
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = selector
				return noted(w, func() (watch.Interface, error) { return pods.Watch(ctx, o) })
			},
		}),
	}
}

func (w *Watcher) reflector(of runtime.Object, store cache.TransformingStore, lw *cache.ListWatch) *cache.Reflector {
	return cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, w.client), of, store, cache.ReflectorOptions{
		ResyncPeriod: w.options.Resync,
		Backoff:      &wait.Backoff{Duration: leastRewatch, Cap: mostRewatch, Factor: 2, Jitter: 1, Steps: math.MaxInt32},
	})
}

// noted counts what cannot be watched; client-go says it, and tries again.
func noted[T any](w *Watcher, ask func() (T, error)) (T, error) {
	out, err := ask()
	if err != nil {
		w.metrics.errors.WithLabelValues(operationWatch).Inc()
	}
	return out, err
}

// enqueue asks for a look at a Job. Who takes up the lead looks at all.
func (w *Watcher) enqueue(job types.UID) {
	if w.leading.Load() {
		w.queue.Add(job)
	}
}

// next looks at one Job; false when the queue has ended.
func (w *Watcher) next(ctx context.Context) bool {
	uid, end := w.queue.Get()
	if end {
		return false
	}
	defer w.queue.Done(uid)
	if !w.leading.Load() {
		w.queue.Forget(uid)
		return true // whoever takes the lead looks at all
	}
	again, err := w.reconcile(ctx, uid)
	switch {
	case err == nil:
		w.metrics.looks.Inc()
		w.queue.Forget(uid)
		if !again.IsZero() {
			w.queue.AddAfter(uid, again.Sub(w.options.Now()))
		}
	case ctx.Err() != nil: // whoever starts next goes on
	case errors.Is(err, errMovedOn):
		w.queue.AddRateLimited(uid)
	default:
		w.queue.AddRateLimited(uid)
		w.logger.Warn().Err(err).Str("uid", string(uid)).Msg("look at job failed and is repeated")
	}
	return true
}
