package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

const (
	// maxCounted is how many events, the newest ones, an overview is of at most.
	maxCounted = 1_000_000
	// maxParkedRead is how many parked callbacks are read for the oldest of them.
	maxParkedRead = 10_000
)

// Counting follows EVENTS and counts jobs by their state.
type Counting struct {
	broker *Broker
	since  time.Time

	mu     sync.Mutex
	board  *timeline.Board
	ready  chan struct{} // closed once what was there has been counted
	behind bool
}

// NewCounting counts the events since a time, the newest million at most, once Run
// goes on.
func (b *Broker) NewCounting(since time.Time) *Counting {
	return &Counting{broker: b, since: since, board: timeline.NewBoard(), ready: make(chan struct{}), behind: true}
}

// Ready is closed once the events that were there at the start have been counted.
func (c *Counting) Ready() <-chan struct{} { return c.ready }

// Run counts until ctx ends. It reads no more than headers.
func (c *Counting) Run(ctx context.Context) error {
	info, err := c.broker.streams[StreamEvents].Info(ctx)
	if err != nil {
		return streamError(StreamEvents, err)
	}
	last := info.State.LastSeq
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &c.since, HeadersOnly: true}
	consumer, err := c.broker.js.OrderedConsumer(ctx, StreamEvents, cfg)
	if err != nil {
		return streamError(StreamEvents, err)
	}
	pending := consumer.CachedInfo().NumPending
	if pending > maxCounted {
		cfg = jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last + 1 - maxCounted, HeadersOnly: true}
		if consumer, err = c.broker.js.OrderedConsumer(ctx, StreamEvents, cfg); err != nil {
			return streamError(StreamEvents, err)
		}
		c.since = time.Time{} // that of the first that comes
	}
	if pending == 0 {
		c.caughtUp()
	}
	return each(ctx, consumer, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		service, key, t, err := event.ParseSubject(m.Subject())
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.since.IsZero() {
			c.since = meta.Timestamp
		}
		c.board.Add(service, key, t, meta.Timestamp)
		if meta.Sequence.Stream >= last || meta.NumPending == 0 {
			c.caughtUpLocked()
		}
		return nil
	})
}

func (c *Counting) caughtUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caughtUpLocked()
}

func (c *Counting) caughtUpLocked() {
	if c.behind {
		c.behind = false
		close(c.ready)
	}
}

// Overview is what was counted, and how all else is now. It needs EVENTS, REQUESTS,
// WAKEUPS, CONTROLS and DEADLETTERS open.
func (c *Counting) Overview(ctx context.Context) (timeline.Overview, error) {
	out := c.counted()
	for i := range out.Oldest {
		tail, err := c.broker.Tail(ctx, out.Oldest[i].Service, out.Oldest[i].LogKey)
		if err != nil {
			return out, err
		}
		out.Oldest[i].ID = tail.Last.ID
	}
	for _, read := range []func(context.Context, *timeline.Overview) error{
		c.broker.overviewWaiting, c.broker.overviewCallbacks, c.broker.overviewReplicas, c.broker.overviewPaused,
	} {
		if err := read(ctx, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (c *Counting) counted() timeline.Overview {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().UTC()
	out := timeline.Overview{
		At: now, Since: c.since.UTC(), Counting: c.behind, Jobs: c.board.Jobs(), PerMinute: c.board.PerMinute(now),
		Oldest: []timeline.Summary{}, Failing: []timeline.FailingEndpoint{}, Paused: []string{}, Replicas: []timeline.Replicas{},
	}
	for _, s := range []timeline.State{timeline.Started, timeline.Running} {
		if oldest, ok := c.board.Oldest(s); ok {
			out.Oldest = append(out.Oldest, oldest)
		}
	}
	return out
}

func (b *Broker) overviewWaiting(ctx context.Context, o *timeline.Overview) error {
	var err error
	if o.Jobs[timeline.Waiting], err = b.Unlaunched(ctx); err != nil || o.Jobs[timeline.Waiting] == 0 {
		return err
	}
	places, few, err := b.fewRequests(ctx)
	if err != nil || !few {
		return err
	}
	slices.Reverse(places)
	for some := range slices.Chunk(places, MostTails) {
		var logs []LogName
		for _, p := range some {
			logs = append(logs, p.log)
		}
		begun, err := b.Tails(ctx, logs)
		if err != nil {
			return err
		}
		for _, l := range logs {
			if _, ok := begun[l]; ok {
				continue
			}
			e, err := b.Request(ctx, l.Key)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			o.Oldest = append([]timeline.Summary{timeline.Summarize(l.Service, e)}, o.Oldest...)
			return nil
		}
	}
	return nil
}

func (b *Broker) overviewCallbacks(ctx context.Context, o *timeline.Overview) error {
	consumer, err := b.js.Consumer(ctx, NotifierEvents.Stream, NotifierEvents.Name)
	if err != nil {
		return streamError(NotifierEvents.Stream+"/"+NotifierEvents.Name, err)
	}
	info := consumer.CachedInfo()
	o.Callbacks.Pending = int(info.NumPending) + info.NumAckPending //nolint:gosec // messages that a server holds
	oldest, err := b.OldestUnacknowledged(ctx, NotifierEvents)
	if err != nil {
		return err
	}
	if o.Callbacks.Parked, err = b.count(ctx, StreamWakeups, "*."+PurposeCallback+".>"); err != nil {
		return err
	}
	_, err = b.Parked(ctx, 0, maxParkedRead, func(w delivery.Wakeup) {
		if oldest.IsZero() || !w.First.IsZero() && w.First.Before(oldest) {
			oldest = w.First
		}
	})
	if err != nil {
		return err
	}
	if !oldest.IsZero() {
		o.Callbacks.Oldest = &oldest
	}
	letters, err := b.streams[StreamDeadLetters].Info(ctx)
	if err != nil {
		return streamError(StreamDeadLetters, err)
	}
	o.Callbacks.DeadLetters = int(letters.State.Msgs) //nolint:gosec // messages that a server holds
	return nil
}

func (b *Broker) overviewReplicas(ctx context.Context, o *timeline.Overview) error {
	statuses, err := b.Statuses(ctx)
	if err != nil {
		return err
	}
	failing := map[string]timeline.FailingEndpoint{}
	for _, s := range statuses { // by role
		if n := len(o.Replicas); n == 0 || o.Replicas[n-1].Role != s.Role {
			o.Replicas = append(o.Replicas, timeline.Replicas{Role: s.Role})
		}
		of := &o.Replicas[len(o.Replicas)-1]
		of.All++
		if s.Ready {
			of.Ready++
		}
		for _, e := range s.Endpoints { // each notifier sees it for itself: the worst of them
			if have, ok := failing[e.Name]; !ok || e.Failures > have.Failures {
				failing[e.Name] = newFailing(e)
			}
		}
	}
	for _, e := range failing {
		o.Failing = append(o.Failing, e)
	}
	slices.SortFunc(o.Failing, func(a, b timeline.FailingEndpoint) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	return nil
}

func newFailing(e Endpoint) timeline.FailingEndpoint {
	return timeline.FailingEndpoint{Endpoint: e.Name, Breaker: e.Breaker, Since: e.Since, Failures: e.Failures, Cause: answer(e.Last, e.Cause)}
}

func (b *Broker) overviewPaused(ctx context.Context, o *timeline.Overview) error {
	paused, err := b.Paused(ctx)
	for _, p := range paused {
		o.Paused = append(o.Paused, p.Service)
	}
	return err
}
