package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/failpoint"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

const (
	// recordRetry is between tries to record a 2xx.
	recordRetry = 200 * time.Millisecond
	// newEvent is the age up to which an event counts as new.
	newEvent = 2 * time.Second
	// believed is the age from which "not found" means past its retention (15
	// days and more). Of anything younger it is the word of a replica that
	// trails its leader, and the token is redelivered.
	believed = 10 * 24 * time.Hour
	// linkPoll is between looks at a connection that is down.
	linkPoll = 50 * time.Millisecond
)

// token is the duty to see one event of a log delivered, or a letter of a replay.
type token struct {
	event  broker.Stored
	wakeup delivery.Wakeup // what was tried so far
	target target
	ledger broker.LedgerEntry
	letter *delivery.Letter // of a replay: what is delivered instead of an event
}

// appended handles a message of EVENTS.
func (n *notifier) appended(ctx context.Context, m broker.Message) error {
	e, err := m.Stored()
	if err != nil {
		return broker.Permanent(err)
	}
	t := &token{event: e, wakeup: fresh(e)}
	if t.target, err = n.target(ctx, e); err != nil {
		return err
	}
	// Nothing but a surrender can be recorded of a first event that is handed
	// out for the first time: no read, the compare-and-set will tell. The count
	// of deliveries is believed of a new event only: a server that was killed
	// may have forgotten that it handed out an old one, and reading the ledger
	// spares a repeat.
	if m.Delivered > 1 {
		n.ledgers.Remove(e.LogKey) // another replica may have gone on
	}
	first := e.Event.Sequence == 0 && m.Delivered == 1 && n.now().Sub(e.Time) < newEvent
	return n.run(ctx, t, first)
}

// woken handles a token that was parked.
func (n *notifier) woken(ctx context.Context, m broker.Message) error {
	var w delivery.Wakeup
	if err := json.Unmarshal(m.Data, &w); err != nil {
		return broker.Permanent(fmt.Errorf("wake-up: %w", err))
	}
	t, err := n.open(ctx, w)
	if errors.Is(err, broker.ErrNotFound) && !w.First.IsZero() && n.now().Sub(w.First) > believed {
		n.log.Warn().Str("log", w.Key).Int("n", w.N).Msg("the event is past its retention, its callback ends")
		return nil
	}
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.Woken)
	return n.run(ctx, t, false)
}

// open is the token of a wake-up, or of what was left with a ledger.
func (n *notifier) open(ctx context.Context, w delivery.Wakeup) (*token, error) {
	if w.Run != nil {
		return n.openLetter(ctx, w)
	}
	e, err := n.broker.EventAt(ctx, w.Sequence)
	if err != nil {
		return nil, err
	}
	t := &token{event: e, wakeup: w}
	t.target, err = n.target(ctx, e)
	return t, err
}

func fresh(e broker.Stored) delivery.Wakeup {
	return delivery.Wakeup{Key: e.LogKey, Sequence: e.Sequence, N: e.Event.Sequence}
}

// run brings a token to where it may be acknowledged: its event is done, or the
// token is in another durable place.
func (n *notifier) run(ctx context.Context, t *token, first bool) error {
	if t.target.none {
		return nil
	}
	if !first {
		var err error
		if t.ledger, err = n.load(ctx, t.wakeup); err != nil {
			return err
		}
	}
	for {
		switch delivery.StepOf(t.ledger.Ledger, t.wakeup.N) {
		case delivery.Finish:
			return nil
		case delivery.Inherit:
			if err := n.inherit(ctx, t); err != nil {
				return err
			}
		case delivery.Surrender:
			if left, err := n.surrender(ctx, t); left || err != nil {
				return err
			}
		case delivery.Abandon:
			if err := n.abandon(ctx, t); err != nil {
				return err
			}
		case delivery.Deliver:
			if err := n.deliver(ctx, t); err != nil {
				return err
			}
		}
	}
}

