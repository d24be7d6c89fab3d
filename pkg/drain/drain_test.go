package drain_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/drain"
)

// serving starts a server whose only path answers when release is closed.
func serving(t *testing.T) (s *drain.Server, address string, arrived <-chan struct{}, release chan struct{}) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan struct{})
	release = make(chan struct{})
	s = drain.New(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(came)
		<-release
		_, _ = io.WriteString(w, "answered")
	})})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String(), came, release
}

func get(ctx context.Context, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := new(http.Client).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// TestStop: a connection that says nothing is closed, and one that waits for its
// answer gets it.
func TestStop(t *testing.T) {
	s, address, arrived, release := serving(t)
	type result struct {
		body string
		err  error
	}
	answers := make(chan result, 1)
	go func() {
		body, err := get(t.Context(), address)
		answers <- result{body, err}
	}()
	<-arrived
	silent, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(t.Context()) }()
	if n, err := silent.Read(make([]byte, 1)); err == nil {
		t.Errorf("the silent connection had %d bytes to read, want its end", n)
	}
	close(release)
	if got := <-answers; got.err != nil || got.body != "answered" {
		t.Errorf("the answer that was being written: %q, %v", got.body, got.err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// TestStopInTime: an answer that takes longer than ctx is cut off.
func TestStopInTime(t *testing.T) {
	s, address, arrived, release := serving(t)
	failed := make(chan error, 1)
	go func() {
		_, err := get(t.Context(), address)
		failed <- err
	}()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop: %v, want the context's end", err)
	}
	if err := <-failed; err == nil {
		t.Error("a call that was cut off had an answer")
	}
	close(release)
}
