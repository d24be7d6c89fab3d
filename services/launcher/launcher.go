// Package launcher turns accepted requests into Kubernetes Jobs.
package launcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Config of the service; its tags are its flags.
type Config struct {
	Replica replica.Config       `embed:""`
	Policy  replica.PolicyConfig `embed:""`

	Kubeconfig     string        `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach Kubernetes; default: the account of the Pod it runs in."`
	Namespace      string        `name:"launch-namespace" placeholder:"NAME" help:"The one namespace that Jobs may be created in, as /readyz checks the permission; default: all."`
	LaunchDeadline time.Duration `name:"launch-deadline" default:"6h" help:"How long after its acceptance a request may wait for its Job to be created (at most 288h)."`
	InFlight       int           `name:"launch-in-flight" default:"32" help:"Jobs being created at once (1 to 1000); fewer for as long as the API server answers 429."`
	Finalizer      bool          `name:"finalizer" default:"true" negatable:"" help:"Hold each Job with the finalizer jobrelay.dev/recorded until its end is recorded. Without it a Job that goes while no watcher looks has no end, or OUTCOME_UNKNOWN."`
	Rate           float64       `name:"launch-rate" default:"0" help:"Jobs that this replica creates in a second, at most; 0: as many as the API server takes."`
}

// maxWait is the longest launch wait: with start and run together it must end
// within the retention of the streams (12 days).
const maxWait = 12 * 24 * time.Hour

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.LaunchDeadline <= 0 || c.LaunchDeadline > maxWait {
		return fmt.Errorf("--launch-deadline takes more than 0 and at most %s", maxWait)
	}
	if c.InFlight < 1 || c.InFlight > 1000 {
		return errors.New("--launch-in-flight takes 1 to 1000")
	}
	if c.Rate < 0 || c.Rate > 100_000 {
		return errors.New("--launch-rate takes 0 to 100000")
	}
	return c.Replica.Validate()
}

// limiter is the rate of all launches of this replica. A second's worth may go
// at once.
func (c *Config) limiter() *rate.Limiter {
	if c.Rate == 0 {
		return rate.NewLimiter(rate.Inf, 1)
	}
	return rate.NewLimiter(rate.Limit(c.Rate), max(1, int(c.Rate)))
}

// Main is the command launcher; it returns the exit code.
func Main() int {
	var cfg Config
	return process.Service("launcher", "Creates a Kubernetes Job for each accepted request.", &cfg, nil, func(ctx context.Context, log zerolog.Logger) error {
		cluster.Log(log)
		return Run(ctx, cfg, log)
	})
}

// Run launches until ctx ends, and finishes what was started.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	policy, err := cfg.Policy.Open(log)
	if err != nil {
		return err
	}
	r, err := replica.Start(ctx, "launcher", cfg.Replica, log)
	if err != nil {
		return err
	}
	defer r.Stop()
	limit := cluster.NewLimit(cfg.InFlight)
	client, err := cluster.Client(cfg.Kubeconfig, "launcher", process.Version(), cluster.Counted(r.Calls), limit.Wrap)
	if err != nil {
		return err
	}
	access := cluster.NewAccess(client, log, Permissions(cfg.Namespace)...)
	r.Add("kubernetes", access.Ready)
	r.AddFile("policy", policy)
	l := &launcher{
		broker: r.Broker, jobs: client.BatchV1(), log: log, now: time.Now,
		installation: cfg.Replica.Installation, deadline: cfg.LaunchDeadline, policy: policy.Get, finalizer: cfg.Finalizer,
		rate: cfg.limiter(), services: newServices(), metrics: newMetrics(r.Registry(), limit), spans: r.Spans,
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go access.Watch(watching)
	go policy.Watch(watching)
	if ctx, err = r.Connect(ctx); err != nil {
		return err
	}
	log.Info().Str("instance", r.Name).Msg("launcher is running")
	group, ctx := errgroup.WithContext(ctx)
	options := broker.ConsumeOptions{InFlight: cfg.InFlight}
	group.Go(func() error { return r.Broker.Consume(ctx, broker.LauncherRequests, options, l.requested) })
	group.Go(func() error { return r.Broker.Consume(ctx, broker.LauncherWakeups, options, l.woken) })
	group.Go(func() error { return r.Broker.Consume(ctx, broker.LauncherEnds, options, l.ended) })
	return group.Wait()
}

// Permissions is what the launcher does in Kubernetes, in a namespace or in all
// (empty).
func Permissions(namespace string) []cluster.Permission {
	return []cluster.Permission{
		{Verb: "create", Group: batchv1.GroupName, Resource: "jobs", Namespace: namespace},
		{Verb: "get", Group: batchv1.GroupName, Resource: "jobs", Namespace: namespace},
	}
}

type metrics struct {
	launches *prometheus.CounterVec
	age      *telemetry.Age
}

// Outcomes of a request, the label of their metric.
const (
	outcomeCreated   = "created"
	outcomeAdopted   = "adopted"
	outcomeKnown     = "known"
	outcomeParked    = "parked"
	outcomeException = "exception"
	outcomeSurplus   = "surplus"
	outcomeSpent     = "spent"
)

func newMetrics(reg prometheus.Registerer, limit *cluster.Limit) *metrics {
	m := &metrics{launches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jobrelay_launcher_launches_total", Help: "Requests by what became of them: created, adopted, known, parked, exception, surplus, spent.",
	}, []string{"outcome"}), age: telemetry.NewAge(reg)}
	for _, outcome := range []string{outcomeCreated, outcomeAdopted, outcomeKnown, outcomeParked, outcomeException, outcomeSurplus, outcomeSpent} {
		m.launches.WithLabelValues(outcome) // begins with 0
	}
	reg.MustRegister(m.launches, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobrelay_launcher_in_flight_limit", Help: "Calls to the API server that may be in flight: --launch-in-flight, fewer after a 429.",
	}, limit.Bound))
	return m
}
