// Package faults runs the real binaries as processes against one NATS, one
// Kubernetes control plane and one SQS endpoint, does harm to any of them, and
// checks from outside what the contract promises: on SQS, at the API server and
// at the webhook receiver.
//
// A test of its own:
//
//	s, err := faults.Start(ctx, faults.Config{Dir: t.TempDir(), Replicas: map[faults.Role]int{faults.Notifier: 2}})
//	if err != nil { … }
//	defer s.Stop()
//	plan := faults.Plan{Seed: 1, For: time.Minute, Frozen: faults.Launcher, FreezeAt: 5 * time.Second, FreezeFor: 40 * time.Second}
//	go s.Inject(ctx, plan)
//	sent, err := s.Send(ctx, faults.Load{Messages: 200, Duplicates: 0.2, Over: time.Minute, Seed: 1})
//	report, err := s.Settle(ctx, sent) // waits until all has ended
//	t.Log(report)
//	for _, v := range report.Violations { t.Error(v) }
//
// One process alone: s.Process("watcher-1").Kill(), Freeze, Thaw, Stop, Start.
// Every process ends with Stop, and on Linux with the process that started it.
package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

// Role is a kind of process.
type Role string

// The roles.
const (
	NATS       Role = "nats"
	SQS        Role = "sqs"
	Kubernetes Role = "kubernetes"
	Ingest     Role = "ingest"
	Launcher   Role = "launcher"
	Watcher    Role = "watcher"
	Notifier   Role = "notifier"
)

// Services are the roles that are scaled.
func Services() []Role { return []Role{Ingest, Launcher, Watcher, Notifier} }

// Roles are all, parts first.
func Roles() []Role { return append([]Role{NATS, SQS, Kubernetes}, Services()...) }

// BinariesEnv names the environment variable with the folder of the binaries;
// without it, bin/ of the module root at or above the working directory.
const BinariesEnv = "JOBRELAY_BIN_DIR"

// Process is one process of a Stack, role-number by name.
type Process struct {
	*child.Process

	Role    Role
	Metrics string // URL of a service's /metrics
	ready   func() error
}

// Ready is nil where it is ready, by /readyz or what it has instead.
func (p *Process) Ready() error { return p.ready() }

// Config of a Stack.
type Config struct {
	Dir      string                        // state and logs; required
	Binaries string                        // folder of the binaries; default: see BinariesEnv
	Services string                        // folder of the services' binaries; default Binaries
	Replicas map[Role]int                  // of the services; default 1
	Env      []string                      // NAME=value, for every service
	Answer   func(hookd.Call) hookd.Answer // of the webhook receiver; default 204
}

// Stack is what runs. Its addresses stay the same over every restart.
type Stack struct {
	QueueURL    string
	SQSEndpoint string
	NATSURL     string
	Kubeconfig  string
	Hooks       *hookd.Server
	Client      kubernetes.Interface

	cfg Config
	env []string

	mu        sync.Mutex
	processes []*Process
	injected  []Fault
	jobs      map[string]map[string]bool // id: the UIDs of its Jobs ever seen
	observing context.CancelFunc
	observed  chan struct{}
}

const (
	readyMost = 2 * time.Minute  // a start until all is ready
	stopMost  = 30 * time.Second // the end of the webhook receiver
)

// Start starts everything and waits until it is ready. When ctx ends first, or
// a binary is missing, nothing is left.
func Start(ctx context.Context, cfg Config) (*Stack, error) {
	var err error
	if cfg.Binaries == "" {
		if cfg.Binaries, err = find(); err != nil {
			return nil, err
		}
	}
	s := &Stack{cfg: cfg, jobs: map[string]map[string]bool{}, observing: func() {}}
	ctx, cancel := context.WithTimeoutCause(ctx, readyMost, errors.New("the stack is not ready in time"))
	defer cancel()
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func find() (string, error) {
	if dir := os.Getenv(BinariesEnv); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "bin", "nats-server")); err == nil {
			return filepath.Join(dir, "bin"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("the binaries are not built: run `make build`, or set " + BinariesEnv)
		}
	}
}

