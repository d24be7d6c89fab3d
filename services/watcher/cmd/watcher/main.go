// Command watcher: Watches the Jobs and their Pods and appends what happens to their logs.
package main

import (
	"os"

	"github.com/jobrelay/jobrelay/services/watcher"
)

func main() { os.Exit(watcher.Main()) }
