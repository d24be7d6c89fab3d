package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

const (
	// pollGrace is past a long poll (20 s) and its answer: a receiver that
	// heard nothing for so long is not ready.
	pollGrace = 60 * time.Second
	maxPolled = 10 // messages a poll, SQS's own limit
	// maxBytes bounds the bodies that all queues together hold: what exceeds it
	// waits unread, at most one poll of each receiver.
	maxBytes = 64 << 20
	// maxWait bounds the wait between two tries, at SQS or at the log: what comes
	// back is used within 5 s.
	maxWait = 3 * time.Second
	// patience is how long a message is held that cannot be stored. Then it is
	// given back: another replica may be better off.
	patience = 30 * time.Second
	// linkPoll is between two looks whether NATS is back.
	linkPoll = 100 * time.Millisecond
	// At a stop, polls and what they brought end within endPolls, as a long poll
	// does by itself, and the calls to the queue within endCalls: a service has
	// 25 s.
	endPolls = 21 * time.Second
	endCalls = 23 * time.Second
	// callTimeout bounds a batch call that may be tried again.
	callTimeout = 10 * time.Second
	// deleteTries bounds the calls for a message whose deletion fails.
	deleteTries = 3
)

// receiver polls one queue and holds its messages until each is settled.
type receiver struct {
	queue
	*sqsqueue.Queue // nil until it is open

	patience time.Duration // default: patience
	intake   *intake
	gate     *gate
	bytes    *semaphore.Weighted // shared by all queues
	slots    *semaphore.Weighted // messages in hand
	endpoint sqsqueue.Config
	log      zerolog.Logger
	metrics  *queueMetrics

	settled, back chan *sqsqueue.Message // to be deleted, to be given back

	mu       sync.Mutex
	lastPoll time.Time // that was answered; zero: none yet
	since    time.Time // of the start
	failed   error     // of the last poll, or of the opening
	held     map[*sqsqueue.Message]struct{}
	polls    int // receivers that poll now
}

func newReceiver(q queue, in *intake, g *gate, bytes *semaphore.Weighted, endpoint sqsqueue.Config, log zerolog.Logger) *receiver {
	endpoint.QueueURL = q.url
	r := &receiver{
		queue: q, patience: patience, intake: in, gate: g, bytes: bytes, slots: semaphore.NewWeighted(int64(q.inFlight)), endpoint: endpoint,
		log: log.With().Str("queue", q.name).Logger(), since: time.Now(), failed: errors.New("waiting for SQS"),
		settled: make(chan *sqsqueue.Message, q.inFlight), back: make(chan *sqsqueue.Message, q.inFlight),
		held: map[*sqsqueue.Message]struct{}{},
	}
	r.metrics = in.metrics.queue(r)
	return r
}

// ready tells the age of the last successful poll, and is an error where the
// queue has not answered for a while or not the last time, or where what it
// brings cannot be stored.
func (r *receiver) ready() (string, error) {
	err := r.gate.state()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lastPoll.IsZero() && r.failed == nil && time.Since(r.since) < pollGrace {
		return "the first poll is open", nil
	}
	silent := "no poll was answered"
	if !r.lastPoll.IsZero() {
		silent = fmt.Sprintf("the last successful poll was %s ago", time.Since(r.lastPoll).Round(time.Second))
	}
	switch {
	case r.failed != nil:
		return "", fmt.Errorf("%s: %w", silent, r.failed)
	case err != nil:
		return "", fmt.Errorf("%s; messages cannot be stored: %w", silent, err)
	case time.Since(r.lastPoll) > pollGrace:
		return "", errors.New(silent)
	}
	return silent, nil
}

