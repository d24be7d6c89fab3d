package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Tail is the end of a job's log, and all of it that a writer needs: each
// event carries the Job's UID, and the types come in one order.
type Tail struct {
	Sequence uint64      // stream sequence of the last event; 0: the log is empty
	Last     event.Event // zero where the log is empty
}

// Empty reports whether the log has no event.
func (t Tail) Empty() bool { return t.Sequence == 0 }

// Next is the ordinal of the event that comes next.
func (t Tail) Next() int {
	if t.Empty() {
		return 0
	}
	return t.Last.Sequence + 1
}

// Tail reads the end of a log.
func (b *Broker) Tail(ctx context.Context, service, logKey string) (Tail, error) {
	m, err := b.last(ctx, StreamEvents, event.LogFilter(service, logKey))
	if errors.Is(err, ErrNotFound) {
		return Tail{}, nil
	}
	if err != nil {
		return Tail{}, err
	}
	return tailOf(m)
}

// Begun reports whether a log has an event, by the word of the stream's leader. Tail may
// miss the last ones; what is appended behind it is refused then, what is done besides
// is not.
func (b *Broker) Begun(ctx context.Context, service, logKey string) (bool, error) {
	return b.holds(ctx, StreamEvents, event.LogFilter(service, logKey))
}

func tailOf(m *jetstream.RawStreamMsg) (Tail, error) {
	e, err := event.Decode(m.Header, m.Data)
	if err != nil {
		return Tail{}, fmt.Errorf("%s: %w", m.Subject, err)
	}
	return Tail{Sequence: m.Sequence, Last: e}, nil
}

// LogName names a log.
type LogName struct{ Service, Key string }

// MostTails is how many logs Tails reads at once: the server gives the last message
// of at most 1,024 subjects, and a log has three at the most.
const MostTails = 256

// Tails reads the ends of at most MostTails logs in one call; a log that is empty is
// not in what it returns.
func (b *Broker) Tails(ctx context.Context, logs []LogName) (map[LogName]Tail, error) {
	end := b.cfg.Calls.Begin(telemetry.NATS, StreamEvents, "get many")
	out, err := b.tails(ctx, logs)
	end(result(err))
	return out, err
}

func (b *Broker) tails(ctx context.Context, logs []LogName) (map[LogName]Tail, error) {
	filters := make([]string, 0, len(logs))
	for _, l := range logs {
		filters = append(filters, event.LogFilter(l.Service, l.Key))
	}
	out := make(map[LogName]Tail, len(logs))
	if len(logs) == 0 {
		return out, nil
	}
	messages, err := b.lasts(ctx, StreamEvents, filters...)
	if err != nil {
		return nil, fmt.Errorf("ends of %d logs: %w", len(logs), err)
	}
	last := make(map[LogName]*jetstream.RawStreamMsg, len(logs))
	for _, m := range messages { // one of each type of event, in order
		service, key, _, err := event.ParseSubject(m.Subject)
		if err != nil {
			return nil, err
		}
		last[LogName{service, key}] = m
	}
	for name, m := range last {
		if out[name], err = tailOf(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendTries bounds the publishes of one append whose outcome stays unknown.
const appendTries = 5

// Append puts e behind after by the append rule: one publish that expects the
// log's last sequence, over the log's one filter. It returns the new tail, or
// ErrConflict where the log has moved on: read it again and decide again. An
// unknown outcome is resolved by reading the log. e.Sequence is set here.
func (b *Broker) Append(ctx context.Context, service string, after Tail, e event.Event) (Tail, error) {
	e.Sequence = after.Next()
	header, data, err := event.Encode(e)
	if err != nil {
		return Tail{}, err
	}
	filter := event.LogFilter(service, e.LogKey)
	subject := event.Subject(service, e.LogKey, e.Type)
	var unknown error
	for range appendTries {
		m := &nats.Msg{Subject: subject, Header: header, Data: data}
		sequence, err := b.publish(ctx, m, jetstream.WithExpectLastSequenceForSubject(after.Sequence, filter))
		if err == nil {
			return Tail{Sequence: sequence, Last: e}, nil
		}
		now, readErr := b.Tail(ctx, service, e.LogKey)
		if readErr != nil {
			return Tail{}, errors.Join(err, readErr)
		}
		if now.Sequence != after.Sequence {
			if now.Last.EventID() == e.EventID() && proto.Equal(now.Last.Data, e.Data) {
				return now, nil // ours, stored earlier
			}
			return Tail{}, ErrConflict
		}
		if errors.Is(err, ErrConflict) {
			return Tail{}, ErrConflict // a read that trails its leader: decide again later
		}
		unknown = err
	}
	return Tail{}, unknown
}

// EventAt is the event at a stream sequence of EVENTS, ErrNotFound once it is
// past its age.
func (b *Broker) EventAt(ctx context.Context, sequence uint64) (Stored, error) {
	end := b.cfg.Calls.Begin(telemetry.NATS, StreamEvents, "get")
	var m *jetstream.RawStreamMsg
	err := asked(ctx, func() (err error) {
		m, err = b.streams[StreamEvents].GetMsg(ctx, sequence)
		return getError(fmt.Sprintf("event at %d", sequence), err)
	})
	end(result(err))
	if err != nil {
		return Stored{}, err
	}
	return stored(m.Subject, m.Sequence, m.Header, m.Data)
}

// Stored is an event as it stands on EVENTS.
type Stored struct {
	event.Event

	Service  string
	Sequence uint64 // stream sequence; Event.Sequence is the ordinal in the log
}

func stored(subject string, sequence uint64, header map[string][]string, data []byte) (Stored, error) {
	service, _, _, err := event.ParseSubject(subject)
	if err != nil {
		return Stored{}, err
	}
	e, err := event.Decode(header, data)
	if err != nil {
		return Stored{}, fmt.Errorf("%s: %w", subject, err)
	}
	return Stored{Event: e, Service: service, Sequence: sequence}, nil
}

// Tap hands every event on EVENTS that is appended from now on to f, in order,
// until ctx ends. It is a subscriber of its own making, for development:
// production's taps pull from a durable that the operator made.
func (b *Broker) Tap(ctx context.Context, f func(Stored)) error {
	return b.Follow(ctx, EventFilter{}, func(e Stored) error {
		f(e)
		return nil
	})
}
