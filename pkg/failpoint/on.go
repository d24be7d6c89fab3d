//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Env names the one armed failpoint: NAME=kill or NAME=pause, and the pass at
// which it acts, the first without one (NAME=kill,3). Each acts once. Anything
// else in it panics at start.
const Env = "JOBRELAY_FAILPOINT"

// stopMost is how long after the signal the kernel may still let this thread
// run; it counts on when the process is continued.
const stopMost = 100 * time.Millisecond

var (
	armed  = parse(os.Getenv(Env))
	passes atomic.Int64
)

type action struct {
	at     Point
	signal syscall.Signal
	pass   int64
}

func parse(s string) action {
	if s == "" {
		return action{}
	}
	name, rest, _ := strings.Cut(s, "=")
	verb, nth, counted := strings.Cut(rest, ",")
	signals := map[string]syscall.Signal{"kill": syscall.SIGKILL, "pause": syscall.SIGSTOP}
	pass, err := int64(1), error(nil)
	if counted {
		pass, err = strconv.ParseInt(nth, 10, 64)
	}
	if signals[verb] == 0 || !slices.Contains(All(), Point(name)) || err != nil || pass < 1 {
		panic(fmt.Sprintf("%s=%q: write NAME=kill, NAME=pause or NAME=kill,3, NAME one of %v", Env, s, All()))
	}
	return action{Point(name), signals[verb], pass}
}

// Here ends or stops the process where the failpoint is armed: by SIGKILL, or
// by SIGSTOP until somebody continues it.
func Here(p Point) {
	if p != armed.at || passes.Add(1) != armed.pass {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", p, armed.signal)
	if err := syscall.Kill(os.Getpid(), armed.signal); err != nil {
		panic(err)
	}
	time.Sleep(stopMost)
}
