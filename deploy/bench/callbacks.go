package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	callbacksCounted = 9000
	syncedCallbacks  = 1500
	// callbacksInFlight are at once on each side, over all endpoints and
	// processes: 3,200 a second where an answer takes healthyAnswer, which two
	// cores can do.
	callbacksInFlight = 64
	healthyAnswer     = 20 * time.Millisecond
	manyEndpoints     = 1000
	writesPerCallback = "durable writes/callback"
	warmUp            = 200 // callbacks of each replica before the burst
	warmUpPace        = 200 // a second
)

// callbacksRow is a row of B6: callbacks to healthy endpoints, of events that wait
// in EVENTS, by a notifier that looks up the request of each job and records each
// callback. As many go at once on both sides.
func callbacksRow(id, title string, least float64, slow bool, t traffic) row {
	return row{
		ID: id, Title: title, Unit: "callbacks/s", Slow: slow,
		Ours: t.String(), Bare: fmt.Sprintf("keep-alive POST loop, %d at once", t.InFlight*t.Replicas),
		Goals: []goal{{"", atLeast, least}, {writesPerCallback, exactly, 1}},
		Run: func(ctx context.Context, s *stage, which side) (result, error) {
			t.Callbacks = s.size(callbacksCounted)
			if which == bare {
				return posting(ctx, s, t)
			}
			return notified(ctx, s, t, s.syncAlways)
		},
	}
}

var (
	callbacksOne      = callbacksRow("B6", "callbacks, one endpoint", 0.95, false, traffic{1, 1, callbacksInFlight, healthyAnswer, 0})
	callbacksMany     = callbacksRow("B6many", "callbacks, 1,000 endpoints", 0.90, true, traffic{manyEndpoints, 1, callbacksInFlight, healthyAnswer, 0})
	callbacksReplicas = callbacksRow("B6replicas", "callbacks, 3 replicas", 0.90, true, traffic{manyEndpoints, 3, callbacksInFlight / 3, healthyAnswer, 0})
	callbacksCPU      = callbacksRow("B6cpu", "callbacks that are answered at once", 0.60, false, traffic{1, 1, callbacksInFlight, 0, 0})
)

// callbacksSynced is B6 against itself: what it costs that JetStream syncs each
// write before it acknowledges it.
var callbacksSynced = row{
	ID: "B6sync", Title: "callbacks, JetStream syncs each write", Unit: "callbacks/s",
	Ours: "notifier, sync_interval: always", Bare: "notifier, the default sync",
	Slow: true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return notified(ctx, s, traffic{1, 1, callbacksInFlight, healthyAnswer, s.size(syncedCallbacks)}, which == ours)
	},
}

// traffic is what a row of callbacks is about.
type traffic struct {
	Endpoints, Replicas int
	InFlight            int           // callbacks at once of each replica
	Answer              time.Duration // of an endpoint
	Callbacks           int           // counted
}

func (t traffic) String() string {
	if t.Replicas == 1 {
		return fmt.Sprintf("notifier, %d at once", t.InFlight)
	}
	return fmt.Sprintf("%d notifiers, %d at once each", t.Replicas, t.InFlight)
}

// The window of a run is n callbacks long. What comes before warms connections and
// limits up, and what comes behind keeps all places taken until its end.
func skipped(n int) int { return max(n/4, 1) }
func behind(n int) int  { return max(n/8, 1) }

// receiving is what the endpoints do for a window of n callbacks.
func (t traffic) receiving(n int) receiving {
	return receiving{Counted: t.Endpoints, After: t.Answer, Skip: skipped(n), Window: n}
}

// window waits for the window of a run and returns what was seen of it, by the
// receivers' own clock.
func (r *receivers) window(ctx context.Context, s *stage, n int, worker *child.Process) (result, error) {
	work, err := s.until(ctx, n, "callback", worker, r.inWindow)
	if err != nil {
		return result{}, err
	}
	h, err := r.heard(ctx)
	return result{Rate: float64(n-1) / h.Seconds, Counters: work.counters}, err
}

