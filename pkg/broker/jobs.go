package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	// pageSize is how many places are held at once.
	pageSize = 1000
	// maxFew is how many logs count as few, and maxNamed how many subjects are
	// looked at to find those that have no end.
	maxFew, maxNamed = 4096, 1_000_000
	// namesTimeout bounds the wait for those subjects: there may be ten answers.
	namesTimeout = 30 * time.Second
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
// acceptance, the newest first. It needs direct gets and STREAM.INFO alone (and of
// the launcher's consumer, CONSUMER.INFO). What is rare it finds by its subjects;
// else it goes back from the ends of EVENTS and REQUESTS, and holds a page, what is
// returned, and the key of each log that it meets in the middle. With ErrTooMany it
// has looked at a million places, and older ones may fit.
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
	if slices.Equal(f.States, []timeline.State{timeline.Waiting}) {
		return nil, nil
	}
	logs, few, err := b.few(ctx, f)
	if err != nil {
		return nil, err
	}
	if few {
		return b.summaries(ctx, f, logs)
	}
	var out []timeline.Summary
	// Of a log the event that comes first, from the end, is its last. Those behind
	// it are passed over, until its first one has gone by.
	seen := map[string]bool{}
	err = backwards(ctx, b, StreamEvents, keepMessage, func(m *jetstream.RawStreamMsg) (bool, error) {
		if m.Time.Before(f.Since) {
			return false, nil
		}
		service, key, t, err := event.ParseSubject(m.Subject)
		if err != nil {
			return false, err
		}
		if f.Service != "" && service != f.Service {
			return true, nil
		}
		last := !seen[key]
		if event.IsFirst(m.Header) {
			delete(seen, key)
		} else {
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

// few are the logs that may fit, where that can be told by their subjects and they
// are few.
func (b *Broker) few(ctx context.Context, f JobFilter) (logs []LogName, few bool, err error) {
	subject := event.LogFilter("*", "*")
	if f.Service != "" {
		subject = event.LogFilter(f.Service, "*")
	}
	goesOn := func(s timeline.State) bool { return !s.Ended() }
	switch {
	case len(f.States) == 0 && f.Service == "": // all of them
		return nil, false, nil
	case len(f.States) > 0 && !slices.ContainsFunc(f.States, timeline.State.Ended):
		logs, err = b.withoutEnd(ctx, subject)
	case len(f.States) > 0 && !slices.ContainsFunc(f.States, goesOn):
		for _, t := range event.Types() {
			if !t.Terminal() || !f.wants(timeline.StateOf(t)) {
				continue
			}
			named, err := b.named(ctx, strings.TrimSuffix(subject, ">")+event.Token(t), maxFew)
			if errors.Is(err, ErrTooMany) {
				return nil, false, nil
			}
			if err != nil {
				return nil, false, err
			}
			logs = slices.AppendSeq(logs, maps.Keys(named))
		}
	default:
		var named map[LogName][]event.Type
		named, err = b.named(ctx, subject, maxFew)
		logs = slices.Collect(maps.Keys(named))
	}
	if errors.Is(err, ErrTooMany) || len(logs) > maxFew {
		return nil, false, nil
	}
	return logs, err == nil, err
}

// withoutEnd are the logs on the subject without an end; ErrTooMany, where more than
// maxNamed subjects would have to be looked at.
func (b *Broker) withoutEnd(ctx context.Context, subject string) ([]LogName, error) {
	named, err := b.named(ctx, subject, maxNamed)
	if err != nil {
		return nil, err
	}
	var out []LogName
	for log, types := range named {
		if !slices.ContainsFunc(types, event.Type.Terminal) {
			out = append(out, log)
		}
	}
	return out, nil
}

// named are the logs on a subject with the types of their events, without reading
// any; ErrTooMany, where there are more than most events.
func (b *Broker) named(ctx context.Context, subject string, most int) (map[LogName][]event.Type, error) {
	n, err := b.count(ctx, StreamEvents, subject)
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("%d events: %w", n, ErrTooMany)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, namesTimeout, fmt.Errorf("%s: no answer", StreamEvents))
	defer cancel()
	info, err := b.streams[StreamEvents].Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return nil, streamError(StreamEvents, err)
	}
	out := map[LogName][]event.Type{}
	for subject := range info.State.Subjects {
		service, key, t, err := event.ParseSubject(subject)
		if err != nil {
			return nil, err
		}
		log := LogName{service, key}
		out[log] = append(out[log], t)
	}
	return out, nil
}

// summaries are those of the logs that fit.
func (b *Broker) summaries(ctx context.Context, f JobFilter, logs []LogName) ([]timeline.Summary, error) {
	var out []timeline.Summary
	for some := range slices.Chunk(logs, MostTails) {
		tails, err := b.Tails(ctx, some)
		if err != nil {
			return nil, err
		}
		for log, tail := range tails {
			if s := timeline.Summarize(log.Service, tail.Last); f.wants(s.State) && !s.At.Before(f.Since) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b timeline.Summary) int {
		return cmp.Or(b.At.Compare(a.At), strings.Compare(a.LogKey, b.LogKey))
	})
	return out[:min(len(out), f.Limit)], nil
}

// waiting are the requests whose log is empty: their launches are parked, or they
// are on their way to a launcher. Where those are not few it goes back from the end
// of REQUESTS, until so many are found.
func (b *Broker) waiting(ctx context.Context, f JobFilter) ([]timeline.Summary, error) {
	left, err := b.Unlaunched(ctx)
	if err != nil || left == 0 {
		return nil, err
	}
	w := waitingJobs{broker: b, filter: f, left: left}
	places, few, err := b.fewRequests(ctx)
	if err != nil {
		return nil, err
	}
	if few {
		for _, r := range places {
			if _, err := w.add(ctx, r); err != nil {
				return nil, err
			}
		}
	} else {
		err = backwards(ctx, b, StreamRequests, requestOf, func(r requestPlace) (bool, error) { return w.add(ctx, r) })
		if err != nil && !errors.Is(err, ErrTooMany) {
			return nil, err
		}
	}
	err = errors.Join(err, w.look(ctx))
	slices.SortStableFunc(w.out, func(a, b timeline.Summary) int { return b.At.Compare(a.At) })
	return w.out[:min(len(w.out), f.Limit)], err
}

// waitingJobs are found among requests, MostTails of them at a time.
type waitingJobs struct {
	broker *Broker
	filter JobFilter
	left   int // not found yet, at the most
	logs   []LogName
	out    []timeline.Summary
}

// add is false where no more are to be looked at.
func (w *waitingJobs) add(ctx context.Context, r requestPlace) (bool, error) {
	if r.at.Before(w.filter.Since) {
		return false, nil
	}
	if w.logs = append(w.logs, r.log); len(w.logs) < MostTails {
		return true, nil
	}
	err := w.look(ctx)
	return w.left > 0 && len(w.out) < w.filter.Limit, err
}

func (w *waitingJobs) look(ctx context.Context) error {
	begun, err := w.broker.Tails(ctx, w.logs)
	if err != nil {
		return err
	}
	for _, l := range w.logs {
		if _, ok := begun[l]; ok {
			continue
		}
		w.left--
		if w.filter.Service != "" && w.filter.Service != l.Service {
			continue
		}
		e, err := w.broker.Request(ctx, l.Key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		w.out = append(w.out, timeline.Summarize(l.Service, e))
	}
	w.logs = w.logs[:0]
	return nil
}

// fewRequests are those that a launcher has not done with, the newest first, where
// they are few.
func (b *Broker) fewRequests(ctx context.Context) (places []requestPlace, few bool, err error) {
	if !b.opened(StreamWakeups) {
		return nil, false, nil
	}
	consumer, err := b.js.Consumer(ctx, LauncherRequests.Stream, LauncherRequests.Name)
	if err != nil {
		return nil, false, streamError(LauncherRequests.Stream+"/"+LauncherRequests.Name, err)
	}
	info, err := b.streams[StreamRequests].Info(ctx)
	if err != nil {
		return nil, false, streamError(StreamRequests, err)
	}
	done, last := consumer.CachedInfo().AckFloor.Stream, info.State.LastSeq
	if last > done+maxFew {
		return nil, false, nil
	}
	if places, err = pageOf(ctx, b, StreamRequests, done+1, last+1, requestOf); err != nil {
		return nil, false, err
	}
	var parked []string
	for _, kind := range []string{"schedules.", "wakeups."} {
		prefix := kind + PurposeLaunch + "."
		n, err := b.count(ctx, StreamWakeups, prefix+"*")
		if err != nil || n > maxFew {
			return nil, false, err
		}
		if info, err = b.streams[StreamWakeups].Info(ctx, jetstream.WithSubjectFilter(prefix+"*")); err != nil {
			return nil, false, streamError(StreamWakeups, err)
		}
		for subject := range info.State.Subjects {
			parked = append(parked, event.RequestSubject(strings.TrimPrefix(subject, prefix)))
		}
	}
	for subjects := range slices.Chunk(parked, requestsAtOnce) {
		messages, err := b.lasts(ctx, StreamRequests, subjects...)
		if err != nil {
			return nil, false, err
		}
		for _, m := range messages {
			places = append(places, requestOf(m))
		}
	}
	slices.SortFunc(places, func(a, b requestPlace) int { return cmp.Or(b.at.Compare(a.at), strings.Compare(a.log.Key, b.log.Key)) })
	return slices.CompactFunc(places, func(a, b requestPlace) bool { return a.log == b.log }), true, nil
}

// requestsAtOnce bounds the requests in one answer: together they stay below what
// a server writes ahead to a client.
const requestsAtOnce = 32

// requestPlace is what is kept of a request in a page.
type requestPlace struct {
	log LogName
	at  time.Time
}

func requestOf(m *jetstream.RawStreamMsg) requestPlace {
	var data struct {
		Service string `json:"service"`
	}
	_ = json.Unmarshal(m.Data, &data) // one that cannot be read has no log either
	return requestPlace{LogName{data.Service, strings.TrimPrefix(m.Subject, event.RequestSubject(""))}, m.Time}
}

func keepMessage(m *jetstream.RawStreamMsg) *jetstream.RawStreamMsg { return m }

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

// backwards reads a stream's messages from its end, and hands what read keeps of
// each to each, until that is false. ErrTooMany: it has looked at maxLooked places
// before.
func backwards[T any](ctx context.Context, b *Broker, stream string, read func(*jetstream.RawStreamMsg) T, each func(T) (bool, error)) error {
	info, err := b.streams[stream].Info(ctx)
	if err != nil {
		return streamError(stream, err)
	}
	first, last := max(info.State.FirstSeq, 1), info.State.LastSeq
	for end := last + 1; end > first; {
		if last+1-end >= maxLooked {
			return ErrTooMany
		}
		start := first
		if end-first > pageSize {
			start = end - pageSize
		}
		page, err := pageOf(ctx, b, stream, start, end, read)
		if err != nil {
			return err
		}
		for _, m := range slices.Backward(page) {
			if more, err := each(m); err != nil || !more {
				return err
			}
		}
		end = start
	}
	return nil
}

// pageOf reads the messages at start and after, before end.
func pageOf[T any](ctx context.Context, b *Broker, stream string, start, end uint64, read func(*jetstream.RawStreamMsg) T) ([]T, error) {
	var page []T
	for start < end {
		next := end // where the answer is empty
		err := b.batch(ctx, stream, "", start, int(min(end-start, batchSize)), func(m *jetstream.RawStreamMsg) error {
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
	return context.Cause(ctx) // the messages end without an error where the time is up
}
