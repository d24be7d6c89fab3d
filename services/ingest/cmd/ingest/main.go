// Command ingest: Receives messages from SQS and accepts them as requests.
package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/services/ingest"
)

func main() {
	var cli struct {
		process.Log
		ingest.Config

		Version kong.VersionFlag `env:"-" help:"Print the version."`
	}
	os.Exit(process.Main("ingest", "Receives messages from SQS and accepts them as requests.", process.StopTimeout, &cli, nil,
		func(ctx context.Context, _ *kong.Context) error {
			return ingest.Run(ctx, cli.Config, cli.Logger(os.Stderr, "ingest"))
		}))
}
