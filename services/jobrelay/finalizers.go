package jobrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
)

type finalizersCommand struct {
	List    finalizersList    `cmd:"" help:"List the Jobs that jobrelay's finalizer holds."`
	Release finalizersRelease `cmd:"" help:"Take the finalizer off Jobs by hand, where no watcher will."`
}

// held says which Jobs are meant.
type held struct {
	Kubeconfig   string `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach Kubernetes; default: the account of the Pod it runs in."`
	Installation string `name:"installation" default:"default" help:"Whose Jobs; another's are never touched."`
	Namespace    string `name:"namespace" short:"n" env:"-" placeholder:"NAME" help:"Only those of this namespace; default: all."`
}

type finalizersList struct {
	held `embed:""`
}

func (f *finalizersList) Run(ctx context.Context, c *console) error {
	client, err := cluster.Client(f.Kubeconfig, "operator", process.Version())
	if err != nil {
		return err
	}
	var all []cluster.Held
	err = cluster.HeldJobs(ctx, client, f.Installation, f.Namespace, func(h cluster.Held) error {
		all = append(all, h)
		return nil
	})
	if err != nil {
		return interrupted(ctx, err)
	}
	return list(c, all, "NAMESPACE\tJOB\tID\tAGE\tSTATE", "no Job is held\n", func(h cluster.Held) []string {
		return []string{h.Namespace, h.Name, cmp.Or(cut(h.ID), "-"), time.Since(h.Created).Round(time.Second).String(), state(h)}
	})
}

// state says what a watcher would still do about it.
func state(h cluster.Held) string {
	switch {
	case h.Ended:
		return "ended, not recorded yet"
	case h.Deleting:
		return "deleted, not recorded yet"
	}
	return "goes on"
}

type finalizersRelease struct {
	held `embed:""`

	Jobs []string `arg:"" name:"JOB" optional:"" help:"Names of Jobs in --namespace."`
	All  bool     `name:"all" env:"-" help:"All that are held, in --namespace or in every one."`
}

// Help is what release --help says besides its flags.
func (*finalizersRelease) Help() string {
	return "A Job that is released may vanish before its end is recorded: then its log ends with OUTCOME_UNKNOWN, " +
		"or, where no watcher sees it go, with nothing. Use it where jobrelay is removed from a cluster, " +
		"or where a Job must go and no watcher can run."
}

// Validate says what is wrong with the arguments; kong calls it.
func (f *finalizersRelease) Validate() error {
	switch {
	case f.All == (len(f.Jobs) > 0):
		return errors.New("name Jobs, or --all")
	case !f.All && f.Namespace == "":
		return errors.New("name the --namespace of the Jobs")
	}
	return nil
}

func (f *finalizersRelease) Run(ctx context.Context, c *console) error {
	client, err := cluster.Client(f.Kubeconfig, "operator", process.Version())
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, name := range f.Jobs {
		left[name] = true
	}
	failed := 0
	err = cluster.HeldJobs(ctx, client, f.Installation, f.Namespace, func(h cluster.Held) error {
		if !f.All && !left[h.Name] {
			return nil
		}
		delete(left, h.Name)
		if err := h.Release(ctx, client); err != nil && !apierrors.IsNotFound(err) {
			failed++
			c.say("%s/%s was not released: %v", h.Namespace, h.Name, err)
			return ctx.Err()
		}
		return c.print(h, fmt.Sprintf("%s/%s released (%s)\n", h.Namespace, h.Name, state(h)))
	})
	if err != nil {
		return interrupted(ctx, err)
	}
	for _, name := range f.Jobs {
		if left[name] {
			failed++
			c.say("%s/%s is not held: there is no such Job, or it has no finalizer of ours", f.Namespace, name)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d were not released", failed)
	}
	return nil
}
