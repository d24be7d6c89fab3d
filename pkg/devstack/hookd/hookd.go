// Package hookd is a webhook receiver for tests, the development stack and
// the demo: it records each call and answers as its owner decides.
package hookd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jobrelay/jobrelay/pkg/drain"
)

const (
	maxBody        = 1 << 20   // of one call; more is answered 413
	maxHeaderBytes = 64 << 10  // of one call; more is answered 431 and not recorded
	maxKeptBytes   = 256 << 20 // of all bodies in memory; the oldest calls go first
	defaultKeep    = 100_000

	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 30 * time.Second // counted from the end of Answer.Delay
	idleTimeout       = 2 * time.Minute
)

// Config says where the receiver listens and how it answers.
type Config struct {
	// Addr is host:port; port 0 takes a free one. Default "127.0.0.1:0".
	Addr string

	// Answer decides on each call, whose Status is still 0. It runs on the
	// call's own goroutine, so calls are answered side by side. Nil: 204.
	Answer func(Call) Answer

	// OnCall sees each call once it is recorded and before it is answered.
	// It too runs on the call's goroutine, and delays the answer.
	OnCall func(Call)

	// Keep is how many calls Calls holds; the oldest are dropped. Default
	// 100,000. Whatever Keep is, their bodies have 256 MiB together.
	Keep int
}

// Answer is what a caller gets.
type Answer struct {
	Status int           // 0: 204, or 200 when there is a body
	Header http.Header   // added to the usual headers
	Body   []byte        // ignored for a status that forbids one
	Delay  time.Duration // before the answer; Stop ends it as a hangup
	Hangup bool          // after Delay, close the connection and answer nothing
}

// Call is one request that arrived with a whole body.
type Call struct {
	At     time.Time // when the body had been read
	Method string
	Path   string // without the query
	Header http.Header
	Body   []byte // the first 1 MiB of one that was too long
	Status int    // answered; 0 for a hangup
}

// Server is a running receiver.
type Server struct {
	cfg  Config
	addr string
	http *drain.Server

	stopping context.Context // ends delays and waits
	stop     context.CancelFunc

	mu        sync.Mutex
	calls     []Call // only ever appended to and cut at the front, so that snapshots share it
	keptBytes int
	changed   chan struct{} // closed and replaced on each arrival
}

// Start listens and serves until Stop. The only error is an address that
// cannot be listened on.
func Start(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.Answer == nil {
		cfg.Answer = func(Call) Answer { return Answer{} }
	}
	if cfg.OnCall == nil {
		cfg.OnCall = func(Call) {}
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("hookd: listen on %s, is it in use? %w", cfg.Addr, err)
	}
	s := &Server{cfg: cfg, addr: ln.Addr().String(), changed: make(chan struct{})}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.http = drain.New(&http.Server{
		Handler:           http.HandlerFunc(s.serve),
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
	})
	go func() { _ = s.http.Serve(ln) }() // ends by Stop
	return s, nil
}

// healthPath answers 200 to a GET, which is no call.
const healthPath = "/healthz"

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == healthPath {
		return // 200
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLong *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLong) {
		return // the caller went away while it was sending
	}
	call := Call{At: time.Now(), Method: r.Method, Path: r.URL.Path, Header: r.Header, Body: body}
	answer := Answer{Status: http.StatusRequestEntityTooLarge}
	if tooLong == nil {
		answer = s.cfg.Answer(call)
	}
	if answer.Status == 0 {
		answer.Status = http.StatusNoContent
		if len(answer.Body) > 0 {
			answer.Status = http.StatusOK
		}
	}
	if !answer.Hangup {
		call.Status = answer.Status
	}
	s.record(call)
	s.cfg.OnCall(call)
	s.answer(w, r, answer)
}

func (s *Server) record(call Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	s.keptBytes += len(call.Body)
	for len(s.calls) > s.cfg.Keep || s.keptBytes > maxKeptBytes {
		s.keptBytes -= len(s.calls[0].Body)
		s.calls = s.calls[1:]
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, a Answer) {
	conn := http.NewResponseController(w)
	if a.Delay > 0 {
		// The read deadline would end a request that is being delayed.
		_ = conn.SetReadDeadline(time.Time{})
		delay := time.NewTimer(a.Delay)
		defer delay.Stop()
		select {
		case <-delay.C:
		case <-r.Context().Done():
			a.Hangup = true
		case <-s.stopping.Done():
			a.Hangup = true
		}
	}
	if a.Hangup {
		panic(http.ErrAbortHandler)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	for name, values := range a.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // a caller that went away misses its answer
}

// Addr is the host:port that the receiver listens on.
func (s *Server) Addr() string { return s.addr }

// URL is the receiver's root, such as http://127.0.0.1:8080; any path below it is recorded.
func (s *Server) URL() string { return "http://" + s.addr }

// Calls returns the kept calls in the order of arrival. Headers and bodies are
// shared with the receiver: read them only.
func (s *Server) Calls() []Call {
	calls, _ := s.snapshot()
	return calls
}

func (s *Server) snapshot() ([]Call, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[:len(s.calls):len(s.calls)], s.changed
}

// Wait returns nil as soon as enough holds for the kept calls, which it asks
// at once and then on each arrival. The end of ctx and Stop are errors.
func (s *Server) Wait(ctx context.Context, enough func([]Call) bool) error {
	for {
		calls, changed := s.snapshot()
		if enough(calls) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("hookd: %d calls had arrived when the wait ended: %w", len(s.Calls()), ctx.Err())
		case <-s.stopping.Done():
			return fmt.Errorf("hookd: %d calls had arrived when the receiver was stopped", len(s.Calls()))
		}
	}
}

// Stop ends delays and waits at once, lets the answers being written finish
// and closes all connections. When ctx ends first it closes them anyway and
// returns its error. The recorded calls stay readable.
func (s *Server) Stop(ctx context.Context) error {
	s.stop()
	if err := s.http.Stop(ctx); err != nil {
		return fmt.Errorf("hookd: stopped before all calls were answered: %w", err)
	}
	return nil
}
