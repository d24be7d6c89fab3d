package main

import (
	"context"
	"errors"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	idleFor    = time.Minute
	idleSettle = 3 * time.Second // from the first receive until all is as it stays
	idlePolls  = "requests/minute/receiver"
)

// idle is what ingest asks of SQS where nothing comes: a long poll takes 20 s,
// so 3 requests a minute are the floor for each receiver.
var idle = row{
	ID: "B1idle", Title: "idle intake", Unit: "requests/minute",
	Ours: "ingest", Bare: "bare receive + batch delete",
	Goals: []goal{{idlePolls, atMost, 3}},
	Slow:  true, Once: true,
	Run: runIdle,
}

func runIdle(ctx context.Context, s *stage, which side) (result, error) {
	queue, err := s.sqs(ctx, 0)
	if err != nil {
		return result{}, err
	}
	nats, err := s.nats(ctx)
	if err != nil {
		return result{}, err
	}
	p, err := s.receiving(which, queue, nats, intakeReceivers)
	if err != nil {
		return result{}, err
	}
	if _, err := s.until(ctx, 1, "poll", p, func(ctx context.Context) (int, error) {
		now, err := queue.counts(ctx)
		return int(now.sum("sqsd_requests_total", "action", "ReceiveMessage")), err
	}); err != nil {
		return result{}, err
	}
	if err := process.Sleep(ctx, idleSettle); err != nil {
		return result{}, err
	}
	before, err := queue.counts(ctx)
	if err != nil {
		return result{}, err
	}
	begin := time.Now()
	s.say("%s: looking for %s", s.name, idleFor)
	if err := process.Sleep(ctx, idleFor); err != nil {
		return result{}, err
	}
	minutes := time.Since(begin).Minutes()
	after, err := queue.counts(ctx)
	if err != nil {
		return result{}, err
	}
	receivers := after.sum("sqsd_requests_in_progress", "action", "ReceiveMessage")
	if receivers == 0 || !p.Running() {
		return result{}, errors.Join(errors.New("nobody polls"), ended(p))
	}
	rate := (after.sum("sqsd_requests_total") - before.sum("sqsd_requests_total")) / minutes
	out := result{Rate: rate, Counters: map[string]float64{idlePolls: rate / receivers, "receivers": receivers}}
	if cpu, resident, err := p.Usage(); err == nil {
		out.Counters["resident MB"], out.Counters["CPU ms"] = float64(resident)/1e6, float64(cpu.Milliseconds())
	}
	if which == ours {
		out.JetStream, err = nats.setting(ctx, broker.StreamRequests)
	}
	return out, err
}
