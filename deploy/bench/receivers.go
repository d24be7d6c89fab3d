package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"

	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// receiversRole is the role of all endpoints of a run, in one process.
const receiversRole = "receivers"

// receiving says which endpoints there are, each at a port of its own.
type receiving struct {
	Counted   int           // answer 204, and what comes is counted
	Uncounted int           // answer as those do
	Hanging   int           // take a callback and never answer
	After     time.Duration // until an answer
	Skip      int           // callbacks that come before the window
	Window    int           // callbacks whose rate is measured
}

// args are r as receiversMain reads it.
func (r receiving) args() []string {
	return []string{
		"--counted", strconv.Itoa(r.Counted), "--uncounted", strconv.Itoa(r.Uncounted), "--hanging", strconv.Itoa(r.Hanging),
		"--after", r.After.String(), "--skip", strconv.Itoa(r.Skip), "--window", strconv.Itoa(r.Window),
	}
}

// receivers are running endpoints.
type receivers struct {
	URLs endpointURLs

	process *child.Process
	control string
	skip    int
}

// endpointURLs are where callbacks go, by what the endpoint does.
type endpointURLs struct {
	Counted, Uncounted, Hanging []string
}

func (s *stage) receivers(ctx context.Context, r receiving) (*receivers, error) {
	address, err := s.address()
	if err != nil {
		return nil, err
	}
	out := &receivers{control: "http://" + address, skip: r.Skip}
	if out.process, err = s.asSelf(receiversRole, nil, append(r.args(), "--control", address)...); err != nil {
		return nil, err
	}
	if err := s.answers(ctx, out.process, out.control+"/healthz"); err != nil {
		return nil, err
	}
	return out, getJSON(ctx, out.control+"/endpoints", &out.URLs)
}

// heard is what has come to the counted endpoints.
type heard struct {
	Calls int // POSTs
	// Seconds from the window's first POST to its last; 0 while it lasts.
	Seconds float64
	// Answered are the callbacks with a time in their traceparent, each counted
	// once, that have their answer.
	Answered int
}

func (r *receivers) heard(ctx context.Context) (out heard, err error) {
	return out, getJSON(ctx, r.control+"/heard", &out)
}

// inWindow is how many POSTs have come behind those that are skipped.
func (r *receivers) inWindow(ctx context.Context) (int, error) {
	now, err := r.heard(ctx)
	return max(now.Calls-r.skip, 0), err
}

// waits are how long each answered callback took from the time in its
// traceparent to its answer, sorted.
func (r *receivers) waits(ctx context.Context) (out []time.Duration, err error) {
	err = getJSON(ctx, r.control+"/waits", &out)
	slices.Sort(out)
	return out, err
}

func getJSON(ctx context.Context, url string, v any) error {
	return get(ctx, url, func(r io.Reader) error { return json.NewDecoder(r).Decode(v) })
}

// traceparentOf carries a time from an append to a receiver: the service passes
// a traceparent on as it is.
func traceparentOf(at time.Time) string {
	return fmt.Sprintf("00-%032x-%016x-01", at.UnixNano(), 1)
}

// timeOf reads it; false for a callback that has none.
func timeOf(traceparent string) (time.Time, bool) {
	if len(traceparent) != len("00-")+32+len("-")+16+len("-01") {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseInt(traceparent[3:35], 16, 64)
	return time.Unix(0, nanos), err == nil
}

func receiversMain() int {
	var cfg struct {
		receiving

		Control string `required:""`
	}
	return process.Main(receiversRole, "Takes callbacks and counts them.", time.Second, &cfg, nil, func(ctx context.Context, _ *kong.Context) error {
		return serveReceivers(ctx, cfg.receiving, cfg.Control)
	})
}

// serveReceivers serves until ctx ends. Its control tells what it hears.
func serveReceivers(ctx context.Context, r receiving, control string) error {
	var listen net.ListenConfig
	controlled, err := listen.Listen(ctx, "tcp", control) // before an endpoint gets that port
	if err != nil {
		return err
	}
	defer controlled.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serve := func(h http.Handler, listeners ...net.Listener) {
		server := &http.Server{Handler: h, ReadHeaderTimeout: readyMost}
		context.AfterFunc(ctx, func() { _ = server.Close() })
		for _, l := range listeners {
			serving.Go(func() { _ = server.Serve(l) })
		}
	}
	e := &ear{receiving: r, waits: map[string]time.Duration{}}
	var urls endpointURLs
	for _, kind := range []struct {
		n      int
		answer http.HandlerFunc
		urls   *[]string
	}{{r.Counted, e.count, &urls.Counted}, {r.Uncounted, e.answer, &urls.Uncounted}, {r.Hanging, hang, &urls.Hanging}} {
		var listeners []net.Listener
		for range kind.n {
			l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			listeners, *kind.urls = append(listeners, l), append(*kind.urls, "http://"+l.Addr().String()+"/hook")
		}
		serve(kind.answer, listeners...)
	}
	mux := http.NewServeMux()
	for path, tell := range map[string]func() any{
		"/healthz":   func() any { return true },
		"/endpoints": func() any { return urls },
		"/heard":     func() any { return e.heard() },
		"/waits":     func() any { return e.all() },
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(tell()) })
	}
	serve(mux, controlled)
	<-ctx.Done()
	return nil
}

// ear hears the callbacks of all counted endpoints.
type ear struct {
	receiving

	calls       atomic.Int64
	first, last atomic.Int64 // of the window, in ns since 1970

	mu    sync.Mutex
	waits map[string]time.Duration // by webhook-id
}

func (e *ear) count(w http.ResponseWriter, r *http.Request) {
	switch now := time.Now().UnixNano(); int(e.calls.Add(1)) - e.Skip {
	case 1:
		e.first.Store(now)
	case e.Window:
		e.last.Store(now)
	}
	e.answer(w, r)
	appended, ok := timeOf(r.Header.Get("Traceparent"))
	if !ok {
		return
	}
	wait, id := time.Since(appended), r.Header.Get("Webhook-Id")
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, again := e.waits[id]; !again {
		e.waits[id] = wait
	}
}

func (e *ear) answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	time.Sleep(e.After)
	w.WriteHeader(http.StatusNoContent)
}

// hang never answers; the caller ends it.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func (e *ear) heard() heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := heard{Calls: int(e.calls.Load()), Answered: len(e.waits)}
	if last := e.last.Load(); last > 0 {
		h.Seconds = time.Duration(last - e.first.Load()).Seconds()
	}
	return h
}

func (e *ear) all() []time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]time.Duration, 0, len(e.waits))
	for _, wait := range e.waits {
		out = append(out, wait)
	}
	return out
}
