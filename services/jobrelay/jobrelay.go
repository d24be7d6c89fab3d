// Package jobrelay is the command that people type.
package jobrelay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/webhook"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// cli is every command with its flags.
type cli struct {
	process.Log

	Output  string           `name:"output" short:"o" enum:"text,json" default:"text" help:"Form of what is printed: text for people, json for machines."`
	Version kong.VersionFlag `env:"-" help:"Print the version."`

	Dev      devCommand      `cmd:"" help:"Run everything in one command: NATS, SQS, Kubernetes, the four services and a webhook receiver."`
	Demo     demoCommand     `cmd:"" help:"Run the original's sample message through a stack of its own and show what happens."`
	Send     sendCommand     `cmd:"" help:"Put messages on a queue."`
	Validate validateCommand `cmd:"" help:"Say everything that is wrong with a message."`
	Render   renderCommand   `cmd:"" help:"Print the Job that a message becomes, as YAML."`
	SQS      sqsCommand      `cmd:"" name:"sqs" help:"Run the development stack's SQS endpoint alone."`
	Webhooks webhooksCommand `cmd:"" help:"Run a webhook receiver alone, and show what arrives."`
	Topology topologyCommand `cmd:"" help:"Apply or verify the JetStream streams and consumers."`
	Replicas replicasCommand `cmd:"" help:"Show every running replica of the services and what it says of itself."`

	Healthcheck healthcheckCommand `cmd:"" help:"Ask an address whether it is healthy: exit code 0, or 1 and why not."`
}

// stopAll bounds the stop of a whole development stack: its services, then each
// of its parts.
const stopAll = process.StopTimeout + 4*stopTimeout

// Main runs the command line and returns the exit code. Called by the name of a
// service, as the container image's links do, it is that service: one binary
// then holds what all five share (docs/adr/0007).
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
	}
	var c cli
	return process.Main("jobrelay", "One SQS message becomes one Kubernetes Job, and its webhook is told how it went.",
		stopAll, &c, map[string]string{"loopback": webhook.Loopback},
		func(ctx context.Context, command *kong.Context) error {
			cluster.Log(c.Logger(os.Stderr, ""))
			command.BindTo(ctx, (*context.Context)(nil))
			return command.Run(&console{out: os.Stdout, json: c.Output == "json", log: c.Log})
		})
}

// console is where a command prints.
type console struct {
	out  io.Writer
	json bool
	log  process.Log
}

// progress is where people are told what happens: not on standard output where
// machines read that.
func (c *console) progress() io.Writer {
	if c.json {
		return os.Stderr
	}
	return c.out
}

// print writes v as one line of JSON for machines, and text for people.
func (c *console) print(v any, text string) error {
	if c.json {
		return json.NewEncoder(c.out).Encode(v)
	}
	_, err := fmt.Fprint(c.out, text)
	return err
}

// errInvalid ends validate and render after the problems were printed.
var errInvalid = errors.New("the message is not valid")

// maxMessage bounds what is read as one message; one byte more than SQS takes,
// so that a message that is too large is seen as such.
const maxMessage = 1<<20 + 1

// readMessage reads a file, or standard input for "-".
func readMessage(name string) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, maxMessage))
}
