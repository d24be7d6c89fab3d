package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	consoleCallbacks = 9000 // counted
	consoleBrowsers  = 3
	// consoleInFlight are so few at once that two cores have room for a console beside
	// them: 1,600 callbacks a second at the most.
	consoleInFlight = 32
	consolePages    = "pages loaded by browsers"
	// betweenLoads is what a page of the console leaves between two loads of what has
	// changed on it.
	betweenLoads = 300 * time.Millisecond
)

// consoleRow is a row of what a console costs the pipeline: it reads every event of
// the window as it is appended, and tells browsers that look at the page Now. The
// events are appended while the notifier delivers those before them, as in beside.
func consoleRow(id, title string, inFlight int, answer time.Duration, goals ...goal) row {
	t := traffic{1, 1, inFlight, answer, 0}
	return row{
		ID: id, Title: title, Unit: "callbacks/s",
		Ours: t.String() + ", a console with 3 browsers", Bare: t.String() + ", no console",
		Goals: goals,
		Slow:  true,
		Run: func(ctx context.Context, s *stage, which side) (result, error) {
			t.Callbacks = s.size(consoleCallbacks)
			return besideConsole(ctx, s, t, which == ours)
		},
	}
}

var (
	consoleBeside = consoleRow("Bconsole", "a console that shows all of it", consoleInFlight, healthyAnswer, goal{"", atLeast, 0.97})
	consoleCPU    = consoleRow("Bconsolecpu", "the same, all CPU", callbacksInFlight, 0)
)

// besideConsole is a run of the notifier with a console beside it, or without.
func besideConsole(ctx context.Context, s *stage, t traffic, shown bool) (result, error) {
	n := t.Callbacks
	all := skipped(n) + n + behind(n)
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
	first, err := s.notifiers(ctx, nats, t)
	if err != nil {
		return result{}, err
	}
	var seen lookers
	looking, leave := context.WithCancel(ctx)
	defer leave()
	if shown {
		if seen.url, err = s.console(ctx, nats); err != nil {
			return result{}, err
		}
		for range consoleBrowsers {
			seen.Go(func() error { return seen.look(looking) })
		}
	}
	warm := min(warmUp, skipped(n))
	if err := l.warm(ctx, warm); err != nil {
		return result{}, err
	}
	out, err := l.fed(ctx, s, r, first, n, warm, all)
	if err != nil {
		return result{}, err
	}
	if err := l.count(ctx, out, all); err != nil {
		return result{}, err
	}
	// A short run ends before a browser was told of anything; it is within seconds.
	for shown && seen.pages.Load() == 0 {
		if err := process.Sleep(ctx, look); err != nil {
			return result{}, err
		}
	}
	leave()
	if err := seen.Wait(); err != nil {
		return result{}, err
	}
	if shown {
		out.Counters[consolePages] = float64(seen.pages.Load())
	}
	out.JetStream, err = nats.setting(ctx, broker.StreamEvents)
	return out, err
}

// console starts a console of which the whole index is filled, and returns where its
// pages are.
func (s *stage) console(ctx context.Context, nats natsServer) (pages string, err error) {
	address, err := s.address()
	if err != nil {
		return "", err
	}
	metrics, err := s.address()
	if err != nil {
		return "", err
	}
	p, err := s.product("console", []string{"JOBRELAY_NATS_URL=" + nats.url, "JOBRELAY_METRICS_ADDR=" + metrics, "JOBRELAY_LISTEN=" + address})
	if err != nil {
		return "", err
	}
	return "http://" + address, s.answers(ctx, p, "http://"+metrics+"/readyz")
}

// lookers are browsers that look at the page Now.
type lookers struct {
	errgroup.Group

	url   string
	pages atomic.Int64
}

// look does what the page's script does until ctx ends: it listens, and loads what has
// changed.
func (l *lookers) look(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/live?page=now", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "event: changed") {
			continue
		}
		l.pages.Add(1)
		err := get(ctx, l.url+"/?fragment=1", func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
		if process.Sleep(ctx, betweenLoads) != nil {
			return nil
		}
	}
	return nil
}
