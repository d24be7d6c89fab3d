package broker

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Purposes of wake-ups.
const (
	PurposeLaunch   = "launch"
	PurposeCallback = "callback"
)

// Wakeup is a message that JetStream delivers at a time.
type Wakeup struct {
	Purpose string // PurposeLaunch or PurposeCallback
	Token   string // what is parked; a second schedule of it replaces the first
	Payload []byte
}

// Schedule parks w durably until at. It returns after the PubAck. The server's
// timer has a floor of 250 ms.
//
// The schedule is written by hand: nats.go's WithScheduleAt writes whole
// seconds and fires up to a second early.
func (b *Broker) Schedule(ctx context.Context, w Wakeup, at time.Time) error {
	m := nats.NewMsg("schedules." + w.Purpose + "." + w.Token)
	m.Data = w.Payload
	m.Header["Nats-Schedule"] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
	m.Header["Nats-Schedule-Target"] = []string{"wakeups." + w.Purpose + "." + w.Token}
	_, err := b.publish(ctx, m)
	return err
}
