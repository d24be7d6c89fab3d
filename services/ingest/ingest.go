// Package ingest turns the messages of SQS queues into accepted requests.
//
// Each message is received, parsed, validated and published; only then is it
// deleted from its queue. A message that is not accepted is recorded, and its
// rejection appended to a log of its own, before it is deleted.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// Config of the service; its tags are its flags.
type Config struct {
	Replica replica.Config       `embed:""`
	Policy  replica.PolicyConfig `embed:""`

	QueueURLs       []string `name:"sqs-queue-url" sep:"," required:"" placeholder:"URL" help:"Queue to receive from, several with commas."`
	InFlight        int      `name:"ingest-in-flight" default:"256" help:"Messages held at once, over all queues (1 to 5000)."`
	Receivers       int      `name:"ingest-receivers" default:"2" help:"Long polls at once for each queue (1 to 16)."`
	Strict          bool     `name:"strict" help:"Refuse messages with unknown fields instead of warning."`
	MaxBackoffLimit int      `name:"max-backoff-limit" default:"6" help:"Highest job.backoffLimit that is accepted."`

	// Endpoint and Region are those of a development stack; empty: the AWS
	// SDK's own configuration.
	Endpoint string `kong:"-"`
	Region   string `kong:"-"`
}

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.InFlight < 1 || c.InFlight > 5000 {
		return errors.New("--ingest-in-flight takes 1 to 5000")
	}
	if c.Receivers < 1 || c.Receivers > 16 {
		return errors.New("--ingest-receivers takes 1 to 16")
	}
	return c.Replica.Validate()
}

// Main is the command ingest; it returns the exit code.
func Main() int {
	var cfg Config
	return process.Service("ingest", "Receives messages from SQS and accepts them as requests.", &cfg, nil, func(ctx context.Context, log zerolog.Logger) error {
		return Run(ctx, cfg, log)
	})
}

// Run receives until ctx ends, then lets the open polls end, finishes what was
// started and gives back the rest.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	policy, err := cfg.Policy.Open(log)
	if err != nil {
		return err
	}
	r, err := replica.Start(ctx, "ingest", cfg.Replica, log)
	if err != nil {
		return err
	}
	defer r.Stop()
	r.AddState("policy", policy.State)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go policy.Watch(watching)
	var opened atomic.Bool
	r.Add("sqs", func() error {
		if !opened.Load() {
			return errors.New("waiting for SQS")
		}
		return nil
	})
	in := &intake{
		broker: r.Broker, log: log, installation: cfg.Replica.Installation,
		options: request.Options{Strict: cfg.Strict, MaxBackoffLimit: cfg.MaxBackoffLimit}, metrics: newMetrics(r.Registry()),
		policy: policy.Get, parsing: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	if ctx, err = r.Connect(ctx); err != nil {
		return err
	}
	queues, err := openQueues(ctx, cfg, log)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, cfg.InFlight)
	var group sync.WaitGroup
	for _, q := range queues {
		receiver := newReceiver(q, in, slots, cfg.Receivers, log)
		r.AddState("queue "+q.Name(), receiver.ready)
		group.Go(func() { receiver.run(ctx) })
	}
	opened.Store(true)
	log.Info().Str("instance", r.Name).Int("queues", len(queues)).Msg("ingest is running")
	group.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, broker.ErrClosed) {
		return cause
	}
	return nil
}

// openQueues waits for every queue as long as ctx lives, saying so.
func openQueues(ctx context.Context, cfg Config, log zerolog.Logger) ([]*sqsqueue.Queue, error) {
	var queues []*sqsqueue.Queue
	for _, address := range cfg.QueueURLs {
		q, err := backoff.Retry(ctx, func() (*sqsqueue.Queue, error) {
			q, err := sqsqueue.Open(ctx, sqsqueue.Config{QueueURL: address, Endpoint: cfg.Endpoint, Region: cfg.Region})
			if errors.Is(err, sqsqueue.ErrAddress) {
				return nil, backoff.Permanent(fmt.Errorf("%w; set JOBRELAY_SQS_QUEUE_URL", err))
			}
			return q, err
		}, backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, _ time.Duration) {
			log.Warn().Err(err).Msg("waiting for SQS")
		}))
		if err != nil {
			return nil, err
		}
		queues = append(queues, q)
	}
	return queues, nil
}

// metrics of the service.
type metrics struct {
	messages *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{messages: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jobrelay_ingest_messages_total", Help: "Messages by what became of them: accepted, duplicate, rejected.",
	}, []string{"outcome"})}
	reg.MustRegister(m.messages)
	return m
}
