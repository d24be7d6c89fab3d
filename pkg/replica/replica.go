// Package replica is what the services have in common beside their work:
// the name of this replica, its address for health and metrics, its connection
// to NATS, and what it says of itself on STATUS.
package replica

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Config is what every service can be told; its tags are flags.
type Config struct {
	Broker  broker.Config   `embed:""`
	Tracing process.Tracing `embed:""`

	Installation string `name:"installation" default:"default" help:"Name of this installation, in the events' source and on its Jobs."`
	Instance     string `name:"instance" placeholder:"NAME" help:"Name of this replica in connections, leases and status, unlike that of any other; default: the host's name and a random end."`
	MetricsAddr  string `name:"metrics-addr" default:":9090" help:"Address of /healthz, /readyz and /metrics."`
	Pprof        bool   `name:"pprof" help:"Serve /debug/pprof/ there, too: profiles of the running process. Whoever reaches the address can have them made."`

	// Registry takes the metrics; nil: one of its own.
	Registry *process.Registry `kong:"-"`
}

// name is one token of a NATS subject, and fits into an inbox prefix.
var name = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// Validate says what is wrong with the flags.
func (c *Config) Validate() error {
	if c.Installation == "" || len(validation.IsValidLabelValue(c.Installation)) > 0 {
		return errors.New("--installation takes a Kubernetes label value")
	}
	if c.Instance != "" && !name.MatchString(c.Instance) {
		return errors.New("--instance takes 1 to 63 letters, digits, - and _")
	}
	return c.Broker.Validate()
}

const (
	// reportEvery is a third of a minute less a margin: STATUS forgets after
	// one minute, and two reports may be lost.
	reportEvery   = 15 * time.Second
	reportTimeout = 2 * time.Second
	// lookEvery is between two looks at the own readiness.
	lookEvery = time.Second
)

// Replica is one running process of a service.
type Replica struct {
	*process.Server // health and metrics

	Broker *broker.Broker   // not connected before Connect
	Calls  *telemetry.Calls // at every edge
	Spans  *telemetry.Spans // nil: tracing is off
	Name   string           // unlike that of any other replica
	// Tell adds to what the replica says of itself on STATUS; set before Connect.
	Tell func(*broker.Status)

	role       string
	started    time.Time
	log        zerolog.Logger
	background sync.WaitGroup
	cancel     context.CancelFunc
	endTracing func()
}

// Start binds the address for health and metrics. From now on /readyz says what
// the service is waiting for. Stop ends it.
func Start(ctx context.Context, role string, cfg Config, log zerolog.Logger) (*Replica, error) {
	server, err := process.Listen(ctx, cfg.MetricsAddr, cfg.Registry)
	if err != nil {
		return nil, err
	}
	if cfg.Pprof {
		server.Profile()
	}
	r := &Replica{Server: server, Calls: telemetry.NewCalls(server.Registry()), Name: cfg.Instance, role: role, started: time.Now().UTC(), log: log, cancel: func() {}}
	if r.Name == "" {
		r.Name = uniqueName()
	}
	tracer, endTracing, err := cfg.Tracing.Start(ctx, role, r.Name, log)
	if err != nil {
		server.Stop()
		return nil, err
	}
	if r.endTracing = endTracing; cfg.Tracing.On {
		r.Spans = telemetry.NewSpans(tracer)
	}
	cfg.Broker.Role, cfg.Broker.Instance = role, r.Name
	cfg.Broker.Calls, cfg.Broker.Registerer = r.Calls, server.Registry()
	r.Broker = broker.New(cfg.Broker, log)
	server.Add("nats", r.Broker.Ready)
	return r, nil
}

// Connect waits for NATS and its streams as long as ctx lives, saying so, then
// keeps looking at them and reports to STATUS until Stop. The context that it
// returns ends with ctx, or with broker.ErrClosed as its cause.
func (r *Replica) Connect(ctx context.Context) (context.Context, error) {
	if err := r.Broker.Connect(ctx); err != nil {
		return nil, err
	}
	// The reports outlive ctx: an ordered stop is a state, too.
	after, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	r.background.Go(func() { r.Broker.WatchTopology(after) })
	r.background.Go(func() { r.report(after) })
	running, end := context.WithCancelCause(ctx)
	r.background.Go(func() {
		select {
		case <-r.Broker.Closed():
			end(broker.ErrClosed)
		case <-after.Done():
		}
	})
	return running, nil
}

// Stop ends everything that Start and Connect began. The service's work must
// have ended before.
func (r *Replica) Stop() {
	r.cancel()
	r.background.Wait()
	r.Broker.Close()
	r.endTracing()
	r.Server.Stop()
}

// report tells STATUS of this replica, at once where its readiness changes,
// until ctx ends; and then that it ended.
func (r *Replica) report(ctx context.Context) {
	var last time.Time
	was := false
	for {
		checks, ready := r.Checks()
		if ready != was || time.Since(last) >= reportEvery {
			r.publish(context.WithoutCancel(ctx), ready, checks)
			last, was = time.Now(), ready
		}
		if err := process.Sleep(ctx, lookEvery); err != nil {
			r.publish(context.WithoutCancel(ctx), false, map[string]string{"process": "stopped"})
			return
		}
	}
}

func (r *Replica) publish(ctx context.Context, ready bool, checks map[string]string) {
	if !r.Broker.Connected() {
		return // the next report says it
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	status := broker.Status{
		Role: r.role, Instance: r.Name, Version: process.Version(),
		Started: r.started, At: time.Now().UTC(), Ready: ready, Checks: checks,
	}
	if r.Tell != nil {
		r.Tell(&status)
	}
	if err := r.Broker.Report(ctx, status); err != nil {
		r.log.Debug().Err(err).Msg("report to STATUS")
	}
}

// maxHost bounds the host's part of a name.
const maxHost = 48

var notInName = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// uniqueName is made anew at each start: two replicas of one name would both
// believe that they lead.
func uniqueName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "replica"
	}
	host = strings.Trim(notInName.ReplaceAllString(host, "-"), "-")
	return host[:min(len(host), maxHost)] + "-" + rand.String(5)
}
