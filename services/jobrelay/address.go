package jobrelay

import (
	"context"
	"errors"
	"os"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

// topologyFlags say where NATS is, for every command that asks it.
type topologyFlags struct {
	broker.Access `embed:""`
}

// defaultNATS is where NATS is when nothing tells it.
const defaultNATS = "nats://127.0.0.1:4222"

// AfterApply is kong's.
func (t *topologyFlags) AfterApply() error { return findNATS(&t.URL) }

// findNATS finds the address where no flag and no variable of ours has it.
func findNATS(url *string) error {
	if *url != "" {
		return nil
	}
	if *url = os.Getenv("NATS_URL"); *url != "" {
		return nil
	}
	if name := broker.ChosenContext(); name != "" {
		*url = broker.ContextScheme + name
		return nil
	}
	dir := os.Getenv("JOBRELAY_STATE_DIR")
	if dir == "" {
		dir = ".jobrelay"
	}
	d, err := readDescription(dir)
	if *url = d.NATS.URL; *url == "" {
		*url = defaultNATS
	}
	if errors.Is(err, errNoStack) {
		return nil
	}
	return err
}

// reader connects to what a command reads.
func (t *topologyFlags) reader(ctx context.Context, c *console, streams ...string) (*broker.Broker, error) {
	return broker.OpenReader(ctx, t.Access, c.log.Logger(os.Stderr, ""), streams...)
}
