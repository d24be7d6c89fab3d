package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// What is here reads streams by direct gets of places, in batches: nothing is made on
// the server, so any number may read, and who was cut off goes on at the next place
// (docs/adr/0018).

// Extent is what EVENTS keeps: its places, and when it was made. Another time means
// another stream, whose places begin anew.
type Extent struct {
	First, Last uint64
	Made        time.Time
}

// Extent reads that of EVENTS.
func (b *Broker) Extent(ctx context.Context) (Extent, error) {
	info, err := b.streams[StreamEvents].Info(ctx)
	if err != nil {
		return Extent{}, streamError(StreamEvents, err)
	}
	return Extent{First: max(info.State.FirstSeq, 1), Last: info.State.LastSeq, Made: info.Created}, nil
}

// Seen is an event as Scan reads it: in outline.
type Seen struct {
	event.Outline

	Service string
	Place   uint64 // on EVENTS
}

// Scan hands up to a thousand events on EVENTS, at a place and after, to each, in
// order, and returns the place to go on at: from itself where there is nothing yet.
// A replica that trails may answer; what it has not got comes with a later call, and
// nothing is passed over. An event that cannot be read is said in the log.
func (b *Broker) Scan(ctx context.Context, from uint64, each func(Seen)) (next uint64, err error) {
	next = from
	err = b.batch(ctx, StreamEvents, "", from, batchSize, func(m *jetstream.RawStreamMsg) error {
		next = m.Sequence + 1
		e, err := seen(m)
		if err != nil {
			b.log.Warn().Err(err).Msg("events") // one that cannot be read hides no other
			return nil
		}
		each(e)
		return nil
	})
	return next, err
}

func seen(m *jetstream.RawStreamMsg) (Seen, error) {
	service, logKey, t, err := event.ParseSubject(m.Subject)
	if err != nil {
		return Seen{}, err
	}
	o, err := event.DecodeOutline(logKey, t, m.Header, m.Data)
	if err != nil {
		return Seen{}, fmt.Errorf("%s: %w", m.Subject, err)
	}
	return Seen{Outline: o, Service: service, Place: m.Sequence}, nil
}

// readable is the event; false where it cannot be read, which the log says: it hides
// no other.
func (b *Broker) readable(m *jetstream.RawStreamMsg) (Stored, bool) {
	e, err := stored(m.Subject, m.Sequence, m.Header, m.Data)
	if err != nil {
		b.log.Warn().Err(err).Msg("events")
	}
	return e, err == nil
}

// scanBack is how many places ScanBack holds at once.
const scanBack = 500

// ScanBack hands the events on EVENTS before a place to each, the newest first, until
// that is false, or about most places were looked at. It returns the place before
// which to go on, 0 where there is nothing before it.
func (b *Broker) ScanBack(ctx context.Context, before uint64, most int, each func(Stored) bool) (next uint64, err error) {
	extent, err := b.Extent(ctx)
	if err != nil {
		return 0, err
	}
	end := min(before, extent.Last+1)
	for looked := 0; end > extent.First; looked += scanBack {
		if looked >= most {
			return end, nil
		}
		start := extent.First
		if end-start > scanBack {
			start = end - scanBack
		}
		page, err := pageOf(ctx, b, StreamEvents, start, end, keepMessage)
		if err != nil {
			return 0, err
		}
		for _, m := range slices.Backward(page) {
			if e, ok := b.readable(m); ok && !each(e) {
				return m.Sequence, nil
			}
		}
		end = start
	}
	return 0, nil
}

// letterBatch is how many letters one answer has: each has a body.
const letterBatch = 200

// ScanLetters hands up to letterBatch dead letters, at a place and after, to each,
// as Scan does.
func (b *Broker) ScanLetters(ctx context.Context, from uint64, each func(uint64, delivery.Letter)) (next uint64, err error) {
	next = from
	err = b.batch(ctx, StreamDeadLetters, "", from, letterBatch, func(m *jetstream.RawStreamMsg) error {
		next = m.Sequence + 1
		l, err := decodeLetter(m.Subject, m.Data)
		if err != nil {
			b.log.Warn().Err(err).Msg("dead letters")
			return nil
		}
		each(m.Sequence, l)
		return nil
	})
	return next, err
}

// LetterPlaces are the first and the last place of DEADLETTERS.
func (b *Broker) LetterPlaces(ctx context.Context) (first, last uint64, err error) {
	info, err := b.streams[StreamDeadLetters].Info(ctx)
	if err != nil {
		return 0, 0, streamError(StreamDeadLetters, err)
	}
	return max(info.State.FirstSeq, 1), info.State.LastSeq, nil
}

// ParkedCallbacks hands each callback that waits in WAKEUPS to each with its time, as
// Parked does.
func (b *Broker) ParkedCallbacks(ctx context.Context, from uint64, most int, each func(timeline.Parked)) (next uint64, err error) {
	return b.parked(ctx, PurposeCallback, from, most, func(m *jetstream.RawStreamMsg) error {
		p := timeline.Parked{Due: dueTime(m)}
		err := json.Unmarshal(m.Data, &p.Wakeup)
		if err == nil {
			each(p)
		}
		return err
	})
}

// ParkedLaunches hands each launch that waits in WAKEUPS to each, as Parked does: by
// the key of its request.
func (b *Broker) ParkedLaunches(ctx context.Context, from uint64, most int, each func(key string, l timeline.Launch)) (next uint64, err error) {
	return b.parked(ctx, PurposeLaunch, from, most, func(m *jetstream.RawStreamMsg) error {
		var p ParkedLaunch
		err := json.Unmarshal(m.Data, &p)
		if err == nil {
			_, token, _ := strings.Cut(m.Subject, "."+PurposeLaunch+".")
			each(token, timeline.Launch{Due: dueTime(m), Tries: p.Tries, Cause: p.Cause})
		}
		return err
	})
}

// parked reads what is parked for a purpose, about most of it at a place and after.
func (b *Broker) parked(ctx context.Context, purpose string, from uint64, most int, read func(*jetstream.RawStreamMsg) error) (next uint64, err error) {
	next = max(from, 1)
	for seen := 0; seen < most; {
		n := 0
		err := b.batch(ctx, StreamWakeups, "*."+purpose+".>", next, parkedBatch, func(m *jetstream.RawStreamMsg) error {
			if err := read(m); err != nil {
				b.log.Warn().Err(err).Str("subject", m.Subject).Msg("parked") // one that cannot be read hides no other
			}
			next = m.Sequence + 1
			n++
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("what is parked: %w", err)
		}
		if n < parkedBatch {
			return 0, nil
		}
		seen += n
	}
	return next, nil
}

// Moves is a mark of how far the callbacks of a log are: another one means that
// something became of them.
func (b *Broker) Moves(ctx context.Context, logKey string) (uint64, error) {
	mark := fnv.New64a()
	for _, at := range []struct {
		stream   string
		subjects []string
	}{
		{StreamLedger, []string{ledgerSubject(logKey), "ledger.replay." + logKey + ".*"}},
		{StreamWakeups, []string{"*." + PurposeCallback + "." + logKey + ".>"}},
	} {
		messages, err := b.lasts(ctx, at.stream, at.subjects...)
		if err != nil {
			return 0, err
		}
		for _, m := range messages {
			fmt.Fprintln(mark, m.Subject, m.Sequence)
		}
	}
	return mark.Sum64(), nil
}
