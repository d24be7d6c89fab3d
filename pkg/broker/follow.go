package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/event"
)

// EventFilter says which events are followed.
type EventFilter struct {
	Service string       // empty: any
	Types   []event.Type // none: any
	Since   time.Time    // zero: from now on
}

func (f EventFilter) subjects() []string {
	service := "*"
	if f.Service != "" {
		service = f.Service
	}
	if len(f.Types) == 0 {
		return []string{event.LogFilter(service, "*")}
	}
	var out []string
	for _, t := range f.Types {
		out = append(out, event.Subject(service, "*", t))
	}
	return out
}

// Follow hands the events that fit to do, in the order of the log, those that are
// there and those to come, until ctx ends or do returns an error, which is
// returned. It is a subscriber of its own making: for operators and development,
// not for taps (docs/architecture.md). It goes on where it was after the server was
// away.
func (b *Broker) Follow(ctx context.Context, f EventFilter, do func(Stored) error) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: f.subjects(), DeliverPolicy: jetstream.DeliverNewPolicy}
	if !f.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	consumer, err := b.js.OrderedConsumer(ctx, StreamEvents, cfg)
	if err != nil {
		return streamError(StreamEvents, err)
	}
	return each(ctx, consumer, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		e, err := stored(m.Subject(), meta.Sequence.Stream, m.Headers(), m.Data())
		if err != nil {
			b.log.Warn().Err(err).Msg("events") // one that cannot be read hides no other
			return nil
		}
		return do(e)
	})
}

// followAhead is how many events are fetched ahead.
const followAhead = 500

// each hands the consumer's messages to f until ctx ends or f returns an error.
func each(ctx context.Context, consumer jetstream.Consumer, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	messages, err := consumer.Messages(jetstream.PullMaxMessages(followAhead))
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if err := f(m, meta); err != nil {
			return err
		}
	}
}
