package process

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Registry is a process's metrics. It knows what was registered, also what has
// no value yet: docs/metrics.md lists that.
type Registry struct {
	*prometheus.Registry

	mu         sync.Mutex
	collectors []prometheus.Collector
}

// NewRegistry is an empty one.
func NewRegistry() *Registry { return &Registry{Registry: prometheus.NewRegistry()} }

// Register is prometheus.Registerer's.
func (r *Registry) Register(c prometheus.Collector) error {
	if err := r.Registry.Register(c); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collectors = append(r.collectors, c)
	return nil
}

// MustRegister is prometheus.Registerer's.
func (r *Registry) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Collectors are what was registered, in that order.
func (r *Registry) Collectors() []prometheus.Collector {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.collectors)
}
