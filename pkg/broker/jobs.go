package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// Bounds of a listing.
const (
	// maxLooked is how many places of a stream, from its end, a listing looks at.
	maxLooked = 1_000_000
	// firstPage is how many places are read first, and mostPage the most that are
	// read at once: it grows where little fits.
	firstPage, mostPage = 1000, 16_000
	// batchSize and batchBytes bound one answer of the server.
	batchSize, batchBytes = 1000, 8 << 20
)

// JobFilter says which jobs are listed.
type JobFilter struct {
	Since   time.Time        // their last event, or their acceptance; zero: all that are kept
	Service string           // empty: any
	States  []timeline.State // none: any
	Limit   int              // of the newest; at least 1
}

func (f JobFilter) wants(s timeline.State) bool {
	return len(f.States) == 0 || slices.Contains(f.States, s)
}

// Jobs lists logs by their last event, and requests without one by their
// acceptance, the newest first. It goes back from the ends of EVENTS and REQUESTS
// by direct gets, holds a page and what is returned, and of every job that it meets
// in the middle of its life the key. With ErrTooMany it has looked at a million
// places, and older ones may fit.
func (b *Broker) Jobs(ctx context.Context, f JobFilter) ([]timeline.Summary, error) {
	out, err := b.begun(ctx, f)
	if err != nil && !errors.Is(err, ErrTooMany) {
		return nil, err
	}
	if !f.wants(timeline.Waiting) || !b.opened(StreamRequests) {
		return out, err
	}
	later := f
	if len(out) == f.Limit {
		later.Since = out[len(out)-1].At
	}
	waiting, waitingErr := b.waiting(ctx, later)
	if waitingErr != nil && !errors.Is(waitingErr, ErrTooMany) {
		return nil, waitingErr
	}
	out = append(out, waiting...)
	slices.SortStableFunc(out, func(a, b timeline.Summary) int { return b.At.Compare(a.At) })
	return out[:min(len(out), f.Limit)], errors.Join(err, waitingErr)
}

// begun are the jobs that have an event.
func (b *Broker) begun(ctx context.Context, f JobFilter) ([]timeline.Summary, error) {
	var out []timeline.Summary
	subject, ends := f.subject()
	// Of a log the event that comes first, from the end, is its last. Those behind
	// it are passed over, until its first one has gone by.
	seen := map[string]bool{}
	err := backwards(ctx, b, StreamEvents, subject, keepMessage, func(m *jetstream.RawStreamMsg) (bool, error) {
		if m.Time.Before(f.Since) {
			return false, nil
		}
		service, key, t, err := event.ParseSubject(m.Subject)
		if err != nil {
			return false, err
		}
		last := !seen[key]
		switch {
		case ends: // nothing else of the log is looked at
		case event.IsFirst(m.Header):
			delete(seen, key)
		default:
			seen[key] = true
		}
		if !last || !f.wants(timeline.StateOf(t)) {
			return true, nil
		}
		e, err := event.Decode(m.Header, m.Data)
		if err != nil {
			b.log.Warn().Err(err).Str("subject", m.Subject).Msg("jobs") // one that cannot be read hides no other
			return true, nil
		}
		out = append(out, timeline.Summarize(service, e))
		return len(out) < f.Limit, nil
	})
	return out, err
}

// subject is what the server filters EVENTS by; ends: it is one type of end alone.
func (f JobFilter) subject() (subject string, ends bool) {
	service := "*"
	if f.Service != "" {
		service = f.Service
	}
	if len(f.States) == 1 && f.States[0].Ended() {
		for _, t := range event.Types() {
			if t.Terminal() && timeline.StateOf(t) == f.States[0] {
				return event.Subject(service, "*", t), true
			}
		}
	}
	return event.LogFilter(service, "*"), false
}

// waiting are the requests whose log is empty. There are no more than launches are
// parked and requests on their way to a launcher: with so many found, none is
// looked for any more.
func (b *Broker) waiting(ctx context.Context, f JobFilter) ([]timeline.Summary, error) {
	left, err := b.Unlaunched(ctx)
	if err != nil || left == 0 {
		return nil, err
	}
	var out []timeline.Summary
	var keys []string
	look := func() error {
		empty, err := b.unbegun(ctx, keys)
		if err != nil {
			return err
		}
		keys = keys[:0]
		for _, key := range empty {
			left--
			e, err := b.Request(ctx, key)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if service := requestService(e); f.Service == "" || f.Service == service {
				out = append(out, timeline.Summarize(service, e))
			}
		}
		return nil
	}
	err = backwards(ctx, b, StreamRequests, "", keyOf, func(r requestKey) (bool, error) {
		if r.at.Before(f.Since) {
			return false, nil
		}
		if keys = append(keys, r.key); len(keys) < MostTails {
			return true, nil
		}
		err := look()
		return left > 0 && len(out) < f.Limit, err
	})
	if err == nil || errors.Is(err, ErrTooMany) {
		err = errors.Join(err, look())
	}
	return out[:min(len(out), f.Limit)], err
}

