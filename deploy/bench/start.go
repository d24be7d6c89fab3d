package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	startJobs  = 300
	startMost  = 30 * time.Second     // for one callback
	startPause = 5 * time.Millisecond // between two Pods
)

// podStart is the part of B8 that is status 1: from when a kubelet begins to write
// that a Pod runs until the callback is at the receiver, the write included. One Pod starts at a time:
// this is latency, not throughput.
var podStart = row{
	ID: "B8start", Title: "callback 1 behind the Pod that runs", Unit: "1/s of the median",
	Ours: "watcher, NATS, notifier", Bare: "client-go informer whose handler posts",
	Goals: []goal{{"", atLeast, 1 / 1.3}},
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		r, err := s.receiver(ctx)
		if err != nil {
			return result{}, err
		}
		w := &watched{}
		k, err := s.kubernetes(ctx)
		if err != nil {
			return result{}, err
		}
		if w.nats, err = s.nats(ctx); err != nil { // idle where the bare side runs
			return result{}, err
		}
		if w.people, err = k.populate(ctx, s, installation, s.size(startJobs), corev1.PodPending); err != nil {
			return result{}, err
		}
		if which == ours {
			for _, q := range w.people.requests {
				q.Webhook.Url = r.url
			}
			if err := w.people.logged(ctx, s, w.nats, false); err != nil {
				return result{}, err
			}
			if err := s.notifying(ctx, w.nats); err != nil {
				return result{}, err
			}
		}
		if err := w.start(ctx, s, which, "--post", r.url); err != nil {
			return result{}, err
		}
		if err := w.settled(ctx, which, r); err != nil {
			return result{}, err
		}
		waits, writes, err := w.people.startOneByOne(ctx, s, r)
		if err != nil {
			return result{}, err
		}
		p50 := percentile(waits, 0.5)
		out := result{Rate: 1 / p50, Counters: map[string]float64{
			"p50, ms": 1e3 * p50, "p99, ms": 1e3 * percentile(waits, 0.99), "p50 of the write, ms": 1e3 * percentile(writes, 0.5),
		}}
		return out, w.setting(ctx, which, &out)
	},
}

// settled waits until a side has seen every Job and Pod, and ours has called back
// that the Jobs started.
func (w *watched) settled(ctx context.Context, which side, r *receiver) error {
	if which == bare {
		_, err := w.caughtUp(ctx, seen.looked, float64(len(w.people.jobs)+len(w.people.pods)), runMost)
		return err
	}
	for range w.people.jobs {
		if _, err := r.next(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startOneByOne writes each Pod as running, as its kubelet would, and waits for its
// callback: how long from the beginning of the write, and how much of that was the
// write.
func (p *population) startOneByOne(ctx context.Context, s *stage, r *receiver) (waits, writes []time.Duration, err error) {
	defer s.during("%d Pods start", len(p.pods))()
	for _, pod := range p.pods {
		began := time.Now()
		if _, err := p.client.CoreV1().Pods(p.namespace).UpdateStatus(ctx, running(pod), metav1.UpdateOptions{}); err != nil {
			return nil, nil, err
		}
		writes = append(writes, time.Since(began))
		came, err := r.next(ctx)
		if err != nil {
			return nil, nil, err
		}
		waits = append(waits, came.Sub(began))
		if err := process.Sleep(ctx, startPause); err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(waits)
	slices.Sort(writes)
	return waits, writes, nil
}

// percentile of sorted durations, in seconds.
func percentile(sorted []time.Duration, share float64) float64 {
	return sorted[int(share*float64(len(sorted)-1))].Seconds()
}

// notifying starts the notifier, which may call this machine.
func (s *stage) notifying(ctx context.Context, nats natsServer) error {
	n, err := s.notifier(s.product, nats)
	if err != nil {
		return err
	}
	return n.ready(ctx, s)
}

// receiver takes callbacks, in the bench's own process, whose clock writes the Pods.
type receiver struct {
	url   string
	calls chan time.Time // when each came
}

func (s *stage) receiver(ctx context.Context) (*receiver, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{url: "http://" + listener.Addr().String() + "/", calls: make(chan time.Time, 1<<16)}
	server := &http.Server{ReadHeaderTimeout: startMost, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { r.calls <- time.Now() })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	s.closers = append(s.closers, func() error {
		defer serving.Wait()
		return server.Close()
	})
	return r, nil
}

// next waits for a callback.
func (r *receiver) next(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, startMost)
	defer cancel()
	select {
	case at := <-r.calls:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("no callback within %s: %w", startMost, ctx.Err())
	}
}

// postRunning calls url once for each Pod that the informer shows as running.
func postRunning(factory informers.SharedInformerFactory, url string) error {
	type detail struct {
		ID   string `json:"podId"`
		Name string `json:"podName"`
	}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
		was, _ := before.(*corev1.Pod)
		is, _ := after.(*corev1.Pod)
		if was.Status.Phase == is.Status.Phase || is.Status.Phase != corev1.PodRunning {
			return
		}
		body, err := json.Marshal(map[string]any{"id": is.Name, "status": 1, "detail": detail{string(is.UID), is.Name}})
		if err != nil {
			return
		}
		res, err := http.Post(url, "application/json", bytes.NewReader(body)) //nolint:gosec,noctx // the bench's own receiver, which misses what does not come
		if err == nil {
			_ = res.Body.Close()
		}
	}})
	return err
}
