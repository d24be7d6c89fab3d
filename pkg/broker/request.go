package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Accept stores an accepted request, the first of its key. ErrConflict means
// that the key is known: compare the stored request. After any other error it
// may or may not be stored.
func (b *Broker) Accept(ctx context.Context, e event.Event) error {
	header, data, err := event.Encode(e)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: event.RequestSubject(e.LogKey), Header: header, Data: data}
	_, err = b.publish(ctx, m, jetstream.WithExpectLastSequencePerSubject(0))
	return err
}

// Request is the accepted request of a key, or ErrNotFound: by the word of the stream's
// leader, since callers decide by it that a job is nobody's, or that a 99 may go.
func (b *Broker) Request(ctx context.Context, key string) (event.Event, error) {
	m, err := b.surely(ctx, StreamRequests, event.RequestSubject(key))
	if err != nil {
		return event.Event{}, err
	}
	return DecodeRequest(m.Header, m.Data)
}

// Webhook is where the callbacks of an accepted request go, nil: nowhere; and when
// its queue took the message. It is read without the rest of the request.
func (b *Broker) Webhook(ctx context.Context, key string) (hook *jobsv1.Webhook, queued time.Time, err error) {
	m, err := b.last(ctx, StreamRequests, event.RequestSubject(key))
	if err != nil {
		return nil, time.Time{}, err
	}
	return event.DecodeWebhook(m.Header, m.Data)
}

// DecodeRequest reads a message of REQUESTS.
func DecodeRequest(header map[string][]string, data []byte) (event.Event, error) {
	e, err := event.Decode(header, data)
	if err != nil {
		return event.Event{}, err
	}
	if _, ok := e.Data.(*jobsv1.JobRequested); !ok {
		return event.Event{}, fmt.Errorf("%w: %s on %s", event.ErrNotAnEvent, e.Type, StreamRequests)
	}
	return e, nil
}
