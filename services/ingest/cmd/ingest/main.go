// Command ingest: Receives messages from SQS and accepts them as requests.
package main

import (
	"os"

	"github.com/jobrelay/jobrelay/services/ingest"
)

func main() { os.Exit(ingest.Main()) }