// inherit goes on with the next event, whose token was left with the ledger.
func (n *notifier) inherit(ctx context.Context, t *token) error {
	failpoint.Here(failpoint.Inheriting)
	next, err := n.open(ctx, delivery.Wakeup{
		Key: t.wakeup.Key, N: t.ledger.Next, Sequence: t.ledger.Wait[t.ledger.Next], Run: t.wakeup.Run,
	})
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.Inherited)
	next.ledger = t.ledger
	*t = *next
	return nil
}

// surrender leaves the token with the ledger: a predecessor is undelivered.
func (n *notifier) surrender(ctx context.Context, t *token) (left bool, err error) {
	if _, there := t.ledger.Wait[t.wakeup.N]; there {
		// Read from a cache, perhaps: look again before it is believed.
		next := t.ledger.Next
		if err := n.reload(ctx, t); err != nil {
			return false, err
		}
		_, there = t.ledger.Wait[t.wakeup.N]
		return there && t.ledger.Next == next, nil
	}
	failpoint.Here(failpoint.Surrendering)
	left, err = n.swap(ctx, t, t.ledger.Surrendered(t.wakeup.N, t.wakeup.Sequence))
	failpoint.Here(failpoint.Surrendered)
	return left, err
}

// abandon ends the callback at the head of a log that was given up.
func (n *notifier) abandon(ctx context.Context, t *token) error {
	reason := t.ledger.GaveUp.Reason
	if unneeded, err := n.unneeded(ctx, t); err != nil {
		return err
	} else if unneeded != "" {
		reason = unneeded
	} else if err := n.bury(ctx, t, reason); err != nil {
		return err
	}
	if err := n.record(ctx, t, func(l delivery.Ledger) delivery.Ledger {
		return l.Advanced(t.wakeup.N, delivery.Done{At: n.now().UTC(), Reason: reason})
	}); err != nil {
		return err
	}
	n.ended(t, zerolog.WarnLevel, reason)
	return nil
}

// deliver makes one attempt at the head of the log and records what came of it.
func (n *notifier) deliver(ctx context.Context, t *token) error {
	if reason, err := n.unneeded(ctx, t); err != nil {
		return err
	} else if reason != "" {
		return n.finish(ctx, t, delivery.Done{Reason: reason}, zerolog.DebugLevel)
	}
	if t.wakeup.First.IsZero() {
		t.wakeup.First = n.now().UTC()
	}
	slot, err := n.endpoints.take(ctx, t.target.endpoint)
	if err != nil {
		return err
	}
	if !slot.held.IsZero() {
		n.metrics.held.Inc()
		d := delivery.Decision{Verdict: delivery.Retry, At: slot.held}
		if slot.open {
			d = n.policy.Hold(t.wakeup.First, slot.held, n.now())
		}
		return n.settle(ctx, t, d, "no slot")
	}
	out, err := n.attempt(ctx, t, slot)
	if err != nil {
		return err
	}
	return n.settle(ctx, t, n.policy.Decide(t.wakeup.Attempts, t.wakeup.First, out.RetryAfter, n.now()), out.String())
}

// settle does what was decided of the callback at the head.
func (n *notifier) settle(ctx context.Context, t *token, d delivery.Decision, cause string) error {
	last := delivery.Done{Attempts: t.wakeup.Attempts, Code: t.wakeup.LastCode(), Reason: d.Reason}
	switch d.Verdict {
	case delivery.Done2xx:
		if err := n.replayed(ctx, t); err != nil {
			return err
		}
		return n.finish(ctx, t, last, zerolog.InfoLevel)
	case delivery.GiveUpOne:
		if err := n.bury(ctx, t, d.Reason); err != nil {
			return err
		}
		return n.finish(ctx, t, last, zerolog.WarnLevel)
	case delivery.GiveUpWhole:
		last.At = n.now().UTC()
		if err := n.bury(ctx, t, d.Reason); err != nil {
			return err
		}
		if err := n.record(ctx, t, func(l delivery.Ledger) delivery.Ledger { return l.Abandoned(t.wakeup.N, last) }); err != nil {
			return err
		}
		failpoint.Here(failpoint.GaveUp)
		n.ended(t, zerolog.WarnLevel, d.Reason)
		return nil
	default:
		return n.park(t, d.At.Sub(n.now()), fmt.Errorf("attempt %d: %s", len(t.wakeup.Attempts), cause))
	}
}

