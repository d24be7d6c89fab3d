package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers /healthz (the process lives), /readyz (it can do its work;
// 503 with the reasons where not) and /metrics (Prometheus).
type Server struct {
	listener net.Listener
	http     *http.Server
	registry *prometheus.Registry
	done     chan struct{}

	mu     sync.Mutex
	checks map[string]Check
}

// Check says why a part is not ready, or nil. It must answer at once.
type Check func() error

// Listen binds address, host:port, and answers in the background until Stop.
// Port 0 takes a free one. It is not ready before a Check was added.
func Listen(ctx context.Context, address string) (*Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("health and metrics: %w; choose another with --metrics-addr", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobrelay_build_info", Help: "1; the label says what was built.",
		ConstLabels: prometheus.Labels{"version": Version()},
	}, func() float64 { return 1 }))
	s := &Server{listener: l, registry: registry, done: make(chan struct{}), checks: map[string]Check{}}
	s.serve()
	return s, nil
}

// Registry takes the process's metrics.
func (s *Server) Registry() *prometheus.Registry { return s.registry }

// Address is the bound host:port.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Add makes readiness depend on a check.
func (s *Server) Add(name string, check Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

func (s *Server) serve() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	s.http = &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(s.listener) // ends with Stop; a broken listener shows in the probes
	}()
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	checks := maps.Clone(s.checks)
	s.mu.Unlock()
	answer := map[string]string{}
	status := http.StatusOK
	if len(checks) == 0 {
		answer["process"], status = "starting", http.StatusServiceUnavailable
	}
	for name, check := range checks {
		answer[name] = "ok"
		if err := check(); err != nil {
			answer[name], status = err.Error(), http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a peer that went away
}

// Stop ends the server within a second.
func (s *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		_ = s.http.Close()
	}
	<-s.done
}

// AwaitReady waits until the process at address is ready; when ctx ends first,
// the error says what it was waiting for.
func AwaitReady(ctx context.Context, address string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	last := "no answer yet"
	for {
		ready, answer, err := probe(ctx, client, address)
		if ready {
			return nil
		}
		if err == nil {
			last = answer
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s: %w", last, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func probe(ctx context.Context, client *http.Client, address string) (ready bool, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return false, "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return false, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	return res.StatusCode == http.StatusOK, strings.TrimSpace(string(body)), err
}
