// Command notifier: Delivers the events of each job to its webhook, in order.
package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/services/notifier"
)

func main() {
	var cli struct {
		process.Log
		notifier.Config

		Version kong.VersionFlag `env:"-" help:"Print the version."`
	}
	os.Exit(process.Main("notifier", "Delivers the events of each job to its webhook, in order.", process.StopTimeout, &cli, notifier.Vars(),
		func(ctx context.Context, _ *kong.Context) error {
			return notifier.Run(ctx, cli.Config, cli.Logger(os.Stderr, "notifier"))
		}))
}