// run waits for the queue and polls it until ctx ends. It returns when every
// message that was handed out is settled or given back, or when its time is up.
func (r *receiver) run(ctx context.Context) {
	if !r.open(ctx) {
		return
	}
	work, endWork := process.Outlive(ctx, endPolls)
	defer endWork()
	calls, endOfCalls := process.Outlive(ctx, endCalls)
	defer endOfCalls()
	extending, stopExtending := context.WithCancel(calls)
	var background, polls, handlers sync.WaitGroup
	background.Go(func() { r.extend(extending) })
	background.Go(func() { batches(r.settled, func(b []*sqsqueue.Message) { r.delete(calls, b) }) })
	background.Go(func() { batches(r.back, func(b []*sqsqueue.Message) { r.giveBack(calls, b) }) })
	var poll func()
	poll = func() {
		polls.Go(func() { r.poll(ctx, work, poll, &handlers) })
	}
	r.begin()
	poll()
	polls.Wait()
	handlers.Wait()
	stopExtending()
	close(r.settled)
	close(r.back)
	background.Wait()
}

// open waits for the queue as long as ctx lives, saying so.
func (r *receiver) open(ctx context.Context) bool {
	wait := newWait()
	for {
		q, err := sqsqueue.Open(ctx, r.endpoint)
		if err == nil {
			r.mu.Lock()
			r.Queue, r.failed = q, nil
			r.mu.Unlock()
			return true
		}
		r.polled(err)
		if ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("waiting for SQS")
		}
		if process.Sleep(ctx, wait.NextBackOff()) != nil {
			return false
		}
	}
}

func newWait() *backoff.ExponentialBackOff {
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = maxWait
	return wait
}

// poll receives until ctx ends. One poll is open while the queue is idle: each
// that comes back full starts another, up to the queue's receivers, and each but
// the last ends with the first that comes back empty.
func (r *receiver) poll(ctx, work context.Context, another func(), handlers *sync.WaitGroup) {
	wait := newWait()
	for {
		asked, ok := r.acquire(ctx)
		if !ok {
			return
		}
		r.metrics.calls("receive", 1)
		// Not ctx: a cancelled long poll hides what was handed out in that instant.
		messages, err := r.Receive(work, asked)
		r.slots.Release(int64(asked - len(messages)))
		r.polled(err)
		switch {
		case ctx.Err() != nil: // what a last poll brought is given back
		case err != nil:
			r.log.Warn().Err(err).Msg("polling again")
			if r.end() || process.Sleep(ctx, wait.NextBackOff()) != nil {
				return
			}
			continue
		case len(messages) == 0:
			if r.end() {
				return
			}
			continue
		case len(messages) == maxPolled && r.begin():
			another()
		}
		wait.Reset()
		now := time.Now()
		for _, m := range messages {
			r.intake.metrics.age.Reached(telemetry.StepReceived, m.SentAt, now, m.Trace)
		}
		size := r.hold(messages)
		if r.bytes.Acquire(work, size) != nil {
			size = 0
		}
		left := newCountdown(len(messages), func() { r.bytes.Release(size) })
		for _, group := range groups(messages) {
			handlers.Go(func() { r.take(ctx, work, group, left) })
		}
	}
}

// begin reports whether one more may poll, and counts it then.
func (r *receiver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.polls == r.receivers {
		return false
	}
	r.polls++
	return true
}

// end reports whether one that polls is one too many for an idle queue.
func (r *receiver) end() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.polls == 1 {
		return false
	}
	r.polls--
	return true
}

// countdown calls done when it was called n times.
type countdown struct {
	mu   sync.Mutex
	n    int
	done func()
}

func newCountdown(n int, done func()) *countdown { return &countdown{n: n, done: done} }

func (c *countdown) down() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 {
		c.done()
	}
}

// groups are the messages that may be taken side by side: each of a standard
// queue, each message group of a FIFO queue, in its order.
func groups(messages []*sqsqueue.Message) [][]*sqsqueue.Message {
	var out [][]*sqsqueue.Message
	at := map[string]int{}
	for _, m := range messages {
		i, ok := at[m.Group]
		if !ok || m.Group == "" {
			i = len(out)
			at[m.Group] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], m)
	}
	return out
}

// acquire takes the slots for a poll, waiting for all of them (a poll for a few
// costs as much as one for ten), for NATS, and for the gate.
func (r *receiver) acquire(ctx context.Context) (int, bool) {
	slots := min(maxPolled, r.inFlight)
	if r.slots.Acquire(ctx, int64(slots)) != nil {
		return 0, false
	}
	for {
		allowed := 0
		if ctx.Err() == nil && r.intake.broker.Connected() {
			allowed = r.gate.allows()
		}
		if asked := min(slots, allowed); asked > 0 {
			r.slots.Release(int64(slots - asked))
			return asked, true
		}
		if process.Sleep(ctx, linkPoll) != nil {
			r.slots.Release(int64(slots))
			return 0, false
		}
	}
}

