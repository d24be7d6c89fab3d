//go:build e2e

package nats_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

const (
	replicas     = 2                      // of each role
	awayFor      = 2 * time.Second        // of a killed node
	sendEvery    = 300 * time.Millisecond // ten messages
	sendBatch    = 10
	mostSent     = 3000
	settleMost   = 100 * time.Second      // AckWait is 45 s, and an acknowledgement may be lost with a node
	parkPercent  = 20                     // of the launches
	failPercent  = 10                     // of the attempts at a callback
	service      = "mail"                 // which the tenant's mirror is of
	writers      = 128                    // logs that are written at once
	longestPause = 500 * time.Millisecond // between two looks of a watcher at a log
)

// TestClusterUnderFire: three servers of NATS with this folder's files, streams with
// three replicas, and one server after the other SIGKILLed while messages come in.
// ingest and the notifier are the shipped binaries, two of each; two launchers and two
// watchers are their calls of the broker, and each watcher appends whatever the other
// does. A tap in an account of its own pulls, a tenant's mirror is fed.
func TestClusterUnderFire(t *testing.T) {
	t.Run("in one account", func(t *testing.T) { underFire(t, "jobrelay.conf", 1) })
	t.Run("apart", func(t *testing.T) { underFire(t, "apart.conf", 1) })
}

// fire is what happens in one run.
type fire struct {
	*secured

	cluster   *cluster
	operator  *broker.Broker
	hooks     *hookd.Server
	services  []*child.Process
	watchers  []*broker.Broker
	writing   chan struct{} // logs that are written at once
	mirror    jetstream.Stream
	conflicts atomic.Int64

	mu      sync.Mutex
	random  *rand.Rand
	ids     map[string]string // of what was sent, by key
	heard   map[string]*heard // by id
	wrong   []string          // what was promised otherwise
	failed  int               // attempts that got a 503
	seen    map[string]int    // how often the tap saw an event, by subject
	watched map[string]bool   // by key
	unknown map[string]int    // calls of the broker that failed and were made again, by error
}

// heard is what a receiver heard of one job.
type heard struct {
	given [3]int // 2xx
	body  [3]string
}

