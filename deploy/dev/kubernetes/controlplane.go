package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/klog/v2"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	controllermanageroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

const (
	etcdReadyMost = 30 * time.Second
	readyMost     = 2 * time.Minute // for each thing that start waits for

	// What stop gives to each part; together less than stopMost.
	controllersStopMost = 5 * time.Second
	apiServerStopMost   = 10 * time.Second
	etcdStopMost        = 5 * time.Second
)

// controlPlane is a Kubernetes control plane in this process. There can be one:
// its components keep flags and metrics in global variables.
type controlPlane struct {
	dir      folder
	listener net.Listener // the API server's
	creds    *credentials

	log    *logFile
	failed chan error // one entry for each part that ended by itself

	etcd            *embed.Etcd
	socketFolder    string // of etcd's sockets; "" when they are in dir
	stopAPIServer   context.CancelFunc
	apiServerDone   chan struct{}
	stopControllers context.CancelFunc
	controllers     sync.WaitGroup
}

// component runs until its context ends.
type component func(context.Context) error

// start returns when Pods can be created and run. Whatever it returns, stop is
// to be called.
func (c *controlPlane) start(ctx context.Context) error {
	if err := c.openLog(); err != nil {
		return err
	}
	c.failed = make(chan error, 8)

	progress("etcd")
	if err := c.startEtcd(ctx); err != nil {
		return fmt.Errorf("etcd: %w; see etcd.log in %s", err, c.dir)
	}
	progress("API server")
	// Each part outlives ctx until stop ends it, in order.
	life := context.WithoutCancel(ctx)
	if err := c.startAPIServer(life); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	client, err := kubernetes.NewForConfig(c.creds.rest(userAdmin))
	if err != nil {
		return err
	}
	if err := c.await(ctx, "the API server", func(ctx context.Context) (bool, error) {
		_, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil, nil
	}); err != nil {
		return err
	}
	progress("controllers and nodes")
	if err := c.startControllers(life); err != nil {
		return err
	}
	if err := ensureObjects(ctx, client, c.dir); err != nil {
		return err
	}
	return c.await(ctx, "the nodes, the claim and the default service account", func(ctx context.Context) (bool, error) {
		return objectsReady(ctx, client)
	})
}

// stop ends the parts in the order opposite to their start. It can be called
// again, and at any stage of the start.
func (c *controlPlane) stop() {
	if c.stopControllers != nil {
		c.stopControllers()
		waitAtMost(c.controllers.Wait, controllersStopMost)
	}
	if c.stopAPIServer != nil {
		c.stopAPIServer()
		waitAtMost(func() { <-c.apiServerDone }, apiServerStopMost)
	}
	if c.etcd != nil {
		waitAtMost(c.etcd.Close, etcdStopMost)
	}
	if c.socketFolder != "" {
		os.RemoveAll(c.socketFolder)
	}
	c.stopControllers, c.stopAPIServer, c.etcd = nil, nil, nil
	klog.Flush()
}

func waitAtMost(f func(), most time.Duration) {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(most):
	}
}

// await asks until ok is true or returns an error, a part ends, or readyMost is over.
func (c *controlPlane) await(ctx context.Context, what string, ok func(context.Context) (bool, error)) error {
	limited, cancel := context.WithTimeout(ctx, readyMost)
	defer cancel()
	for {
		done, err := ok(limited)
		if done || err != nil && limited.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limited.Done():
			return fmt.Errorf("%s: not ready in %s; see components.log in %s", what, readyMost, c.dir)
		case err := <-c.failed:
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *controlPlane) openLog() error {
	var err error
	if c.log, err = openLogFile(c.dir.path("components.log")); err != nil {
		return err
	}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "one_output": "true", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			return err
		}
	}
	klog.SetOutput(c.log)
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	return nil
}

func (c *controlPlane) startEtcd(ctx context.Context) error {
	socket, err := c.etcdSocket()
	if err != nil {
		return err
	}
	client, peer := url.URL{Scheme: "unix", Path: socket}, url.URL{Scheme: "unix", Path: socket + ".peer"}
	cfg := embed.NewConfig()
	cfg.Dir = c.dir.path("etcd")
	cfg.UnsafeNoFsync = true // a crash of the machine may lose the state, one of this process does not
	cfg.LogLevel = "error"
	cfg.LogOutputs = []string{c.dir.path("etcd.log")}
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "10m"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	if err := os.Remove(c.dir.path("etcd.log")); err != nil && !os.IsNotExist(err) {
		return err
	}
	if c.etcd, err = embed.StartEtcd(cfg); err != nil {
		return err
	}
	select {
	case <-c.etcd.Server.ReadyNotify():
		return nil
	case err := <-c.etcd.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(etcdReadyMost):
		return fmt.Errorf("not ready in %s", etcdReadyMost)
	}
}

// socketPathMost keeps "PATH.peer" below the 104 bytes that a Unix socket's
// address has on every system.
const socketPathMost = 95

