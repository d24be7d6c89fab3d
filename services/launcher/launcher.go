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
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// Config of the service; its tags are its flags.
type Config struct {
	Broker broker.Config `embed:""`

	Kubeconfig     string        `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach Kubernetes; default: the account of the Pod it runs in."`
	Installation   string        `name:"installation" default:"default" help:"Name of this installation, in the events' source and on its Jobs."`
	LaunchDeadline time.Duration `name:"launch-deadline" default:"6h" help:"How long after its acceptance a request may wait for its Job to be created (at most 288h)."`
	InFlight       int           `name:"launch-in-flight" default:"32" help:"Jobs being created at once (1 to 1000)."`
	MetricsAddr    string        `name:"metrics-addr" default:":9090" help:"Address of /healthz, /readyz and /metrics."`
}

// maxWait is the longest launch wait: with start and run together it must end
// within the retention of the streams (12 days).
const maxWait = 12 * 24 * time.Hour

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.Installation == "" || len(validation.IsValidLabelValue(c.Installation)) > 0 {
		return errors.New("--installation takes a Kubernetes label value")
	}
	if c.LaunchDeadline <= 0 || c.LaunchDeadline > maxWait {
		return fmt.Errorf("--launch-deadline takes more than 0 and at most %s", maxWait)
	}
	if c.InFlight < 1 || c.InFlight > 1000 {
		return errors.New("--launch-in-flight takes 1 to 1000")
	}
	return nil
}

// Run launches until ctx ends, and finishes what was started.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	server, err := process.Listen(ctx, cfg.MetricsAddr)
	if err != nil {
		return err
	}
	defer server.Stop()
	client, err := cluster.Client(cfg.Kubeconfig, "launcher", process.Version())
	if err != nil {
		return err
	}
	cfg.Broker.Role = "launcher"
	b, err := broker.Open(ctx, cfg.Broker, log)
	if err != nil {
		return err
	}
	defer b.Close()
	l := &launcher{
		broker: b, jobs: client.BatchV1(), log: log, now: time.Now,
		installation: cfg.Installation, deadline: cfg.LaunchDeadline, metrics: newMetrics(server.Registry()),
	}
	server.Add("nats", b.Ready)
	log.Info().Msg("launcher is running")
	group, ctx := errgroup.WithContext(ctx)
	options := broker.ConsumeOptions{InFlight: cfg.InFlight}
	group.Go(func() error { return b.Consume(ctx, broker.LauncherRequests, options, l.requested) })
	group.Go(func() error { return b.Consume(ctx, broker.LauncherWakeups, options, l.woken) })
	return group.Wait()
}

type metrics struct {
	launches *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{launches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jobrelay_launcher_launches_total", Help: "Requests by what became of them: created, adopted, known, parked, exception, surplus.",
	}, []string{"outcome"})}
	reg.MustRegister(m.launches)
	return m
}
