package cluster

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

// TestLimit drives a real client against a server that holds each request until
// it is released, and answers 429 while it is told to.
func TestLimit(t *testing.T) {
	var now atomic.Int64
	var mu sync.Mutex
	var peak int64
	release := make(chan struct{})
	var refuse atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		mu.Lock()
		peak = max(peak, n)
		mu.Unlock()
		<-release
		w.Header().Set("Content-Type", "application/json")
		if refuse.Load() {
			w.WriteHeader(http.StatusTooManyRequests) // without Retry-After: client-go does not try again
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"n"}}`))
	}))
	defer server.Close()
	limit := NewLimit(8)
	clock := time.Now()
	limit.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	config := &rest.Config{Host: server.URL, QPS: -1}
	config.Wrap(limit.Wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	get := func(ctx context.Context) error {
		_, err := client.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		return err
	}
	together := func(n int) {
		var all sync.WaitGroup
		for range n {
			all.Go(func() { _ = get(t.Context()) }) // what it answers is the server's choice above
		}
		await.That(t, "a full window", func() bool { return now.Load() == min(int64(n), int64(limit.Bound())) })
		for range n {
			release <- struct{}{}
		}
		all.Wait()
	}

	together(20)
	if peak != 8 || limit.Bound() != 8 {
		t.Fatalf("%d at once, bound %g", peak, limit.Bound())
	}
	refuse.Store(true)
	together(8) // eight refusals of one moment are one sign
	if limit.Bound() != 4 {
		t.Fatalf("bound %g after 429s of one moment", limit.Bound())
	}
	for range 5 {
		mu.Lock()
		clock = clock.Add(cutEvery)
		mu.Unlock()
		together(1)
	}
	if limit.Bound() != 1 {
		t.Fatalf("bound %g, and the least is 1", limit.Bound())
	}

	// What waits for room can be given up, and takes none then.
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- get(t.Context()) }()
	await.That(t, "the first", func() bool { return now.Load() == 1 })
	second := make(chan error)
	go func() { second <- get(ctx) }()
	cancel()
	if err := <-second; err == nil {
		t.Error("a request without room went through")
	}
	refuse.Store(false)
	release <- struct{}{}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if limit.Bound() != 2 || limit.inFlight != 0 {
		t.Errorf("bound %g after an answer, %d in flight", limit.Bound(), limit.inFlight)
	}
	for range 200 {
		go func() { release <- struct{}{} }()
		if err := get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if limit.Bound() != 8 {
		t.Errorf("bound %g after many good answers", limit.Bound())
	}
}
