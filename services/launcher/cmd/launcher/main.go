// Command launcher: Creates a Kubernetes Job for each accepted request.
package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/services/launcher"
)

func main() {
	var cli struct {
		process.Log
		launcher.Config

		Version kong.VersionFlag `env:"-" help:"Print the version."`
	}
	os.Exit(process.Main("launcher", "Creates a Kubernetes Job for each accepted request.", process.StopTimeout, &cli, nil,
		func(ctx context.Context, _ *kong.Context) error {
			return launcher.Run(ctx, cli.Config, cli.Logger(os.Stderr, "launcher"))
		}))
}
