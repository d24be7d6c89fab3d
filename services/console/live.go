package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	// maxLive bounds the browsers that listen at once; each has a connection and some
	// kilobytes.
	maxLive = 256
	// gather is how long changes are gathered before they are told together.
	gather = 100 * time.Millisecond
	// pulse is between two signs of life, and for pages that show more than events
	// between two looks.
	pulse = 5 * time.Second
	// writeWithin is how long a browser may take for what it is told; it is cut off
	// then, comes back and goes on where it was.
	writeWithin = 5 * time.Second
	// maxKeys bounds the log keys in one message.
	maxKeys = 50
	// comeBack is what a browser waits before it connects again.
	comeBack = time.Second
	// movesEvery is between two looks at what became of a job's callbacks, which
	// events do not tell.
	movesEvery = time.Second
)

// told is the data of a message.
type told struct {
	Page string   `json:"page"`
	N    int      `json:"n"`              // changes
	Keys []string `json:"keys,omitempty"` // log keys of some of them
}

// live is GET /live: server-sent events that say what has changed on a page, as far as
// its filter goes. Their id is the place on EVENTS, by which a browser that comes back
// misses nothing (Last-Event-ID); `reload` says that too much came in between.
func (s *server) live(w http.ResponseWriter, r *http.Request) {
	if n := s.listening.Add(1); n > maxLive {
		s.listening.Add(-1)
		s.metrics.turnedAway.Inc()
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many browsers listen already; the page works without", http.StatusServiceUnavailable)
		return
	}
	defer s.listening.Add(-1)
	q := r.URL.Query()
	l := &listener{
		server: s, page: q.Get("page"), filter: filterOf(q), key: q.Get("key"),
		out: w, control: http.NewResponseController(w),
	}
	if l.page == "job" && !logKeyForm.MatchString(l.key) {
		http.Error(w, "key takes a log key", http.StatusBadRequest)
		return
	}
	_ = l.control.SetReadDeadline(time.Time{}) // nothing more is read, for as long as it listens
	after := q.Get("after")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		after = last
	}
	l.place, _ = strconv.ParseUint(after, 10, 64)          // 0, the beginning, where it says nothing
	l.moves, _ = strconv.ParseUint(q.Get("moves"), 10, 64) // likewise: then the first look is a change
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // of proxies that would gather it
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	// A write that fails ends ctx, too: so its own error tells who was too slow.
	if err := l.run(ctx); errors.Is(err, os.ErrDeadlineExceeded) {
		s.metrics.cutOff.Inc()
	}
}

// listener is one browser.
type listener struct {
	server  *server
	page    string
	filter  Filter
	key     string // of the page of one job
	place   uint64
	moved   uint64
	moves   uint64 // mark of the job's callbacks
	out     http.ResponseWriter
	control *http.ResponseController
}

// run tells until ctx ends, or the browser does not take it.
func (l *listener) run(ctx context.Context) error {
	if err := l.write(fmt.Sprintf("retry: %d\n\n", comeBack.Milliseconds())); err != nil {
		return err
	}
	beat := time.NewTicker(pulse)
	defer beat.Stop()
	var look <-chan time.Time
	if l.page == "job" {
		t := time.NewTicker(movesEvery)
		defer t.Stop()
		look = t.C
	}
	l.moved = l.server.hub.after(l.place).moved
	for {
		n := l.server.hub.after(l.place)
		if err := l.tell(n); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.awake:
			select { // what comes with it is told with it
			case <-ctx.Done():
				return nil
			case <-time.After(gather):
			}
		case <-look:
			if l.server.reachable() != nil {
				continue
			}
			moves, err := l.server.reads.Moves(ctx, l.key)
			if err == nil && moves != l.moves {
				l.moves = moves
				if err := l.changed(told{Page: l.page, N: 1, Keys: []string{l.key}}); err != nil {
					return err
				}
			}
		case <-beat.C:
			if err := l.beat(); err != nil {
				return err
			}
		}
	}
}

// tell writes what is new and of the page.
func (l *listener) tell(n news) error {
	l.place = n.place
	if n.moved != l.moved {
		l.moved = n.moved
		if err := l.write("event: state\ndata: {}\n\n"); err != nil {
			return err
		}
	}
	if n.lost {
		return l.write(fmt.Sprintf("id: %d\nevent: reload\ndata: {}\n\n", l.place))
	}
	out := told{Page: l.page}
	for _, j := range n.jobs {
		if !l.concerns(j) {
			continue
		}
		out.N++
		if len(out.Keys) < maxKeys {
			out.Keys = append(out.Keys, j.LogKey)
		}
	}
	if out.N == 0 {
		return nil
	}
	return l.changed(out)
}

func (l *listener) concerns(j Job) bool {
	switch l.page {
	case "now":
		return true
	case "job":
		return j.LogKey == l.key
	case "jobs", "refused":
		return l.filter.Fits(j)
	default:
		return false
	}
}

// beat shows that the connection is alive, and where it is; of what is no event it
// says that it may have changed.
func (l *listener) beat() error {
	if l.page == "now" || l.page == "undelivered" {
		return l.changed(told{Page: l.page})
	}
	return l.write(fmt.Sprintf("id: %d\nevent: pulse\ndata: {}\n\n", l.place))
}

func (l *listener) changed(t told) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return l.write(fmt.Sprintf("id: %d\nevent: changed\ndata: %s\n\n", l.place, data))
}

func (l *listener) write(text string) error {
	if err := l.control.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	if _, err := l.out.Write([]byte(text)); err != nil {
		return err
	}
	return l.control.Flush()
}
