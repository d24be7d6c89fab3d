package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/event"
)

// Pause is what an operator has set for a service: while Paused, none of its
// requests becomes a Job. Jobs that exist go on.
type Pause struct {
	Service string    `json:"service"`
	Paused  bool      `json:"paused"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason,omitempty"` // the operator's words
}

const pauseSubject = "controls.pause."

// SetPause replaces what is set for the service. It returns after the PubAck.
func (b *Broker) SetPause(ctx context.Context, p Pause) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	_, err = b.publish(ctx, &nats.Msg{Subject: pauseSubject + event.ServiceToken(p.Service), Data: data})
	return err
}

// Pause is what is set for a service; the zero Pause where nothing ever was.
func (b *Broker) Pause(ctx context.Context, service string) (Pause, error) {
	var p Pause
	_, err := b.readJSON(ctx, StreamControls, pauseSubject+event.ServiceToken(service), &p)
	return p, err
}

// Paused are the services that are paused now, by name.
func (b *Broker) Paused(ctx context.Context) ([]Pause, error) {
	info, err := b.streams[StreamControls].Info(ctx, jetstream.WithSubjectFilter(pauseSubject+"*"))
	if err != nil {
		return nil, streamError(StreamControls, err)
	}
	var out []Pause
	for subject := range info.State.Subjects {
		p, err := b.Pause(ctx, event.ServiceName(strings.TrimPrefix(subject, pauseSubject)))
		if err != nil {
			return nil, err
		}
		if p.Paused {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, c Pause) int { return strings.Compare(a.Service, c.Service) })
	return out, nil
}
