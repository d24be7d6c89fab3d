package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	tapBacklog   = 1_000_000
	tapCallbacks = 18000 // counted
	// tapAhead is how many events wait for the notifier at most: more than it has in
	// hand, and less than a wave.
	tapAhead    = 1024
	tapReadPace = 2000 // events/s
	tapBatch    = 100  // events of one pull
	tapName     = "bench"
	// backlogAtOnce are the appends at once that make the backlog.
	backlogAtOnce = 512
	eventsBehind  = "events behind the tap"
	eventsRead    = "events read by the tap/s"
)

// tapRow is a row of what a tap costs that has a million events behind it. Both
// sides have the same EVENTS, and a notifier that is past those events. The events
// of the window are appended while it delivers those before them, for what a tap
// could cost it would cost the append or the delivery. pace is how many events of
// its backlog the tap reads in a second; 0: it is away.
func tapRow(id, title, with string, pace int, answer time.Duration) row {
	t := traffic{1, 1, callbacksInFlight, answer, 0}
	return row{
		ID: id, Title: title, Unit: "callbacks/s",
		Ours: t.String() + ", " + with, Bare: t.String() + ", no tap",
		Goals: []goal{{"", atLeast, 0.95}},
		Slow:  true,
		Run: func(ctx context.Context, s *stage, which side) (result, error) {
			t.Callbacks = s.size(tapCallbacks)
			return beside(ctx, s, t, which == ours, pace)
		},
	}
}

var (
	tapAway    = tapRow("Btap", "a tap with 1,000,000 events behind it", "a tap that is away", 0, 0)
	tapReading = tapRow("Btapread", "the same tap, reading", fmt.Sprintf("a tap that reads %d a second", tapReadPace), tapReadPace, healthyAnswer)
)

// beside is a run of the notifier on a stream with a backlog, with a tap that has
// all of it behind it or without.
func beside(ctx context.Context, s *stage, t traffic, tapped bool, pace int) (result, error) {
	n := t.Callbacks
	all := skipped(n) + n + behind(n)
	if err := s.withBacklog(ctx); err != nil {
		return result{}, err
	}
	r, err := s.receivers(ctx, t.receiving(n))
	if err != nil {
		return result{}, err
	}
	nats, err := s.nats(ctx)
	if err != nil {
		return result{}, err
	}
	l, err := s.logs(ctx, nats, r.URLs.Counted, max(n/callbacksPerJob, 1), all)
	if err != nil {
		return result{}, err
	}
	// A client is let in when the store is read; the monitor answers before.
	if err := s.pastBacklog(ctx, nats); err != nil {
		return result{}, err
	}
	if tapped {
		if err := l.broker.CreateTap(ctx, broker.Tap{Name: tapName}); err != nil {
			return result{}, err
		}
	}
	first, err := s.notifiers(ctx, nats, t)
	if err != nil {
		return result{}, err
	}
	warm := min(warmUp, skipped(n))
	if err := l.warm(ctx, warm); err != nil {
		return result{}, err
	}
	reads := tapped && pace > 0
	if reads {
		if err := l.startReading(ctx, s, nats, pace); err != nil {
			return result{}, err
		}
	}
	begin := time.Now()
	before, err := l.behindTap(ctx)
	if err != nil {
		return result{}, err
	}
	out, err := l.fed(ctx, s, r, first, n, warm, all)
	if err != nil {
		return result{}, err
	}
	took := time.Since(begin)
	if tapped {
		left, err := l.behindTap(ctx)
		if err != nil {
			return result{}, err
		}
		out.Counters[eventsBehind] = float64(left)
		out.Counters[eventsRead] = float64(before+all-warm-left) / took.Seconds()
	}
	if err := l.count(ctx, out, all); err != nil {
		return result{}, err
	}
	out.JetStream, err = nats.setting(ctx, broker.StreamEvents)
	return out, err
}

// pastBacklog checks that EVENTS has the backlog and that none of it is left for the
// notifier.
func (s *stage) pastBacklog(ctx context.Context, nats natsServer) error {
	said, err := nats.jetStream(ctx)
	if err != nil {
		return err
	}
	events := said.streams()[broker.StreamEvents]
	if left := events.left(broker.NotifierEvents.Name); left != 0 || events.State.Messages != s.backlogSize() {
		return fmt.Errorf("%s has %d events, of which %d are left for the notifier, in place of %d and none", broker.StreamEvents, events.State.Messages, left, s.backlogSize())
	}
	return nil
}

// startReading starts the tap's process and waits until it reads.
func (l *logs) startReading(ctx context.Context, s *stage, nats natsServer, pace int) error {
	p, err := s.asSelf(tapReader, nil, "--nats", nats.url, "--per-second", strconv.Itoa(pace))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyMost, errors.New("the tap reads nothing"))
	defer cancel()
	for {
		taps, err := l.broker.Taps(ctx)
		switch {
		case err != nil:
			return err
		case !taps[0].LastAck.IsZero():
			return nil
		case !p.Running():
			return ended(p)
		case process.Sleep(ctx, look) != nil:
			return context.Cause(ctx)
		}
	}
}

// behindTap is how many events the tap has not acknowledged; 0 where there is none.
func (l *logs) behindTap(ctx context.Context) (n int, err error) {
	taps, err := l.broker.Taps(ctx)
	for _, t := range taps {
		n += int(t.Pending) + t.Unacknowledged //nolint:gosec // some millions
	}
	return n, err
}

