//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
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

type point struct {
	name   string
	signal syscall.Signal
	pass   int64 // 0: never
}

func parse(s string) point {
	if s == "" {
		return point{}
	}
	name, rest, _ := strings.Cut(s, "=")
	action, nth, counted := strings.Cut(rest, ",")
	signals := map[string]syscall.Signal{"kill": syscall.SIGKILL, "pause": syscall.SIGSTOP}
	pass, err := int64(1), error(nil)
	if counted {
		pass, err = strconv.ParseInt(nth, 10, 64)
	}
	if signals[action] == 0 || name == "" || err != nil || pass < 1 {
		panic(fmt.Sprintf("%s=%q: write NAME=kill, NAME=pause or NAME=kill,3", Env, s))
	}
	return point{name, signals[action], pass}
}

// Here ends or stops the process where the failpoint is armed: by SIGKILL, or
// by SIGSTOP until somebody continues it.
func Here(name string) {
	if name != armed.name || passes.Add(1) != armed.pass {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", name, armed.signal)
	if err := syscall.Kill(os.Getpid(), armed.signal); err != nil {
		panic(err)
	}
	time.Sleep(stopMost)
}
