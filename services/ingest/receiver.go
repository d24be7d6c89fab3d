package ingest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

const (
	// pollGrace is past a long poll (20 s) and its answer: a receiver that
	// heard nothing for so long is not ready.
	pollGrace = 60 * time.Second
	// deleteAfter is how long a settled message waits for others, so that one
	// call deletes up to 10.
	deleteAfter = 50 * time.Millisecond
	// settleGrace bounds the calls to the queue at a stop.
	settleGrace = 5 * time.Second
	// linkPoll is between two looks whether NATS is back.
	linkPoll  = 100 * time.Millisecond
	maxPolled = 10 // messages a poll, SQS's own limit
)

// receiver polls one queue and holds its messages until each is settled.
type receiver struct {
	queue   *sqsqueue.Queue
	intake  *intake
	slots   chan struct{} // shared by all queues: what is held at once
	polls   int
	log     zerolog.Logger
	settled chan *sqsqueue.Message

	mu       sync.Mutex
	lastPoll time.Time // that was answered; at first, when the queue was opened
	failed   error     // of the last poll
	held     map[*sqsqueue.Message]struct{}
}

func newReceiver(q *sqsqueue.Queue, in *intake, slots chan struct{}, polls int, log zerolog.Logger) *receiver {
	return &receiver{
		queue: q, intake: in, slots: slots, polls: polls, log: log.With().Str("queue", q.Name()).Logger(),
		settled: make(chan *sqsqueue.Message, cap(slots)), lastPoll: time.Now(), held: map[*sqsqueue.Message]struct{}{},
	}
}

// ready tells the age of the last successful poll, and is an error where the
// queue has not answered for a while or not the last time.
func (r *receiver) ready() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	silent := time.Since(r.lastPoll).Round(time.Second)
	switch {
	case r.failed != nil:
		return "", fmt.Errorf("the last successful poll was %s ago; since then: %w", silent, r.failed)
	case silent > pollGrace:
		return "", fmt.Errorf("the last successful poll was %s ago", silent)
	}
	return fmt.Sprintf("answered %s ago", silent), nil
}

// run polls until ctx ends. It returns when every message that was handed out
// is settled or given back.
func (r *receiver) run(ctx context.Context) {
	after := context.WithoutCancel(ctx)
	extending, stopExtending := context.WithCancel(after)
	var background, polls sync.WaitGroup
	background.Go(func() { r.extend(extending) })
	background.Go(func() { r.deleteSettled(after) })
	var handlers sync.WaitGroup
	for range r.polls {
		polls.Go(func() { r.poll(ctx, &handlers) })
	}
	polls.Wait()
	handlers.Wait()
	stopExtending()
	close(r.settled)
	background.Wait()
	r.giveBack(after)
}

// poll asks for no more than there are free slots, and for nothing while NATS
// is away: what is not taken stays visible to others.
func (r *receiver) poll(ctx context.Context, handlers *sync.WaitGroup) {
	wait := backoff.NewExponentialBackOff()
	for {
		free, ok := r.acquire(ctx)
		if !ok {
			return
		}
		// Not ctx: a cancelled long poll hides what was handed out in that instant.
		messages, err := r.queue.Receive(context.WithoutCancel(ctx), free)
		if err != nil {
			r.release(free)
			if ctx.Err() != nil {
				return
			}
			r.polled(err)
			r.log.Warn().Err(err).Msg("polling again")
			if process.Sleep(ctx, wait.NextBackOff()) != nil {
				return
			}
			continue
		}
		wait.Reset()
		r.polled(nil)
		r.release(free - len(messages))
		r.hold(messages)
		for _, group := range groups(messages) {
			handlers.Go(func() {
				for _, m := range group {
					r.handle(ctx, m)
					r.release(1)
				}
			})
		}
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

// acquire takes one to ten slots, waiting for the first and for NATS.
func (r *receiver) acquire(ctx context.Context) (int, bool) {
	for !r.intake.broker.Connected() {
		if process.Sleep(ctx, linkPoll) != nil {
			return 0, false
		}
	}
	select {
	case <-ctx.Done():
		return 0, false
	case r.slots <- struct{}{}:
	}
	for n := 1; n < maxPolled; n++ {
		select {
		case r.slots <- struct{}{}:
		default:
			return n, true
		}
	}
	return maxPolled, true
}

func (r *receiver) release(n int) {
	for range n {
		<-r.slots
	}
}

func (r *receiver) polled(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed = err; err == nil {
		r.lastPoll = time.Now()
	}
}

func (r *receiver) hold(messages []*sqsqueue.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		r.held[m] = struct{}{}
	}
}

// handle brings one message to its end, trying again as long as ctx lives.
func (r *receiver) handle(ctx context.Context, m *sqsqueue.Message) {
	wait := backoff.NewExponentialBackOff()
	for ctx.Err() == nil {
		err := r.intake.take(context.WithoutCancel(ctx), r.queue.Name(), m)
		if err == nil {
			r.settled <- m
			return
		}
		r.log.Warn().Err(err).Msg("message is held and tried again")
		_ = process.Sleep(ctx, wait.NextBackOff()) // the loop asks ctx
	}
}

// deleteSettled deletes in batches until settled is closed. A delete that
// fails is harmless: the message comes again and is known.
func (r *receiver) deleteSettled(ctx context.Context) {
	for m := range r.settled {
		batch := []*sqsqueue.Message{m}
		timer := time.NewTimer(deleteAfter)
	fill:
		for len(batch) < maxPolled {
			select {
			case m, open := <-r.settled:
				if !open {
					break fill
				}
				batch = append(batch, m)
			case <-timer.C:
				break fill
			}
		}
		timer.Stop()
		call, cancel := context.WithTimeout(ctx, settleGrace)
		if err := r.queue.Delete(call, batch); err != nil {
			r.log.Warn().Err(err).Msg("delete; the message will come again and is known")
		}
		cancel()
		r.mu.Lock()
		for _, m := range batch {
			delete(r.held, m)
		}
		r.mu.Unlock()
	}
}

// extend keeps what is held invisible, every third of the queue's timeout.
func (r *receiver) extend(ctx context.Context) {
	for process.Sleep(ctx, max(r.queue.Visibility()/3, time.Second)) == nil {
		if held := r.stillHeld(); len(held) > 0 {
			if err := r.queue.Extend(ctx, held); err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Msg("extend visibility")
			}
		}
	}
}

func (r *receiver) giveBack(ctx context.Context) {
	held := r.stillHeld()
	if len(held) == 0 {
		return
	}
	call, cancel := context.WithTimeout(ctx, settleGrace)
	defer cancel()
	if err := r.queue.Release(call, held); err != nil {
		r.log.Warn().Err(err).Msg("give back; the messages come again after their timeout")
	}
}

func (r *receiver) stillHeld() []*sqsqueue.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.held))
}
