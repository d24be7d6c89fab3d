package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/failpoint"
)

// Message is one delivery of a durable consumer.
type Message struct {
	Subject   string
	Sequence  uint64 // in the stream
	Delivered uint64 // how often, this time included
	Header    map[string][]string
	Data      []byte
}

// Stored reads the message as an event of EVENTS.
func (m Message) Stored() (Stored, error) { return stored(m.Subject, m.Sequence, m.Header, m.Data) }

// Handler does what a message asks for. Its answer decides what becomes of the
// message:
//
//	nil            acknowledged
//	RetryAfter     the wake-up is scheduled, its PubAck awaited, then acknowledged
//	Permanent      logged and terminated; only for what can never be decoded
//	other errors   logged; neither acknowledged nor refused: AckWait redelivers.
//	               While Consume stops, given back: another replica has it at once
//
// There is no delayed NAK: it would count against MaxAckPending, and what
// waits would stall what does not.
type Handler func(ctx context.Context, m Message) error

type retryError struct {
	at     time.Time
	wakeup Wakeup
	err    error
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// RetryAfter parks the message's duty as w for d, because of err.
func RetryAfter(d time.Duration, w Wakeup, err error) error {
	return &retryError{time.Now().Add(d), w, err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks what can never succeed because it cannot be read.
func Permanent(err error) error { return &permanentError{err} }

// ConsumeOptions bound one Consume.
type ConsumeOptions struct {
	InFlight int // handlers at once; default 64
	Pull     int // messages fetched ahead; default 2 × InFlight, 512 at most
	// Grace is how long handlers may go on after ctx ended; default 20 s.
	Grace time.Duration
}

// maxPull bounds what is fetched ahead: nobody extends the AckWait of what is not
// yet in hand, and no other replica has it.
const maxPull = 512

// maxConsumeRetry is the longest wait before an ended consumer is looked for again.
const maxConsumeRetry = 10 * time.Second

// Consume hands the consumer's messages to h until ctx ends, then gives back
// what was fetched and not started, and waits for the handlers. A message in
// hand has its AckWait extended. It reconnects for ever, also to a consumer that
// was deleted and made again; its error is ErrClosed.
func (b *Broker) Consume(ctx context.Context, c Consumer, o ConsumeOptions, h Handler) error {
	if o.InFlight == 0 {
		o.InFlight = 64
	}
	if o.Pull == 0 {
		o.Pull = min(2*o.InFlight, maxPull)
	}
	if o.Grace == 0 {
		o.Grace = 20 * time.Second
	}
	run := &consumption{broker: b, consumer: c, handler: h, pull: o.Pull, slots: make(chan struct{}, o.InFlight), idle: make(chan jetstream.Msg), stopping: ctx.Done()}
	b.metrics.serve(run)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go run.watchLag(watching)
	var cancel context.CancelFunc
	run.ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = maxConsumeRetry
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := run.once(ctx)
		if errors.Is(err, ErrClosed) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, _ time.Duration) {
		b.log.Warn().Err(err).Stringer("consumer", c).Msg("consumer is taken up again")
	}))
	if errors.Is(err, ErrClosed) {
		return err
	}
	stop := time.AfterFunc(o.Grace, cancel)
	defer stop.Stop()
	run.handlers.Wait()
	return nil
}

// once consumes until ctx ends, or until the server has ended the consumer: it
// was deleted, and may be made again.
func (r *consumption) once(ctx context.Context) error {
	name := r.consumer.String()
	consumer, err := r.broker.js.Consumer(ctx, r.consumer.Stream, r.consumer.Name)
	if err != nil {
		return streamError(name, err)
	}
	messages, err := consumer.Consume(r.take,
		jetstream.PullMaxMessages(r.pull), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			// A server that is away answers no heartbeat; the connection's own
			// handlers have said so already.
			r.broker.log.Debug().Err(err).Str("consumer", name).Msg("pull")
		}))
	if err != nil {
		return fmt.Errorf("consume %s: %w", name, err)
	}
	select {
	case <-ctx.Done():
		messages.Drain()
		<-messages.Closed()
		return nil
	case <-r.broker.closed:
		return ErrClosed
	case <-messages.Closed():
		return fmt.Errorf("%s was ended by the server", name)
	}
}

