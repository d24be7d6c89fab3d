package notifier

import (
	"context"
	"errors"
	"fmt"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/failpoint"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// openLetter is the token of a replay. A letter that is not there any more counts
// as delivered: it is past its retention.
func (n *notifier) openLetter(ctx context.Context, w delivery.Wakeup) (*token, error) {
	if w.N < 0 || w.N >= len(w.Run.Letters) {
		return nil, broker.Permanent(fmt.Errorf("the replay %s of %s has no letter %d", w.Run.ID, w.Key, w.N))
	}
	l, err := n.broker.Letter(ctx, w.Run.Service, w.Key, w.Run.Letters[w.N])
	if errors.Is(err, broker.ErrNotFound) {
		l = delivery.Letter{LogKey: w.Key, N: w.Run.Letters[w.N], Service: w.Run.Service, Replayed: &delivery.Replayed{Run: w.Run.ID}}
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return &token{
		event: broker.Stored{Service: l.Service, Event: event.Event{
			LogKey: l.LogKey, Sequence: l.N, ID: l.ID, Type: event.Type(l.Type), Trace: l.Trace,
		}},
		wakeup: w, letter: &l,
		target: target{url: l.URL, endpoint: webhook.Endpoint(l.URL), statuses: []int32{int32(l.Status)}}, //nolint:gosec // 0 to 99
	}, nil
}

// body is what is posted, the same bytes each time.
func (t *token) body() ([]byte, error) {
	if t.letter != nil {
		return t.letter.Body, nil
	}
	return callback.Body(t.event.Event)
}

// webhookID is the same each time, too.
func (t *token) webhookID() string { return callback.ID(t.event.LogKey, t.event.Event.Sequence) }

// bury stores the callback as a dead letter, trying until it is stored: what is
// given up and what is kept of it are one. Who is killed afterwards stores the same
// letter again.
func (n *notifier) bury(ctx context.Context, t *token, reason string) error {
	l, err := t.deadLetter()
	if err != nil {
		return broker.Permanent(err)
	}
	l.Reason, l.At = reason, n.now().UTC()
	if len(t.wakeup.Attempts) > 0 {
		l.Attempts = t.wakeup.Attempts
	}
	if err := n.put(ctx, t, l); err != nil {
		return err
	}
	failpoint.Here(failpoint.Lettered)
	n.metrics.letters.WithLabelValues(reason).Inc()
	return nil
}

func (t *token) deadLetter() (delivery.Letter, error) {
	if t.letter != nil {
		return *t.letter, nil
	}
	body, err := t.body()
	return delivery.Letter{
		LogKey: t.event.LogKey, N: t.event.Event.Sequence, ID: t.event.ID, Service: t.event.Service, Type: string(t.event.Type),
		Status: t.event.Type.Status(), Trace: t.event.Trace, URL: t.target.url, Endpoint: t.target.endpoint,
		WebhookID: t.webhookID(), Body: body,
	}, err
}

// replayed marks the letter of a replay as delivered, before the run's ledger says
// so: no other run delivers it again.
func (n *notifier) replayed(ctx context.Context, t *token) error {
	if t.letter == nil {
		return nil
	}
	l := t.letter.Delivered(t.wakeup.Run.ID, n.now().UTC())
	l.Replayed.By = t.wakeup.Run.By
	l.Attempts = t.wakeup.Attempts
	return n.put(ctx, t, l)
}

func (n *notifier) put(ctx context.Context, t *token, l delivery.Letter) error {
	put := func() error { return n.broker.PutLetter(ctx, l) }
	return n.insist(ctx, t, put(), put)
}