// notified is a run of the notifier.
func notified(ctx context.Context, s *stage, t traffic, syncAlways bool) (result, error) {
	n := t.Callbacks
	r, err := s.receivers(ctx, t.receiving(n))
	if err != nil {
		return result{}, err
	}
	nats, err := s.natsThatSyncs(ctx, syncAlways)
	if err != nil {
		return result{}, err
	}
	all := skipped(n) + n + behind(n)
	// A window is as long as a wave, so that it has as many first callbacks as others.
	// A wave has more jobs than the notifiers have tokens in hand, or they would leave
	// some with the ledgers: two writes for a callback that comes too early.
	l, err := s.logs(ctx, nats, r.URLs.Counted, max(n/callbacksPerJob, 1), all)
	if err != nil {
		return result{}, err
	}
	first, err := s.notifiers(ctx, nats, t)
	if err != nil {
		return result{}, err
	}
	warm := min(warmUp*t.Replicas, skipped(n))
	if err := l.warm(ctx, warm); err != nil {
		return result{}, err
	}
	release, err := l.hold(ctx)
	if err != nil {
		return result{}, err
	}
	if err := l.write(ctx, s, warm, all); err != nil {
		return result{}, err
	}
	if err := release(ctx); err != nil {
		return result{}, err
	}
	out, err := r.window(ctx, s, n, first)
	if err != nil {
		return result{}, err
	}
	if err := l.count(ctx, out, all); err != nil {
		return result{}, err
	}
	out.JetStream, err = nats.setting(ctx, broker.StreamLedger)
	return out, err
}

// notifiers starts a row's replicas and waits until all of them are ready. It
// returns the first, which is the one to profile. An InFlight of 0 is the default.
func (s *stage) notifiers(ctx context.Context, nats natsServer, t traffic) (*child.Process, error) {
	var all []notifierReplica
	start := s.measured
	var env []string
	if t.InFlight > 0 {
		env = []string{"JOBRELAY_CALLBACK_IN_FLIGHT=" + strconv.Itoa(t.InFlight)}
	}
	for range t.Replicas {
		n, err := s.notifier(start, nats, env...)
		if err != nil {
			return nil, err
		}
		all, start = append(all, n), s.product
	}
	for _, n := range all {
		if err := n.ready(ctx, s); err != nil {
			return nil, err
		}
	}
	return all[0].process, nil
}

// notifierReplica is a running notifier, ready or not.
type notifierReplica struct {
	process *child.Process
	metrics string
}

// notifier starts one, which may call this machine.
func (s *stage) notifier(start func(role string, env []string, args ...string) (*child.Process, error), nats natsServer, env ...string) (notifierReplica, error) {
	address, err := s.address()
	if err != nil {
		return notifierReplica{}, err
	}
	p, err := start("notifier", append([]string{
		"JOBRELAY_NATS_URL=" + nats.url, "JOBRELAY_METRICS_ADDR=" + address, "JOBRELAY_INSTALLATION=" + installation, "JOBRELAY_WEBHOOK_ALLOW=127.0.0.0/8",
	}, env...))
	return notifierReplica{p, "http://" + address}, err
}

func (n notifierReplica) ready(ctx context.Context, s *stage) error {
	return s.answers(ctx, n.process, n.metrics+"/readyz")
}

// posting is a run of the bare loop. NATS is there and idle.
func posting(ctx context.Context, s *stage, t traffic) (result, error) {
	n := t.Callbacks
	r, err := s.receivers(ctx, t.receiving(n))
	if err != nil {
		return result{}, err
	}
	if _, err := s.nats(ctx); err != nil {
		return result{}, err
	}
	p, err := s.asSelf(bareCallbacks, nil, "--receivers", r.control, "--in-flight", strconv.Itoa(t.InFlight*t.Replicas))
	if err != nil {
		return result{}, err
	}
	return r.window(ctx, s, n, p)
}

// bareCallbacks is the role of the bare loop.
const bareCallbacks = "bare-callbacks"

func bareCallbacksMain() int {
	var cfg struct {
		Receivers string `required:"" help:"Address of the receivers' control."`
		InFlight  int    `required:""`
	}
	return process.Main(bareCallbacks, "Posts callbacks, and does nothing else.", time.Second, &cfg, nil, func(ctx context.Context, _ *kong.Context) error {
		var urls endpointURLs
		if err := getJSON(ctx, cfg.Receivers+"/endpoints", &urls); err != nil {
			return err
		}
		return postAll(ctx, urls.Counted, cfg.InFlight)
	})
}

// postAll posts one callback to all urls in turn until ctx ends, as many at once as
// inFlight says.
func postAll(ctx context.Context, urls []string, inFlight int) error {
	body, err := callback.Body(event.Event{
		ID: "bench-0", Type: event.TypeJobStarted, Data: &jobsv1.JobStarted{JobId: jobUID, JobName: "bb-bench-0"},
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}}
	defer client.CloseIdleConnections()
	header := http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {"bench"}, "Webhook-Id": {callback.ID(event.Key("bench-0"), 0)}, "Webhook-Timestamp": {strconv.FormatInt(time.Now().Unix(), 10)},
	}
	var next atomic.Int64
	group, inGroup := errgroup.WithContext(ctx)
	for range inFlight {
		group.Go(func() error {
			for inGroup.Err() == nil {
				if err := post(inGroup, client, urls[int(next.Add(1))%len(urls)], header, body); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

func post(ctx context.Context, client *http.Client, url string, header http.Header, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
