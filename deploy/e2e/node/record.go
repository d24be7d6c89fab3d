package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/jobrelay/jobrelay/pkg/recording"
)

// kinds are those that are recorded, each by a watch of its own.
var kinds = []schema.GroupVersionResource{
	{Group: "batch", Version: "v1", Resource: "jobs"},
	{Version: "v1", Resource: "pods"},
	{Version: "v1", Resource: "events"},
}

// watchAgain is the wait before a watch that broke off is taken up again.
const watchAgain = 100 * time.Millisecond

// recorder writes what it sees of a namespace, in the order of receipt.
type recorder struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	seen   func(recording.Line, *unstructured.Unstructured)

	mu  sync.Mutex
	out *bufio.Writer
	to  io.Closer
	err error // the first of a write
}

// record writes every watch event of the Jobs, Pods and Events of a namespace,
// trimmed, until ctx ends or close is called. What is there already comes first,
// as ADDED. seen, where it is not nil, is told each, one at a time of a kind.
func record(ctx context.Context, objects dynamic.Interface, namespace string, to io.WriteCloser, seen func(recording.Line, *unstructured.Unstructured)) (*recorder, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &recorder{cancel: cancel, seen: seen, out: bufio.NewWriter(to), to: to}
	for _, kind := range kinds {
		of := objects.Resource(kind).Namespace(namespace)
		list, err := of.List(ctx, metav1.ListOptions{})
		if err != nil {
			cancel()
			return nil, err
		}
		for i := range list.Items {
			r.write(watch.Added, &list.Items[i])
		}
		r.wg.Go(func() { r.follow(ctx, of, list.GetResourceVersion()) })
	}
	return r, nil
}

// follow watches from a resource version on, over every break.
func (r *recorder) follow(ctx context.Context, of dynamic.ResourceInterface, version string) {
	for ; ctx.Err() == nil; pause(ctx, watchAgain) {
		w, err := of.Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			continue
		}
		for e := range w.ResultChan() {
			o, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Error {
				if ctx.Err() == nil { // else it is the recording that ends
					r.action("a watch broke off: %v", apierrors.FromObject(e.Object))
				}
				break
			}
			version = o.GetResourceVersion()
			r.write(e.Type, o)
		}
		w.Stop()
	}
}

func (r *recorder) write(t watch.EventType, o *unstructured.Unstructured) {
	trim(o.Object)
	object, err := json.Marshal(o.Object)
	l := recording.Line{Type: string(t), Object: object}
	r.line(l, err)
	if r.seen != nil {
		r.seen(l, o)
	}
}

// action notes what the recorder itself does.
func (r *recorder) action(format string, args ...any) {
	r.line(recording.Line{Type: recording.Action, Note: fmt.Sprintf(format, args...)}, nil)
}

func (r *recorder) line(l recording.Line, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.Received = time.Now().UTC().Truncate(time.Microsecond)
	if err == nil {
		err = recording.Write(r.out, l)
	}
	if r.err == nil {
		r.err = err
	}
}

func (r *recorder) close() error {
	r.cancel()
	r.wg.Wait()
	if err := r.out.Flush(); r.err == nil {
		r.err = err
	}
	if err := r.to.Close(); r.err == nil {
		r.err = err
	}
	return r.err
}

// pause waits, less where ctx ends before.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
