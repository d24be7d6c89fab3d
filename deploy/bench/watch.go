package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	digestJobs   = 400
	digestEvents = 6000
	// digestBurst is what the API server's watch and the sockets hold for a side
	// that stands still; digestPause is ample for it.
	digestBurst = 600
	digestPause = 400 * time.Millisecond

	heapJobs    = 6000
	restartJobs = 100_000
	heapPerJob  = "live heap, bytes/job"
)

// digest is B3: what a change that the watch shows costs the watcher, until it
// knows that there is nothing to do. The changes come in bursts that wait for it,
// as after a pause of its own or of the network: one by one, waking up and TLS is
// most of what either side does (B3pace).
var digest = row{
	ID: "B3", Title: "watch events digested", Unit: "events/CPU-second",
	Ours: "watcher", Bare: "client-go SharedInformer, full objects, its default JSON",
	Goals: []goal{{"", atLeast, 3}},
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return digestion(ctx, s, which, digestBurst, "--json")
	},
}

// digestProtobuf is B3 against an informer that somebody has set to protobuf, as
// we have ours.
var digestProtobuf = row{
	ID: "B3proto", Title: "the same, protobuf", Unit: "events/CPU-second",
	Ours: "watcher", Bare: "client-go SharedInformer, full objects, protobuf",
	Slow: true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return digestion(ctx, s, which, digestBurst)
	},
}

// digestPace is B3 where the events come as fast as the API server takes the
// changes, against a reader that throws them away: nobody's can be higher.
var digestPace = row{
	ID: "B3pace", Title: "the same, one by one", Unit: "events/CPU-second",
	Ours: "watcher", Bare: "watch, read and thrown away",
	Slow: true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return digestion(ctx, s, which, 0, "--raw")
	},
}

// digestion makes changes, in bursts that come while the side is frozen; 0: all of
// them while it runs. The arguments are the bare side's.
func digestion(ctx context.Context, s *stage, which side, burst int, args ...string) (result, error) {
	w, err := watching(ctx, s, which, s.size(digestJobs), true, args...)
	if err != nil {
		return result{}, err
	}
	before, err := w.sample(ctx)
	if err != nil {
		return result{}, err
	}
	events := max(s.size(digestEvents), len(w.people.jobs))
	for from := 0; from < events; {
		n := events - from
		if burst > 0 {
			n = min(n, burst)
		}
		if err := w.burst(ctx, s, from, n, burst > 0); err != nil {
			return result{}, err
		}
		from += n
	}
	after, err := w.caughtUp(ctx, seen.shown, before.events+float64(events), still)
	if err != nil {
		return result{}, err
	}
	if missing := before.events + float64(events) - after.events; missing > float64(events)/100 {
		return result{}, fmt.Errorf("%g of %d events were not seen", missing, events)
	}
	cpu := after.cpu - before.cpu
	out := result{Rate: float64(events) / cpu.Seconds(), Counters: map[string]float64{
		"CPU µs/event": float64(cpu.Microseconds()) / float64(events),
	}}
	return out, w.setting(ctx, which, &out)
}

// burst makes n changes, and leaves the side a while to digest them.
func (w *watched) burst(ctx context.Context, s *stage, from, n int, frozen bool) error {
	if !frozen {
		return w.people.change(ctx, s, from, n)
	}
	if err := w.process.Freeze(); err != nil {
		return err
	}
	err := w.people.change(ctx, s, from, n)
	if err == nil {
		err = process.Sleep(ctx, glance) // the last ones are on their way
	}
	if thawed := w.process.Thaw(); err == nil {
		err = thawed
	}
	if err != nil {
		return err
	}
	return process.Sleep(ctx, digestPause)
}

// heap is B4: what the watcher keeps for a Job that runs, with its Pod and its log.
var heap = row{
	ID: "B4", Title: "heap per active job", Unit: "jobs/MB",
	Ours: "watcher", Bare: "client-go SharedInformer, full objects",
	Goals: []goal{{"", atLeast, 20}, {heapPerJob, atMost, 1000}},
	Slow:  true, Once: true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		n := s.size(heapJobs)
		w, err := watching(ctx, s, which, 0, true)
		if err != nil {
			return result{}, err
		}
		before, err := w.sample(ctx)
		if err != nil {
			return result{}, err
		}
		if w.people, err = w.people.populate(ctx, s, installation, n, corev1.PodRunning); err != nil {
			return result{}, err
		}
		if which == ours {
			if err := w.people.logged(ctx, s, w.nats, true); err != nil {
				return result{}, err
			}
		}
		if err := w.people.change(ctx, s, 0, max(n/2, 500)); err != nil {
			return result{}, err
		}
		if err := process.Sleep(ctx, 3*time.Second); err != nil {
			return result{}, err
		}
		after, err := w.sample(ctx)
		if err != nil {
			return result{}, err
		}
		each := (after.live - before.live) / float64(n)
		out := result{Rate: 1e6 / each, Counters: map[string]float64{heapPerJob: each, "live heap without jobs, MB": before.live / 1e6}}
		return out, w.setting(ctx, which, &out)
	},
}

