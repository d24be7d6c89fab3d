// Package watcher turns what happens to Jobs and their Pods into the events of
// the jobs' logs.
//
// It is level-triggered: on each change, resync and start it looks at a Job and
// its Pods, compares them with the job's log, and appends what is missing. What
// to do is decided in package jobstatus; here it is done. Two watchers at once
// are harmless: the append rule lets one of them win.
package watcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// Config of the service; its tags are its flags.
type Config struct {
	Broker broker.Config `embed:""`

	Kubeconfig          string        `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach Kubernetes; default: the account of the Pod it runs in."`
	Installation        string        `name:"installation" default:"default" help:"Name of this installation, in the events' source and on its Jobs."`
	Namespace           string        `name:"watch-namespace" placeholder:"NAME" help:"The one namespace to watch; default: all."`
	StartDeadline       time.Duration `name:"start-deadline" default:"30m" help:"How long a Job may be without anything running before it is ended."`
	ImagePullDeadline   time.Duration `name:"image-pull-deadline" default:"5m" help:"The same from the first sight of an image that cannot be pulled."`
	UnstartableDeadline time.Duration `name:"unstartable-deadline" default:"1m" help:"The same from the first sight of what cannot heal: a bad image name, a missing configuration key."`
	Workers             int           `name:"watch-workers" default:"16" help:"Jobs looked at at once (1 to 256)."`
	MetricsAddr         string        `name:"metrics-addr" default:":9090" help:"Address of /healthz, /readyz and /metrics."`
}

// maxStart is the longest start deadline: launch wait, start and run together
// must end within the retention of the streams (12 days).
const maxStart = 24 * time.Hour

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.Installation == "" || len(validation.IsValidLabelValue(c.Installation)) > 0 {
		return errors.New("--installation takes a Kubernetes label value")
	}
	for name, d := range map[string]time.Duration{
		"start-deadline": c.StartDeadline, "image-pull-deadline": c.ImagePullDeadline, "unstartable-deadline": c.UnstartableDeadline,
	} {
		if d <= 0 || d > maxStart {
			return fmt.Errorf("--%s takes more than 0 and at most %s", name, maxStart)
		}
	}
	if c.Workers < 1 || c.Workers > 256 {
		return errors.New("--watch-workers takes 1 to 256")
	}
	return nil
}

// Run watches until ctx ends.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	server, err := process.Listen(ctx, cfg.MetricsAddr)
	if err != nil {
		return err
	}
	defer server.Stop()
	client, err := cluster.Client(cfg.Kubeconfig, "watcher", process.Version())
	if err != nil {
		return err
	}
	cfg.Broker.Role = "watcher"
	b, err := broker.Open(ctx, cfg.Broker, log)
	if err != nil {
		return err
	}
	defer b.Close()
	deadlines := jobstatus.DefaultDeadlines()
	deadlines.Start, deadlines.ImagePull, deadlines.Unstartable = cfg.StartDeadline, cfg.ImagePullDeadline, cfg.UnstartableDeadline
	w := New(b, client, Options{
		Installation: cfg.Installation, Namespace: cfg.Namespace, Workers: cfg.Workers, Deadlines: deadlines,
	}, log, server.Registry())
	server.Add("nats", b.Ready)
	server.Add("kubernetes", w.Ready)
	log.Info().Msg("watcher is running")
	return w.Run(ctx)
}
