package jobrelay

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

type replicasCommand struct {
	topologyFlags `embed:""`
}

// Run prints what each replica of the last minute says of itself.
func (r *replicasCommand) Run(ctx context.Context, c *console) error {
	admin, err := broker.OpenAdmin(ctx, r.Access, c.log.Logger(os.Stderr, ""))
	if err != nil {
		return err
	}
	defer admin.Close()
	replicas, err := admin.Statuses(ctx)
	if err != nil {
		return err
	}
	rows := []string{"ROLE\tINSTANCE\tVERSION\tUP\tREADY\tSAYS"}
	for _, s := range replicas {
		var says []string
		for _, part := range slices.Sorted(maps.Keys(s.Checks)) {
			if state := s.Checks[part]; state != "ok" {
				says = append(says, part+": "+state)
			}
		}
		ready := map[bool]string{true: "yes", false: "no"}[s.Ready]
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", s.Role, s.Instance, s.Version, s.At.Sub(s.Started).Round(time.Second), ready, strings.Join(says, "; ")))
	}
	text := columns("", rows...)
	if replicas == nil {
		replicas = []broker.Status{} // [] for machines
		text += "no replica has reported in the last minute\n"
	}
	return c.print(replicas, text)
}

type healthcheckCommand struct {
	URL     string        `arg:"" help:"What to ask, such as http://127.0.0.1:9324/healthz."`
	Timeout time.Duration `name:"timeout" env:"-" default:"3s" help:"How long to wait for an answer."`
}

// Run is nil where the address answers 2xx.
func (h *healthcheckCommand) Run(ctx context.Context) error {
	return process.Healthy(ctx, h.URL, h.Timeout)
}
