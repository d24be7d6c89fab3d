package broker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/event"
)

// Tap is a subscriber of others to EVENTS: what its durable hands out. It is made
// by an operator, never by the tap (docs/taps.md).
type Tap struct {
	Name     string       // 1 to 40 lower-case letters, digits and dashes
	Services []string     // none: every one
	Types    []event.Type // none: every one
	Since    time.Time    // zero: all that EVENTS keeps

	// Mirror is set for a tenant whose account has a mirror of EVENTS, for as many
	// consumers as it likes: the durable then feeds that mirror and is not pulled from.
	Mirror bool
}

// TapState is how far a tap is.
type TapState struct {
	Tap

	Created        time.Time
	Pending        uint64    // events that fit and were never handed out
	Unacknowledged int       // handed out; at most tapMaxAckPending
	Redelivered    int       // of those, handed out more than once
	LastAck        time.Time // zero: never
}

// Bounds of a tap. What it does not acknowledge, it gets again after tapAckWait;
// with tapMaxAckPending of those it gets no more. A pull is answered within
// tapMaxExpires, below the two minutes after which the server forgets a request
// from another account.
const (
	maxTaps          = 100 // durables of taps on EVENTS: each event is matched with the filters of each
	maxTapFilters    = 100
	tapAckWait       = 30 * time.Second
	tapMaxAckPending = 1000
	tapMaxWaiting    = 64   // pulls that wait at once
	tapMaxBatch      = 1000 // events of one pull
	tapMaxExpires    = time.Minute
	mirrorHeartbeat  = time.Second // the server takes no other
)

// Prefixes that keep a tap's durable apart from ours: it can never be notifier.
const (
	tapPrefix    = "tap-"
	mirrorPrefix = "mirror-"
	// mirrorsPrefix starts the subject on which the server feeds a mirror.
	mirrorsPrefix = "mirrors."
)

var tapName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// Durable is the name of the tap's consumer on EVENTS.
func (t Tap) Durable() string {
	if t.Mirror {
		return mirrorPrefix + t.Name
	}
	return tapPrefix + t.Name
}

// Validate says what is wrong with the tap.
func (t Tap) Validate() error {
	switch n := max(len(t.Services), 1) * max(len(t.Types), 1); {
	case !tapName.MatchString(t.Name):
		return errors.New("the name of a tap takes 1 to 40 lower-case letters, digits and dashes")
	case n > maxTapFilters:
		return fmt.Errorf("a tap takes at most %d pairs of a service and a type, and these are %d", maxTapFilters, n)
	}
	for _, typ := range t.Types {
		if typ.Token() == "" {
			return fmt.Errorf("%s is not on %s", typ, StreamEvents)
		}
	}
	return nil
}

// filters are the subjects that the tap gets: every service with every type.
func (t Tap) filters() []string {
	var out []string
	for _, service := range tokens(t.Services, event.ServiceToken) {
		for _, typ := range tokens(t.Types, event.Type.Token) {
			out = append(out, "events."+service+".*."+typ)
		}
	}
	return out
}

// tokens are those of all, or the one that stands for any.
func tokens[T any](all []T, token func(T) string) []string {
	if len(all) == 0 {
		return []string{"*"}
	}
	var out []string
	for _, v := range all {
		out = append(out, token(v))
	}
	return out
}

func (t Tap) config() jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable: t.Durable(), Description: "a tap: made by jobrelay taps create", FilterSubjects: t.filters(),
		DeliverPolicy: jetstream.DeliverAllPolicy, MaxAckPending: tapMaxAckPending, MaxDeliver: -1,
		// No inactive threshold: a tap that is away keeps its place. The log does not
		// wait for it, so that one that nobody needs any more costs a filter.
	}
	if t.Mirror {
		cfg.DeliverSubject, cfg.AckPolicy = mirrorsPrefix+t.Name, jetstream.AckFlowControlPolicy
		cfg.FlowControl, cfg.IdleHeartbeat = true, mirrorHeartbeat
	} else {
		cfg.AckPolicy, cfg.AckWait = jetstream.AckExplicitPolicy, tapAckWait
		cfg.MaxWaiting, cfg.MaxRequestBatch, cfg.MaxRequestExpires = tapMaxWaiting, tapMaxBatch, tapMaxExpires
	}
	if !t.Since.IsZero() {
		since := t.Since.UTC()
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	return cfg
}

