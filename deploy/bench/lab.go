package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// lab is where the rows run.
type lab struct {
	bin        string // folder of the product's binaries
	dir        string // that results go to
	kubeconfig string // empty: a local control plane for each run
	messages   int    // a run; 0: the row's own number
	backlog    int    // events behind a tap; 0: the row's own number
	syncAlways bool   // of JetStream
	self       bool   // tests: this binary plays every role

	begin    time.Time
	store    string // of a NATS with the backlog; empty: not made yet
	mu       sync.Mutex
	progress io.Writer
}

// say is one line of progress.
func (l *lab) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.progress, "%6.1f s  %s\n", time.Since(l.begin).Seconds(), fmt.Sprintf(format, args...))
}

// machine tells what this is, and of what commit the binaries are.
func (l *lab) machine() (machine, error) {
	m := machine{OS: runtime.GOOS + "/" + runtime.GOARCH, CPU: "unknown CPU", Cores: runtime.NumCPU(), Go: runtime.Version(), Commit: "unknown"}
	if cpus, err := os.ReadFile("/proc/cpuinfo"); err == nil { // of Linux
		for line := range strings.Lines(string(cpus)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	out, err := exec.Command(filepath.Join(l.bin, "ingest"), "--version").Output() //nolint:noctx // it ends at once
	if err != nil {
		return m, fmt.Errorf("the product's binaries: %w; run `make build`, or name their folder with --bin", err)
	}
	m.Commit = strings.TrimSpace(string(out))
	return m, nil
}

// close removes what was kept from one run to the next.
func (l *lab) close() error {
	if l.store == "" {
		return nil
	}
	return os.RemoveAll(filepath.Dir(l.store))
}

// stage is what one run has started. Nothing of it outlives close.
type stage struct {
	*lab

	name    string
	dir     string // gone after close
	profile string // file that our side's profile is written to; empty: none

	processes []*child.Process
	closers   []func() error
}

func (l *lab) stage(name, profile string) (*stage, error) {
	dir, err := os.MkdirTemp("", "jobrelay-bench-")
	return &stage{lab: l, name: name, dir: dir, profile: profile}, err
}

// close ends every process at once: a receiver's long poll ends with the
// endpoint that it waits for.
func (s *stage) close() error {
	var mu sync.Mutex
	var failed []error
	var all sync.WaitGroup
	for _, p := range s.processes {
		all.Go(func() {
			if err := p.Stop(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			}
		})
	}
	all.Wait()
	for _, c := range s.closers {
		failed = append(failed, c())
	}
	return errors.Join(append(failed, os.RemoveAll(s.dir))...)
}

// size is how many messages the run has.
func (s *stage) size(own int) int {
	if s.messages > 0 {
		return s.messages
	}
	return own
}

// slow is how long something may last in silence.
const slow = 2 * time.Second

// during says what lasts longer than 2 seconds, until the returned function is
// called.
func (s *stage) during(format string, args ...any) (done func()) {
	t := time.AfterFunc(slow, func() { s.say("%s: "+format, append([]any{s.name}, args...)...) })
	return func() { t.Stop() }
}

// product starts a binary of the product, or one that it needs.
func (s *stage) product(role string, env []string, args ...string) (*child.Process, error) {
	if s.self {
		return s.asSelf(role, env, args...)
	}
	return s.start(role, filepath.Join(s.bin, role), env, args...)
}

// measured starts the product's binary that the row is about: it is the one to
// profile.
func (s *stage) measured(role string, env []string, args ...string) (*child.Process, error) {
	if s.profile != "" {
		return s.asSelf(role, append([]string{profileEnv + "=" + s.profile}, env...), args...)
	}
	return s.product(role, env, args...)
}

// asSelf starts this binary as another.
func (s *stage) asSelf(role string, env []string, args ...string) (*child.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return s.start(role, self, env, append([]string{asVerb, role}, args...)...)
}

func (s *stage) start(name, binary string, env []string, args ...string) (*child.Process, error) {
	p := &child.Process{
		Name: name, Binary: binary, Args: args, Env: append(child.CleanEnvironment(), env...), Log: filepath.Join(s.dir, name+".log"),
	}
	if err := p.Start(); err != nil {
		return nil, fmt.Errorf("%w; run `make build`, or name the binaries' folder with --bin", err)
	}
	s.processes = append(s.processes, p)
	return p, nil
}

// readyMost bounds the start of a process.
const readyMost = 30 * time.Second

// answers waits until the process answers 2xx at url.
func (s *stage) answers(ctx context.Context, p *child.Process, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyMost)
	defer cancel()
	for {
		err := process.Healthy(ctx, url, slow)
		if err == nil {
			return nil
		}
		if !p.Running() {
			return ended(p)
		}
		if process.Sleep(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready: %w; its output ends with:\n%s", p.Name, err, p.LastLines())
		}
	}
}

func ended(p *child.Process) error {
	return fmt.Errorf("%s ended; its output ends with:\n%s", p.Name, p.LastLines())
}

const (
	runMost = 5 * time.Minute // a run's work
	look    = 20 * time.Millisecond
)

// work is what was seen of a run's work, from the first look that found some of
// it done to the first that found all.
type work struct {
	rate     float64            // what was done between the two, a second
	counters map[string]float64 // "CPU µs/<unit>, <process>", where the system tells; "longest pause, ms", in which none was done
}

// until looks until all n units of the run's work are done.
func (s *stage) until(ctx context.Context, n int, unit string, worker *child.Process, done func(context.Context) (int, error)) (work, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runMost, fmt.Errorf("not done in %s", runMost))
	defer cancel()
	var before map[*child.Process]time.Duration
	var begin time.Time
	var moved time.Time // when the last of it was seen done
	var pause time.Duration
	begun, had := 0, 0
	said := time.Now()
	for {
		have, err := done(ctx)
		now := time.Now()
		switch {
		case err != nil:
			return work{}, err
		case before == nil && have > 0:
			before, begin, begun = s.cpu(), now, have
			had, moved = have, now
		case have > had:
			pause = max(pause, now.Sub(moved))
			had, moved = have, now
		}
		if have >= n {
			w := work{rate: float64(n-begun) / now.Sub(begin).Seconds(), counters: s.cpuSince(before, n-begun, unit)}
			w.counters["longest pause, ms"] = float64(pause.Milliseconds())
			return w, nil
		}
		if now.Sub(said) > slow {
			s.say("%s: %d of %d", s.name, have, n)
			said = now
		}
		if !worker.Running() {
			return work{}, ended(worker)
		}
		if process.Sleep(ctx, look) != nil {
			return work{}, fmt.Errorf("%w: %d of %d; the output of %s ends with:\n%s", context.Cause(ctx), have, n, worker.Name, worker.LastLines())
		}
	}
}

