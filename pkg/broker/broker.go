// Package broker is jobrelay's access to NATS JetStream, and the only package
// that imports nats.go: the topology, the logs and the append rule, requests,
// the ledger, schedules and consumers.
package broker

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Errors that callers decide by.
var (
	// ErrConflict means that somebody else wrote first: read again, decide again.
	ErrConflict = errors.New("somebody else wrote first")
	// ErrNotFound means that there is no such message.
	ErrNotFound = errors.New("not found")
)

// Bounds of the client.
const (
	publishTimeout = 5 * time.Second  // wait for one PubAck
	requestTimeout = 5 * time.Second  // wait for one answer of the JetStream API
	maxPending     = 4096             // publishes without a PubAck yet
	minPayload     = 3<<19 + 64<<10   // bytes: the largest accepted form, and headers
	reconnectWait  = time.Second      // between tries at a server
	electionMost   = 15 * time.Second // calls go on while a stream has no leader; an election takes 4 to 10 s
	askAgain       = 250 * time.Millisecond
	waitNotice     = 10 * time.Second // between lines that say what is waited for
)

// Config says where NATS is and what may be done to it. Its tags make it flags
// of every service.
type Config struct {
	URL      string `name:"nats-url" default:"${nats_url=nats://127.0.0.1:4222}" help:"Address of NATS, several with commas."`
	Login    `embed:""`
	Topology Mode `name:"topology" enum:"create,verify" default:"create" help:"Streams and consumers: create makes or updates them at start, verify only checks them."`
	Replicas int  `name:"nats-replicas" default:"1" help:"Replicas of the streams that are made: 1, 3 or 5."`

	// Role is the process's kind, and Instance the name of this replica, one
	// token of a subject: its connection is jobrelay-<role>-<instance>, its
	// inboxes _INBOX_<role>.<instance>.>.
	Role     string `kong:"-"`
	Instance string `kong:"-"`

	Calls      *telemetry.Calls      `kong:"-"` // nil: not counted
	Registerer prometheus.Registerer `kong:"-"` // takes the metrics; nil: there are none
}

// Login is how a process shows NATS who it is, and knows NATS. Secrets are in files
// alone: never in an argument or a variable.
type Login struct {
	NKey  string `name:"nats-nkey" placeholder:"FILE" help:"File with the seed of the nkey to log in to NATS with."`
	Creds string `name:"nats-creds" placeholder:"FILE" help:"File with the credentials (a JWT and its nkey) to log in to NATS with."`
	CA    string `name:"nats-ca" placeholder:"FILE" help:"File with the certificates that NATS's own must come from; default: those of the system."`
	API   string `name:"nats-api-prefix" placeholder:"PREFIX" help:"JetStream's API in the account of this login, where that imports it from another: JOBRELAY.API with deploy/nats/apart.conf. Default: its own."`
}

// options are the login as the client's options; its error names the file, never
// what is in it.
func (l Login) options() ([]nats.Option, error) {
	var out []nats.Option
	if l.NKey != "" && l.Creds != "" {
		return nil, errors.New("--nats-nkey and --nats-creds are two ways to log in: take one")
	}
	if l.NKey != "" {
		if len(l.NKey) == 58 && strings.HasPrefix(l.NKey, "SU") {
			return nil, errors.New("--nats-nkey takes the name of a file with the seed, not the seed: whoever sees an argument has it now, so make another")
		}
		nkey, err := nats.NkeyOptionFromSeed(l.NKey)
		if err != nil {
			return nil, fmt.Errorf("--nats-nkey: no seed of an nkey can be read from %s: it must be one line that starts with SU, as `jobrelay nats keys` writes it", l.NKey)
		}
		out = append(out, nkey)
	}
	if l.Creds != "" {
		if _, err := os.Stat(l.Creds); err != nil {
			return nil, fmt.Errorf("--nats-creds: %w", err)
		}
		out = append(out, nats.UserCredentials(l.Creds))
	}
	if l.CA != "" {
		pem, err := os.ReadFile(l.CA)
		if err != nil {
			return nil, fmt.Errorf("--nats-ca: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--nats-ca: %s has no certificate in PEM form", l.CA)
		}
		out = append(out, nats.RootCAs(l.CA))
	}
	return out, nil
}

