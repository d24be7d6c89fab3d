package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// parkedBatch is how many parked callbacks one question asks for, some 300 bytes
// each and 2 KB at most.
const parkedBatch = 500

// Parked hands each callback that waits in WAKEUPS, for its time or for a replica,
// to each, from a stream sequence on and about most of them. It returns where to go
// on, or 0 after the last.
func (b *Broker) Parked(ctx context.Context, from uint64, most int, each func(delivery.Wakeup)) (next uint64, err error) {
	return b.ParkedCallbacks(ctx, from, most, func(p timeline.Parked) { each(p.Wakeup) })
}

// OldestUnacknowledged is when the oldest message was stored that the consumer has
// not seen acknowledged; zero: there is none.
func (b *Broker) OldestUnacknowledged(ctx context.Context, c Consumer) (time.Time, error) {
	consumer, err := b.js.Consumer(ctx, c.Stream, c.Name)
	if err != nil {
		return time.Time{}, streamError(c.Stream+"/"+c.Name, err)
	}
	info := consumer.CachedInfo()
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return time.Time{}, nil
	}
	m, err := b.streams[c.Stream].GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(c.Filters[0]))
	if err = getError(c.Stream, err); errors.Is(err, ErrNotFound) {
		return time.Time{}, nil // acknowledged in the meantime
	}
	if err != nil {
		return time.Time{}, err
	}
	return m.Time, nil
}