// requestKey is what is kept of a request in a page.
type requestKey struct {
	key string
	at  time.Time
}

func keyOf(m *jetstream.RawStreamMsg) requestKey {
	return requestKey{strings.TrimPrefix(m.Subject, event.RequestSubject("")), m.Time}
}

func keepMessage(m *jetstream.RawStreamMsg) *jetstream.RawStreamMsg { return m }

// unbegun are those of at most MostTails keys whose log is empty.
func (b *Broker) unbegun(ctx context.Context, keys []string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	filters := make([]string, 0, len(keys))
	for _, key := range keys {
		filters = append(filters, event.LogFilter("*", key))
	}
	messages, err := b.lasts(ctx, StreamEvents, filters...)
	if err != nil {
		return nil, err
	}
	begun := map[string]bool{}
	for _, m := range messages {
		if _, key, _, err := event.ParseSubject(m.Subject); err == nil {
			begun[key] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return begun[key] }), nil
}

// Unlaunched is how many requests have no Job yet, at the most: those on their way
// to a launcher, and the launches that are parked.
func (b *Broker) Unlaunched(ctx context.Context) (int, error) {
	consumer, err := b.js.Consumer(ctx, LauncherRequests.Stream, LauncherRequests.Name)
	if err != nil {
		return 0, streamError(LauncherRequests.Stream+"/"+LauncherRequests.Name, err)
	}
	info := consumer.CachedInfo()
	n := int(info.NumPending) + info.NumAckPending //nolint:gosec // messages that a server holds
	for _, subject := range []string{"schedules." + PurposeLaunch + ".*", "wakeups." + PurposeLaunch + ".*"} {
		parked, err := b.count(ctx, StreamWakeups, subject)
		if err != nil {
			return 0, err
		}
		n += parked
	}
	return n, nil
}

// count is how many messages of a stream are on a subject, which may hold
// wildcards.
func (b *Broker) count(ctx context.Context, stream, subject string) (int, error) {
	n := 0
	err := b.batch(ctx, stream, subject, 1, 1, func(m *jetstream.RawStreamMsg) error {
		behind, err := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
		n = behind + 1
		return err
	})
	return n, err
}

// backwards reads a stream's messages on a subject from its end, and hands what
// read keeps of each to each, until that is false. ErrTooMany: it has looked at
// maxLooked places before.
func backwards[T any](ctx context.Context, b *Broker, stream, subject string, read func(*jetstream.RawStreamMsg) T, each func(T) (bool, error)) error {
	info, err := b.streams[stream].Info(ctx)
	if err != nil {
		return streamError(stream, err)
	}
	first, last := max(info.State.FirstSeq, 1), info.State.LastSeq
	size := uint64(firstPage)
	for end := last + 1; end > first; {
		if last+1-end >= maxLooked {
			return ErrTooMany
		}
		start := first
		if end-first > size {
			start = end - size
		}
		page, err := pageOf(ctx, b, stream, subject, start, end, read)
		if err != nil {
			return err
		}
		for _, m := range slices.Backward(page) {
			if more, err := each(m); err != nil || !more {
				return err
			}
		}
		if uint64(len(page)) < size/2 {
			size = min(2*size, mostPage)
		}
		end = start
	}
	return nil
}

// pageOf reads the messages on the subject at start and after, before end.
func pageOf[T any](ctx context.Context, b *Broker, stream, subject string, start, end uint64, read func(*jetstream.RawStreamMsg) T) ([]T, error) {
	var page []T
	for start < end {
		next := end                                                                                                         // where the answer is empty
		err := b.batch(ctx, stream, subject, start, int(min(end-start, batchSize)), func(m *jetstream.RawStreamMsg) error { //nolint:gosec // at most batchSize
			next = m.Sequence + 1
			if m.Sequence < end {
				page = append(page, read(m))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		start = next
	}
	return page, nil
}

// batch hands up to n messages on the subject, at start and after, to each. There
// may be more where it hands over one.
func (b *Broker) batch(ctx context.Context, stream, subject string, start uint64, n int, each func(*jetstream.RawStreamMsg) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("%s: no answer", stream))
	defer cancel()
	messages, err := jetstreamext.GetBatch(ctx, b.js, stream, n, jetstreamext.GetBatchSeq(start), jetstreamext.GetBatchSubject(subject), jetstreamext.GetBatchMaxBytes(batchBytes))
	if err != nil {
		return fmt.Errorf("%s: %w", stream, err)
	}
	for m, err := range messages {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return nil
		}
		if err == nil {
			err = each(m)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
	}
	return nil
}