// Access is where NATS is for an operator's commands.
type Access struct {
	URL   string `name:"nats-url" placeholder:"URL|context:NAME" help:"Address of NATS, several with commas, or a context of the nats command. Without it: NATS_URL, the chosen context, the running jobrelay dev, nats://127.0.0.1:4222."`
	Login `embed:""`
}

// Validate says what is wrong with the flags.
func (c *Config) Validate() error {
	if !slices.Contains([]int{1, 3, 5}, c.Replicas) {
		return errors.New("--nats-replicas takes 1, 3 or 5")
	}
	return nil
}

// Broker is one connection to NATS. Its methods may be called at once by any
// number of goroutines.
type Broker struct {
	conn    *nats.Conn
	js      jetstream.JetStream
	log     zerolog.Logger
	streams map[string]jetstream.Stream
	closed  chan struct{}
	again   chan struct{} // one token for each reconnect that is not looked at yet
	cfg     Config
	metrics *metrics

	mu      sync.Mutex
	problem error // what stands against readiness beside the connection
}

// New is a Broker that does nothing but Ready and Close before Connect.
func New(cfg Config, log zerolog.Logger) *Broker {
	b := &Broker{
		cfg: cfg, log: log, streams: map[string]jetstream.Stream{}, closed: make(chan struct{}), again: make(chan struct{}, 1),
		problem: fmt.Errorf("waiting for NATS at %s", redacted(cfg.URL)),
	}
	b.metrics = newMetrics(cfg.Registerer, b)
	return b
}

// Open is New and Connect.
func Open(ctx context.Context, cfg Config, log zerolog.Logger) (*Broker, error) {
	b := New(cfg, log)
	return b, b.Connect(ctx)
}

// Connect waits for a server as long as ctx lives, saying so, and creates or
// checks the topology. Its error is final, and the connection closed then: a
// bad address, a refused login, or a *TopologyError.
func (b *Broker) Connect(ctx context.Context) error {
	if err := b.dial(ctx); err != nil {
		return err
	}
	if have := b.conn.MaxPayload(); have < minPayload {
		b.Close()
		return fmt.Errorf("NATS takes messages of %d bytes at most, and a request may have %d; set max_payload: 2MB in its configuration", have, minPayload)
	}
	b.stands(errors.New("waiting for JetStream"))
	if err := b.prepare(ctx); err != nil {
		b.Close()
		return err
	}
	b.stands(nil)
	return nil
}

// name and inbox tell one replica's connection from another's.
func (c Config) name() string { return strings.TrimRight("jobrelay-"+c.Role+"-"+c.Instance, "-") }
func (c Config) inbox() string {
	return strings.TrimRight("_INBOX_"+c.Role+"."+c.Instance, ".")
}

func (b *Broker) dial(ctx context.Context) error {
	cfg := b.cfg
	login, err := cfg.options()
	if err != nil {
		return err
	}
	var settings natscontext.Settings
	b.conn, settings, err = connect(cfg.URL, append(login,
		nats.Name(cfg.name()), inboxPrefix(cfg.inbox()),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait),
		// A publish while disconnected fails at once: buffered, it would go
		// out after its caller has decided otherwise.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.log.Warn().Err(err).Msg("NATS connection lost, reconnecting")
			}
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.log.Info().Msg("NATS connected")
			select {
			case b.again <- struct{}{}:
			default:
			}
		}),
		// A denied publish never comes back as a reply: without this line a
		// wrong permission looks like a slow server.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.log.Error().Err(err).Msg("NATS reported an error")
		}),
	)...)
	if err != nil {
		return err
	}
	notice := time.NewTicker(waitNotice)
	defer notice.Stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for said := false; !b.conn.IsConnected(); {
		if b.conn.IsClosed() {
			return fmt.Errorf("NATS at %s refused the connection: %w; check the login (JOBRELAY_NATS_NKEY, JOBRELAY_NATS_CREDS or in JOBRELAY_NATS_URL)", redacted(cfg.URL), b.conn.LastError())
		}
		if !said {
			b.log.Info().Str("address", redacted(cfg.URL)).Msg("waiting for NATS")
			said = true
		}
		select {
		case <-ctx.Done():
			b.conn.Close()
			return fmt.Errorf("NATS at %s did not answer: %w", redacted(cfg.URL), context.Cause(ctx))
		case <-b.closed:
		case <-notice.C:
			said = false
		case <-poll.C:
		}
	}
	js, err := streaming(b.conn, settings, cfg.API, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(publishTimeout), jetstream.WithDefaultTimeout(requestTimeout))
	b.mu.Lock()
	b.js = js
	b.mu.Unlock()
	return err
}

