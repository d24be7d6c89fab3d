package jobrelay

import (
	"context"
	"fmt"
	"os"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

type topologyCommand struct {
	Apply  topologyApply  `cmd:"" help:"Create or update every stream and consumer."`
	Verify topologyVerify `cmd:"" help:"Check every stream and consumer, and change nothing."`
}

type topologyApply struct {
	topologyFlags `embed:""`

	Replicas int `name:"nats-replicas" default:"1" help:"Replicas of the streams that are made: 1, 3 or 5."`
}

func (t *topologyApply) Run(ctx context.Context, c *console) error {
	admin, err := broker.OpenAdmin(ctx, t.Access, c.log.Logger(os.Stderr, ""))
	if err != nil {
		return err
	}
	defer admin.Close()
	changes, err := broker.ApplyTopology(ctx, admin.JetStream(), t.Replicas)
	if err != nil {
		return err
	}
	var rows []string
	for _, change := range changes {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", change.Action, change.Name, change.Detail))
	}
	return c.print(changes, columns("", rows...))
}

type topologyVerify struct {
	topologyFlags `embed:""`
}

func (t *topologyVerify) Run(ctx context.Context, c *console) error {
	admin, err := broker.OpenAdmin(ctx, t.Access, c.log.Logger(os.Stderr, ""))
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := broker.VerifyTopology(ctx, admin.JetStream()); err != nil {
		return err
	}
	return c.print(map[string]bool{"verified": true}, "every stream and consumer is as expected\n")
}
