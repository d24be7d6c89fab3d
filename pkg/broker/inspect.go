package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

const (
	// inspectTimeout bounds each question of an inspection.
	inspectTimeout = 3 * time.Second
	// inspectAtOnce bounds the questions that are open at once.
	inspectAtOnce = 8
)

// MinPayload is the least max_payload of a server, in bytes.
const MinPayload = minPayload

// Inspection is what a server, and what is in it, looks like to one login.
type Inspection struct {
	Server     string        // its version
	MaxPayload int64         // bytes
	Clustered  bool          // the streams are in a cluster of servers
	Clock      bool          // Skew is known
	Skew       time.Duration // the server's clock less ours; as good as the answer was quick
	JetStream  error         // why it does not answer; nothing below is known then
	Topology   []string      // what is not as expected
	Short      time.Duration // how long EVENTS must keep, and does not; 0: it does
	Keeps      time.Duration // how long it keeps, where that is short
	Failed     []string      // questions that had no answer, or a bad one
	Streams    []StreamState
	Consumers  []ConsumerState
	Denied     []string // subjects that the login may not publish to
}

// StreamState is how a stream is now.
type StreamState struct {
	Name            string
	Replicas        int
	File            bool // kept in files, not in memory
	Bytes, MaxBytes int64
	Lagging         []string // servers that do not hold all of it
}

// ConsumerState is how a durable consumer is now.
type ConsumerState struct {
	Stream, Name              string
	Pending                   uint64 // messages that nobody has had yet
	AckPending, MaxAckPending int
	Raise                     string // the command for one with a lower MaxAckPending than is made now; empty: it has that
	Waiting                   int    // pulls that wait for a message
	Paused                    bool
}

// impossible is a sequence that no stream comes to.
const impossible = 1<<53 - 1

// Dial connects as a role, without looking at the topology: a server that does
// not answer at once is an error.
func Dial(ctx context.Context, cfg Config, log zerolog.Logger) (*Broker, error) {
	b := New(cfg, log)
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errors.New("no answer; is it running, and is JOBRELAY_NATS_URL right?"))
	defer cancel()
	return b, b.dial(ctx)
}

// Fits are the roles whose inboxes the login may listen to: one where it is made as
// deploy/nats makes them, every role where nothing is restricted, none where it is
// nobody's of ours. It asks nothing of JetStream. Its error is the connection's.
func (b *Broker) Fits(ctx context.Context) ([]string, error) {
	var out []string
	for _, r := range Roles() {
		inbox := "_INBOX_" + r.Name + ".doctor.fits"
		sub, err := b.conn.SubscribeSync(inbox)
		if err != nil {
			return nil, err
		}
		err = b.conn.FlushWithContext(ctx)
		_ = sub.Unsubscribe() // it ends with the connection at the latest
		if err != nil {
			return nil, err
		}
		// A refusal is read before the answer to the flush.
		if said := b.conn.LastError(); said == nil || !strings.Contains(said.Error(), strconv.Quote(inbox)) {
			out = append(out, r.Name)
		}
	}
	return out, nil
}

