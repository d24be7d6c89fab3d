package jobrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// pauseFlags are those of the commands about pauses.
type pauseFlags struct {
	topologyFlags `embed:""`
}

func (p *pauseFlags) open(ctx context.Context, c *console) (*broker.Broker, error) {
	return p.reader(ctx, c, broker.StreamControls)
}

// serviceArgument is a service as messages name it.
type serviceArgument struct {
	Service string `arg:"" name:"SERVICE" help:"The service, as in the messages."`
}

// Validate says what is wrong with the argument; kong calls it.
func (s *serviceArgument) Validate() error {
	if !request.IsService(s.Service) {
		return errors.New("the SERVICE takes what a message's service may be: up to 63 letters, digits, dashes, dots and underscores")
	}
	return nil
}

type pauseCommand struct {
	pauseFlags      `embed:""`
	serviceArgument `embed:""`

	Reason string `name:"reason" env:"-" help:"Why, for others to read; at most 1 KiB."`
}

// maxReason bounds an operator's reason, in bytes.
const maxReason = 1 << 10

// Validate says what is wrong with the arguments; kong calls it.
func (p *pauseCommand) Validate() error {
	if len(p.Reason) > maxReason {
		return fmt.Errorf("--reason takes up to %d bytes", maxReason)
	}
	return p.serviceArgument.Validate()
}

func (p *pauseCommand) Run(ctx context.Context, c *console) error {
	return p.set(ctx, c, broker.Pause{Service: p.Service, Paused: true, At: time.Now().UTC(), Reason: p.Reason},
		p.Service+" is paused: its requests are accepted and wait, each until its launch deadline; `jobrelay resume "+p.Service+"` ends it\n")
}

type resumeCommand struct {
	pauseFlags      `embed:""`
	serviceArgument `embed:""`
}

func (r *resumeCommand) Run(ctx context.Context, c *console) error {
	return r.set(ctx, c, broker.Pause{Service: r.Service, At: time.Now().UTC()},
		r.Service+" is not paused: what waited goes on within 5 seconds\n")
}

func (p *pauseFlags) set(ctx context.Context, c *console, pause broker.Pause, text string) error {
	b, err := p.open(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.SetPause(ctx, pause); err != nil {
		return interrupted(ctx, err)
	}
	return c.print(pause, text)
}

type pausedCommand struct {
	pauseFlags `embed:""`
}

func (p *pausedCommand) Run(ctx context.Context, c *console) error {
	b, err := p.open(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	paused, err := b.Paused(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	return list(c, paused, "SERVICE\tSINCE\tREASON", "no service is paused\n", func(p broker.Pause) []string {
		return []string{p.Service, p.At.Local().Format(time.DateTime), cmp.Or(cut(p.Reason), "-")}
	})
}