func underFire(t *testing.T, accounts string, rounds int) {
	begin := time.Now()
	seed, err := strconv.ParseUint(os.Getenv("FAULT_SEED"), 10, 64)
	if err != nil {
		seed = 20261128
	}
	s, c := startCluster(t, accounts)
	f := &fire{
		secured: s, cluster: c, operator: s.open(broker.RoleOperator), random: rand.New(rand.NewPCG(seed, 0)),
		ids: map[string]string{}, heard: map[string]*heard{}, seen: map[string]int{}, watched: map[string]bool{}, unknown: map[string]int{}, writing: make(chan struct{}, writers),
	}
	f.hooks = must[*hookd.Server](t, "webhooks")(hookd.Start(hookd.Config{Answer: f.answer, Keep: 1}))
	t.Cleanup(func() { _ = f.hooks.Stop(context.Background()) })
	sqs := must[*sqsd.Server](t, "SQS")(sqsd.Start(sqsd.Config{}))
	t.Cleanup(func() { _ = sqs.Stop(context.Background()) })
	url := must[string](t, "queue")(sqs.CreateQueue("jobs", map[string]string{"VisibilityTimeout": "10"}))
	f.startServices(sqs, url)

	refusals(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running, ctx := errgroup.WithContext(ctx)
	for range replicas {
		f.watchers = append(f.watchers, f.open(broker.RoleWatcher))
	}
	for range replicas {
		f.launcher(ctx, running)
	}
	f.taps(ctx, running)
	tapRefusals(t, s)
	burning := time.Now()

	// Messages come in until each node was killed in each round.
	fire, over := context.WithCancel(ctx)
	queue := must[*sqsqueue.Queue](t, "queue")(sqsqueue.Open(ctx, sqsqueue.Config{QueueURL: url, Endpoint: sqs.URL(), Region: "us-east-1"}))
	var sending errgroup.Group
	sending.Go(func() error { return f.send(ctx, fire, queue) })
	order := rand.New(rand.NewPCG(seed, 1))
	var failed error
	for range rounds {
		for _, i := range order.Perm(nodes) {
			failed = errors.Join(failed, c.bounce(c.nodes[i], awayFor))
		}
	}
	over()
	mustDo(t, "the fire", errors.Join(failed, sending.Wait()))
	burnt := time.Now()

	var rest left
	settled := eventually(settleMost, func() bool { rest = f.left(ctx); return ctx.Err() != nil || rest == left{} })
	end := time.Now()
	cancel()
	if err := running.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !settled {
		t.Errorf("not all is done within %s: left is %+v", settleMost, rest)
	}
	sqs.EndPolls()
	f.stopServices()
	mustDo(t, "check", f.check(t.Context()))
	attempts, repeats, again, kills := f.failed, 0, 0, 0
	for _, h := range f.heard {
		for _, n := range h.given {
			attempts += n
			repeats += max(n-1, 0)
		}
	}
	for _, n := range f.seen {
		again += n - 1
	}
	for _, n := range c.nodes {
		kills += n.Kills()
	}
	t.Log(table("cluster under fire\t"+accounts,
		fmt.Sprintf("seed\t%d", seed),
		fmt.Sprintf("SIGKILL\t%d of %d nodes, one at a time, each away for %s and until it had caught up", kills, nodes, awayFor),
		fmt.Sprintf("jobs\t%d, %d events", len(f.ids), len(events())*len(f.ids)),
		fmt.Sprintf("appends\t%d conflicts", f.conflicts.Load()),
		fmt.Sprintf("made again\t%v", f.unknown),
		fmt.Sprintf("callbacks\t%d attempts, %d failed, %d repeats with the same bytes", attempts, f.failed, repeats),
		fmt.Sprintf("tap\t%d events, %d of them again", len(f.seen), again),
		fmt.Sprintf("took\t%.0f s to start and to refuse, %.0f s of fire, %.0f s until all was done", burning.Sub(begin).Seconds(), burnt.Sub(burning).Seconds(), end.Sub(burnt).Seconds()),
		fmt.Sprintf("violations\t%d", len(f.wrong)),
	))
	if len(f.wrong) > 0 {
		t.Errorf("%d violations:\n%s", len(f.wrong), strings.Join(f.wrong[:min(len(f.wrong), 20)], "\n"))
	}
	if f.failed == 0 || f.conflicts.Load() == 0 || kills != nodes*rounds {
		t.Error("the faults did not happen")
	}
}

// startServices starts ingest and the notifier, and waits until they are ready.
func (f *fire) startServices(sqs *sqsd.Server, queue string) {
	f.t.Helper()
	dir := f.t.TempDir()
	env := append(child.CleanEnvironment(),
		"JOBRELAY_NATS_URL="+f.nats.URL(), "JOBRELAY_NATS_CA="+f.ca, "JOBRELAY_NATS_API_PREFIX="+f.api, "JOBRELAY_TOPOLOGY=verify", "JOBRELAY_LOG_FORMAT=json",
		"JOBRELAY_SQS_QUEUE_URL="+queue, "AWS_ENDPOINT_URL_SQS="+sqs.URL(), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x",
		"JOBRELAY_WEBHOOK_ALLOW=127.0.0.0/8", "JOBRELAY_RETRY_SCHEDULE=0s,500ms,1s,1s,2s,2s,2s,2s,2s,2s,2s,2s", "JOBRELAY_BREAKER_OPEN=100ms", "JOBRELAY_BREAKER_MOST=500ms")
	f.t.Cleanup(f.stopServices)
	for _, role := range []string{broker.RoleIngest, broker.RoleNotifier} {
		for i := range replicas {
			address := fmt.Sprintf("127.0.0.1:%d", must[[]int](f.t, "port")(child.FreePorts(1))[0])
			name := fmt.Sprintf("%s-%d", role, i+1)
			p := &child.Process{
				Name: name, Binary: binary(f.t, role), Log: filepath.Join(dir, name+".log"),
				Env: append(slices.Clone(env), "JOBRELAY_NATS_NKEY="+f.seed(role), "JOBRELAY_METRICS_ADDR="+address),
			}
			f.services = append(f.services, p)
			mustDo(f.t, name, p.Start())
			n := node{Process: p, monitor: "http://" + address}
			if !eventually(nodeMost, n.ready) {
				f.t.Fatalf("%s is not ready:\n%s", name, p.LastLines())
			}
		}
	}
}

// ready is true where a service says that it is.
func (n *node) ready() bool {
	res, err := probe.Get(n.monitor + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (f *fire) stopServices() {
	for _, p := range f.services {
		if !p.Running() {
			f.wrong = append(f.wrong, p.Name+" ended by itself: "+p.LastLines())
		}
		if err := p.Stop(); err != nil {
			f.t.Error(err)
		}
		said := must[[]byte](f.t, "log")(os.ReadFile(p.Log))
		for _, line := range regexp.MustCompile(`(?i).*permissions violation.*`).FindAll(said, 3) {
			f.wrong = append(f.wrong, fmt.Sprintf("NATS refused %s something: %s", p.Name, line))
		}
	}
	f.services = nil
}

// answer is the receiver: now and then it fails.
func (f *fire) answer(call hookd.Call) hookd.Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var body struct {
		ID     string
		Status int
	}
	if err := json.Unmarshal(call.Body, &body); err != nil || body.Status < 0 || body.Status > 2 {
		f.wrong = append(f.wrong, fmt.Sprintf("a callback that nobody sends: %s", call.Body))
		return hookd.Answer{}
	}
	h := f.heard[body.ID]
	if h == nil {
		h = &heard{}
		f.heard[body.ID] = h
	}
	if h.body[body.Status] == "" {
		h.body[body.Status] = string(call.Body)
	}
	if h.body[body.Status] != string(call.Body) {
		f.wrong = append(f.wrong, fmt.Sprintf("%s: callback %d was repeated with other bytes", body.ID, body.Status))
	}
	for before := range body.Status {
		if h.given[before] == 0 {
			f.wrong = append(f.wrong, fmt.Sprintf("%s: callback %d came before callback %d had its end", body.ID, body.Status, before))
		}
	}
	if f.random.IntN(100) < failPercent {
		f.failed++
		return hookd.Answer{Status: http.StatusServiceUnavailable}
	}
	h.given[body.Status]++
	return hookd.Answer{Status: http.StatusNoContent}
}

// send sends messages, one in ten twice, until the fire is over.
func (f *fire) send(ctx, fire context.Context, queue *sqsqueue.Queue) error {
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for n := 0; n < mostSent; {
		select {
		case <-fire.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var bodies [][]byte
		for range sendBatch {
			id := fmt.Sprintf("job %d", n)
			n++
			f.mu.Lock()
			f.ids[event.Key(id)] = id
			f.mu.Unlock()
			bodies = append(bodies, fmt.Appendf(nil, `{"id":%q,"service":%q,"job":{"prefixName":"p","namespace":"default","image":"busybox","command":["true"]},"webhook":{"url":%q}}`, id, service, f.hooks.URL()+"/hook"))
		}
		bodies = append(bodies, bodies[0])
		var failed error
		if err := queue.SendAll(ctx, func(yield func(sqsqueue.Outgoing) bool) {
			for _, b := range bodies {
				if !yield(sqsqueue.Outgoing{Body: b}) {
					return
				}
			}
		}, func(s sqsqueue.Sent) { failed = errors.Join(failed, s.Err) }); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
	}
	return errors.New("the kills took longer than the messages last: raise mostSent")
}

// launcher takes requests and parked launches as that service does, and appends 0.
func (f *fire) launcher(ctx context.Context, running *errgroup.Group) {
	b := f.open(broker.RoleLauncher)
	launch := func(ctx context.Context, key string) error {
		f.created(ctx, running, key)
		tail, err := b.Tail(ctx, service, key)
		if err == nil && tail.Empty() {
			_, err = b.Append(ctx, service, tail, f.event(key, 0))
		}
		if errors.Is(err, broker.ErrConflict) {
			f.conflicts.Add(1)
			return nil // a watcher was faster
		}
		if err != nil {
			f.again(err)
		}
		return err
	}
	running.Go(func() error {
		return b.Consume(ctx, broker.LauncherRequests, broker.ConsumeOptions{}, func(ctx context.Context, m broker.Message) error {
			e, err := broker.DecodeRequest(m.Header, m.Data)
			if err != nil {
				return broker.Permanent(err)
			}
			if m.Delivered == 1 && rand.IntN(100) < parkPercent {
				return broker.RetryAfter(time.Second, broker.Wakeup{Purpose: broker.PurposeLaunch, Token: e.LogKey, Payload: []byte(e.LogKey)}, errors.New("it waits"))
			}
			return launch(ctx, e.LogKey)
		})
	})
	running.Go(func() error {
		return b.Consume(ctx, broker.LauncherWakeups, broker.ConsumeOptions{}, func(ctx context.Context, m broker.Message) error {
			if _, err := b.Request(ctx, string(m.Data)); err != nil {
				f.again(err)
				return err
			}
			return launch(ctx, string(m.Data))
		})
	})
}

// created has every watcher see the Job, before the launcher has recorded it.
func (f *fire) created(ctx context.Context, running *errgroup.Group, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watched[key] {
		return
	}
	f.watched[key] = true
	for _, b := range f.watchers {
		running.Go(func() error {
			f.writing <- struct{}{}
			defer func() { <-f.writing }()
			f.watch(ctx, b, key)
			return nil
		})
	}
}

// watch brings a log to its end, however often somebody else is faster or NATS does
// not answer.
func (f *fire) watch(ctx context.Context, b *broker.Broker, key string) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(rand.Int64N(int64(longestPause))))
		tail, err := b.Tail(ctx, service, key)
		if err == nil && tail.Next() == len(events()) {
			return
		}
		if err == nil {
			_, err = b.Append(ctx, service, tail, f.event(key, tail.Next()))
		}
		switch {
		case errors.Is(err, broker.ErrConflict):
			f.conflicts.Add(1)
		case err != nil:
			f.again(err)
		}
	}
}