// restart is B5: how long after its start the watcher has looked at every Job that
// it finds, against a bare list of them.
var restart = row{
	ID: "B5", Title: "restart with many jobs", Unit: "jobs/s",
	Ours: "watcher, every Job looked at", Bare: "bare list, 500 a page",
	Goals: []goal{{"", atLeast, 1 / 1.5}},
	Slow:  true, Once: true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		n := s.size(restartJobs)
		w, err := prepared(ctx, s, which, n, false)
		if err != nil {
			return result{}, err
		}
		began := time.Now()
		if err := w.start(ctx, s, which, "--list"); err != nil {
			return result{}, err
		}
		listed := time.Since(began)
		if _, err := w.caughtUp(ctx, seen.looked, float64(n), runMost); err != nil {
			return result{}, err
		}
		took := time.Since(began)
		out := result{Rate: float64(n) / took.Seconds(), Counters: map[string]float64{"s until ready": listed.Seconds(), "s until all is looked at": took.Seconds()}}
		if _, resident, err := w.process.Usage(); err == nil {
			out.Counters["resident MB"] = float64(resident) / 1e6
		}
		return out, w.setting(ctx, which, &out)
	},
}

// watched is a side that watches a population.
type watched struct {
	people  *population
	nats    natsServer // of ours
	process *child.Process
	metrics string
}

// prepared is a population with its logs, and nobody who watches it yet.
func prepared(ctx context.Context, s *stage, which side, n int, run bool) (*watched, error) {
	k, err := s.kubernetes(ctx)
	if err != nil {
		return nil, err
	}
	w := &watched{}
	if w.nats, err = s.nats(ctx); err != nil { // idle where the bare side runs
		return nil, err
	}
	phase := corev1.PodPhase("")
	if run {
		phase = corev1.PodRunning
	}
	if w.people, err = k.populate(ctx, s, installation, n, phase); err != nil {
		return nil, err
	}
	if which == ours {
		err = w.people.logged(ctx, s, w.nats, run)
	}
	return w, err
}

// watching is a population that is watched, and was seen once.
func watching(ctx context.Context, s *stage, which side, n int, run bool, args ...string) (*watched, error) {
	w, err := prepared(ctx, s, which, n, run)
	if err != nil {
		return nil, err
	}
	if err := w.start(ctx, s, which, args...); err != nil {
		return nil, err
	}
	_, err = w.caughtUp(ctx, seen.looked, float64(n), runMost)
	return w, err
}

// start starts a side; the arguments are the bare one's.
func (w *watched) start(ctx context.Context, s *stage, which side, args ...string) error {
	address, err := s.address()
	if err != nil {
		return err
	}
	w.metrics = "http://" + address
	env := []string{"KUBECONFIG=" + w.people.kubeconfig, "JOBRELAY_METRICS_ADDR=" + address}
	if which == ours {
		w.process, err = s.measured("watcher", append(env, "JOBRELAY_NATS_URL="+w.nats.url, "JOBRELAY_INSTALLATION="+installation))
	} else {
		w.process, err = s.asSelf(bareWatch, env, args...)
	}
	if err != nil {
		return err
	}
	return s.answers(ctx, w.process, w.metrics+"/readyz")
}

// change writes the status of Pods and Jobs, n times in all, as a kubelet and the
// Job controller do while nothing happens that matters. Each call goes on where the
// one before ended: from.
func (p *population) change(ctx context.Context, s *stage, from, n int) error {
	defer s.during("%d changes", n)()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creationInFlight)
	for i := from; i < from+n; i++ {
		group.Go(func() error {
			at := i / 2 % len(p.jobs)
			if i%2 == 0 {
				patch := fmt.Appendf(nil, `{"status":{"ready":%d}}`, i/2/len(p.jobs)%2)
				_, err := p.client.BatchV1().Jobs(p.namespace).Patch(ctx, p.jobs[at].Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
				return err
			}
			patch := fmt.Appendf(nil, `{"status":{"podIP":"10.1.%d.%d"}}`, i/250%250, i%250)
			_, err := p.client.CoreV1().Pods(p.namespace).Patch(ctx, p.pods[at].Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
			return err
		})
	}
	return group.Wait()
}

// seen is what a side tells of itself.
type seen struct {
	events float64 // that the watches have shown it
	looks  float64 // at Jobs; of the bare side, its events
	live   float64 // bytes of heap after the last collection
	cpu    time.Duration
}

func (s seen) shown() float64  { return s.events }
func (s seen) looked() float64 { return s.looks }

func (w *watched) sample(ctx context.Context) (seen, error) {
	var all samples
	if err := get(ctx, w.metrics+"/metrics", func(r io.Reader) (err error) { all, err = readSamples(r); return err }); err != nil {
		return seen{}, err
	}
	cpu, _, err := w.process.Usage()
	return seen{
		events: all.sum("jobrelay_watcher_changes_total") + all.sum(bareEvents),
		looks:  all.sum("jobrelay_watcher_looks_total") + all.sum(bareEvents),
		live:   all.sum("go_gc_heap_live_bytes"), cpu: cpu,
	}, err
}

const (
	// still is how long a side must have done nothing to be done.
	still = time.Second
	// glance is between two questions, which are work for the side.
	glance = 200 * time.Millisecond
)

// caughtUp waits until a side has come so far, or no further for a while.
func (w *watched) caughtUp(ctx context.Context, of func(seen) float64, most float64, still time.Duration) (seen, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runMost, fmt.Errorf("not done in %s", runMost))
	defer cancel()
	last, since := math.Inf(-1), time.Now()
	for {
		now, err := w.sample(ctx)
		if err != nil {
			return seen{}, err
		}
		if of(now) > last {
			since = time.Now()
		}
		if of(now) >= most || time.Since(since) > still {
			return now, nil
		}
		last = of(now)
		if !w.process.Running() {
			return seen{}, ended(w.process)
		}
		if process.Sleep(ctx, glance) != nil {
			return seen{}, fmt.Errorf("%w: %g of %g", context.Cause(ctx), of(now), most)
		}
	}
}

