// Command watcher: Watches the Jobs and their Pods and appends what happens to their logs.
package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/services/watcher"
)

func main() {
	var cli struct {
		process.Log
		watcher.Config

		Version kong.VersionFlag `env:"-" help:"Print the version."`
	}
	os.Exit(process.Main("watcher", "Watches the Jobs and their Pods and appends what happens to their logs.", process.StopTimeout, &cli, nil,
		func(ctx context.Context, _ *kong.Context) error {
			return watcher.Run(ctx, cli.Config, cli.Logger(os.Stderr, "watcher"))
		}))
}