// again counts a call of the broker that is made again.
func (f *fire) again(err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	text = text[strings.LastIndex(text, ": ")+1:] // without the subject
	f.mu.Lock()
	f.unknown[strings.TrimSpace(text)]++
	f.mu.Unlock()
}

// events of every job; their ordinals are their callbacks' statuses.
func events() []proto.Message {
	return []proto.Message{&jobsv1.JobStarted{JobId: "u"}, &jobsv1.PodStarted{JobId: "u"}, &jobsv1.JobCompleted{JobId: "u"}}
}

func (f *fire) event(key string, n int) event.Event {
	f.mu.Lock()
	id := f.ids[key]
	f.mu.Unlock()
	return newEvent(f.t, id, events()[n])
}

// taps begins a tap that pulls, and a tenant's mirror with three replicas.
func (f *fire) taps(ctx context.Context, running *errgroup.Group) {
	f.tap(broker.Tap{Name: "billing"})
	billing := must[jetstream.JetStream](f.t, "client")(jetstream.NewWithAPIPrefix(f.thief("tap-billing", inbox).conn, broker.TapAPI))
	consumer := must[jetstream.Consumer](f.t, "the tap's consumer")(billing.Consumer(ctx, broker.StreamEvents, "tap-billing"))
	running.Go(func() error {
		c, err := consumer.Consume(f.tapped, jetstream.PullMaxMessages(500), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
		if err != nil {
			return err
		}
		defer c.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-c.Closed():
			return errors.New("the tap was ended by the server")
		}
	})
	mirror := broker.Tap{Name: "tenant", Mirror: true, Services: []string{service}}
	f.tap(mirror)
	tenant := must[jetstream.JetStream](f.t, "client")(jetstream.New(f.thief("tap-tenant", inbox).conn))
	var cfg jetstream.StreamConfig
	mustDo(f.t, "configuration", json.Unmarshal(must[[]byte](f.t, "configuration")(mirror.MirrorConfig()), &cfg))
	cfg.Replicas = nodes
	f.mirror = must[jetstream.Stream](f.t, "mirror")(tenant.CreateStream(ctx, cfg))
}