func (s *stage) cpu() map[*child.Process]time.Duration {
	out := map[*child.Process]time.Duration{}
	for _, p := range s.processes {
		if cpu, _, err := p.Usage(); err == nil { // it has ended, or the system does not tell
			out[p] = cpu
		}
	}
	return out
}

// cpuSince is the CPU time of each of n units of work since before: "CPU
// µs/<unit>, <process>", of all processes of a name together.
func (s *stage) cpuSince(before map[*child.Process]time.Duration, n int, unit string) map[string]float64 {
	out := map[string]float64{}
	for p, after := range s.cpu() {
		out["CPU µs/"+unit+", "+p.Name] += float64((after - before[p]).Microseconds()) / float64(n)
	}
	return out
}

// samples are what a /metrics page says.
type samples map[string]*dto.MetricFamily

func readSamples(r io.Reader) (samples, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(r)
}

// sum adds up the samples of a family whose labels have the values; pairs are
// label, value, label, value.
func (s samples) sum(family string, pairs ...string) float64 {
	total := 0.0
	for _, m := range s[family].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		fits := true
		for pair := range slices.Chunk(pairs, 2) {
			fits = fits && labels[pair[0]] == pair[1]
		}
		if fits {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return total
}

func get(ctx context.Context, url string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyMost)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return read(res.Body)
}