// consumption is one running Consume.
type consumption struct {
	broker   *Broker
	consumer Consumer
	handler  Handler
	ctx      context.Context // of the handlers: outlives the stop by the grace
	stopping <-chan struct{}
	pull     int
	slots    chan struct{}
	handlers sync.WaitGroup
	idle     chan jetstream.Msg // to a handler that has nothing to do
	waiting  atomic.Int32       // how many of those there are
	// inHand is when each message in hand was stored, by its stream sequence: a
	// second copy of one is passed over.
	inHand sync.Map

	mu      sync.Mutex
	state   *jetstream.ConsumerInfo // as NATS last told it; nil: not yet
	stateAt time.Time
}

func (r *consumption) take(m jetstream.Msg) {
	if r.stops() {
		r.unstarted(m)
		return
	}
	select {
	case r.slots <- struct{}{}:
	case <-r.stopping:
		r.unstarted(m)
		return
	}
	select {
	case r.idle <- m:
	default:
		r.handlers.Go(func() { r.work(m) })
	}
}

// keptHandlers are the goroutines that wait for a next message: their stacks have
// grown already, which costs a twentieth of a callback's time each time anew.
const keptHandlers = 256

// work handles the message, then what comes next.
func (r *consumption) work(m jetstream.Msg) {
	for {
		r.handle(m)
		<-r.slots
		if r.waiting.Add(1) > keptHandlers {
			r.waiting.Add(-1)
			return
		}
		select {
		case m = <-r.idle:
			r.waiting.Add(-1)
		case <-r.stopping:
			return
		}
	}
}

func (r *consumption) stops() bool {
	select {
	case <-r.stopping:
		return true
	default:
		return false
	}
}

// unstarted gives back what came too late.
func (r *consumption) unstarted(m jetstream.Msg) {
	r.broker.metrics.settled(r.consumer, settledGivenBack)
	r.giveBack(m)
}

// giveBack lets another replica have the message now rather than after AckWait.
func (r *consumption) giveBack(m jetstream.Msg) {
	if err := m.Nak(); err != nil {
		r.broker.log.Debug().Err(err).Msg("giving a message back")
	}
}

func (r *consumption) handle(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		r.broker.log.Error().Err(err).Str("subject", m.Subject()).Msg("a delivery without metadata")
		return
	}
	if _, busy := r.inHand.LoadOrStore(meta.Sequence.Stream, meta.Timestamp); busy {
		return // its first copy settles it
	}
	defer r.inHand.Delete(meta.Sequence.Stream)
	begin, outcome := time.Now(), settledAcked
	r.broker.metrics.delivered(r.consumer, meta)
	defer func() {
		r.broker.metrics.settled(r.consumer, outcome)
		r.broker.metrics.handling.WithLabelValues(r.consumer.String()).Observe(time.Since(begin).Seconds())
	}()
	stop := r.heartbeat(m)
	defer stop()
	err = r.handler(r.ctx, Message{
		Subject: m.Subject(), Sequence: meta.Sequence.Stream, Delivered: meta.NumDelivered,
		Header: m.Headers(), Data: m.Data(),
	})
	var retry *retryError
	if errors.As(err, &retry) {
		outcome = settledParked
		failpoint.Here(failpoint.Scheduling)
		if err = r.broker.Schedule(r.ctx, retry.wakeup, retry.at); err != nil {
			err = fmt.Errorf("schedule a retry (%w) after: %w", err, retry.err)
		}
		failpoint.Here(failpoint.Scheduled)
	}
	var permanent *permanentError
	switch {
	case err == nil:
		failpoint.Here(failpoint.Acking)
		err = m.Ack()
		failpoint.Here(failpoint.Acked)
	case errors.As(err, &permanent):
		outcome = settledDropped
		r.broker.log.Error().Err(err).Str("subject", m.Subject()).Uint64("sequence", meta.Sequence.Stream).Msg("unreadable message, dropped from delivery")
		err = m.TermWithReason("unreadable")
	case r.stops():
		outcome = settledGivenBack
		r.giveBack(m)
		return
	default:
		outcome = settledLeft
		r.broker.log.Warn().Err(err).Str("subject", m.Subject()).Uint64("delivered", meta.NumDelivered).Msg("will be redelivered")
		return
	}
	if err != nil {
		r.broker.log.Warn().Err(err).Str("subject", m.Subject()).Msg("acknowledgement")
	}
}

// heartbeat extends the AckWait of a message in hand.
func (r *consumption) heartbeat(m jetstream.Msg) (stop func()) {
	every := r.consumer.AckWait / 3
	var mu sync.Mutex
	ended := false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return
		}
		if err := m.InProgress(); err != nil {
			r.broker.log.Debug().Err(err).Str("subject", m.Subject()).Msg("in progress")
		}
		timer.Reset(every)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}
