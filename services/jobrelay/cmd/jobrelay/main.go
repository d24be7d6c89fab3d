// Command jobrelay is what people type: a development stack in one command,
// and tools for messages, queues, webhooks and the topology.
package main

import (
	"os"

	"github.com/jobrelay/jobrelay/services/jobrelay"
)

func main() { os.Exit(jobrelay.Main()) }