// feed appends events [from, to), as fast as they are delivered.
func (l *logs) feed(ctx context.Context, s *stage, r *receivers, from, to int) error {
	for from < to {
		h, err := r.heard(ctx)
		if err != nil {
			return err
		}
		if until := min(to, h.Calls+tapAhead); until > from {
			if err := l.write(ctx, s, from, until); err != nil {
				return err
			}
			from = until
		}
		if err := process.Sleep(ctx, look); err != nil {
			return err
		}
	}
	return nil
}

// fed appends events [from, to) as they are called for, while the window is measured.
func (l *logs) fed(ctx context.Context, s *stage, r *receivers, first *child.Process, window, from, to int) (out result, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.feed(ctx, s, r, from, to) })
	group.Go(func() (err error) { out, err = r.window(ctx, s, window, first); return err })
	err = group.Wait()
	return out, err
}

func (l *lab) backlogSize() int {
	if l.backlog > 0 {
		return l.backlog
	}
	return tapBacklog
}

// withBacklog gives the stage's NATS, which does not run yet, a store whose EVENTS
// has the backlog. The store is made once in a run of the bench, and copied.
func (s *stage) withBacklog(ctx context.Context) error {
	if s.store == "" {
		if err := s.makeStore(ctx); err != nil {
			return fmt.Errorf("the backlog: %w", err)
		}
	}
	defer s.during("copying the store with the backlog")()
	return os.CopyFS(s.natsStore(), os.DirFS(s.store))
}

// makeStore keeps a store whose server has ended, until the lab closes.
func (l *lab) makeStore(ctx context.Context) (err error) {
	s, err := l.stage("backlog", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.fill(ctx, l.backlogSize()); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "jobrelay-bench-")
	if err != nil {
		return err
	}
	l.store = filepath.Join(dir, "nats")
	// Behind the server's end.
	s.closers = append(s.closers, func() error { return os.Rename(s.natsStore(), l.store) })
	return nil
}

// fill appends the first events of n logs as the services write them, and takes them
// through the notifier's own durable: it has acknowledged each, as in life. A real
// notifier would find the requests of none and call nobody.
func (s *stage) fill(ctx context.Context, n int) error {
	nats, err := s.natsThatSyncs(ctx, false)
	if err != nil {
		return err
	}
	b, err := broker.Open(ctx, broker.Config{URL: nats.url, Role: "bench", Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		return err
	}
	defer b.Close()
	s.say("%s: %d events, once for all runs", s.name, n)
	consuming, stop := context.WithCancel(ctx)
	defer stop()
	both, consuming := errgroup.WithContext(consuming)
	both.Go(func() error {
		return b.Consume(consuming, broker.NotifierEvents, broker.ConsumeOptions{}, func(context.Context, broker.Message) error { return nil })
	})
	both.Go(func() error {
		appends, ctx := errgroup.WithContext(consuming)
		appends.SetLimit(backlogAtOnce)
		for i := range n {
			if ctx.Err() != nil {
				break
			}
			appends.Go(func() error {
				id := fmt.Sprintf("backlog-%d", i)
				e, err := event.New(event.Key(id), event.SourceOfNamespace(installation, "default"), id, 0, time.Now(), &jobsv1.JobStarted{
					JobId: jobUID, JobName: "bb-" + id, Namespace: "default", Service: "example", Image: "busybox", QueueMilliseconds: 20,
				})
				if err != nil {
					return err
				}
				_, err = b.Append(ctx, "example", broker.Tail{}, e)
				return err
			})
		}
		if err := appends.Wait(); err != nil {
			return err
		}
		if err := (&logs{nats: nats}).settled(consuming); err != nil {
			return err
		}
		stop()
		return nil
	})
	return both.Wait()
}

// tapReader is the role of the tap's own process.
const tapReader = "tap-reader"

func tapReaderMain() int {
	var cfg struct {
		NATS      string `required:"" name:"nats"`
		PerSecond int    `required:""`
	}
	return process.Main(tapReader, "Reads what a tap is handed out, at a pace.", time.Second, &cfg, nil, func(ctx context.Context, _ *kong.Context) error {
		b, err := broker.Open(ctx, broker.Config{URL: cfg.NATS, Role: "bench", Topology: broker.Verify}, zerolog.Nop())
		if err != nil {
			return err
		}
		defer b.Close()
		return readTap(ctx, b, cfg.PerSecond)
	})
}

// readTap pulls batches and acknowledges each event, so many a second at most, until
// ctx ends.
func readTap(ctx context.Context, b *broker.Broker, perSecond int) error {
	consumer, err := b.JetStream().Consumer(ctx, broker.StreamEvents, broker.Tap{Name: tapName}.Durable())
	if err != nil {
		return err
	}
	begin, batch := time.Now(), min(tapBatch, perSecond)
	for i := 0; process.Sleep(ctx, time.Until(begin.Add(time.Duration(i*batch)*time.Second/time.Duration(perSecond)))) == nil; i++ {
		got, err := consumer.FetchNoWait(batch)
		if err != nil {
			return err
		}
		for m := range got.Messages() {
			if err := m.Ack(); err != nil {
				return err
			}
		}
		if err := got.Error(); err != nil {
			return err
		}
	}
	return nil
}