func (b *Broker) prepare(ctx context.Context) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := b.ensure(ctx)
		var wrong *TopologyError
		if errors.As(err, &wrong) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, _ time.Duration) {
		b.log.Warn().Err(err).Msg("waiting for JetStream")
	}))
	return err
}

func (b *Broker) ensure(ctx context.Context) error {
	role := b.role()
	if b.cfg.Topology == Verify {
		if err := verify(ctx, b.js, role); err != nil {
			return err
		}
	} else if _, err := ApplyTopology(ctx, b.js, max(b.cfg.Replicas, 1)); err != nil {
		return err
	}
	for _, name := range role.streams() {
		stream, err := b.js.Stream(ctx, name)
		if err != nil {
			return streamError(name, err)
		}
		b.streams[name] = stream
	}
	return nil
}

// role is what this process looks at of the topology: all of it where it may make it.
func (b *Broker) role() Role {
	if r, ok := roleNamed(b.cfg.Role); ok && b.cfg.Topology == Verify {
		return r
	}
	return everything()
}

// Closed is closed when the connection has ended for good: by Close, or by a
// server that refuses the login. A process without it must end and say so.
func (b *Broker) Closed() <-chan struct{} { return b.closed }

// ErrClosed is what a process ends with after Closed.
var ErrClosed = errors.New("NATS ended the connection for good; check the login in JOBRELAY_NATS_URL")

// Connected reports whether a server is there now.
func (b *Broker) Connected() bool { return b.conn.IsConnected() }

// Ready is nil while a server is there and, as far as WatchTopology has seen,
// its streams and consumers are as expected.
func (b *Broker) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.js != nil && !b.Connected() {
		return fmt.Errorf("NATS at %s is not connected", redacted(b.cfg.URL))
	}
	return b.problem
}

// stands sets what stands against readiness; nil: nothing.
func (b *Broker) stands(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problem = err
}

// connection is nil before there was one.
func (b *Broker) connection() *nats.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.js == nil {
		return nil
	}
	return b.conn
}

// JetStream is the client itself, for operators' commands and tests.
func (b *Broker) JetStream() jetstream.JetStream { return b.js }

// Close ends the connection. Consumers must have ended before.
func (b *Broker) Close() {
	if b.conn != nil {
		b.conn.Close()
	}
}

