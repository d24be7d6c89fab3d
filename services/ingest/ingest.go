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

	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

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

	QueueURLs       []string `name:"sqs-queue-url" sep:"," required:"" placeholder:"URL" help:"Queue to receive from, several with commas. Options may follow each: URL;receivers=8;in-flight=100;service=billing (service: the only one that its messages may have)."`
	InFlight        int      `name:"ingest-in-flight" default:"256" help:"Messages held at once, over all queues (1 to 5000)."`
	Receivers       int      `name:"ingest-receivers" default:"4" help:"Long polls at once for each queue under load (1 to 16); one while it is idle."`
	Strict          bool     `name:"strict" help:"Refuse messages with unknown fields instead of warning."`
	MaxBackoffLimit int      `name:"max-backoff-limit" default:"6" help:"Highest job.backoffLimit that is accepted."`

	// Endpoint and Region are those of a development stack; empty: the AWS
	// SDK's own configuration.
	Endpoint string `kong:"-"`
	Region   string `kong:"-"`
}

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.InFlight < 1 || c.InFlight > maxInFlight {
		return fmt.Errorf("--ingest-in-flight takes 1 to %d", maxInFlight)
	}
	if c.Receivers < 1 || c.Receivers > maxReceivers {
		return fmt.Errorf("--ingest-receivers takes 1 to %d", maxReceivers)
	}
	if _, err := c.queues(); err != nil {
		return err
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
	r.AddFile("policy", policy)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go policy.Watch(watching)
	in := &intake{
		broker: r.Broker, log: log, installation: cfg.Replica.Installation,
		options: request.Options{Strict: cfg.Strict, MaxBackoffLimit: cfg.MaxBackoffLimit}, metrics: newMetrics(r.Registry()), spans: r.Spans,
		policy: policy.Get, parsing: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	queues, err := cfg.queues()
	if err != nil {
		return err
	}
	var receivers []*receiver
	held, broken := semaphore.NewWeighted(maxBytes), &gate{}
	for _, q := range queues {
		receiver := newReceiver(q, in, broken, held, sqsqueue.Config{Endpoint: cfg.Endpoint, Region: cfg.Region, Calls: r.Calls}, log)
		r.AddState("queue "+q.name, receiver.ready)
		receivers = append(receivers, receiver)
	}
	if ctx, err = r.Connect(ctx); err != nil {
		return err
	}
	log.Info().Str("instance", r.Name).Int("queues", len(queues)).Msg("ingest is running")
	var group sync.WaitGroup
	for _, receiver := range receivers {
		group.Go(func() { receiver.run(ctx) })
	}
	group.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, broker.ErrClosed) {
		return cause
	}
	return nil
}