func (s *Stack) start(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	ports, err := child.FreePorts(4)
	if err != nil {
		return err
	}
	if s.Hooks, err = hookd.Start(hookd.Config{Answer: s.cfg.Answer}); err != nil {
		return err
	}
	if err := s.addParts(ports); err != nil {
		return err
	}
	s.env = append(child.CleanEnvironment(),
		"JOBRELAY_NATS_URL="+s.NATSURL, "JOBRELAY_SQS_QUEUE_URL="+s.QueueURL, "JOBRELAY_WEBHOOK_ALLOW=127.0.0.0/8",
		"JOBRELAY_LOG_FORMAT=json", "AWS_ENDPOINT_URL_SQS="+s.SQSEndpoint, "AWS_REGION="+region,
		"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "KUBECONFIG="+s.Kubeconfig)
	s.env = append(s.env, s.cfg.Env...)
	for _, p := range s.Processes() {
		if err := p.Start(); err != nil {
			return err
		}
	}
	// The control plane writes the kubeconfig, which the services need to start.
	if err := s.AwaitReady(ctx); err != nil {
		return err
	}
	for _, role := range Services() {
		n, given := s.cfg.Replicas[role]
		if !given {
			n = 1
		}
		if err := s.Scale(ctx, role, n); err != nil {
			return err
		}
	}
	if err := s.AwaitReady(ctx); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.Background())
	s.observing, s.observed = stop, make(chan struct{})
	go s.observe(watching)
	return nil
}

const (
	region    = "us-east-1" // what the SDK signs with; nobody checks
	queueName = "jobs"
)

func (s *Stack) addParts(ports []int) error {
	address := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	s.NATSURL, s.SQSEndpoint = "nats://"+address(0), "http://"+address(2)
	s.QueueURL = s.SQSEndpoint + "/000000000000/" + queueName
	kube := filepath.Join(s.cfg.Dir, "kubernetes")
	s.Kubeconfig = filepath.Join(kube, "kubeconfig")
	// A request may have 1.5 MiB, and NATS counts headers too.
	conf := fmt.Sprintf("listen: %q\nhttp: %q\nmax_payload: 2MB\njetstream { store_dir: %q }\n", address(0), address(1), filepath.Join(s.cfg.Dir, "nats"))
	confFile := filepath.Join(s.cfg.Dir, "nats.conf")
	if err := os.WriteFile(confFile, []byte(conf), 0o600); err != nil {
		return err
	}
	part := func(name string) string { return filepath.Join(s.cfg.Binaries, name) }
	s.add(NATS, 1, part("nats-server"), []string{"-c", confFile}, nil, answers("http://"+address(1)+"/healthz?js-enabled-only=true"))
	s.add(SQS, 1, part("jobrelay"), []string{"sqs", "--listen", address(2), "--dir", filepath.Join(s.cfg.Dir, "sqs"), "--queue", queueName}, nil,
		answers(s.SQSEndpoint+"/healthz"))
	p := s.add(Kubernetes, 1, part("kubernetes"), []string{"up", "--dir", kube, "--port", strconv.Itoa(ports[3])}, nil, s.kubernetesReady)
	p.Life = true
	return nil
}

func (s *Stack) add(role Role, n int, binary string, args, env []string, ready func() error) *Process {
	name := fmt.Sprintf("%s-%d", role, n)
	p := &Process{Process: &child.Process{
		Name: name, Binary: binary, Args: args, Env: append(child.CleanEnvironment(), env...),
		Log: filepath.Join(s.cfg.Dir, name+".log"),
	}, Role: role, ready: ready}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = append(s.processes, p)
	return p
}

var probe = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func answers(url string) func() error {
	return func() error {
		res, err := probe.Get(url) //nolint:noctx // the client's timeout bounds it
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	}
}

func (s *Stack) kubernetesReady() error {
	if s.Client == nil {
		if _, err := os.Stat(filepath.Join(filepath.Dir(s.Kubeconfig), "ready")); err != nil {
			return err
		}
		config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
		if err != nil {
			return err
		}
		config.QPS, config.Timeout = -1, 10*time.Second
		if s.Client, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), probe.Timeout)
	defer cancel()
	_, err := s.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

// Processes are all, in the order of their making.
func (s *Stack) Processes() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.processes)
}

