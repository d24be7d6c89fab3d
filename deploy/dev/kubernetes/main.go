// Command kubernetes runs a real Kubernetes control plane for development and
// tests in one process: etcd, kube-apiserver, kube-scheduler and the whole
// kube-controller-manager, and kwok as the kubelet of two simulated nodes. It
// makes its own certificates and tokens, keeps its state in one folder and
// needs no container registry.
//
// What its Pods do is in stages.yaml. It is no cluster for real work: etcd does
// not fsync, and the kubeconfig it writes is an administrator's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const usage = `Usage:
  kubernetes up    --dir DIR [flags]   run in the foreground until SIGTERM or Ctrl-C
  kubernetes start --dir DIR [flags]   the same, detached; returns when it is ready
  kubernetes stop  --dir DIR           end the one that runs on DIR; its state is kept
  kubernetes healthcheck --dir DIR     exit 0 if the one that runs on DIR is ready

DIR/kubeconfig is the administrator's; DIR/ready exists while it is ready.

Flags:
  --dir DIR        folder of the state: certificates, tokens, etcd, logs (required)
  --port N         port of the API server; 0 (default) picks a free one and keeps it
  --bind ADDR      IP address the API server listens on (default 127.0.0.1)
  --server URL     API server's URL in DIR/kubeconfig, as containers reach it
                   (default https://ADDR:PORT); its host is put into the certificate
  --idle DURATION  end, and forget all objects, when no process has held a shared
                   flock on DIR/holders for so long; 0 (default) means never
  --life-fd N      up only: end when the pipe at this file descriptor reaches its
                   end, i.e. when the parent is gone; SIGINT is ignored then
  --timeout DURATION  start, stop and healthcheck only: how long to wait
                   (default 2m; healthcheck 3s)
`

// usageError is a mistake in the command line: exit code 2 instead of 1.
type usageError struct{ error }

func main() {
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "kubernetes:", err)
	if errors.As(err, new(usageError)) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(args []string) error {
	if len(args) == 0 {
		return usageError{errors.New("no command given; run `kubernetes help`")}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return nil
	case "up", "start", "stop", "healthcheck":
	default:
		return usageError{fmt.Errorf("unknown command %q; run `kubernetes help`", args[0])}
	}
	o, err := parseOptions(args[0], args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return nil
	}
	if err != nil {
		return usageError{fmt.Errorf("%s: %w; run `kubernetes help`", args[0], err)}
	}
	switch args[0] {
	case "up":
		return up(context.Background(), o)
	case "start":
		return start(o)
	case "healthcheck":
		return healthcheck(o)
	default:
		return stop(o)
	}
}

// options are the flags of the command line, checked.
type options struct {
	dir     string // absolute
	port    int
	bind    net.IP
	server  *url.URL // nil: as the API server listens
	idle    time.Duration
	lifeFD  int // -1: none
	timeout time.Duration

	given []string // the flags that start hands on to up, as they were given
}

func parseOptions(command string, args []string) (options, error) {
	o := options{lifeFD: -1}
	var bind, server string
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.dir, "dir", "", "")
	runs := command == "up" || command == "start"
	if runs {
		fs.IntVar(&o.port, "port", 0, "")
		fs.StringVar(&bind, "bind", "127.0.0.1", "")
		fs.StringVar(&server, "server", "", "")
		fs.DurationVar(&o.idle, "idle", 0, "")
	}
	switch command {
	case "up":
		fs.IntVar(&o.lifeFD, "life-fd", -1, "")
	case "healthcheck":
		fs.DurationVar(&o.timeout, "timeout", 3*time.Second, "")
	default:
		fs.DurationVar(&o.timeout, "timeout", 2*time.Minute, "")
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.dir == "" {
		return o, errors.New("--dir is missing; name a folder for the state")
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	if !runs {
		return o, nil
	}
	if o.port < 0 || o.port > 65535 {
		return o, fmt.Errorf("--port %d is out of range; choose 0 to 65535", o.port)
	}
	if o.bind = net.ParseIP(bind); o.bind == nil {
		return o, fmt.Errorf("--bind %q is not an IP address; try 127.0.0.1 or 0.0.0.0", bind)
	}
	if server != "" {
		if o.server, err = url.Parse(server); err != nil || o.server.Scheme != "https" || o.server.Hostname() == "" {
			return o, fmt.Errorf("--server %q is not a URL like https://kubernetes:6443", server)
		}
	}
	if o.idle < 0 {
		return o, fmt.Errorf("--idle %s is negative; choose 0 for never", o.idle)
	}
	// Descriptors 0 to 2 are standard input and outputs.
	if o.lifeFD != -1 && o.lifeFD < 3 {
		return o, fmt.Errorf("--life-fd %d is not a descriptor of a pipe; choose 3 or more", o.lifeFD)
	}
	fs.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "port", "bind", "server", "idle":
			o.given = append(o.given, "--"+f.Name+"="+f.Value.String())
		}
	})
	return o, nil
}
