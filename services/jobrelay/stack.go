package jobrelay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/process"
	pages "github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

const (
	devQueue = "jobs"
	// devRegion is what the SDK signs with; the endpoint checks no signature.
	devRegion = "us-east-1"
	// lockWait is how long a start waits for a predecessor that is dying.
	lockWait = 15 * time.Second
	// startTimeout bounds the start of everything, the control plane included.
	startTimeout = 3 * time.Minute
)

// stackConfig says what a development stack is made of.
type stackConfig struct {
	Dir          string
	Kubeconfig   string // empty: a local control plane
	WebhookAllow string
	Progress     io.Writer // one line a step
	OnCall       func(hookd.Call)
	Log          zerolog.Logger
}

// description is dev.json: where everything is, once all is ready.
type description struct {
	SQS struct {
		Endpoint string `json:"endpoint"`
		QueueURL string `json:"queueUrl"`
		Region   string `json:"region"`
	} `json:"sqs"`
	NATS struct {
		URL          string `json:"url"`
		EventsStream string `json:"eventsStream"`
	} `json:"nats"`
	Kubernetes struct {
		Kubeconfig string `json:"kubeconfig"`
	} `json:"kubernetes"`
	Webhooks struct {
		URL string `json:"url"`
	} `json:"webhooks"`
	Console struct {
		URL string `json:"url"`
	} `json:"console"`
	Metrics map[string]string `json:"metrics"`
}

const descriptionFile = "dev.json"

// errNoStack is what readDescription's error wraps where there is none.
var errNoStack = errors.New("no jobrelay dev is running")

// readDescription finds a running stack.
func readDescription(dir string) (description, error) {
	var d description
	b, err := os.ReadFile(filepath.Join(dir, descriptionFile)) //nolint:gosec // the folder that the user names
	if errors.Is(err, os.ErrNotExist) {
		return d, fmt.Errorf("%w on %s; start one, or name a queue with --queue", errNoStack, dir)
	}
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("%s: %w", filepath.Join(dir, descriptionFile), err)
	}
	return d, nil
}

// stack is a running development stack.
type stack struct {
	cfg   stackConfig
	start time.Time
	lock  *flock.Flock
	ports map[string]int

	nats  *natsd.Server
	sqs   *sqsd.Server
	hooks *hookd.Server
	kube  *kubed.Cluster // nil with a cluster of one's own

	configs struct {
		ingest   ingest.Config
		launcher launcher.Config
		watcher  watcher.Config
		notifier notifier.Config
		console  pages.Config
	}
	description  description
	services     *errgroup.Group
	ended        context.Context // done when a service failed or was stopped
	stopServices context.CancelFunc
}

// startStack starts every part, waits until all is ready, and writes dev.json.
// A folder of an earlier stack is gone on with. The caller stops it.
func startStack(ctx context.Context, cfg stackConfig) (*stack, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	s := &stack{cfg: cfg, start: time.Now()}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready in %s", startTimeout))
	defer cancel()
	for _, step := range []func(context.Context) error{s.takeFolder, s.configure, s.startParts, s.startServices, s.describe} {
		if err := step(ctx); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

// say prints one step with its time.
func (s *stack) say(what, format string, args ...any) {
	fmt.Fprintf(s.cfg.Progress, "%6.2f s  %-12s%s\n", time.Since(s.start).Seconds(), what, fmt.Sprintf(format, args...))
}

func (s *stack) takeFolder(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("state folder: %w; choose another with --state-dir", err)
	}
	lock := flock.New(filepath.Join(s.cfg.Dir, "lock"))
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("another jobrelay dev runs on %s; stop it, or choose another folder with --state-dir", s.cfg.Dir)
	}
	s.lock = lock
	if err := os.Remove(filepath.Join(s.cfg.Dir, descriptionFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.keepPorts(ctx)
}

// keepPorts gives each part the port that it had on this folder before:
// messages of then name the webhook receiver's.
func (s *stack) keepPorts(ctx context.Context) error {
	file := filepath.Join(s.cfg.Dir, "ports.json")
	s.ports = map[string]int{}
	if b, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(b, &s.ports); err != nil {
			return fmt.Errorf("%s: %w; remove it", file, err)
		}
	}
	var listen net.ListenConfig
	var listeners []net.Listener // held until all are chosen, so that they differ
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for _, part := range []string{"nats", "sqs", "webhooks", "ingest", "launcher", "watcher", "notifier", "console", "console-metrics"} {
		l, err := listen.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.ports[part]))
		if err != nil {
			if l, err = listen.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
				return err
			}
			s.say(part, "port %d is taken, moves to another", s.ports[part])
		}
		listeners = append(listeners, l)
		s.ports[part] = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
	}
	return writeJSON(file, s.ports)
}

