// Command console: Shows people what happens to jobs, in a browser.
package main

import (
	"os"

	"github.com/jobrelay/jobrelay/services/console"
)

func main() { os.Exit(console.Main()) }