func (r *receiver) polled(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed = err; err == nil {
		r.lastPoll = time.Now()
	}
}

// hold keeps the messages invisible from now on; it returns their bytes.
func (r *receiver) hold(messages []*sqsqueue.Message) (size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		r.held[m] = struct{}{}
		size += int64(len(m.Body))
	}
	return size
}

func (r *receiver) letGo(messages []*sqsqueue.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		delete(r.held, m)
	}
}

// take brings a group's messages to their end, in order. Where one cannot be
// stored, those after it are given back with it.
func (r *receiver) take(ctx, work context.Context, group []*sqsqueue.Message, left *countdown) {
	stored := true
	for _, m := range group {
		stored = stored && r.store(ctx, work, m)
		m.Body = nil // of no use any more
		if stored {
			r.settled <- m
		} else {
			r.back <- m
		}
		r.slots.Release(1)
		left.down()
	}
}

// store tries until the message is stored, ctx ends, or the patience.
func (r *receiver) store(ctx, work context.Context, m *sqsqueue.Message) bool {
	wait, until := newWait(), time.Now().Add(r.patience)
	for ctx.Err() == nil && time.Now().Before(until) {
		err := r.intake.take(work, r.queue, m)
		r.gate.settle(err)
		if err == nil {
			return true
		}
		r.log.Warn().Err(err).Msg("message is held and tried again")
		_ = process.Sleep(ctx, wait.NextBackOff()) // the loop asks ctx
	}
	return false
}

// delete deletes, again what failed. What remains after that is harmless: the
// message comes again and is known.
func (r *receiver) delete(ctx context.Context, batch []*sqsqueue.Message) {
	rest, wait := batch, newWait()
	for try := 1; ; try++ {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		r.metrics.calls("delete", 1)
		failed, err := r.Delete(call, rest)
		cancel()
		if rest = failed; len(rest) == 0 {
			break
		}
		if try == deleteTries || process.Sleep(ctx, wait.NextBackOff()) != nil {
			r.metrics.undeleted.Add(float64(len(rest)))
			r.log.Warn().Err(err).Int("messages", len(rest)).Msg("delete; the messages come again and are known")
			break
		}
	}
	r.letGo(batch)
}

// giveBack makes messages visible to others at once.
func (r *receiver) giveBack(ctx context.Context, batch []*sqsqueue.Message) {
	r.letGo(batch) // first: to be extended no more
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r.metrics.calls("visibility", 1)
	r.metrics.givenBack.Add(float64(len(batch)))
	if err := r.Release(call, batch); err != nil {
		r.log.Warn().Err(err).Msg("give back; the messages come again after their timeout")
	}
}

// extend keeps what is held invisible: each message for the queue's own timeout
// again when a third of it is left.
func (r *receiver) extend(ctx context.Context) {
	for process.Sleep(ctx, max(r.Visibility()/6, 200*time.Millisecond)) == nil {
		due := r.due()
		if len(due) == 0 {
			continue
		}
		r.metrics.calls("visibility", (len(due)+maxPolled-1)/maxPolled)
		if err := r.Extend(ctx, due); err != nil && ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("extend visibility")
		}
	}
}

func (r *receiver) due() []*sqsqueue.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(r.held)), func(m *sqsqueue.Message) bool { return time.Until(m.Deadline()) > r.Visibility()/3 })
}

// oldest is when the oldest message that is held was sent; zero: none is held.
func (r *receiver) oldest() (sent time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := range r.held {
		if !m.SentAt.IsZero() && (sent.IsZero() || m.SentAt.Before(sent)) {
			sent = m.SentAt
		}
	}
	return sent
}

// opened is the queue, or nil before it is open.
func (r *receiver) opened() *sqsqueue.Queue {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Queue
}

// now is what the metrics show.
func (r *receiver) now() (inFlight, polls int, lastPoll time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.held), r.polls, r.lastPoll
}
