// Command bench measures jobrelay against bare loops and peers, as ratios of one
// run (docs/performance.md). A row is a file of its own; rows lists them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// rows are what can be measured, in the order of the table.
var rows = []row{intake, intakeNear, idle, creation, creationWithPods, digest, digestProtobuf, digestPace, heap, restart, podStart,
	callbacksOne, callbacksMany, callbacksReplicas, callbacksCPU, callbacksSynced, scaleOutTwo, scaleOutFour, scaleOutJoin, isolation, isolationFast,
	tapAway, tapReading, consoleBeside, consoleCPU}

// stopMost bounds the end of everything after a signal: processes have 30 s, and
// the control plane 25.
const stopMost = time.Minute

type cli struct {
	Rows       []string `name:"rows" sep:"," placeholder:"ID" help:"Rows to measure, with commas; default: all but the slow ones. There are ${rows}."`
	Pairs      int      `name:"pairs" default:"5" help:"Pairs of runs, A B then B A, after a warm-up pair that is not counted."`
	Messages   int      `name:"messages" help:"Messages, or jobs, a run; default: each row's own."`
	Backlog    int      `name:"backlog" help:"Events behind a tap; default: each row's own."`
	Output     string   `name:"output" short:"o" enum:"text,json" default:"text" help:"Form of what is printed: text for people, json for machines."`
	Strict     bool     `name:"strict" help:"Exit with 1 where a goal is missed."`
	Profile    bool     `name:"profile" help:"After a row's pairs, run our side once more under the CPU profiler."`
	SyncAlways bool     `name:"sync-always" help:"JetStream with sync_interval: always instead of the server's default."`
	Bin        string   `name:"bin" default:"bin" help:"Folder of the product's binaries."`
	Dir        string   `name:"dir" default:"bin/bench" help:"Folder that the results and profiles go to."`
	Kubeconfig string   `name:"kubeconfig" placeholder:"FILE" env:"-" help:"A cluster of your own instead of a local one for each run."`
}

// Validate says what is wrong with the flags; kong calls it.
func (c *cli) Validate() error {
	if c.Pairs < 1 || c.Messages < 0 || c.Backlog < 0 {
		return errors.New("--pairs takes 1 or more, --messages and --backlog 0 or more")
	}
	_, err := c.chosen()
	return err
}

func (c *cli) chosen() ([]row, error) {
	if len(c.Rows) == 0 {
		return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.Slow }), nil
	}
	var out []row
	for _, id := range c.Rows {
		i := slices.IndexFunc(rows, func(r row) bool { return strings.EqualFold(r.ID, id) })
		if i < 0 {
			return nil, fmt.Errorf("there is no row %s; there are %s", id, ids())
		}
		out = append(out, rows[i])
	}
	return out, nil
}

func ids() string {
	var out []string
	for _, r := range rows {
		id := r.ID
		if r.Slow {
			id += " (slow)"
		}
		out = append(out, id)
	}
	return strings.Join(out, ", ")
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == asVerb {
		os.Exit(as(os.Args[2], os.Args[3:]))
	}
	var c cli
	os.Exit(process.Main("bench", "Measures jobrelay against bare loops: ratios of one run, A B A B.", stopMost,
		&c, map[string]string{"rows": ids()}, func(ctx context.Context, _ *kong.Context) error { return c.run(ctx) }))
}

func (c *cli) run(ctx context.Context) (err error) {
	cluster.Log(zerolog.Nop())
	chosen, err := c.chosen()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o750); err != nil {
		return err
	}
	l := &lab{bin: c.Bin, dir: c.Dir, kubeconfig: c.Kubeconfig, messages: c.Messages, backlog: c.Backlog, syncAlways: c.SyncAlways, begin: time.Now(), progress: os.Stderr}
	defer func() { err = errors.Join(err, l.close()) }()
	machine, err := l.machine()
	if err != nil {
		return err
	}
	report := report{At: time.Now().UTC().Truncate(time.Second), Machine: machine}
	for _, r := range chosen {
		measured, err := r.measure(ctx, l, c.Pairs)
		if err == nil && c.Profile {
			measured.Profile, err = r.profile(ctx, l)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted; nothing is written")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.ID, err)
		}
		report.Rows = append(report.Rows, measured)
	}
	if err := report.save(filepath.Join(c.Dir, "results.json")); err != nil {
		return err
	}
	if err := report.plot(filepath.Join(c.Dir, "ratios.svg")); err != nil {
		return err
	}
	l.say("results are in %s", c.Dir)
	if err := report.print(os.Stdout, c.Output); err != nil {
		return err
	}
	if c.Strict && report.missed() {
		return errors.New("a goal is missed")
	}
	return nil
}