// tapped counts an event that the tap sees.
func (f *fire) tapped(m jetstream.Msg) {
	f.mu.Lock()
	f.seen[m.Subject()]++
	f.mu.Unlock()
	_ = m.Ack() // where it is lost, the event comes again
}

// left is what is not done yet.
type left struct {
	requests, logs, callbacks, tap, mirror, unacknowledged int
	err                                                    error
}

func (f *fire) left(ctx context.Context) (l left) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	js := f.operator.JetStream()
	f.mu.Lock()
	all, ends := len(f.ids), len(events())*len(f.ids)
	for _, id := range f.ids {
		for n := range events() {
			if h := f.heard[id]; h == nil || h.given[n] == 0 {
				l.callbacks++
			}
		}
	}
	l.tap = ends - len(f.seen)
	f.mu.Unlock()
	requests, err0 := js.Stream(ctx, broker.StreamRequests)
	log, err1 := js.Stream(ctx, broker.StreamEvents)
	mirror, err2 := f.mirror.Info(ctx)
	if l.err = errors.Join(err0, err1, err2); l.err != nil {
		return l
	}
	l.requests = all - int(requests.CachedInfo().State.Msgs)
	l.logs = ends - int(log.CachedInfo().State.Msgs)
	l.mirror = ends - int(mirror.State.Msgs)
	for _, c := range []broker.Consumer{broker.LauncherRequests, broker.LauncherWakeups, broker.NotifierEvents, broker.NotifierWakeups} {
		consumer, err := js.Consumer(ctx, c.Stream, c.Name)
		if err != nil {
			l.err = err
			return l
		}
		l.unacknowledged += consumer.CachedInfo().NumAckPending + int(consumer.CachedInfo().NumPending)
	}
	return l
}