// unneeded is the reason why the callback ends without a POST, or empty.
func (n *notifier) unneeded(ctx context.Context, t *token) (string, error) {
	if t.letter != nil && t.letter.Replayed != nil {
		return delivery.ReasonReplayed, nil
	}
	if !t.target.wants(t.event.Type.Status()) {
		return delivery.ReasonNotWanted, nil
	}
	if t.event.Type != event.TypeRequestRejected {
		return "", nil
	}
	_, err := n.broker.Request(ctx, event.IDKey(t.event.LogKey))
	if errors.Is(err, broker.ErrNotFound) {
		return "", nil
	}
	return delivery.ReasonSuperseded, err
}

// attempt posts, and gives the slot back.
func (n *notifier) attempt(ctx context.Context, t *token, s slot) (out webhook.Outcome, err error) {
	var took time.Duration
	defer func() { n.endpoints.give(s, out, took) }()
	body, err := t.body()
	if err != nil {
		return out, broker.Permanent(err)
	}
	// No POST whose outcome could not be recorded.
	for !n.broker.Connected() {
		if err := process.Sleep(ctx, linkPoll); err != nil {
			return out, err
		}
	}
	n.metrics.inFlight.Inc()
	failpoint.Here(failpoint.Posting)
	began := time.Now()
	out = n.client.Post(ctx, webhook.Callback{
		URL: t.target.url, Body: body, ID: t.webhookID(), Trace: t.event.Trace,
		Keys: n.keys(t.event.Service), Peer: n.peer(t.event.Service, t.target.url),
	})
	took = time.Since(began)
	failpoint.Here(failpoint.Posted)
	n.metrics.inFlight.Dec()
	if ctx.Err() != nil && out.Code == 0 {
		return webhook.Outcome{}, ctx.Err() // our own stop, not the endpoint's answer
	}
	n.metrics.attempts.WithLabelValues(string(out.Class)).Inc()
	t.wakeup.Attempts = append(t.wakeup.Attempts, out.Attempt)
	return out, nil
}

// finish moves the log on behind this callback.
func (n *notifier) finish(ctx context.Context, t *token, d delivery.Done, level zerolog.Level) error {
	d.At = n.now().UTC()
	if err := n.record(ctx, t, func(l delivery.Ledger) delivery.Ledger { return l.Advanced(t.wakeup.N, d) }); err != nil {
		return err
	}
	n.ended(t, level, d.Reason)
	return nil
}

