// Package notifier delivers the events of each job to its webhook: in order,
// at least once, and recorded.
//
// Each message that its consumers hand out is a token: the duty to see event n
// of a log delivered. Until event n has its 2xx or is given up, its token is in
// at least one of three durable places: unacknowledged in the consumer,
// surrendered in the log's ledger, or a scheduled wake-up (docs/architecture.md).
package notifier

import (
	"context"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// Config of the service; its tags are its flags.
type Config struct {
	Replica replica.Config       `embed:""`
	Policy  replica.PolicyConfig `embed:""`

	SigningKeys          string            `name:"signing-keys" placeholder:"DIR" help:"Folder of the key files that the policy's signingKey names, read again when they change; default: callbacks are not signed."`
	CallbackFiles        string            `name:"callback-files" placeholder:"DIR" help:"Folder of the CA and header files that the policy's callback names, read again when they change; default: none may be named."`
	RetrySchedule        delivery.Schedule `name:"retry-schedule" default:"${retrySchedule}" placeholder:"0s,5s,…" help:"Wait before each attempt at an endpoint that is unwell; one entry an attempt (default ${retrySchedule})."`
	RetryScheduleRefused delivery.Schedule `name:"retry-schedule-refused" default:"${retryScheduleRefused}" placeholder:"0s,1m,…" help:"Wait before each attempt at an endpoint that refuses the callback (default ${retryScheduleRefused})."`
	WebhookAllow         webhook.Allow     `name:"webhook-allow" placeholder:"CIDR|HOST,…" help:"Internal addresses that callbacks may go to; none without it."`
	RetryMaxAge          time.Duration     `name:"retry-max-age" default:"${retryMaxAge}" help:"How long after it first became due a callback is tried, also at an endpoint that is left alone (up to 24h)."`
	BreakerOpen          time.Duration     `name:"breaker-open" default:"${breakerOpen}" help:"How long an endpoint that fails is left alone at first; twice as long after each probe that fails."`
	BreakerMost          time.Duration     `name:"breaker-most" default:"${breakerMost}" help:"The longest time for which an endpoint is left alone."`
	InFlight             int               `name:"callback-in-flight" default:"2048" help:"Callbacks being sent at once (1 to 2048), at most 64 of them to one endpoint."`
}

// Vars are the defaults that the flags' tags name.
func Vars() map[string]string {
	return map[string]string{
		"retrySchedule": delivery.DefaultUnwell, "retryScheduleRefused": delivery.DefaultRefused, "retryMaxAge": delivery.MaxAge.String(),
		"breakerOpen": delivery.DefaultBreaker.Open.String(), "breakerMost": delivery.DefaultBreaker.Most.String(),
	}
}

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.InFlight < 1 || c.InFlight > 2048 {
		return errors.New("--callback-in-flight takes 1 to 2048")
	}
	if c.RetryMaxAge <= 0 || c.RetryMaxAge > delivery.MaxAge {
		return errors.New("--retry-max-age takes more than 0 and at most 24h")
	}
	if c.BreakerOpen <= 0 || c.BreakerOpen > c.BreakerMost || c.BreakerMost > delivery.MaxAge {
		return errors.New("--breaker-open takes more than 0 and at most --breaker-most, which takes up to 24h")
	}
	return c.Replica.Validate()
}

// Main is the command notifier; it returns the exit code.
func Main() int {
	var cfg Config
	return process.Service("notifier", "Delivers the events of each job to its webhook, in order.", &cfg, Vars(), func(ctx context.Context, log zerolog.Logger) error {
		return Run(ctx, cfg, log)
	})
}

const (
	// tokensPerSlot is how many tokens are in hand for each POST in flight:
	// the rest are at their reads and writes, or wait for a slot.
	tokensPerSlot = 4
	// cached bounds each cache, in logs. Any entry may be dropped.
	cached = 50_000
)

