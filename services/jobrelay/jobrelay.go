// Package jobrelay is the command that people type.
package jobrelay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"
	"sigs.k8s.io/yaml"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/webhook"
	pages "github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// cli is every command with its flags.
type cli struct {
	process.Log

	Output  string           `name:"output" short:"o" enum:"table,json,yaml,text" default:"table" help:"Form of what is printed: table for people (text is the same), json or yaml for machines."`
	Version kong.VersionFlag `env:"-" help:"Print the version."`

	Dev      devCommand      `cmd:"" help:"Run everything in one command: NATS, SQS, Kubernetes, the services, the console and a webhook receiver."`
	Demo     demoCommand     `cmd:"" help:"Run the original's sample message through a stack of its own and show what happens."`
	Send     sendCommand     `cmd:"" help:"Put messages on a queue."`
	Validate validateCommand `cmd:"" help:"Say everything that is wrong with messages, in files or waiting in a queue."`
	Render   renderCommand   `cmd:"" help:"Print the Jobs that messages become, as YAML."`
	SQS      sqsCommand      `cmd:"" name:"sqs" help:"Run the development stack's SQS endpoint alone."`
	Webhooks webhooksCommand `cmd:"" help:"Run a webhook receiver alone, and show what arrives."`
	Topology topologyCommand `cmd:"" help:"Apply or verify the JetStream streams and consumers."`
	Doctor   doctorCommand   `cmd:"" help:"Check NATS, SQS, Kubernetes, clocks and files, and say what to do about what is wrong."`
	Replicas replicasCommand `cmd:"" help:"Show every running replica of the services and what it says of itself."`

	Show showCommand `cmd:"" help:"Show what happened to one message, step by step, and what its job waits for now."`
	List listCommand `cmd:"" help:"List jobs with their state, the newest first."`
	Tail tailCommand `cmd:"" help:"Follow the events of all jobs."`
	Top  topCommand  `cmd:"" help:"Show how everything is now: jobs by state, rates, what waits for longest, what fails."`

	Rejections rejectionsCommand `cmd:"" help:"The messages that were not accepted: list, show, resend."`

	DeadLetters deadLettersCommand `cmd:"" name:"deadletters" help:"The callbacks that were given up: list, show, replay."`
	Endpoints   endpointsCommand   `cmd:"" help:"Show the receivers that fail, and for which of them callbacks wait."`

	Taps tapsCommand `cmd:"" help:"Subscribers of others to the job events: create, list, delete."`
	NATS natsCommand `cmd:"" name:"nats" help:"Users of NATS."`

	Pause  pauseCommand  `cmd:"" help:"Keep a service's requests from becoming Jobs, until it is resumed."`
	Resume resumeCommand `cmd:"" help:"End the pause of a service."`
	Paused pausedCommand `cmd:"" help:"List the services that are paused."`

	Cancel     cancelCommand     `cmd:"" help:"End jobs, whether their Job exists or not."`
	Finalizers finalizersCommand `cmd:"" help:"The Jobs that are held until their end is recorded: list, release."`
	Explain    explainCommand    `cmd:"" help:"Say which events a recorded watch of a Job and its Pods leads to, and why."`

	Completion completionCommand `cmd:"" help:"Print what makes a shell complete these commands."`
	Complete   completeCommand   `cmd:"" name:"__complete" hidden:""`

	Healthcheck healthcheckCommand `cmd:"" help:"Ask an address whether it is healthy: exit code 0, or 1 and why not."`
}

// stopAll bounds the stop of a whole development stack: its services, then each
// of its parts.
const stopAll = process.StopTimeout + 4*stopTimeout

