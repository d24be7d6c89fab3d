package main

import (
	"fmt"
	"os"
	"runtime/pprof"

	"github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/jobrelay"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

const (
	// asVerb, as the first argument, makes this binary another: a bare loop, or
	// one of the product's under the profiler.
	asVerb = "as"
	// profileEnv names the file that the CPU profile of this process goes to.
	profileEnv = "BENCH_CPU_PROFILE"
)

// roles are the mains that this binary can be.
var roles = map[string]func() int{
	"ingest": ingest.Main, "launcher": launcher.Main, "watcher": watcher.Main, "notifier": notifier.Main, "console": console.Main, "jobrelay": jobrelay.Main,
	bareIntake: bareIntakeMain, bareCreation: bareCreationMain, bareWatch: bareWatchMain,
	bareCallbacks: bareCallbacksMain, receiversRole: receiversMain, tapReader: tapReaderMain,
}

// as runs a role's own main with the arguments, and returns its exit code.
func as(role string, args []string) int {
	run, ok := roles[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: there is no role %s\n", role)
		return 2
	}
	os.Args = append([]string{role}, args...)
	file := os.Getenv(profileEnv)
	if file == "" {
		return run()
	}
	code := 0
	if err := profiled(file, func() { code = run() }); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 1
	}
	return code
}

func profiled(file string, run func()) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	run()
	pprof.StopCPUProfile()
	return f.Close()
}
