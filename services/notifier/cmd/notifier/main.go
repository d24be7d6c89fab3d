// Command notifier: Delivers the events of each job to its webhook, in order.
package main

import (
	"os"

	"github.com/jobrelay/jobrelay/services/notifier"
)

func main() { os.Exit(notifier.Main()) }
