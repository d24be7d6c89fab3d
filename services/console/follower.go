package console

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	// askEvery is between two questions for what is new, each answered by a few bytes
	// where there is nothing.
	askEvery = 200 * time.Millisecond
	// eventsOfJob is how many events a log has at the most: so many times the bound of
	// the index are read at the start.
	eventsOfJob = 3
	// shownFirst is how many of the newest events are read first, and shown while all
	// the others are read.
	shownFirst = 3000
	// lookEvery is between two looks at whether it is the same stream still.
	lookEvery = 15 * time.Second
	// tellEvery is between two lines of the log on how far the filling is.
	tellEvery = 2 * time.Second
	// retryEvery is between two questions while there is no answer.
	retryEvery = 500 * time.Millisecond
)

// source is EVENTS, read by places.
type source interface {
	Extent(ctx context.Context) (broker.Extent, error)
	Scan(ctx context.Context, from uint64, each func(broker.Seen)) (next uint64, err error)
}

// Progress is how far the index is, for people.
type Progress struct {
	Filling     bool      // what was there at the start is being read
	Read, Whole uint64    // events of it
	Away        time.Time // since when there is no answer of NATS; zero: it answers
	Filled      time.Duration
}

// Percent of what was there at the start.
func (p Progress) Percent() int {
	if p.Whole == 0 {
		return 0
	}
	return int(p.Read * 100 / p.Whole) //nolint:gosec // 0 to 100
}

// follower fills the index from EVENTS and tells the hub what changes.
type follower struct {
	source source
	index  *Index
	hub    *hub
	log    zerolog.Logger
	now    func() time.Time

	mu       sync.Mutex
	progress Progress
	answered time.Time // last
}

func newFollower(s source, x *Index, h *hub, log zerolog.Logger) *follower {
	begin := time.Now()
	return &follower{source: s, index: x, hub: h, log: log, now: time.Now, progress: Progress{Filling: true, Away: begin}, answered: begin}
}

// Progress is how far it is.
func (f *follower) Progress() Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.progress
}

// Run follows until ctx ends. Whatever fails is tried again; what was appended in the
// meantime is read then. It is called once NATS was there; before, it is away.
func (f *follower) Run(ctx context.Context) {
	for ctx.Err() == nil {
		extent, err := f.source.Extent(ctx)
		if err != nil {
			f.failed(ctx, err)
			continue
		}
		if next, ok := f.fill(ctx, extent); ok {
			f.follow(ctx, extent, next)
		}
	}
}

// another reports whether EVENTS is another stream than before, and says so.
func (f *follower) another(before, now broker.Extent, next uint64) bool {
	if now.Made.Equal(before.Made) && now.Last+1 >= next {
		return false
	}
	f.log.Warn().Msg("EVENTS is another stream than before: the index is filled anew")
	return true
}

// fill reads what is there: so many events that the index is full, if there are so
// many logs. Meanwhile the index has the newest of them. It returns the place to go on
// at; false: it is another stream by now.
func (f *follower) fill(ctx context.Context, extent broker.Extent) (next uint64, ok bool) {
	next = extent.First
	if room := uint64(f.index.most) * eventsOfJob; extent.Last > room { //nolint:gosec // validated: not negative
		next = max(next, extent.Last+1-room)
	}
	f.index.Begin(next > extent.First)
	into, newest := f.index, uint64(0)
	if extent.Last+1 > next+shownFirst {
		into, newest = NewIndex(f.index.most), extent.Last+1-shownFirst
		into.Begin(next > extent.First)
		f.index.Begin(true)
	}
	f.reached()
	begin, first, told := f.now(), next, f.now()
	f.set(func(p *Progress) {
		*p = Progress{Filling: true, Whole: extent.Last + 1 - min(first, extent.Last+1), Away: p.Away}
	})
	for (next <= extent.Last || next < newest) && ctx.Err() == nil { // what was shown stays
		if into != f.index {
			if after, err := f.source.Scan(ctx, newest, func(e broker.Seen) { f.index.Add(e) }); err == nil {
				newest = after
			}
		}
		after, err := f.source.Scan(ctx, next, func(e broker.Seen) { into.Add(e) })
		if err != nil {
			f.failed(ctx, err)
			continue
		}
		f.reached()
		if after == next { // a replica that trails, or another stream
			if now, err := f.source.Extent(ctx); err == nil && f.another(extent, now, next) {
				return next, false
			}
			_ = process.Sleep(ctx, askEvery) // ctx is looked at
		}
		next = after
		f.set(func(p *Progress) { p.Read = min(next-first, p.Whole) })
		f.hub.stir()
		if f.now().Sub(told) > tellEvery {
			told = f.now()
			f.log.Info().Int("percent", f.Progress().Percent()).Int("jobs", into.Overall(told).Jobs).Msg("filling the index")
		}
	}
	if into != f.index {
		f.index.Take(into)
	}
	took := f.now().Sub(begin)
	f.set(func(p *Progress) { p.Filling, p.Read, p.Filled = false, p.Whole, took })
	f.hub.begin(next - 1)
	if ctx.Err() == nil {
		f.log.Info().Int("jobs", f.index.Overall(f.now()).Jobs).Uint64("events", next-first).Dur("took", took).Msg("the index is filled")
	}
	return next, true
}

// follow reads what is appended, until ctx ends or it is another stream.
func (f *follower) follow(ctx context.Context, of broker.Extent, next uint64) {
	looked := f.now()
	for ctx.Err() == nil {
		after, err := f.source.Scan(ctx, next, func(e broker.Seen) { f.hub.push(f.index.Add(e)) })
		if err != nil {
			f.failed(ctx, err)
			looked = time.Time{} // it may come back as another
			continue
		}
		f.reached()
		if after > next {
			next = after
			f.hub.wakeAll()
		}
		if f.now().Sub(looked) > lookEvery {
			extent, err := f.source.Extent(ctx)
			if err != nil {
				f.failed(ctx, err)
				continue
			}
			if f.another(of, extent, next) {
				return
			}
			looked = f.now()
		}
		_ = process.Sleep(ctx, askEvery) // ctx is looked at
	}
}

// failed says once that there is no answer, and waits before the next question.
func (f *follower) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	var wrong *broker.TopologyError
	f.mu.Lock()
	before := f.progress.Away
	if before.IsZero() {
		f.progress.Away = f.answered
	}
	f.mu.Unlock()
	if before.IsZero() {
		f.log.Warn().Err(err).Bool("topology", errors.As(err, &wrong)).Msg("EVENTS does not answer; what was read before is shown, and read on from there")
		f.hub.stir()
	}
	_ = process.Sleep(ctx, retryEvery) // ctx is looked at
}

// reached is called at each answer.
func (f *follower) reached() {
	f.mu.Lock()
	away := f.progress.Away
	f.progress.Away, f.answered = time.Time{}, f.now()
	f.mu.Unlock()
	if !away.IsZero() {
		f.log.Info().Time("since", away).Msg("EVENTS answers again")
		f.hub.stir()
	}
}

func (f *follower) set(change func(*Progress)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.progress)
}
