package jobrelay

import (
	"context"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

type renderCommand struct {
	sources `embed:""`
	rules   `embed:""`

	Installation string `name:"installation" default:"default" help:"Name of the installation that the Job is labelled with."`
}

// Validate says what is wrong with the arguments; kong calls it.
func (r *renderCommand) Validate() error { return r.check() }

// Run prints a YAML document for each valid message, and what is wrong with the
// others on standard error.
func (r *renderCommand) Run(ctx context.Context, c *console) error {
	if err := r.open(); err != nil {
		return err
	}
	var t tally
	if err := t.each(ctx, c, &r.sources, func(m message) error { return r.render(c, &t, m) }); err != nil {
		return err
	}
	return t.err()
}

func (r *renderCommand) render(c *console, t *tally, m message) error {
	parsed := r.parse(m.body)
	if parsed.Request == nil {
		t.invalid++
		for _, p := range parsed.Problems {
			fmt.Fprintf(os.Stderr, "%s: %s: %s\n", m.name(), p.Path, p.Message)
		}
		return nil
	}
	job, err := kubejob.Build(parsed.Request, r.Installation, kubejob.Name(parsed.Request.GetJob().GetPrefixName(), parsed.ID))
	if err != nil {
		return fmt.Errorf("%s: %w", m.name(), err)
	}
	kubejob.Lay(job, r.policy.Rules(parsed.Service).JobTemplate)
	text, err := yaml.Marshal(job)
	if err != nil {
		return err
	}
	if t.valid++; t.valid > 1 {
		text = append([]byte("---\n"), text...)
	}
	return c.print(job, string(text))
}
