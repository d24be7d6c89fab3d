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
	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
)

// Config of the service; its tags are its flags.
type Config struct {
	Replica replica.Config       `embed:""`
	Policy  replica.PolicyConfig `embed:""`

	Kubeconfig     string         `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach Kubernetes; default: the account of the Pod it runs in."`
	Namespace      string         `name:"watch-namespace" placeholder:"NAME" help:"The one namespace to watch; default: all."`
	LeaseNamespace string         `name:"lease-namespace" placeholder:"NAME" help:"Where the Lease of the leader is; default: the namespace of the kubeconfig's context or of the Pod."`
	LeaseDuration  time.Duration  `name:"lease-duration" default:"15s" help:"How long a leader that is silent remains the leader (3s to 2m)."`
	Deadlines      DeadlineConfig `embed:""`
	Workers        int            `name:"watch-workers" default:"16" help:"Jobs looked at at once (1 to 256)."`
	LogTail        int            `name:"log-tail" default:"0" help:"Last lines of the failed container's log in the event of a failed Job (1 to 100, at most 4 KiB); 0: none. Needs get on pods/log. Logs may hold secrets, and every tap of the service reads its events: so it is off."`
}

// DeadlineConfig is how long Jobs may take to start; its tags are its flags. Who
// replays what a watcher saw has the same.
type DeadlineConfig struct {
	Start       time.Duration `name:"start-deadline" default:"30m" help:"How long a Job may be without anything running before it is ended."`
	ImagePull   time.Duration `name:"image-pull-deadline" default:"5m" help:"The same from the first sight of an image that cannot be pulled."`
	Unstartable time.Duration `name:"unstartable-deadline" default:"1m" help:"The same from the first sight of what cannot heal: a bad image name, a missing configuration key."`
}

// maxStart is the longest start deadline: launch wait, start and run together
// must end within the retention of the streams (12 days).
const maxStart = 24 * time.Hour

// Validate says what is wrong with the flags.
func (c *DeadlineConfig) Validate() error {
	for name, d := range map[string]time.Duration{
		"start-deadline": c.Start, "image-pull-deadline": c.ImagePull, "unstartable-deadline": c.Unstartable,
	} {
		if d <= 0 || d > maxStart {
			return fmt.Errorf("--%s takes more than 0 and at most %s", name, maxStart)
		}
	}
	return nil
}

// Deadlines are the contract's with those of the flags.
func (c *DeadlineConfig) Deadlines() jobstatus.Deadlines {
	d := jobstatus.DefaultDeadlines()
	d.Start, d.ImagePull, d.Unstartable = c.Start, c.ImagePull, c.Unstartable
	return d
}

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.LeaseDuration < 3*time.Second || c.LeaseDuration > 2*time.Minute {
		return errors.New("--lease-duration takes 3s to 2m")
	}
	if err := c.Deadlines.Validate(); err != nil {
		return err
	}
	if c.Workers < 1 || c.Workers > 256 {
		return errors.New("--watch-workers takes 1 to 256")
	}
	if c.LogTail < 0 || c.LogTail > maxLogTail {
		return fmt.Errorf("--log-tail takes 0 to %d lines", maxLogTail)
	}
	return c.Replica.Validate()
}

// cancelsAtOnce bounds the cancels that are carried out at once.
const cancelsAtOnce = 16

// Main is the command watcher; it returns the exit code.
func Main() int {
	var cfg Config
	return process.Service("watcher", "Watches the Jobs and their Pods and appends what happens to their logs.", &cfg, nil, func(ctx context.Context, log zerolog.Logger) error {
		cluster.Log(log)
		return Run(ctx, cfg, log)
	})
}

// Run watches until ctx ends.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	policy, err := cfg.Policy.Open(log)
	if err != nil {
		return err
	}
	r, err := replica.Start(ctx, "watcher", cfg.Replica, log)
	if err != nil {
		return err
	}
	defer r.Stop()
	client, err := cluster.Client(cfg.Kubeconfig, "watcher", process.Version(), cluster.Counted(r.Calls))
	if err != nil {
		return err
	}
	if cfg.LeaseNamespace == "" {
		cfg.LeaseNamespace = cluster.Namespace(cfg.Kubeconfig)
	}
	w := New(r.Broker, client, Options{
		Installation: cfg.Replica.Installation, Namespace: cfg.Namespace, Workers: cfg.Workers, Deadlines: cfg.Deadlines.Deadlines(), Policy: policy.Get, LogTail: cfg.LogTail,
		Lease: Lease{Namespace: cfg.LeaseNamespace, Identity: r.Name, Duration: cfg.LeaseDuration}, Spans: r.Spans,
	}, log, r.Registry())
	access := cluster.NewAccess(client, log, cfg.Permissions()...)
	r.Add("kubernetes", access.Ready)
	r.Add("watches", w.Ready)
	r.AddState("leader", w.Leader)
	r.AddFile("policy", policy)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go access.Watch(watching)
	go policy.Watch(watching)
	if ctx, err = r.Connect(ctx); err != nil {
		return err
	}
	log.Info().Str("instance", r.Name).Msg("watcher is running")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx) })
	group.Go(func() error {
		return r.Broker.Consume(ctx, broker.WatcherCommands, broker.ConsumeOptions{InFlight: cancelsAtOnce}, w.Cancel)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, broker.ErrClosed) {
		return cause
	}
	return nil
}

// Permissions is what the watcher does in Kubernetes.
func (c *Config) Permissions() []cluster.Permission {
	var out []cluster.Permission
	for _, verb := range []string{"get", "list", "watch", "patch", "delete"} {
		out = append(out, cluster.Permission{Verb: verb, Group: batchv1.GroupName, Resource: "jobs", Namespace: c.Namespace})
	}
	for _, verb := range []string{"list", "watch"} {
		out = append(out, cluster.Permission{Verb: verb, Resource: "pods", Namespace: c.Namespace})
	}
	if c.LogTail > 0 {
		out = append(out, cluster.Permission{Verb: "get", Resource: "pods", Subresource: "log", Namespace: c.Namespace})
	}
	for _, verb := range []string{"get", "create", "update"} {
		out = append(out, cluster.Permission{Verb: verb, Group: coordinationv1.GroupName, Resource: "leases", Namespace: c.LeaseNamespace})
	}
	return out
}

// Evidence is what the watcher may do besides, for more exact error codes
// (docs/adr/0012).
func (c *Config) Evidence() []cluster.Permission {
	return []cluster.Permission{
		{Verb: "list", Resource: "events", Namespace: c.Namespace},
		{Verb: "get", Resource: "namespaces", Namespace: c.Namespace},
	}
}