// Inspect looks at everything and changes nothing. It may be called once on a
// connection of Dial, which is of no other use then. roles are those whose
// subjects the login is to be tried on; now is our clock. Its error is ctx's.
func (b *Broker) Inspect(ctx context.Context, now func() time.Time, roles ...string) (Inspection, error) {
	in := Inspection{Server: b.conn.ConnectedServerVersion(), MaxPayload: b.conn.MaxPayload()}
	d := &denials{waiting: map[string]context.CancelCauseFunc{}}
	b.conn.SetErrorHandler(d.heard)

	// A login that may not ask this can do its work all the same.
	api := strings.TrimSuffix(b.js.Options().APIPrefix, ".")
	if _, err := denied(ctx, d, api+".INFO", b.js.AccountInfo); err != nil && !errors.Is(err, errDenied) {
		in.JetStream = err
		return in, ctx.Err()
	}

	var tried []Role
	for _, name := range roles {
		if r, ok := roleNamed(name); ok {
			tried = append(tried, r)
		}
	}
	var mu sync.Mutex
	problem := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		in.Topology = append(in.Topology, fmt.Sprintf(format, args...))
	}
	failed := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		in.Failed = append(in.Failed, fmt.Sprintf(format, args...))
	}
	refused := func(subject string) {
		mu.Lock()
		defer mu.Unlock()
		in.Denied = append(in.Denied, subject)
	}
	ages := map[string]time.Duration{}
	var questions errgroup.Group
	questions.SetLimit(inspectAtOnce)
	for _, want := range Topology(1) {
		questions.Go(func() error {
			subject := api + ".STREAM.INFO." + want.Name
			asked := now()
			s, err := denied(ctx, d, subject, func(ctx context.Context) (jetstream.Stream, error) { return b.js.Stream(ctx, want.Name) })
			answered := now()
			switch {
			case errors.Is(err, jetstream.ErrStreamNotFound):
				problem("stream %s does not exist", want.Name)
				return nil
			case errors.Is(err, errDenied):
				if slices.ContainsFunc(tried, func(r Role) bool { return slices.Contains(r.streams(), want.Name) }) {
					refused(subject)
				}
				return nil // another role's
			case err != nil:
				failed("stream %s: %v", want.Name, err)
				return nil
			}
			info := s.CachedInfo()
			mu.Lock()
			defer mu.Unlock()
			in.Topology = append(in.Topology, fixedDifferences(want, info.Config)...)
			in.Topology = append(in.Topology, differences(want, info.Config)...)
			in.Streams = append(in.Streams, stateOf(info))
			if want.Name == StreamRequests || want.Name == StreamEvents {
				ages[want.Name] = info.Config.MaxAge
			}
			in.Clustered = in.Clustered || info.Cluster != nil && info.Cluster.Name != ""
			if !info.TimeStamp.IsZero() {
				in.Clock, in.Skew = true, skew(asked, answered, info.TimeStamp)
			}
			return nil
		})
	}
	for _, want := range Consumers() {
		questions.Go(func() error {
			name := want.Stream + "/" + want.Name
			subject := api + ".CONSUMER.INFO." + want.Stream + "." + want.Name
			c, err := denied(ctx, d, subject, func(ctx context.Context) (jetstream.Consumer, error) {
				return b.js.Consumer(ctx, want.Stream, want.Name)
			})
			switch {
			case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
				problem("consumer %s does not exist", name)
				return nil
			case errors.Is(err, errDenied):
				if slices.ContainsFunc(tried, func(r Role) bool { return r.consumes(want) }) {
					refused(subject)
				}
				return nil // another role's
			case err != nil:
				failed("consumer %s: %v", name, err)
				return nil
			}
			info := c.CachedInfo()
			mu.Lock()
			defer mu.Unlock()
			in.Topology = append(in.Topology, consumerDifferences(want, info.Config)...)
			in.Consumers = append(in.Consumers, ConsumerState{
				Stream: want.Stream, Name: want.Name, Pending: info.NumPending, AckPending: info.NumAckPending,
				MaxAckPending: info.Config.MaxAckPending, Raise: want.raise(info.Config.MaxAckPending), Waiting: info.NumWaiting, Paused: info.Paused,
			})
			return nil
		})
	}
	for _, role := range tried {
		for _, subject := range role.probes() {
			questions.Go(func() error {
				if _, err := denied(ctx, d, subject, func(ctx context.Context) (struct{}, error) { return struct{}{}, b.probe(ctx, subject) }); errors.Is(err, errDenied) {
					refused(subject)
				} else if err != nil {
					failed("publish to %s: %v", subject, err)
				}
				return nil
			})
		}
	}
	_ = questions.Wait() // none returns an error
	switch requests, events := ages[StreamRequests], ages[StreamEvents]; {
	case len(ages) < 2 || events == 0:
	case requests == 0:
		problem("%s keeps %s, and %s what it has for ever", StreamEvents, events, StreamRequests)
	case events < requests+eventsMargin:
		in.Keeps, in.Short = events, requests+eventsMargin
	}
	slices.Sort(in.Topology)
	in.Topology = slices.Compact(in.Topology) // two roles have subjects in common
	slices.Sort(in.Failed)
	slices.Sort(in.Denied)
	in.Denied = slices.Compact(in.Denied)
	slices.SortFunc(in.Streams, func(a, b StreamState) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(in.Consumers, func(a, b ConsumerState) int { return strings.Compare(a.Stream+a.Name, b.Stream+b.Name) })
	return in, ctx.Err()
}

// probe publishes what no stream takes. nil: the stream has answered.
func (b *Broker) probe(ctx context.Context, subject string) error {
	m := nats.NewMsg(subject)
	m.Header.Set(nats.ExpectedLastSeqHdr, strconv.Itoa(impossible))
	_, err := b.conn.RequestMsgWithContext(ctx, m)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil // without a stream, which is told elsewhere
	}
	return err
}

func stateOf(info *jetstream.StreamInfo) StreamState {
	s := StreamState{
		Name: info.Config.Name, Replicas: info.Config.Replicas, File: info.Config.Storage == jetstream.FileStorage,
		Bytes: int64(min(info.State.Bytes, 1<<62)), MaxBytes: info.Config.MaxBytes,
	}
	if info.Cluster != nil {
		for _, r := range info.Cluster.Replicas {
			if r.Offline || !r.Current {
				s.Lagging = append(s.Lagging, r.Name)
			}
		}
	}
	return s
}

// skew is another clock less ours, which asked and was answered around it.
func skew(asked, answered, theirs time.Time) time.Duration {
	return theirs.Sub(asked.Add(answered.Sub(asked) / 2))
}

// errDenied is the end of a question that the login may not ask.
var errDenied = errors.New("the login may not do this")

// denials hears what the server refuses, which is no answer to anybody, and ends
// the question that waits for one.
type denials struct {
	mu      sync.Mutex
	waiting map[string]context.CancelCauseFunc // by subject
}

// heard is a nats.ErrHandler. The server's line has the subject in quotes, and
// nowhere else.
func (d *denials) heard(_ *nats.Conn, _ *nats.Subscription, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for subject, cancel := range d.waiting {
		if strings.Contains(err.Error(), strconv.Quote(subject)) {
			cancel(errDenied)
		}
	}
}

// denied asks a question that goes to a subject: errDenied where the login may not.
func denied[T any](ctx context.Context, d *denials, subject string, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancelTimeout := context.WithTimeoutCause(ctx, inspectTimeout, fmt.Errorf("no answer in %s", inspectTimeout))
	defer cancelTimeout()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.mu.Lock()
	d.waiting[subject] = cancel
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, subject)
	}()
	out, err := ask(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out, err
}