// CreateTap makes the durable of a tap. The same tap again changes nothing; another
// one of its name is an error.
func (b *Broker) CreateTap(ctx context.Context, t Tap) error {
	if err := t.Validate(); err != nil {
		return err
	}
	taps, err := b.Taps(ctx)
	if err != nil {
		return err
	}
	another := fmt.Errorf("there is another tap %s; choose another name, or `jobrelay taps delete %s` first, which forgets how far it is", t.Name, t.Name)
	switch at := slices.IndexFunc(taps, func(s TapState) bool { return s.Name == t.Name }); {
	case at < 0 && len(taps) >= maxTaps:
		return fmt.Errorf("there are %d taps, and no more may be made; delete one, or serve several readers from a mirror (docs/taps.md)", len(taps))
	case at >= 0 && taps[at].Mirror != t.Mirror:
		return another
	}
	if t.Mirror {
		_, err = b.js.CreatePushConsumer(ctx, StreamEvents, t.config())
	} else {
		_, err = b.js.CreateConsumer(ctx, StreamEvents, t.config())
	}
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return another
	}
	return streamError(StreamEvents, err)
}

// Taps are all taps, by name.
func (b *Broker) Taps(ctx context.Context) ([]TapState, error) {
	stream, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return nil, streamError(StreamEvents, err)
	}
	var out []TapState
	consumers := stream.ListConsumers(ctx)
	for info := range consumers.Info() {
		if t, ok := tapOf(info); ok {
			out = append(out, t)
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, streamError(StreamEvents, err)
	}
	slices.SortFunc(out, func(a, c TapState) int { return strings.Compare(a.Name, c.Name) })
	return out, nil
}

// tapOf reads a tap from its durable; false: it is none.
func tapOf(info *jetstream.ConsumerInfo) (TapState, bool) {
	name, pulled := strings.CutPrefix(info.Name, tapPrefix)
	name, mirror := strings.CutPrefix(name, mirrorPrefix)
	if pulled == mirror {
		return TapState{}, false
	}
	t := TapState{
		Tap: Tap{Name: name, Mirror: mirror}, Created: info.Created,
		Pending: info.NumPending, Unacknowledged: info.NumAckPending, Redelivered: info.NumRedelivered,
	}
	if at := info.Config.OptStartTime; at != nil {
		t.Since = *at
	}
	if at := info.AckFloor.Last; at != nil {
		t.LastAck = *at
	}
	filters := info.Config.FilterSubjects
	if info.Config.FilterSubject != "" { // the server's form of a single one
		filters = []string{info.Config.FilterSubject}
	}
	for _, f := range filters {
		p := strings.Split(f, ".")
		if len(p) != 4 {
			continue // not of our making
		}
		if s := event.ServiceName(p[1]); p[1] != "*" && !slices.Contains(t.Services, s) {
			t.Services = append(t.Services, s)
		}
		if typ, ok := event.TypeOfToken(p[3]); ok && !slices.Contains(t.Types, typ) {
			t.Types = append(t.Types, typ)
		}
	}
	return t, true
}

// DeleteTap removes the durable of a tap, and with it how far the tap is.
// ErrNotFound where there is none.
func (b *Broker) DeleteTap(ctx context.Context, name string) error {
	taps, err := b.Taps(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(taps, func(s TapState) bool { return s.Name == name })
	if at < 0 {
		return fmt.Errorf("tap %s: %w", name, ErrNotFound)
	}
	return streamError(StreamEvents, b.js.DeleteConsumer(ctx, StreamEvents, taps[at].Durable()))
}