func (w *watched) setting(ctx context.Context, which side, out *result) (err error) {
	if which == bare {
		return nil
	}
	out.JetStream, err = w.nats.setting(ctx, broker.StreamEvents)
	return err
}

// bareWatch is the role of the bare informer, or list.
const (
	bareWatch  = "bare-watch"
	bareEvents = "bench_bare_events_total"
)

func bareWatchMain() int {
	var cfg struct {
		Kubeconfig string `env:"KUBECONFIG"`
		Metrics    string `env:"JOBRELAY_METRICS_ADDR" required:""`
		List       bool   `help:"List the Jobs once instead."`
		JSON       bool   `help:"Speak JSON, as client-go does where nobody asks for protobuf."`
		Raw        bool   `help:"Throw away what comes."`
		Post       string `help:"Call this address for each Pod that runs."`
	}
	return process.Main(bareWatch, "Watches Jobs and Pods, and does nothing else.", time.Second, &cfg, nil, func(ctx context.Context, _ *kong.Context) error {
		config, err := cluster.Config(cfg.Kubeconfig, bareWatch, process.Version())
		if err != nil {
			return err
		}
		if cfg.JSON {
			config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, ""
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		server, err := process.Listen(ctx, cfg.Metrics, nil)
		if err != nil {
			return err
		}
		defer server.Stop()
		events := prometheus.NewCounter(prometheus.CounterOpts{Name: bareEvents, Help: "Events, or Jobs of a list."})
		server.Registry().MustRegister(events)
		server.Add("bare", func() error { return nil })
		cluster.Log(zerolog.Nop())
		if cfg.List {
			if err := listAll(ctx, client, func(n int) { events.Add(float64(n)) }); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		}
		if cfg.Raw {
			return readAll(ctx, client, func() { events.Inc() })
		}
		selected := informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = ofBench })
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, selected)
		if cfg.Post != "" {
			if err := postRunning(factory, cfg.Post); err != nil {
				return err
			}
		}
		count := cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { events.Inc() }, UpdateFunc: func(any, any) { events.Inc() }, DeleteFunc: func(any) { events.Inc() },
		}
		for _, i := range []cache.SharedIndexInformer{factory.Batch().V1().Jobs().Informer(), factory.Core().V1().Pods().Informer()} {
			if _, err := i.AddEventHandler(count); err != nil {
				return err
			}
		}
		factory.StartWithContext(ctx)
		<-ctx.Done()
		factory.Shutdown()
		return nil
	})
}

// ofBench selects what the bench has made.
var ofBench = labels.Set{kubejob.LabelInstallation: installation}.String()

func listAll(ctx context.Context, client kubernetes.Interface, count func(int)) error {
	o := metav1.ListOptions{LabelSelector: ofBench, Limit: 500}
	for {
		list, err := client.BatchV1().Jobs(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return err
		}
		count(len(list.Items))
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

// readAll reads the frames of both watches: each is its length in 4 bytes, and an
// event in protobuf.
func readAll(ctx context.Context, client kubernetes.Interface, count func()) error {
	group, ctx := errgroup.WithContext(ctx)
	read := func(r rest.Interface, resource string) error {
		body, err := r.Get().Resource(resource).VersionedParams(&metav1.ListOptions{LabelSelector: ofBench, Watch: true}, scheme.ParameterCodec).Stream(ctx)
		if err != nil {
			return err
		}
		defer body.Close()
		in := bufio.NewReader(body)
		var length [4]byte
		for {
			if _, err := io.ReadFull(in, length[:]); err != nil {
				return err
			}
			if _, err := in.Discard(int(binary.BigEndian.Uint32(length[:]))); err != nil {
				return err
			}
			count()
		}
	}
	group.Go(func() error { return read(client.BatchV1().RESTClient(), "jobs") })
	group.Go(func() error { return read(client.CoreV1().RESTClient(), "pods") })
	if err := group.Wait(); context.Cause(ctx) == nil {
		return err
	}
	return nil
}