func (s *stage) address() (string, error) {
	ports, err := child.FreePorts(1)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0])), nil
}

// natsServer is a running nats-server with JetStream on disk.
type natsServer struct{ url, monitor string }

func (s *stage) nats(ctx context.Context) (natsServer, error) {
	return s.natsThatSyncs(ctx, s.syncAlways)
}

// natsThatSyncs is nats with sync_interval: always, or the server's default.
func (s *stage) natsThatSyncs(ctx context.Context, always bool) (natsServer, error) {
	ports, err := child.FreePorts(2)
	if err != nil {
		return natsServer{}, err
	}
	address := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	sync := ""
	if always {
		sync = ", sync_interval: always"
	}
	conf := filepath.Join(s.dir, "nats.conf")
	// A request may have 1.5 MiB, and NATS counts headers too.
	text := fmt.Sprintf("listen: %q\nhttp: %q\nmax_payload: 2MB\njetstream { store_dir: %q%s }\n", address(0), address(1), s.natsStore(), sync)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return natsServer{}, err
	}
	p, err := s.product("nats-server", nil, "-c", conf)
	if err != nil {
		return natsServer{}, err
	}
	n := natsServer{url: "nats://" + address(0), monitor: "http://" + address(1)}
	return n, s.answers(ctx, p, n.monitor+"/healthz?js-enabled-only=true")
}

// natsStore is where the stage's NATS keeps its streams.
func (s *stage) natsStore() string { return filepath.Join(s.dir, "nats") }

// jsz is what the server says of JetStream.
type jsz struct {
	Config struct {
		SyncInterval time.Duration `json:"sync_interval"`
		SyncAlways   bool          `json:"sync_always"`
	} `json:"config"`
	Accounts []struct {
		Streams []streamDetail `json:"stream_detail"`
	} `json:"account_details"`
}

type streamDetail struct {
	Name   string `json:"name"`
	Config struct {
		Storage  string `json:"storage"`
		Replicas int    `json:"num_replicas"`
	} `json:"config"`
	State struct {
		Messages     int     `json:"messages"`
		LastSequence float64 `json:"last_seq"`
	} `json:"state"`
	Consumers []struct {
		Name       string `json:"name"`
		Pending    int    `json:"num_pending"`
		AckPending int    `json:"num_ack_pending"`
	} `json:"consumer_detail"`
}

// left is how many messages a consumer has not acknowledged; 1 at least where
// there is no such consumer.
func (d streamDetail) left(consumer string) int {
	for _, c := range d.Consumers {
		if c.Name == consumer {
			return c.Pending + c.AckPending
		}
	}
	return 1
}

func (n natsServer) jetStream(ctx context.Context) (out jsz, err error) {
	return out, getJSON(ctx, n.monitor+"/jsz?accounts=true&streams=true&consumers=true&config=true", &out)
}

// streams are all of them by name.
func (j jsz) streams() map[string]streamDetail {
	out := map[string]streamDetail{}
	for _, a := range j.Accounts {
		for _, st := range a.Streams {
			out[st.Name] = st
		}
	}
	return out
}

// setting is the storage of a stream and how often the server syncs it, as the
// server says.
func (n natsServer) setting(ctx context.Context, stream string) (string, error) {
	said, err := n.jetStream(ctx)
	if err != nil {
		return "", err
	}
	sync := "sync every " + said.Config.SyncInterval.String()
	if said.Config.SyncAlways {
		sync = "sync always"
	}
	st, ok := said.streams()[stream]
	if !ok {
		return "", fmt.Errorf("NATS has no stream %s", stream)
	}
	return fmt.Sprintf("%s storage, %s, %d replica", st.Config.Storage, sync, st.Config.Replicas), nil
}