// Main runs the command line and returns the exit code. Called by the name of a
// service, as the container image's links do, it is that service: one binary
// then holds what all six share (docs/adr/0007).
func Main() int {
	switch filepath.Base(os.Args[0]) {
	case "ingest":
		return ingest.Main()
	case "launcher":
		return launcher.Main()
	case "watcher":
		return watcher.Main()
	case "notifier":
		return notifier.Main()
	case "console":
		return pages.Main()
	}
	var c cli
	var failed error
	code := process.Main("jobrelay", "One SQS message becomes one Kubernetes Job, and its webhook is told how it went.",
		stopAll, &c, vars(),
		func(ctx context.Context, command *kong.Context) error {
			cluster.Log(c.Logger(os.Stderr, ""))
			command.BindTo(ctx, (*context.Context)(nil))
			failed = command.Run(newConsole(c.Output, c.Log))
			return failed
		})
	if errors.Is(failed, errUnreadable) {
		return exitUsage
	}
	return code
}

// vars are the defaults that the flags' tags name. The doctor's address of NATS has
// none: it is found as every command finds it.
func vars() map[string]string { return map[string]string{"loopback": webhook.Loopback, "nats_url": ""} }

// exitUsage is the exit code of arguments that cannot be used, as process.Main
// has it for flags.
const exitUsage = 2

// errInterrupted ends a command that a signal kept from finishing: not with
// success.
var errInterrupted = errors.New("interrupted")

// interrupted is errInterrupted where err comes of the signal.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// console is where a command prints.
type console struct {
	out     io.Writer
	machine encoding // nil: people read it
	color   bool     // text may have colours: people read it on a terminal
	log     process.Log
}

func newConsole(output string, log process.Log) *console {
	c := &console{out: os.Stdout, machine: encodings[output], log: log}
	c.color = c.machine == nil && isatty.IsTerminal(os.Stdout.Fd()) && os.Getenv("NO_COLOR") == ""
	return c
}

// encoding is the form of one record for machines.
type encoding func(v any) ([]byte, error)

// encodings are the forms of --output that are for machines: a line a record, or a
// document a record.
var encodings = map[string]encoding{
	"json": func(v any) ([]byte, error) {
		var line bytes.Buffer
		err := json.NewEncoder(&line).Encode(v)
		return line.Bytes(), err
	},
	"yaml": func(v any) ([]byte, error) {
		document, err := yaml.Marshal(v)
		return append([]byte("---\n"), document...), err
	},
}

// progress is where people are told what happens: not on standard output where
// machines read that.
func (c *console) progress() io.Writer {
	if c.machine != nil {
		return os.Stderr
	}
	return c.out
}

// print writes v as a record for machines, and text for people.
func (c *console) print(v any, text string) error {
	record := []byte(text)
	if c.machine != nil {
		var err error
		if record, err = c.machine(v); err != nil {
			return err
		}
	}
	_, err := c.out.Write(record)
	return err
}

// say tells people what is no part of the result.
func (c *console) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "jobrelay: "+format+"\n", args...)
}

// Colours, each of as many bytes: columns stay in line.
const (
	red     = "\x1b[31m"
	green   = "\x1b[32m"
	yellow  = "\x1b[33m"
	neutral = "\x1b[39m"
	plain   = "\x1b[0m"
)

func (c *console) paint(color, text string) string {
	if !c.color {
		return text
	}
	return color + text + plain
}

// list prints a record of each for machines, and for people a table, or none where
// there is nothing to list. cells are those of a row.
func list[T any](c *console, all []T, header, none string, cells func(T) []string) error {
	if c.machine != nil {
		for _, v := range all {
			if err := c.print(v, ""); err != nil {
				return err
			}
		}
		return nil
	}
	rows := []string{header}
	for _, v := range all {
		rows = append(rows, strings.Join(cells(v), "\t"))
	}
	text := columns("", rows...)
	if len(all) == 0 {
		text = none
	}
	return c.print(nil, text)
}

// columns aligns rows whose cells are separated by tabs, each with a prefix.
func columns(prefix string, rows ...string) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, prefix+row)
	}
	_ = table.Flush() // a Builder takes all
	return text.String()
}