// Run delivers until ctx ends, and finishes what was started.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	policy, err := cfg.Policy.Open(log)
	if err != nil {
		return err
	}
	keys, err := openFiles(cfg.SigningKeys, cfg.Policy.File, policy.Get, readKeys, (*signing).equal, log)
	if err != nil {
		return err
	}
	peers, err := openFiles(cfg.CallbackFiles, cfg.Policy.File, policy.Get, readPeers, (*peers).equal, log)
	if err != nil {
		return err
	}
	r, err := replica.Start(ctx, "notifier", cfg.Replica, log)
	if err != nil {
		return err
	}
	defer r.Stop()
	r.AddFile("policy", policy)
	r.AddFile("signing", keys)
	r.AddFile("callback-files", peers)
	r.Registry().MustRegister(keyCounts{keys.Get})
	client := webhook.New(webhook.Config{Allow: cfg.WebhookAllow, InFlight: cfg.InFlight, Version: process.Version()})
	defer client.Close()
	n, err := newNotifier(r.Broker, client, &delivery.Policy{
		Unwell: cfg.RetrySchedule, Refused: cfg.RetryScheduleRefused, MaxAge: cfg.RetryMaxAge,
		Breaker: delivery.Breaker{Open: cfg.BreakerOpen, Most: cfg.BreakerMost},
	}, cfg.InFlight, ctx.Done(), r.Registry(), log)
	if err != nil {
		return err
	}
	r.Tell = func(s *broker.Status) { s.Failing, s.Endpoints = n.endpoints.report() }
	n.keys = func(service string) callback.Keys { return keys.Get().of(service) }
	n.calls, n.spans = r.Calls, r.Spans
	n.peer = func(service, address string) webhook.Peer { return peers.Get().of(service, address) }
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go policy.Watch(watching)
	go keys.Watch(watching)
	go peers.Watch(watching)
	if ctx, err = r.Connect(ctx); err != nil {
		return err
	}
	log.Info().Str("instance", r.Name).Msg("notifier is running")
	go n.undelivered.watch(watching)
	group, ctx := errgroup.WithContext(ctx)
	options := broker.ConsumeOptions{InFlight: tokensPerSlot * cfg.InFlight}
	group.Go(func() error { return r.Broker.Consume(ctx, broker.NotifierEvents, options, n.appended) })
	group.Go(func() error { return r.Broker.Consume(ctx, broker.NotifierWakeups, options, n.woken) })
	return group.Wait()
}

// poster is the outgoing HTTP; tests put faults in its place.
type poster interface {
	Post(ctx context.Context, cb webhook.Callback) webhook.Outcome
}

type notifier struct {
	broker      *broker.Broker
	client      poster
	endpoints   *endpoints
	undelivered *undelivered
	policy      *delivery.Policy
	keys        func(service string) callback.Keys
	peer        func(service, address string) webhook.Peer
	ledgers     *lru.Cache[string, broker.LedgerEntry]
	targets     *lru.Cache[string, target]
	metrics     *metrics
	calls       *telemetry.Calls
	spans       *telemetry.Spans
	log         zerolog.Logger
	now         func() time.Time
}

func newNotifier(b *broker.Broker, client poster, policy *delivery.Policy, inFlight int, stopping <-chan struct{}, reg prometheus.Registerer, log zerolog.Logger) (*notifier, error) {
	ledgers, err := lru.New[string, broker.LedgerEntry](cached)
	if err != nil {
		return nil, err
	}
	targets, err := lru.New[string, target](cached)
	if err != nil {
		return nil, err
	}
	n := &notifier{
		broker: b, client: client, policy: policy, ledgers: ledgers, targets: targets, log: log, now: time.Now,
		endpoints: newEndpoints(policy, inFlight, stopping, time.Now, log),
		keys:      func(string) callback.Keys { return callback.Keys{} },
		peer:      func(string, string) webhook.Peer { return webhook.Peer{} },
	}
	n.undelivered = &undelivered{broker: b, log: log}
	n.metrics = newMetrics(reg, n.endpoints, n.undelivered)
	return n, nil
}
