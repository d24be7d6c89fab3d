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

// ParkedLaunch is the payload of a launch's wake-up.
type ParkedLaunch struct {
	Key   string `json:"key"`
	Tries int    `json:"tries"` // wake-ups before this one
	// Sent says that a create may have been sent: its Job may exist.
	Sent bool `json:"sent,omitempty"`
	// Paced says that this is its turn in the rates.
	Paced bool `json:"paced,omitempty"`
	// Cause is why it waits, for people: a sentence, or an error code.
	Cause string `json:"cause,omitempty"`
}

// The headers of a schedule.
const (
	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
	scheduleAt           = "@at "
)

// Schedule parks w durably until at. It returns after the PubAck. The server's
// timer has a floor of 250 ms.
//
// The schedule is written by hand: nats.go's WithScheduleAt writes whole
// seconds and fires up to a second early.
func (b *Broker) Schedule(ctx context.Context, w Wakeup, at time.Time) error {
	m := nats.NewMsg("schedules." + w.Purpose + "." + w.Token)
	m.Data = w.Payload
	m.Header[headerSchedule] = []string{scheduleAt + at.UTC().Format(time.RFC3339Nano)}
	m.Header[headerScheduleTarget] = []string{"wakeups." + w.Purpose + "." + w.Token}
	_, err := b.publish(ctx, m)
	return err
}
