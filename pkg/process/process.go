// Package process is what every main shares: flags and environment, the
// logger, signals, the ordered stop, and the address for health and metrics.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// EnvPrefix starts the name of every environment variable of ours.
const EnvPrefix = "JOBRELAY"

// StopTimeout bounds the ordered stop of a service; after it the process ends
// as it is.
const StopTimeout = 25 * time.Second

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Log says how a process logs.
type Log struct {
	Level  string `name:"log-level" enum:"debug,info,warn,error" default:"info" help:"Least level that is logged: debug, info, warn, error."`
	Format string `name:"log-format" enum:"auto,json,text" default:"auto" help:"Form of the log: json, text, or auto: text on a terminal, json elsewhere."`
}

// Logger writes to out: JSON lines, or text on a terminal.
func (l Log) Logger(out io.Writer, role string) zerolog.Logger {
	f, ok := out.(*os.File)
	terminal := ok && isatty.IsTerminal(f.Fd())
	if l.Format == "text" || l.Format == "auto" && terminal {
		out = zerolog.ConsoleWriter{Out: out, TimeFormat: "15:04:05.000", NoColor: !terminal || os.Getenv("NO_COLOR") != ""}
	}
	level, err := zerolog.ParseLevel(l.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	log := zerolog.New(out).Level(level).With().Timestamp()
	if role != "" {
		log = log.Str("role", role)
	}
	return log.Logger()
}

// Main parses the flags and the environment into cli, a struct for kong, calls
// run with a context that SIGINT and SIGTERM end, and returns the exit code. A
// bad flag or value is one line that says what to do, and 2; an error of run
// is one line, and 1. A second signal ends the process at once. vars are the
// ${names} in the flags' tags; bound is how long a stop may take.
func Main(name, description string, bound time.Duration, cli any, vars map[string]string, run func(ctx context.Context, command *kong.Context) error) int {
	return start(name, description, bound, cli, vars, nil, run, nil)
}

// start parses, then runs until the end. embedded are flags beside cli's, of
// which kong does not ask Validate.
func start(name, description string, bound time.Duration, cli any, vars map[string]string, options []kong.Option, run func(ctx context.Context, command *kong.Context) error, embedded any) int {
	parser, err := newParser(cli, vars, append(options, kong.Name(name), kong.Description(description))...)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return exitUsage
	}
	command, err := parser.Parse(os.Args[1:])
	if v, ok := embedded.(interface{ Validate() error }); ok && err == nil {
		err = v.Validate()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v; see %s --help\n", name, err, name)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // the next signal has its own effect: the end
		time.AfterFunc(bound, func() {
			fmt.Fprintf(os.Stderr, "%s: not stopped within %s, ending as it is\n", name, bound)
			os.Exit(exitFailed)
		})
	}()
	if err := run(ctx, command); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return exitFailed
	}
	return 0
}

// Service is the main of a service. cfg, a pointer to a struct for kong, holds
// its flags; its Validate, where it has one, is asked. `NAME healthcheck` asks
// the running process instead of starting one. All else is as for Main.
func Service(name, description string, cfg any, vars map[string]string, run func(ctx context.Context, log zerolog.Logger) error) int {
	if len(os.Args) > 1 && os.Args[1] == healthcheckVerb {
		return healthcheck(name, os.Args[2:])
	}
	var cli struct {
		Log

		Version kong.VersionFlag `env:"-" help:"Print the version."`
	}
	description += "\n\n\"" + name + " " + healthcheckVerb + "\" asks the running process whether it is ready, and exits with 0 or 1. " +
		"A flag wins over its variable in the environment."
	return start(name, description, StopTimeout, &cli, vars, []kong.Option{kong.Embed(cfg)}, func(ctx context.Context, _ *kong.Context) error {
		return run(ctx, cli.Logger(os.Stderr, name))
	}, cfg)
}

// Parse fills a service's configuration from args and, where they say nothing,
// from the environment, as its main would.
func Parse(cfg any, vars map[string]string, args ...string) error {
	parser, err := newParser(cfg, vars)
	if err != nil {
		return err
	}
	_, err = parser.Parse(args)
	return err
}

func newParser(cli any, vars map[string]string, options ...kong.Option) (*kong.Kong, error) {
	all := kong.Vars{"version": Version()}
	maps.Copy(all, vars)
	return kong.New(cli, append(options, kong.DefaultEnvars(EnvPrefix), kong.Resolvers(fileValues{}), all)...)
}

// version is set by the build (-ldflags -X).
var version = ""

// Version is what was built: the build's own word, else the module's version.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// Outlive is a context that ends d after ctx, or with its cancel.
func Outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		_ = Sleep(out, d) // either way it ends now
		cancel()
	})
	return out, func() {
		stop()
		cancel()
	}
}

// Sleep waits for d; its error is ctx's, where that ended first.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
