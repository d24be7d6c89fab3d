package console

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

const (
	// glanceFresh is how old what is no event may be when it is shown.
	glanceFresh = 2 * time.Second
	// maxParked bounds the callbacks and the launches that are read of what is parked.
	maxParked = 10_000
)

// glanceSource is what the streams beside EVENTS tell of now.
type glanceSource interface {
	Statuses(ctx context.Context) ([]broker.Status, error)
	ParkedCallbacks(ctx context.Context, from uint64, most int, each func(timeline.Parked)) (uint64, error)
	ParkedLaunches(ctx context.Context, from uint64, most int, each func(string, timeline.Launch)) (uint64, error)
}

// present is how everything is that is no event.
type present struct {
	At       time.Time
	Replicas []broker.Status
	Failing  []Endpoint // those that fail, those first that fail for longest; then those that only wait
	Launches waits
	Parked   []timeline.Parked // callbacks, those first that are due first
	More     bool              // there are more of them than are read
	Oldest   time.Time         // when the oldest parked callback became due; zero: there is none
}

// waits are launches that are parked.
type waits struct {
	N      int
	Causes []Cause // most of them first
}

// Cause is why launches are parked.
type Cause struct {
	Text string
	N    int
}

// Endpoint is a receiver that fails, as the notifiers together see it, or for which
// callbacks wait.
type Endpoint struct {
	Name string
	broker.EndpointOverall
	Parked  int
	Letters int // that no replay has delivered
}

// glance reads that when somebody looks, and nothing while nobody does.
type glance struct {
	source    glanceSource
	clock     func() time.Time
	reachable func() error

	mu    sync.Mutex
	last  present
	tried time.Time
	err   error // of the last try
}

func newGlance(s glanceSource) *glance { return &glance{source: s, clock: time.Now} }

// read is how it is, or was two seconds ago. With an error it is how it was when it
// could be read last.
func (g *glance) read(ctx context.Context) (present, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.reachable(); err != nil {
		return g.last, err // and is asked again with the next page
	}
	if g.clock().Sub(g.tried) > glanceFresh {
		var next present
		if next, g.err = g.look(ctx); g.err == nil {
			g.last = next
		}
		g.tried = g.clock()
	}
	return g.last, g.err
}

func (g *glance) look(ctx context.Context) (present, error) {
	out := present{At: g.clock()}
	var err error
	if out.Replicas, err = g.source.Statuses(ctx); err != nil {
		return out, err
	}
	if err := g.readParked(ctx, &out); err != nil {
		return out, err
	}
	out.Failing = endpoints(out.Replicas, out.Parked, out.At)
	return out, nil
}

func (g *glance) readParked(ctx context.Context, out *present) error {
	tokens := map[string]timeline.Parked{} // a schedule follows its wake-up until that is acknowledged
	more, err := g.source.ParkedCallbacks(ctx, 0, maxParked, func(p timeline.Parked) { tokens[p.Token()] = p })
	if err != nil {
		return err
	}
	out.More = more > 0
	for _, p := range tokens {
		out.Parked = append(out.Parked, p)
		if !p.First.IsZero() && (out.Oldest.IsZero() || p.First.Before(out.Oldest)) {
			out.Oldest = p.First
		}
	}
	slices.SortFunc(out.Parked, func(a, b timeline.Parked) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Token(), b.Token()))
	})
	causes := map[string]string{}
	if _, err := g.source.ParkedLaunches(ctx, 0, maxParked, func(key string, l timeline.Launch) { causes[key] = short(l.Cause) }); err != nil {
		return err
	}
	counts := map[string]int{}
	for _, cause := range causes {
		counts[cause]++
	}
	out.Launches.N = len(causes)
	for cause, n := range counts {
		out.Launches.Causes = append(out.Launches.Causes, Cause{cause, n})
	}
	slices.SortFunc(out.Launches.Causes, func(a, b Cause) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Text, b.Text)) })
	out.Launches.Causes = out.Launches.Causes[:min(len(out.Launches.Causes), 10)]
	return nil
}

// endpoints draws together what the replicas say and what is parked.
func endpoints(replicas []broker.Status, parked []timeline.Parked, at time.Time) []Endpoint {
	all := map[string]*Endpoint{}
	of := func(name string) *Endpoint {
		if all[name] == nil {
			all[name] = &Endpoint{Name: name}
		}
		return all[name]
	}
	for _, r := range replicas {
		for _, s := range r.Endpoints {
			s.Cause = short(s.Cause)
			of(short(s.Name)).Add(s, at)
		}
	}
	for _, p := range parked {
		of(short(p.Endpoint)).Parked++
	}
	out := make([]Endpoint, 0, len(all))
	for _, e := range all {
		out = append(out, *e)
	}
	sortEndpoints(out)
	return out
}

func sortEndpoints(all []Endpoint) {
	slices.SortFunc(all, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(min(b.Replicas, 1), min(a.Replicas, 1)), a.Since.Compare(b.Since),
			cmp.Compare(b.Parked+b.Letters, a.Parked+a.Letters), cmp.Compare(a.Name, b.Name))
	})
}