func (s *stack) address(part string) string { return fmt.Sprintf("127.0.0.1:%d", s.ports[part]) }

func (s *stack) startParts(ctx context.Context) error {
	var err error
	d := &s.description
	if s.nats, err = natsd.Start(ctx, natsd.Config{Dir: filepath.Join(s.cfg.Dir, "nats"), Addr: s.address("nats")}); err != nil {
		return err
	}
	d.NATS.URL, d.NATS.EventsStream = s.nats.URL(), "EVENTS"
	s.say("nats", "%s", d.NATS.URL)
	if s.sqs, err = sqsd.Start(sqsd.Config{Addr: s.address("sqs"), Dir: filepath.Join(s.cfg.Dir, "sqs")}); err != nil {
		return err
	}
	if d.SQS.QueueURL, err = s.sqs.CreateQueue(devQueue, nil); err != nil {
		return err
	}
	d.SQS.Endpoint, d.SQS.Region = s.sqs.URL(), devRegion
	s.say("sqs", "%s", d.SQS.QueueURL)
	if s.hooks, err = hookd.Start(hookd.Config{Addr: s.address("webhooks"), OnCall: s.cfg.OnCall}); err != nil {
		return err
	}
	d.Webhooks.URL = s.hooks.URL()
	s.say("webhooks", "%s", d.Webhooks.URL)
	d.Kubernetes.Kubeconfig = s.kubeconfig()
	if s.cfg.Kubeconfig == "" {
		return s.startKubernetes(ctx)
	}
	s.say("kubernetes", "the cluster of %s", s.cfg.Kubeconfig)
	return nil
}

func (s *stack) startKubernetes(ctx context.Context) error {
	binary, err := kubed.Find()
	if err != nil {
		return err
	}
	var ready atomic.Bool
	s.kube, err = kubed.Start(ctx, kubed.Config{
		Binary: binary, Dir: filepath.Join(s.cfg.Dir, "kubernetes"),
		Log: func(line string) {
			if ready.Load() { // what its parts say later is for the log
				s.cfg.Log.Info().Str("role", "kubernetes").Msg(line)
				return
			}
			s.say("kubernetes", "%s", line)
		},
	})
	ready.Store(true)
	return err
}

// configure reads the services' configuration with the addresses of this
// stack; all else comes from the environment, as for their own binaries. A bad
// value is told before anything starts.
func (s *stack) configure(context.Context) error {
	c := &s.configs
	nats, kube := "--nats-url=nats://"+s.address("nats"), "--kubeconfig="+s.kubeconfig()
	metrics := func(role string) string { return "--metrics-addr=" + s.address(role) }
	// The same name after a crash: its Lease is its own still.
	instance := "--instance=" + s.instance()
	return errors.Join(
		process.Parse(&c.ingest, nil, nats, metrics("ingest"), instance, "--sqs-queue-url=http://"+s.address("sqs")+"/"+devQueue),
		process.Parse(&c.launcher, nil, nats, metrics("launcher"), instance, kube),
		process.Parse(&c.watcher, nil, nats, metrics("watcher"), instance, kube),
		process.Parse(&c.notifier, notifier.Vars(), nats, metrics("notifier"), instance, "--webhook-allow="+s.cfg.WebhookAllow),
		process.Parse(&c.console, nil, nats, metrics("console-metrics"), instance, "--listen="+s.address("console"), "--allow-actions"),
	)
}

