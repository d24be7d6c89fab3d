// Command launcher: Creates a Kubernetes Job for each accepted request.
package main

import (
	"os"

	"github.com/jobrelay/jobrelay/services/launcher"
)

func main() { os.Exit(launcher.Main()) }
