package process

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"regexp"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/jobrelay/jobrelay/pkg/drain"
)

// Server answers /healthz (the process lives), /readyz (it can do its work;
// 503 with the reasons where not) and /metrics (Prometheus).
type Server struct {
	listener net.Listener
	http     *drain.Server
	mux      *http.ServeMux
	registry *Registry
	done     chan struct{}

	mu     sync.Mutex
	checks map[string]State
}

// Check says why a part is not ready, or nil. It must answer at once.
type Check func() error

// State is a Check that has something to say of a ready part, too.
type State func() (string, error)

// liveHeap is what was in use after the last collection, beside what client_golang
// tells by itself: go_gc_heap_live_bytes.
var liveHeap = collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile("^/gc/heap/live:bytes$")}

// Listen binds address, host:port, and answers in the background until Stop.
// Port 0 takes a free one. It is not ready before a Check was added. A nil
// registry stands for one of its own.
func Listen(ctx context.Context, address string, registry *Registry) (*Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("health and metrics: %w; choose another with --metrics-addr", err)
	}
	if registry == nil {
		registry = NewRegistry()
	}
	registry.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(liveHeap)), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := &Server{listener: l, mux: http.NewServeMux(), registry: registry, done: make(chan struct{}), checks: map[string]State{}}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobrelay_build_info", Help: "1; the labels say what was built.",
		ConstLabels: prometheus.Labels{"version": Version(), "revision": revision(), "goversion": runtime.Version()},
	}, func() float64 { return 1 }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobrelay_ready", Help: "1 while /readyz answers 200, 0 while it says what is waited for.",
	}, func() float64 {
		if _, ready := s.Checks(); ready {
			return 1
		}
		return 0
	}))
	s.serve()
	return s, nil
}

// Registry takes the process's metrics.
func (s *Server) Registry() *Registry { return s.registry }

// Address is the bound host:port.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Add makes readiness depend on a check.
func (s *Server) Add(name string, check Check) {
	s.AddState(name, func() (string, error) { return "ok", check() })
}

// AddState is Add of a part that tells its state.
func (s *Server) AddState(name string, check State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// AddFile tells of a configuration that is read again: its state in /readyz, and
// as a metric whether a newer content of it is wrong.
func (s *Server) AddFile(name string, f interface {
	State() (string, error)
	Wrong() bool
}) {
	s.AddState(name, f.State)
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobrelay_configuration_wrong", Help: "1 while the newest content of a configuration is wrong and its last good one stays in force.",
		ConstLabels: prometheus.Labels{"configuration": name},
	}, func() float64 {
		if f.Wrong() {
			return 1
		}
		return 0
	}))
}

func (s *Server) serve() {
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.HandleFunc("GET /readyz", s.ready)
	// OpenMetrics for the exemplars; native histograms come with Prometheus'
	// protobuf form, which the handler speaks by itself.
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	s.http = drain.New(&http.Server{Handler: s.mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10})
	go func() {
		defer close(s.done)
		_ = s.http.Serve(s.listener) // ends with Stop; a broken listener shows in the probes
	}()
}

// Profile answers /debug/pprof/ from now on, all but its command line, which may
// hold a login. Whoever can reach the address can make the process work for it.
func (s *Server) Profile() {
	s.mux.HandleFunc("GET /debug/pprof/", pprof.Index) // and the named profiles
	s.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	s.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// revision is the commit that was built, where the build knows it.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return ""
}

// Checks is what each part says of itself, and whether all are ready.
func (s *Server) Checks() (said map[string]string, ready bool) {
	s.mu.Lock()
	checks := maps.Clone(s.checks)
	s.mu.Unlock()
	if len(checks) == 0 {
		return map[string]string{"process": "starting"}, false
	}
	said, ready = map[string]string{}, true
	for name, check := range checks {
		state, err := check()
		if err != nil {
			state, ready = err.Error(), false
		}
		said[name] = state
	}
	return said, ready
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	said, ready := s.Checks()
	w.Header().Set("Content-Type", "application/json")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(said) // a peer that went away
}

// Stop ends the server within a second.
func (s *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.http.Stop(ctx) // what took longer is cut off
	<-s.done
}