// Of are the running processes of a role.
func (s *Stack) Of(role Role) []*Process {
	return slices.DeleteFunc(s.Processes(), func(p *Process) bool { return p.Role != role || !p.Running() })
}

// Process is the one of that name, role-number from 1, or nil.
func (s *Stack) Process(name string) *Process {
	for _, p := range s.Processes() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Scale makes n replicas of a service run: it starts the lowest numbers that do
// not, and stops the highest in order. It does not wait until they are ready.
func (s *Stack) Scale(ctx context.Context, role Role, n int) error {
	if !slices.Contains(Services(), role) {
		return fmt.Errorf("%s is not scaled", role)
	}
	for i := 1; i <= n; i++ {
		p := s.Process(fmt.Sprintf("%s-%d", role, i))
		if p == nil {
			ports, err := child.FreePorts(1)
			if err != nil {
				return err
			}
			address := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
			p = s.add(role, i, filepath.Join(cmp.Or(s.cfg.Services, s.cfg.Binaries), string(role)), nil, append(slices.Clone(s.env), "JOBRELAY_METRICS_ADDR="+address), answers("http://"+address+"/readyz"))
			p.Metrics = "http://" + address + "/metrics"
		}
		if err := p.Start(); err != nil {
			return err
		}
	}
	var stops []error
	for i := n + 1; ; i++ {
		p := s.Process(fmt.Sprintf("%s-%d", role, i))
		if p == nil {
			return errors.Join(append(stops, ctx.Err())...)
		}
		stops = append(stops, p.Stop())
		s.forget(p)
	}
}

// forget takes a process that was scaled away out of the plan's reach.
func (s *Stack) forget(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = slices.DeleteFunc(s.processes, func(q *Process) bool { return p == q })
}

// AwaitReady waits until every process that runs and is not frozen is ready. Its
// error names one that is not, and the end of its log.
func (s *Stack) AwaitReady(ctx context.Context) error {
	for _, p := range s.Processes() {
		for p.Running() && !p.Frozen() {
			err := p.ready()
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready (%w): %w; its log ends with:\n%s", p.Name, err, context.Cause(ctx), p.LastLines())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// Inject does the plan's faults, until they are done or ctx ends. What was
// killed is then started, what was frozen thawed.
func (s *Stack) Inject(ctx context.Context, plan Plan) error {
	begin := time.Now()
	var pending sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for _, f := range plan.Faults() {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(begin.Add(f.At))):
		}
		if ctx.Err() != nil {
			break
		}
		targets := slices.DeleteFunc(s.Of(f.Role), (*Process).Frozen)
		if len(targets) == 0 {
			continue // it is down already
		}
		p := targets[f.Pick%len(targets)]
		pending.Go(func() {
			if err := s.do(ctx, p, f); err != nil {
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
			}
		})
	}
	pending.Wait()
	return errors.Join(failed...)
}

func (s *Stack) do(ctx context.Context, p *Process, f Fault) error {
	harm, heal := p.Kill, p.Start
	if f.Kind == Freeze {
		harm, heal = p.Freeze, p.Thaw
	}
	if err := harm(); err != nil {
		return err
	}
	s.mu.Lock()
	s.injected = append(s.injected, f)
	s.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(f.Down):
	}
	if f.Kind == Kill && s.Process(p.Name) != p {
		return nil // scaled away meanwhile
	}
	return heal()
}

// Stop ends every process in order, services first, and says which had to be
// killed.
func (s *Stack) Stop() error {
	s.observing()
	if s.observed != nil {
		<-s.observed
	}
	var failed []error
	stop := func(of func(Role) bool) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for _, p := range s.Processes() {
			if of(p.Role) {
				all.Go(func() {
					if err := p.Stop(); err != nil {
						mu.Lock()
						failed = append(failed, err)
						mu.Unlock()
					}
				})
			}
		}
		all.Wait()
	}
	service := func(r Role) bool { return slices.Contains(Services(), r) }
	stop(service)
	stop(func(r Role) bool { return !service(r) })
	if s.Hooks != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopMost)
		defer cancel()
		failed = append(failed, s.Hooks.Stop(ctx))
	}
	return errors.Join(failed...)
}
