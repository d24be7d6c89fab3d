// Command node records what a real kubelet does to Jobs, and helps up.sh to
// attach one to a control plane (README.md).
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/alecthomas/kong"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
)

type cli struct {
	Record recordCommand `cmd:"" help:"Record the Jobs, Pods and Events of a namespace, until a signal."`
	Cases  casesCommand  `cmd:"" help:"Make each case happen on the node and record it."`
	Trim   trimCommand   `cmd:"" help:"Take the noise out of recordings."`

	Kubeconfig kubeconfigCommand `cmd:"" help:"Write a kubeconfig that acts as a node (up.sh)."`
	Wait       waitCommand       `cmd:"" help:"Wait until a node is ready (up.sh)."`
	FreePort   freePortCommand   `cmd:"" name:"freeport" help:"Print a port that is free (up.sh)."`
}

func main() {
	var c cli
	os.Exit(process.Main("node", "A real Kubernetes node for a local control plane, and recordings of what it does.", time.Minute, &c, nil,
		func(ctx context.Context, command *kong.Context) error {
			command.BindTo(ctx, (*context.Context)(nil))
			return command.Run()
		}))
}

// clusterFlags is the cluster that a command works on.
type clusterFlags struct {
	Kubeconfig string `name:"kubeconfig" env:"KUBECONFIG" required:"" placeholder:"FILE" help:"The administrator's kubeconfig."`
}

func (f *clusterFlags) clients() (kubernetes.Interface, dynamic.Interface, error) {
	config, err := cluster.Config(f.Kubeconfig, "node", process.Version())
	if err != nil {
		return nil, nil, err
	}
	config.ContentType = "application/json" // a recording has what the API server gives as JSON
	config.AcceptContentTypes = config.ContentType
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	return client, objects, err
}

type recordCommand struct {
	clusterFlags `embed:""`

	Namespace string        `name:"namespace" env:"-" default:"default" help:"The namespace to record."`
	Out       string        `name:"out" env:"-" placeholder:"FILE" help:"Where to write; default: standard output."`
	For       time.Duration `name:"for" env:"-" help:"How long to record; 0 means until a signal."`
}

func (r *recordCommand) Run(ctx context.Context) error {
	_, objects, err := r.clients()
	if err != nil {
		return err
	}
	out := os.Stdout
	if r.Out != "" {
		if out, err = os.Create(r.Out); err != nil {
			return err
		}
	}
	if r.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.For)
		defer cancel()
	}
	rec, err := record(ctx, objects, r.Namespace, out, nil)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return rec.close()
}

type trimCommand struct {
	Files []string `arg:"" name:"FILE" help:"Recordings."`
	Out   string   `name:"out" env:"-" required:"" placeholder:"DIR" help:"The folder that they are written to."`
}

func (t *trimCommand) Run() error {
	for _, name := range t.Files {
		if err := trimFile(name, filepath.Join(t.Out, filepath.Base(name))); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

type freePortCommand struct{}

func (*freePortCommand) Run(ctx context.Context) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	fmt.Println(port)
	return err
}