// record changes the ledger, trying until it is recorded: after a 2xx this
// process holds the only knowledge of it. What somebody else has recorded
// behind this event stands.
func (n *notifier) record(ctx context.Context, t *token, change func(delivery.Ledger) delivery.Ledger) error {
	for t.ledger.Next <= t.wakeup.N {
		done, err := n.swap(ctx, t, change(t.ledger.Ledger))
		if done {
			failpoint.Here(failpoint.Recorded)
			return nil
		}
		if err != nil {
			if err := n.insist(ctx, t, err, func() error { return n.reload(ctx, t) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// insist does what failed with err until it succeeds, or ctx ends.
func (n *notifier) insist(ctx context.Context, t *token, err error, do func() error) error {
	for err != nil {
		n.line(t, zerolog.WarnLevel).Err(err).Msg("what came of a callback is not recorded yet, trying again")
		if waited := process.Sleep(ctx, recordRetry); waited != nil {
			return errors.Join(err, waited)
		}
		err = do()
	}
	return nil
}

// swap replaces the ledger. Where somebody else was faster, it is false and
// the token has the ledger as it is now.
func (n *notifier) swap(ctx context.Context, t *token, l delivery.Ledger) (bool, error) {
	entry, err := n.broker.SwapLedger(ctx, t.wakeup.Ledger(), t.ledger, l)
	if errors.Is(err, broker.ErrConflict) {
		failpoint.Here(failpoint.Conflict)
		had := t.ledger.Revision
		if err := n.reload(ctx, t); err != nil {
			return false, err
		}
		if t.ledger.Revision <= had { // a replica that trails its leader
			return false, process.Sleep(ctx, recordRetry)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t.ledger = entry
	n.ledgers.Add(t.wakeup.Ledger(), entry)
	return true, nil
}

// load takes the ledger from the cache where it is there: Next only grows, and
// whatever acknowledges goes through a compare-and-set.
func (n *notifier) load(ctx context.Context, w delivery.Wakeup) (broker.LedgerEntry, error) {
	if entry, ok := n.ledgers.Get(w.Ledger()); ok {
		return entry, nil
	}
	return n.read(ctx, w)
}

func (n *notifier) reload(ctx context.Context, t *token) error {
	entry, err := n.read(ctx, t.wakeup)
	if err == nil {
		t.ledger = entry
	}
	return err
}

// read is the ledger as it is recorded, or as it begins.
func (n *notifier) read(ctx context.Context, w delivery.Wakeup) (broker.LedgerEntry, error) {
	entry, err := n.broker.Ledger(ctx, w.Ledger())
	if err == nil && entry.Revision == 0 && w.Run != nil {
		entry.Ledger = w.Run.Ledger()
	}
	return entry, err
}

// park leaves the token with a schedule of its own.
func (n *notifier) park(t *token, d time.Duration, cause error) error {
	t.wakeup.Endpoint = t.target.endpoint
	payload, err := json.Marshal(t.wakeup)
	if err != nil {
		return err
	}
	return broker.RetryAfter(d, broker.Wakeup{
		Purpose: broker.PurposeCallback, Token: t.wakeup.Token(), Payload: payload,
	}, cause)
}

// ended is the one line of a callback's end.
func (n *notifier) ended(t *token, level zerolog.Level, reason string) {
	end := reason
	if end == "" {
		end = string(delivery.Delivered)
	}
	if t.letter == nil {
		n.metrics.callbacks.WithLabelValues(end).Inc()
	} else {
		n.metrics.replays.WithLabelValues(end).Inc()
	}
	n.line(t, level).Int("attempts", len(t.wakeup.Attempts)).Str("end", end).Msg("callback ended")
}

func (n *notifier) line(t *token, level zerolog.Level) *zerolog.Event {
	line := n.log.WithLevel(level)
	if t.wakeup.Run != nil {
		line.Str("run", t.wakeup.Run.ID)
	}
	return line.Str("id", t.event.ID).Str("key", t.event.LogKey).Str("service", t.event.Service).
		Int("status", t.event.Type.Status()).Str("endpoint", t.target.endpoint)
}

// target is where the callbacks of a log go.
type target struct {
	none     bool // nothing is to be sent, and nothing recorded
	url      string
	endpoint string // scheme, host and port: what a log may say
	statuses []int32
}

func (t target) wants(status int) bool { return slices.Contains(t.statuses, int32(status)) } //nolint:gosec // 0 to 99

// target looks up where an event's callbacks go; it is the same for a log.
func (n *notifier) target(ctx context.Context, e broker.Stored) (target, error) {
	if t, ok := n.targets.Get(e.LogKey); ok {
		return t, nil
	}
	hook, err := n.webhookOf(ctx, e)
	if err != nil {
		return target{}, err
	}
	t := target{none: true}
	if hook.GetUrl() != "" {
		t = target{url: hook.GetUrl(), endpoint: webhook.Endpoint(hook.GetUrl()), statuses: hook.GetStatuses()}
	}
	n.targets.Add(e.LogKey, t)
	return t, nil
}

func (n *notifier) webhookOf(ctx context.Context, e broker.Stored) (*jobsv1.Webhook, error) {
	if d, ok := e.Data.(*jobsv1.RequestRejected); ok {
		if !d.GetCallback() {
			return nil, nil //nolint:nilnil // no webhook is an answer
		}
		r, err := n.broker.Rejection(ctx, e.LogKey)
		return r.Webhook, err
	}
	hook, err := n.broker.Webhook(ctx, e.LogKey)
	if errors.Is(err, broker.ErrNotFound) && n.now().Sub(e.Time) > believed {
		n.log.Warn().Str("id", e.ID).Str("key", e.LogKey).Msg("the request is past its retention, its callbacks end")
		return nil, nil //nolint:nilnil // as above
	}
	return hook, err
}
