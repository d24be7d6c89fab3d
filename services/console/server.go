package console

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	// readWithin bounds what a page reads of NATS.
	readWithin = 8 * time.Second
	// stopWithin bounds the wait for pages that are being made at a stop.
	stopWithin = 3 * time.Second
	// maxForm bounds the body of a POST, in bytes.
	maxForm = 16 << 10
	// maxConnections bounds those that are open at once, of browsers that listen and of
	// all others together; more of them wait.
	maxConnections = 1024
)

// server answers browsers.
type server struct {
	cfg      Config
	index    *Index
	hub      *hub
	progress func() Progress
	reads    *broker.Broker
	letters  *letters
	glance   *glance
	tokens   *tokens
	access   *access
	metrics  *metrics
	log      zerolog.Logger
	now      func() time.Time
	stopping context.Context // ends what browsers listen to
	name     string          // of this replica

	listening atomic.Int64
	connected atomic.Bool // once to NATS: before, nothing can be read
}

// errAway is what cannot be read before there was a connection.
var errAway = errors.New("NATS has not answered yet")

// reachable is nil once something may be asked of NATS.
func (s *server) reachable() error {
	if !s.connected.Load() {
		return errAway
	}
	return nil
}

// headers keep what a page holds to itself: nothing is loaded from elsewhere, nothing
// written in a page runs, nobody frames it, and no other site is told of it. The
// referrer is told to the console alone: without any, a browser says of its own forms
// that they are from nowhere.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "same-origin",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
	"Cache-Control":                "no-store",
}

// handler is everything that browsers may ask for.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page("now", s.showNow))
	mux.HandleFunc("GET /jobs", s.page("jobs", s.showJobs))
	mux.HandleFunc("GET /jobs/{logKey}", s.page("job", s.showJob))
	mux.HandleFunc("GET /refused", s.page("refused", s.showRefused))
	mux.HandleFunc("GET /refused/{logKey}", s.page("rejection", s.showRejection))
	mux.HandleFunc("GET /undelivered", s.page("undelivered", s.showUndelivered))
	mux.HandleFunc("GET /codes", s.page("codes", showCodes))
	mux.HandleFunc("GET /live", s.live)
	mux.HandleFunc("GET /static/{file}", static)
	if s.cfg.AllowActions {
		foreign := http.NewCrossOriginProtection()
		foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, http.StatusForbidden, errForeign) }))
		mux.Handle("POST /jobs/{logKey}/cancel", foreign.Handler(s.action(actionCancel, s.cancel)))
		mux.Handle("POST /jobs/{logKey}/replay", foreign.Handler(s.action(actionReplay, s.replayJob)))
		mux.Handle("POST /undelivered/replay", foreign.Handler(s.action(actionReplay, s.replayEndpoint)))
	} else {
		mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
			s.fail(w, r, http.StatusForbidden, errors.New("this console only shows: it was started without --allow-actions"))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, http.StatusNotFound, errors.New("there is no such page"))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		s.access.guard(mux).ServeHTTP(w, r)
	})
}

// serve answers until ctx ends.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(netutil.LimitListener(l, maxConnections)) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := process.Outlive(ctx, stopWithin)
	defer cancel()
	if err := h.Shutdown(stop); err != nil {
		_ = h.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// frame is what every page has around what it shows.
type frame struct {
	Title   string
	Here    string // the page, as metrics name it
	Live    string // query of /live; empty: nothing changes on it
	Place   uint64 // of the newest event when it was made
	Moves   uint64 // how far the callbacks of its one job were then
	User    string
	Actions bool
	Token   string // of its forms
	Version string
	Replica string
	Done    string // what was asked for a moment ago
	State   stateView
	Body    any
}

// stateView is what the whole page must say of itself.
type stateView struct {
	Progress

	Now time.Time
}

// problem is an error with what a browser is answered.
type problem struct {
	status int
	error
}

func (p problem) Unwrap() error { return p.error }

var errNoJob = problem{http.StatusNotFound, errors.New("nothing is kept of it: no event has this log key. Events are kept for 17 days")}

// page makes a page of what show returns. With ?fragment=1 it is the part alone that
// changes.
func (s *server) page(name string, show func(context.Context, *frame, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.metrics.pages.WithLabelValues(name).Inc()
		ctx, cancel := context.WithTimeout(r.Context(), readWithin)
		defer cancel()
		f := s.frame(w, r, name)
		if err := show(ctx, &f, r); err != nil {
			var elsewhere redirect
			if errors.As(err, &elsewhere) {
				http.Redirect(w, r, elsewhere.to, http.StatusSeeOther)
				return
			}
			status := http.StatusServiceUnavailable
			var p problem
			if errors.As(err, &p) {
				status = p.status
			} else {
				s.log.Warn().Err(err).Str("page", name).Msg("a page could not be made")
			}
			s.fail(w, r, status, err)
			return
		}
		part := "layout"
		if r.URL.Query().Get("fragment") != "" {
			part = "live"
		}
		s.write(w, http.StatusOK, name, part, f)
	}
}

func (s *server) frame(w http.ResponseWriter, r *http.Request, name string) frame {
	f := frame{
		Here: name, User: userOf(r), Actions: s.cfg.AllowActions, Version: process.Version(), Replica: s.name,
		Done: doneText[r.URL.Query().Get("done")], Place: s.index.Overall(s.now()).Newest,
		State: stateView{Progress: s.progress(), Now: s.now().UTC()},
	}
	if f.Actions {
		f.Token = s.tokens.give(w, r)
	}
	return f
}

// failed is what the page of an error shows.
type failed struct {
	Status int
	What   string
	Away   bool // NATS does not answer
}

// fail answers with a page that says what is wrong.
func (s *server) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	f := s.frame(w, r, "failed")
	body := failed{Status: status, What: sentence(err.Error())}
	switch status {
	case http.StatusServiceUnavailable:
		body.What = "What this page shows could not be read from NATS just now. Nothing is lost: load it again in a moment."
		body.Away = true
		w.Header().Set("Retry-After", "2")
		f.Title = "Not readable just now"
	case http.StatusNotFound:
		f.Title = "Not found"
	default:
		f.Title = "Refused"
	}
	f.Body = body
	part := "layout"
	if r.URL.Query().Get("fragment") != "" {
		part = "live"
	}
	s.write(w, status, "failed", part, f)
}

// sentence is an error's text as one.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// write sends a page when all of it is made.
func (s *server) write(w http.ResponseWriter, status int, name, part string, f frame) {
	var page bytes.Buffer
	if err := templates[name].ExecuteTemplate(&page, part, f); err != nil {
		s.log.Error().Err(err).Str("page", name).Msg("a page could not be made")
		http.Error(w, "This page could not be made; the console's log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // a browser that went away
}
