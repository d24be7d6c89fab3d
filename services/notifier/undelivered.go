package notifier

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	// undeliveredEvery is between two looks at what is not delivered.
	undeliveredEvery = 15 * time.Second
	// parkedAtOnce bounds the parked callbacks of one look; the next goes on where
	// it ended.
	parkedAtOnce = 10_000
	// undeliveredTimeout bounds a look.
	undeliveredTimeout = 10 * time.Second
)

// undelivered is how old the oldest callback is that is neither delivered nor given
// up, and how many are parked. Each replica looks at the same streams: what is
// parked, in rounds, and the first event that is not acknowledged. A callback behind
// another of its log is younger than that.
type undelivered struct {
	broker *broker.Broker
	log    zerolog.Logger

	mu         sync.Mutex
	last, next round
	from       uint64    // of WAKEUPS, where the next look goes on
	event      time.Time // the oldest that is not acknowledged; zero: none
}

// round is what a round over the parked callbacks has found.
type round struct {
	parked int
	oldest time.Time // zero: none
}

func (u *undelivered) watch(ctx context.Context) {
	for {
		if u.broker.Connected() {
			if err := u.look(ctx); err != nil && ctx.Err() == nil {
				u.log.Debug().Err(err).Msg("looking for the oldest undelivered callback")
			}
		}
		if process.Sleep(ctx, undeliveredEvery) != nil {
			return
		}
	}
}

func (u *undelivered) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, undeliveredTimeout)
	defer cancel()
	event, err := u.broker.OldestUnacknowledged(ctx, broker.NotifierEvents)
	if err != nil {
		return err
	}
	found := u.next
	from, err := u.broker.Parked(ctx, u.from, parkedAtOnce, func(w delivery.Wakeup) {
		found.parked++
		found.oldest = older(found.oldest, w.First)
	})
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.event, u.from, u.next = event, from, found
	if from == 0 {
		u.last, u.next = u.next, round{}
	}
	return nil
}

// now is the age of the oldest, and how many the last round found parked.
func (u *undelivered) now() (age time.Duration, parked int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at := older(older(u.last.oldest, u.next.oldest), u.event); !at.IsZero() {
		age = max(0, time.Since(at))
	}
	return age, u.last.parked
}

// older is the earlier of two times; zero is none.
func older(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