// etcdSocket is in the folder, or when that makes too long a path, in a private
// folder below the temporary one. Its name depends on dir alone, so that a run
// after a crash finds it again; stop removes it.
func (c *controlPlane) etcdSocket() (string, error) {
	if socket := c.dir.path("etcd.sock"); len(socket) <= socketPathMost {
		return socket, nil
	}
	private := filepath.Join(os.TempDir(), fmt.Sprintf("jobrelay-%x", sha256.Sum256([]byte(c.dir)))[:21])
	if err := os.Mkdir(private, 0o700); err != nil && !os.IsExist(err) {
		return "", err
	}
	info, err := os.Lstat(private)
	if err != nil {
		return "", err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !ok || int(owner.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s is not a private folder of this user; remove it, or use a --dir with a shorter path", private)
	}
	c.socketFolder = private
	socket := filepath.Join(private, "etcd.sock")
	if len(socket) > socketPathMost {
		return "", fmt.Errorf("%s is too long for a socket; use a --dir or a TMPDIR with a shorter path", socket)
	}
	return socket, nil
}

// parse gives a component's options the flags of its command line.
func parse(flags cliflag.NamedFlagSets, args ...string) error {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range flags.FlagSets {
		all.AddFlagSet(set)
	}
	return all.Parse(args)
}

func (c *controlPlane) startAPIServer(ctx context.Context) error {
	socket, err := c.etcdSocket()
	if err != nil {
		return err
	}
	o := apiserveroptions.NewServerRunOptions()
	if err := parse(o.Flags(),
		"--etcd-servers=unix://"+socket,
		"--advertise-address=127.0.0.1",
		"--tls-cert-file="+c.dir.path("apiserver.crt"), "--tls-private-key-file="+c.dir.path("apiserver.key"),
		"--client-ca-file="+c.dir.path("ca.crt"), "--token-auth-file="+c.dir.path("tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.dir.path("service-accounts.key"),
		"--service-account-signing-key-file="+c.dir.path("service-accounts.key"),
		"--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none",
		"--authorization-mode=Node,RBAC",
		"--profiling=false",
	); err != nil {
		return err
	}
	o.SecureServing.Listener = c.listener
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	ctx, c.stopAPIServer = context.WithCancel(ctx)
	c.apiServerDone = make(chan struct{})
	completed, err := o.Complete(ctx)
	if err == nil {
		err = utilerrors.NewAggregate(completed.Validate())
	}
	if err != nil {
		close(c.apiServerDone)
		return err
	}
	go func() {
		defer close(c.apiServerDone)
		if err := apiserver.Run(ctx, completed); ctx.Err() == nil {
			c.failed <- endedByItself("kube-apiserver", err)
		}
	}()
	return nil
}

// startControllers starts all that is a client of the API server.
func (c *controlPlane) startControllers(ctx context.Context) error {
	ctx, c.stopControllers = context.WithCancel(ctx)
	for _, part := range []struct {
		name  string
		setup func(context.Context) (component, error)
	}{
		{"kube-scheduler", c.scheduler},
		{"kube-controller-manager", c.controllerManager},
		{"kwok", c.kubelet},
	} {
		run, err := part.setup(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		c.controllers.Go(func() {
			if err := run(ctx); ctx.Err() == nil {
				c.failed <- endedByItself(part.name, err)
			}
		})
	}
	return nil
}

func endedByItself(name string, err error) error {
	if err == nil {
		err = errors.New("without an error")
	}
	return fmt.Errorf("%s ended: %w", name, err)
}

func (c *controlPlane) scheduler(ctx context.Context) (component, error) {
	o := scheduleroptions.NewOptions()
	if err := parse(*o.Flags, "--kubeconfig="+c.dir.path("scheduler.kubeconfig"),
		"--leader-elect=false", "--secure-port=0", "--kube-api-qps=1000", "--kube-api-burst=2000"); err != nil {
		return nil, err
	}
	config, s, err := scheduler.Setup(ctx, o)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return scheduler.Run(ctx, config, s) }, nil
}

// controllerManager is the whole kube-controller-manager. Its defaults of 20
// requests a second and 5 Job syncs would start 3 Jobs a second.
func (c *controlPlane) controllerManager(ctx context.Context) (component, error) {
	o, err := controllermanageroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	known, off, aliases := controllermanager.KnownControllers(), controllermanager.ControllersDisabledByDefault(), controllermanager.ControllerAliases()
	flags := o.Flags(known, off, aliases)
	if err := parse(flags, "--kubeconfig="+c.dir.path("controllers.kubeconfig"),
		"--leader-elect=false", "--secure-port=0", "--kube-api-qps=1000", "--kube-api-burst=2000",
		"--concurrent-job-syncs=20", "--concurrent-gc-syncs=20",
		"--service-account-private-key-file="+c.dir.path("service-accounts.key"), "--root-ca-file="+c.dir.path("ca.crt"),
	); err != nil {
		return nil, err
	}
	o.ParsedFlags = &flags
	config, err := o.Config(ctx, known, off, aliases)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return controllermanager.Run(ctx, config.Complete()) }, nil
}