// check is everything that was promised, against what the streams hold now.
func (f *fire) check(ctx context.Context) error {
	state, err := f.cluster.agree()
	if err != nil {
		return err
	}
	for stream, want := range map[string]int{broker.StreamRequests: len(f.ids), broker.StreamEvents: len(events()) * len(f.ids), broker.StreamLedger: len(f.ids), broker.StreamDeadLetters: 0, broker.StreamRejections: 0} {
		if have := state[stream][0]; int(have) != want {
			f.wrong = append(f.wrong, fmt.Sprintf("%s has %d messages, not %d", stream, have, want))
		}
	}
	next, last, left := map[string]int{}, uint64(0), state[broker.StreamEvents][0] // the ordinal that comes next, by key
	reading, done := context.WithTimeout(ctx, nodeMost)
	defer done()
	enough := errors.New("all were read")
	if err := f.operator.Follow(reading, broker.EventFilter{Since: time.Now().Add(-time.Hour)}, func(e broker.Stored) error {
		if e.Event.Sequence != next[e.LogKey] || e.Type != newEvent(f.t, e.ID, events()[min(e.Event.Sequence, 2)]).Type {
			f.wrong = append(f.wrong, fmt.Sprintf("the log of %s has a %s with the ordinal %d where %d comes next", e.ID, e.Type, e.Event.Sequence, next[e.LogKey]))
		}
		if e.Sequence <= last {
			f.wrong = append(f.wrong, fmt.Sprintf("sequence %d follows %d", e.Sequence, last))
		}
		next[e.LogKey]++
		last = e.Sequence
		if left--; left == 0 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		return fmt.Errorf("reading %s, %d events are left: %w", broker.StreamEvents, left, err)
	}
	for key, id := range f.ids {
		if next[key] != len(events()) {
			f.wrong = append(f.wrong, fmt.Sprintf("the log of %s has %d events", id, next[key]))
		}
		l, err := f.operator.Ledger(ctx, key)
		if err != nil {
			return fmt.Errorf("ledger of %s: %w", id, err)
		}
		if l.Next != len(events()) || len(l.Wait) > 0 || l.GaveUp != nil {
			f.wrong = append(f.wrong, fmt.Sprintf("%s has the ledger %+v", id, l.Ledger))
		}
		for n := range events() {
			if h := f.heard[id]; h == nil || h.given[n] == 0 {
				f.wrong = append(f.wrong, fmt.Sprintf("%s: callback %d never got its 2xx", id, n))
			}
			if subject := event.Subject(service, key, newEvent(f.t, id, events()[n]).Type); f.seen[subject] == 0 {
				f.wrong = append(f.wrong, "the tap never saw "+subject)
			}
		}
	}
	return nil
}

// table of rows whose cells have tabs between them.
func table(head string, rows ...string) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, row := range append([]string{head}, rows...) {
		_, _ = fmt.Fprintln(w, row) // into memory
	}
	_ = w.Flush()
	return "\n" + out.String()
}

// TestClusterRunsThePipeline: all four services with a local Kubernetes, as
// TestThePipelineRunsWithThesePermissions, while each node is killed once.
func TestClusterRunsThePipeline(t *testing.T) {
	s, c := startCluster(t, "jobrelay.conf")
	allServices(t, s, func() {
		for _, n := range c.nodes {
			mustDo(t, "kill", c.bounce(n, awayFor))
		}
	})
	must[map[string][3]uint64](t, "the nodes")(c.agree())
}