// publish returns the stream sequence after the PubAck, ErrConflict where an
// expectation was not met, or an error after which it is unknown whether the
// message was stored. Where nobody was there to store it, the stream is choosing a
// leader, and the message is sent again.
func (b *Broker) publish(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (uint64, error) {
	end := b.cfg.Calls.Begin(telemetry.NATS, streamOf(m.Subject), "publish")
	begin := time.Now()
	for {
		again := *m // the client writes its reply subject into it
		sequence, err := b.send(ctx, &again, opts...)
		// The client waits half a second itself before it says so.
		if errors.Is(err, jetstream.ErrNoStreamResponse) && ctx.Err() == nil && time.Since(begin) < electionMost {
			continue
		}
		end(result(err))
		return sequence, err
	}
}

func (b *Broker) send(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (uint64, error) {
	future, err := b.js.PublishMsgAsync(m, opts...)
	if err != nil {
		return 0, fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	timeout := time.NewTimer(publishTimeout)
	defer timeout.Stop()
	select {
	case ack := <-future.Ok():
		return ack.Sequence, nil
	case err := <-future.Err():
		if isConflict(err) {
			return 0, ErrConflict
		}
		return 0, fmt.Errorf("publish %s: %w", m.Subject, err)
	case <-timeout.C:
		return 0, fmt.Errorf("publish %s: no acknowledgement in %s", m.Subject, publishTimeout)
	case <-ctx.Done():
		return 0, fmt.Errorf("publish %s: %w", m.Subject, context.Cause(ctx))
	}
}

// codeWrongLastSequenceConstant is a replicated stream's way to say 10071
// (JSErrCodeStreamWrongLastSequence).
const codeWrongLastSequenceConstant jetstream.ErrorCode = 10164

func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == codeWrongLastSequenceConstant)
}

// last is the last message on a subject, which may hold wildcards.
func (b *Broker) last(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	end := b.cfg.Calls.Begin(telemetry.NATS, stream, "get")
	var m *jetstream.RawStreamMsg
	err := asked(ctx, func() (err error) {
		m, err = b.streams[stream].GetLastMsgForSubject(ctx, subject)
		return getError(subject, err)
	})
	end(result(err))
	return m, err
}

// holds reports whether the stream has a message on the subject, which may hold
// wildcards, as its leader knows. A direct get is answered by any replica, also by one
// that was away and catches up (nats-server: from nine tenths on). What that has is
// true, for logs only grow; what it has not may be there all the same. Where the append
// rule or a compare-and-set follows, the leader judges, and nothing is lost. Where "not
// found" decides by itself, it is asked for here.
func (b *Broker) holds(ctx context.Context, stream, subject string) (bool, error) {
	end := b.cfg.Calls.Begin(telemetry.NATS, stream, "info")
	info, err := b.streams[stream].Info(ctx, jetstream.WithSubjectFilter(subject))
	end(result(err))
	if err != nil {
		return false, streamError(stream, err)
	}
	return len(info.State.Subjects) > 0, nil
}

// surely is last, and its ErrNotFound is the word of the stream's leader.
func (b *Broker) surely(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	for begin := time.Now(); ; {
		m, err := b.last(ctx, stream, subject)
		if !errors.Is(err, ErrNotFound) {
			return m, err
		}
		held, leaderErr := b.holds(ctx, stream, subject)
		switch {
		case leaderErr != nil:
			return nil, leaderErr
		case !held:
			return nil, err
		case time.Since(begin) > electionMost:
			return nil, fmt.Errorf("%s: the leader of %s has it, the replicas that answer have not", subject, stream)
		}
		select { // another replica may be the next to answer
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(askAgain):
		}
	}
}

// asked repeats a reading that no replica of the stream was there to answer, as
// publish does.
func asked(ctx context.Context, read func() error) error {
	for begin := time.Now(); ; {
		err := read()
		if !errors.Is(err, nats.ErrNoResponders) || time.Since(begin) > electionMost {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

// result is what a call's error is counted as.
func result(err error) telemetry.Result {
	switch {
	case err == nil:
		return telemetry.OK
	case errors.Is(err, ErrConflict):
		return telemetry.Conflict
	case errors.Is(err, ErrNotFound):
		return telemetry.Missing
	}
	return telemetry.Failed
}

func getError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// redacted is the addresses without their logins: a token stands where a user
// does.
func redacted(addresses string) string {
	var out []string
	for address := range strings.SplitSeq(addresses, ",") {
		u, err := url.Parse(strings.TrimSpace(address))
		if err != nil {
			return "the configured address"
		}
		if u.User != nil {
			u.User = url.User("xxxxx")
		}
		// An address without a scheme reads as a path, or as a scheme of its own.
		if u.Host == "" && strings.Contains(address, "@") {
			return "the configured address"
		}
		out = append(out, u.String())
	}
	return strings.Join(out, ",")
}

// OpenAdmin connects without looking at the topology, for an operator's
// commands: a server that does not answer at once is an error.
func OpenAdmin(ctx context.Context, at Access, log zerolog.Logger) (*Broker, error) {
	b := New(Config{URL: at.URL, Login: at.Login, Role: RoleOperator}, log)
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errors.New("no answer; is it running, and is JOBRELAY_NATS_URL right?"))
	defer cancel()
	return b, b.dial(ctx)
}
