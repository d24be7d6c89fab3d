package launcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/request"
)

const (
	// maxServices bounds the services that a replica remembers; one that it
	// forgets is read again, and its rates begin anew.
	maxServices = 10_000
	// pauseAge is how old an operator's pause may be when it is heeded.
	pauseAge = time.Second
	// fullAge is how long a service counts as full after it was seen full.
	fullAge = time.Second
	// healEvery is between two looks at who holds the places of a full service:
	// a place whose job ended unnoticed is found so.
	healEvery = 10 * time.Second
	// wakeRate bounds a service's parked launches that wake up in a second, and
	// wakeBurst those that wake up at once: a service with very many of them
	// delays itself alone.
	wakeRate, wakeBurst = 100, 100
	// swapTries bounds the writes of one change to a service's places.
	swapTries = 20
)

// Causes for which a launch is held back.
var (
	errPaused = errors.New("the operator has paused the service")
	errFull   = errors.New("as many of its Jobs run as maxActive allows")
	errSwap   = errors.New("other launchers change the service's places at the same time")
)

// paceError holds a launch back until its turn in the policy's rate.
type paceError struct{ wait time.Duration }

func (e *paceError) Error() string { return "the rate of launches is reached" }

// services is what a replica remembers of each service.
type services struct {
	mu    sync.Mutex
	known *lru.Cache[string, *service]
}

// service is what one replica remembers of a service: caches and its share of
// the rates, nothing that must last.
type service struct {
	wakes *rate.Limiter

	mu       sync.Mutex
	rate     *rate.Limiter // of the policy; nil before the first launch under one
	pause    broker.Pause
	pausedAt time.Time // when pause was read
	full     time.Time // when it was last seen full
	healed   time.Time // when the holders of its places were last looked at
}

func newServices() *services {
	known, err := lru.New[string, *service](maxServices)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &services{known: known}
}

func (s *services) get(name string) *service {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.known.Get(name)
	if !ok {
		have = &service{wakes: rate.NewLimiter(wakeRate, wakeBurst)}
		s.known.Add(name, have)
	}
	return have
}

// hold is nil where the request's Job may be created now, and why not
// otherwise. What takes a place comes last: nothing after it holds back.
func (l *launcher) hold(ctx context.Context, key string, r *jobsv1.JobRequested, paced bool) error {
	s, rules := l.services.get(r.GetService()), l.policy().Rules(r.GetService())
	paused, err := s.paused(ctx, l, r.GetService())
	if err != nil {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	if paused {
		return errPaused
	}
	if !paced {
		if wait := l.pace(s, rules.Rate, l.remaining(r)); wait > 0 {
			return &paceError{wait}
		}
	}
	if rules.MaxActive == nil {
		return nil
	}
	err = l.take(ctx, s, r.GetService(), key, int(*rules.MaxActive))
	if err != nil && !errors.Is(err, errFull) && !errors.Is(err, errSwap) {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	return err
}

func (s *service) paused(ctx context.Context, l *launcher, name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.now().Sub(s.pausedAt) < pauseAge {
		return s.pause.Paused, nil
	}
	read := l.now()
	p, err := l.broker.Pause(ctx, name)
	if err != nil {
		return false, err
	}
	s.pause, s.pausedAt = p, read
	return p.Paused, nil
}

// pace is how long to wait for a turn in the service's rate and in the
// launcher's own. A turn is kept for who waits no longer than most.
func (l *launcher) pace(s *service, policy *request.Rate, most time.Duration) time.Duration {
	turns := []*rate.Reservation{l.rate.ReserveN(l.now(), 1)}
	if policy != nil {
		turns = append(turns, s.limiter(policy).ReserveN(l.now(), 1))
	}
	var wait time.Duration
	for _, t := range turns {
		wait = max(wait, t.DelayFrom(l.now()))
	}
	if wait > most {
		for _, t := range turns {
			t.CancelAt(l.now())
		}
	}
	return wait
}

// limiter is the service's rate as the policy has it now.
func (s *service) limiter(p *request.Rate) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, burst := rate.Limit(p.PerSecond), max(p.Burst, 1)
	if s.rate == nil {
		s.rate = rate.NewLimiter(limit, burst)
	}
	if s.rate.Limit() != limit || s.rate.Burst() != burst {
		s.rate.SetLimit(limit)
		s.rate.SetBurst(burst)
	}
	return s.rate
}

// take gives the request one of its service's places, or errFull. It may hold
// one already, of an earlier try.
func (l *launcher) take(ctx context.Context, s *service, name, key string, most int) error {
	s.mu.Lock()
	full, heal := l.now().Sub(s.full) < fullAge, l.now().Sub(s.healed) >= healEvery
	s.mu.Unlock()
	if full {
		return errFull
	}
	err := l.swap(ctx, name, func(keys []string) ([]string, error) {
		if slices.Contains(keys, key) {
			return keys, nil
		}
		if len(keys) >= most && heal {
			heal = false
			s.mu.Lock()
			s.healed = l.now()
			s.mu.Unlock()
			var err error
			if keys, err = l.running(ctx, name, keys); err != nil {
				return nil, err
			}
		}
		if len(keys) >= most {
			return nil, errFull
		}
		return append(slices.Clone(keys), key), nil
	})
	if errors.Is(err, errFull) {
		s.mu.Lock()
		s.full = l.now()
		s.mu.Unlock()
	}
	return err
}

// release gives the request's place back.
func (l *launcher) release(ctx context.Context, name, key string) error {
	err := l.swap(ctx, name, func(keys []string) ([]string, error) {
		return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == key }), nil
	})
	s := l.services.get(name)
	s.mu.Lock()
	s.full = time.Time{}
	s.mu.Unlock()
	return err
}

// swap changes who holds the places of a service, by compare-and-set.
func (l *launcher) swap(ctx context.Context, name string, change func(keys []string) ([]string, error)) error {
	for range swapTries {
		have, err := l.broker.Active(ctx, name)
		if err != nil {
			return err
		}
		keys, err := change(have.Keys)
		if err != nil || slices.Equal(keys, have.Keys) {
			return err
		}
		if err = l.broker.SwapActive(ctx, name, have, keys); !errors.Is(err, broker.ErrConflict) {
			return err
		}
	}
	return errSwap
}

// running are the keys whose log has no end.
func (l *launcher) running(ctx context.Context, name string, keys []string) ([]string, error) {
	var out []string
	for _, key := range keys {
		tail, err := l.broker.Tail(ctx, name, key)
		if err != nil {
			return nil, err
		}
		if tail.Empty() || !tail.Last.Type.Terminal() {
			out = append(out, key)
		}
	}
	return out, nil
}

// ended gives a job's place back when its log has its end. Where the policy
// counts no Jobs of the service, a place that it once took is found by running.
func (l *launcher) ended(ctx context.Context, m broker.Message) error {
	e, err := m.Stored()
	if err != nil {
		return broker.Permanent(err)
	}
	if l.policy().Rules(e.Service).MaxActive == nil {
		return nil
	}
	if err := l.release(ctx, e.Service, e.LogKey); err != nil {
		return fmt.Errorf("a place of service %s: %w", e.Service, err)
	}
	return nil
}
