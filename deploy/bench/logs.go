package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	callbacksPerJob = 3 // started, Pod started, completed
	appendsAtOnce   = 128
	jobUID          = "6f1c2b52-7c1c-4c63-9e3a-5d0f3f0a9c11"
)

// logs are those of jobs that go well and that no cluster knows: their requests
// are accepted, and their events are written as the services write them.
//
// The events stand in waves, as many jobs long as wave says: first the start of
// each job of the wave, then its Pod's, then its end. So a job's callbacks are as
// far apart as in life, where each is delivered before the next one is due.
type logs struct {
	broker   *broker.Broker
	nats     natsServer
	requests []*jobsv1.JobRequested
	ends     []end // of each job's log
	wave     int
}

// end is where a log is appended to, by one at a time: an append that takes longer than
// the job's next event is away holds that up.
type end struct {
	sync.Mutex

	tail broker.Tail
}

// logs accepts the requests of all jobs that the first events events are of. Job i
// calls back the address i, modulo how many there are.
func (s *stage) logs(ctx context.Context, nats natsServer, addresses []string, wave, events int) (*logs, error) {
	defer s.during("accepting the requests of %d callbacks", events)()
	l := &logs{nats: nats, wave: wave}
	for i := range events {
		if job := l.jobOf(i); job == len(l.requests) {
			l.requests = append(l.requests, nil)
		}
	}
	l.ends = make([]end, len(l.requests))
	sample, err := requestOf(0, "default")
	if err != nil {
		return nil, err
	}
	if l.broker, err = broker.Open(ctx, broker.Config{URL: nats.url, Role: "bench", Topology: broker.Create}, zerolog.Nop()); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { l.broker.Close(); return nil })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(appendsAtOnce)
	for i := range l.requests {
		group.Go(func() error {
			r := proto.CloneOf(sample)
			r.Id, r.Webhook.Url = fmt.Sprintf("bench-%d", i), addresses[i%len(addresses)]
			l.requests[i] = r
			e, err := event.New(event.Key(r.GetId()), event.SourceOfQueue(installation, queueName), r.GetId(), 0, time.Now(), r)
			if err != nil {
				return err
			}
			return l.broker.Accept(ctx, e)
		})
	}
	return l, group.Wait()
}

// jobOf is the job that event i of all is of.
func (l *logs) jobOf(i int) int {
	wave, in := i/(callbacksPerJob*l.wave), i%(callbacksPerJob*l.wave)
	return wave*l.wave + in%l.wave
}

// append writes the next event of a job; trace is its traceparent.
func (l *logs) append(ctx context.Context, job int, trace string) error {
	r, end := l.requests[job], &l.ends[job]
	end.Lock()
	defer end.Unlock()
	tail := end.tail
	name := r.GetJob().GetPrefixName() + "-" + r.GetId()
	var data jobstatus.Event
	switch tail.Next() {
	case 0:
		data = &jobsv1.JobStarted{
			JobId: jobUID, JobName: name, Namespace: r.GetJob().GetNamespace(), Service: r.GetService(),
			Image: r.GetJob().GetImage(), Resources: r.GetJob().GetResources(), QueueMilliseconds: 20,
		}
	case 1:
		data = &jobsv1.PodStarted{JobId: jobUID, JobName: name, Namespace: r.GetJob().GetNamespace(), PodId: jobUID, PodName: name + "-x7k2p", NodeName: "node-1"}
	default:
		data = &jobsv1.JobCompleted{JobId: jobUID, JobName: name, Namespace: r.GetJob().GetNamespace(), DurationSeconds: 30, Times: &jobsv1.Times{RunSeconds: 30}}
	}
	key := event.Key(r.GetId())
	e, err := event.New(key, event.SourceOfNamespace(installation, r.GetJob().GetNamespace()), r.GetId(), tail.Next(), time.Now(), data)
	if err != nil {
		return err
	}
	e.Trace = trace
	end.tail, err = l.broker.Append(ctx, r.GetService(), tail, e)
	return err
}

// write appends events [from, to) as fast as it goes.
func (l *logs) write(ctx context.Context, s *stage, from, to int) error {
	defer s.during("appending %d events", to-from)()
	for from < to { // an event of a job stands before the next
		until := min((from/l.wave+1)*l.wave, to)
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(appendsAtOnce)
		for i := from; i < until; i++ {
			group.Go(func() error { return l.append(ctx, l.jobOf(i), "") })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		from = until
	}
	return nil
}

// pace appends events [0, n), so many a second, each with the time of its append
// in its traceparent. It returns how many a second it was.
func (l *logs) pace(ctx context.Context, n int, perSecond float64) (float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(appendsAtOnce)
	begin := time.Now()
	for i := range n {
		due := begin.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if err := process.Sleep(ctx, time.Until(due)); err != nil {
			break
		}
		group.Go(func() error { return l.append(ctx, l.jobOf(i), traceparentOf(time.Now())) })
	}
	err := group.Wait()
	return float64(n) / time.Since(begin).Seconds(), err
}

// warm appends events [0, n) slowly, and waits until they are delivered: a burst at an
// endpoint that nobody knows is parked in part until its limit is up.
func (l *logs) warm(ctx context.Context, n int) error {
	if _, err := l.pace(ctx, n, warmUpPace); err != nil {
		return err
	}
	return l.settled(ctx)
}

// heldMost bounds a hold whose end is never heard.
const heldMost = 10 * time.Minute

// hold keeps the events from every notifier until the returned function is called.
func (l *logs) hold(ctx context.Context) (release func(context.Context) error, err error) {
	js, c := l.broker.JetStream(), broker.NotifierEvents
	if _, err := js.PauseConsumer(ctx, c.Stream, c.Name, time.Now().Add(heldMost)); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := js.ResumeConsumer(ctx, c.Stream, c.Name)
		return err
	}, nil
}

// settled waits until no notifier has anything left to do, and nothing is parked.
func (l *logs) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, runMost, fmt.Errorf("callbacks are left after %s", runMost))
	defer cancel()
	for {
		said, err := l.nats.jetStream(ctx)
		if err != nil {
			return err
		}
		now := said.streams()
		if now[broker.StreamEvents].left(broker.NotifierEvents.Name) == 0 && now[broker.StreamWakeups].State.Messages == 0 {
			return nil
		}
		if process.Sleep(ctx, look) != nil {
			return context.Cause(ctx)
		}
	}
}

// count waits until all is settled, and counts what n callbacks took to write.
func (l *logs) count(ctx context.Context, out result, n int) error {
	if err := l.settled(ctx); err != nil {
		return err
	}
	written, parked, err := l.written(ctx)
	if err != nil {
		return err
	}
	out.Counters[writesPerCallback] = written / float64(n)
	out.Counters["of these to park"] = parked / float64(n)
	return nil
}

// written is how often the notifiers wrote to disk so far; of these, how often to
// park.
func (l *logs) written(ctx context.Context) (all, parked float64, err error) {
	said, err := l.nats.jetStream(ctx)
	now := said.streams()
	for _, name := range []string{broker.StreamLedger, broker.StreamWakeups, broker.StreamDeadLetters} {
		all += now[name].State.LastSequence
	}
	return all, now[broker.StreamWakeups].State.LastSequence, err
}