// instance names this stack's replicas: by its host and folder.
func (s *stack) instance() string {
	host, _ := os.Hostname() // empty will do
	sum := sha256.Sum256([]byte(host + s.cfg.Dir))
	return "dev-" + hex.EncodeToString(sum[:4])
}

// kubeconfig is the given cluster's, or where the local one writes its own.
func (s *stack) kubeconfig() string {
	if s.cfg.Kubeconfig != "" {
		return s.cfg.Kubeconfig
	}
	return filepath.Join(s.cfg.Dir, "kubernetes", "kubeconfig")
}

// startServices runs the four, waits until they are ready, and then shows them.
func (s *stack) startServices(ctx context.Context) error {
	c := s.configs
	c.ingest.QueueURLs = []string{s.description.SQS.QueueURL} // as the endpoint names it
	c.ingest.Endpoint, c.ingest.Region = s.description.SQS.Endpoint, s.description.SQS.Region
	var running context.Context
	running, s.stopServices = context.WithCancel(context.WithoutCancel(ctx))
	s.services, s.ended = errgroup.WithContext(running)
	log := func(role string) zerolog.Logger { return s.cfg.Log.With().Str("role", role).Logger() }
	s.services.Go(func() error { return ingest.Run(s.ended, c.ingest, log("ingest")) })
	s.services.Go(func() error { return launcher.Run(s.ended, c.launcher, log("launcher")) })
	s.services.Go(func() error { return watcher.Run(s.ended, c.watcher, log("watcher")) })
	s.services.Go(func() error { return notifier.Run(s.ended, c.notifier, log("notifier")) })
	s.description.Metrics = map[string]string{}
	for _, role := range []string{"ingest", "launcher", "watcher", "notifier"} {
		address := s.address(role)
		if err := s.awaitReady(ctx, address); err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
		s.description.Metrics[role] = "http://" + address + "/metrics"
	}
	s.say("services", "ingest, launcher, watcher and notifier are ready")
	s.services.Go(func() error { return pages.Run(s.ended, c.console, log("console")) })
	if err := s.awaitReady(ctx, s.address("console-metrics")); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	s.description.Console.URL = "http://" + s.address("console")
	s.description.Metrics["console"] = "http://" + s.address("console-metrics") + "/metrics"
	s.say("console", "%s shows what happens", s.description.Console.URL)
	return nil
}

// awaitReady waits for one service, or for the failure of any.
func (s *stack) awaitReady(ctx context.Context, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ended, cancel)()
	err := process.AwaitReady(ctx, address)
	if err != nil && s.ended.Err() != nil {
		return s.services.Wait()
	}
	return err
}

func (s *stack) describe(context.Context) error {
	return writeJSON(filepath.Join(s.cfg.Dir, descriptionFile), s.description)
}

// wait returns when ctx ends (nil), or when a part failed.
func (s *stack) wait(ctx context.Context) error {
	var kubeDone <-chan struct{}
	if s.kube != nil {
		kubeDone = s.kube.Done()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.ended.Done():
		return s.services.Wait()
	case <-s.nats.Done():
		return errors.New("NATS ended")
	case <-kubeDone:
		return fmt.Errorf("Kubernetes ended: %w", s.kube.Err())
	}
}

// stop ends the services, then the parts, each within its bound.
func (s *stack) stop() {
	if s.lock != nil {
		_ = os.Remove(filepath.Join(s.cfg.Dir, descriptionFile))
	}
	if s.services != nil {
		s.stopServices()
		s.sqs.EndPolls() // else ingest waits for its long polls
		if err := s.services.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			s.say("services", "%v", err)
		}
	}
	if s.hooks != nil {
		s.stopPart("webhooks", s.hooks.Stop)
	}
	if s.sqs != nil {
		s.stopPart("sqs", s.sqs.Stop)
	}
	if s.nats != nil {
		s.nats.Stop()
	}
	if s.kube != nil {
		s.stopPart("kubernetes", s.kube.Stop)
	}
	if s.lock != nil {
		_ = s.lock.Unlock()
	}
}

func (s *stack) stopPart(name string, stop func(context.Context) error) {
	if err := stopped(stop); err != nil {
		s.say(name, "%v", err)
	}
}

// writeJSON replaces a file at once: a reader sees all of it or the one before.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
