package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jobrelay/jobrelay/pkg/event"
)

// Cancel is an operator's command to end a job, whether its Job exists or not.
type Cancel struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason,omitempty"` // the operator's words; they go to the webhook
	By     string    `json:"by,omitempty"`     // who asked, where that is known; for the log alone
	At     time.Time `json:"at"`
}

const cancelSubject = "commands.cancel."

// Cancel hands the command to the watchers. It returns after the PubAck.
func (b *Broker) Cancel(ctx context.Context, c Cancel) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	_, err = b.publish(ctx, &nats.Msg{Subject: cancelSubject + event.Key(c.ID), Data: data})
	return err
}
