package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams. What each is for, who writes it and who reads it is in
// docs/architecture.md.
const (
	StreamRequests    = "REQUESTS"
	StreamRejections  = "REJECTIONS"
	StreamEvents      = "EVENTS"
	StreamLedger      = "LEDGER"
	StreamWakeups     = "WAKEUPS"
	StreamCommands    = "COMMANDS"
	StreamControls    = "CONTROLS"
	StreamDeadLetters = "DEADLETTERS"
	StreamStatus      = "STATUS"
)

const day = 24 * time.Hour

// Retention of the streams, in an order that must hold: a request outlives any
// message in SQS (14 days), its log outlives the request by 2 days, and the
// ledger and the wake-ups outlive the log's last callback (24 h of retries).
const (
	requestsAge   = 15 * day
	eventsAge     = 17 * day
	eventsMargin  = 2 * day // EVENTS keeps at least this longer than REQUESTS
	ledgerAge     = 18 * day
	wakeupsAge    = 17 * day
	lettersAge    = 90 * day
	statusAge     = time.Minute
	statusMaxSize = 16 << 20 // bytes in memory
)

// Topology is every stream with its settings. Replicas, placement and limits
// (age, bytes, messages) are the operator's: an existing stream keeps its own.
//
// DiscardNew wherever JetStream allows it: to drop the oldest would drop the
// truth. Message schedules exclude it, and in a stream that keeps one message
// a subject the new one replaces the old.
func Topology(replicas int) []jetstream.StreamConfig {
	streams := []jetstream.StreamConfig{
		{
			Name: StreamRequests, Subjects: []string{"requests.*"},
			Description: "accepted requests; the first on a subject wins",
			MaxAge:      requestsAge, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamRejections, Subjects: []string{"rejections.*"},
			Description: "raw bodies of the messages that were not accepted, and why",
			MaxAge:      requestsAge, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamEvents, Subjects: []string{"events.*.*.*"},
			Description: "the log of every job",
			// Nobody may take an event out of a log.
			MaxAge: eventsAge, DenyDelete: true, DenyPurge: true, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamLedger, Subjects: []string{"ledger.callback.*", "ledger.replay.*.*", "ledger.active.*"},
			Description: "how far the callbacks of each log are, and which jobs hold a place of their service",
			MaxAge:      ledgerAge, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamWakeups, Subjects: []string{"schedules.>", "wakeups.>"},
			Description: "what is parked until a time, and what woke up",
			// No limit a subject: after a SIGKILL of the server the replaced
			// messages would stay behind as garbage (docs/adr/0003).
			Retention: jetstream.WorkQueuePolicy, AllowMsgSchedules: true, MaxAge: wakeupsAge, AllowDirect: true,
		},
		{
			Name: StreamCommands, Subjects: []string{"commands.>"},
			Description: "what operators ask for",
			Retention:   jetstream.WorkQueuePolicy, MaxAge: requestsAge, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamControls, Subjects: []string{"controls.>"},
			Description:       "what operators set",
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamDeadLetters, Subjects: []string{"deadletters.>"},
			Description: "callbacks that were given up",
			MaxAge:      lettersAge, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowDirect: true,
		},
		{
			Name: StreamStatus, Subjects: []string{"status.*.*"},
			Description: "what each replica does now",
			Storage:     jetstream.MemoryStorage, MaxAge: statusAge, MaxMsgsPerSubject: 1, MaxBytes: statusMaxSize, AllowDirect: true,
		},
	}
	for i := range streams {
		streams[i].Replicas = replicas
		if streams[i].MaxBytes == 0 {
			streams[i].MaxBytes = -1
		}
		if streams[i].MaxMsgsPerSubject == 0 {
			streams[i].MaxMsgsPerSubject = -1
		}
	}
	return streams
}

// streamOf names the stream that a subject of ours is stored in.
func streamOf(subject string) string {
	first, _, _ := strings.Cut(subject, ".")
	switch first {
	case "schedules", "wakeups":
		return StreamWakeups
	}
	return strings.ToUpper(first)
}

// Consumer is a durable consumer of the topology.
type Consumer struct {
	Stream, Name  string
	Filters       []string
	AckWait       time.Duration
	MaxAckPending int // of one that is made
	// AtLeast is what one that is there may have instead, and keeps: the release
	// before asks for it. 0: MaxAckPending. More than either is the operator's choice.
	AtLeast int `json:",omitempty"`
}

// The durable consumers. MaxDeliver is unlimited everywhere: reaching it drops
// a message from delivery silently. AckWait is three times an attempt (15 s),
// and is extended while a message is in hand. MaxAckPending is above what all
// replicas together have in hand (Consume's InFlight and Pull): of notifiers, seven
// of which each has all in hand that it ever has. The build before had 20,000 there,
// and is not ready with another number: what it made stays (docs/upgrade.md).
var (
	LauncherRequests = Consumer{StreamRequests, "launcher", []string{"requests.*"}, 45 * time.Second, 5000, 0}
	LauncherWakeups  = Consumer{StreamWakeups, "launcher", []string{"wakeups.launch.>"}, 45 * time.Second, 5000, 0}
	LauncherEnds     = Consumer{StreamEvents, "launcher", []string{"events.*.*.completed", "events.*.*.failed", "events.*.*.exception"}, 45 * time.Second, 5000, 0}
	NotifierEvents   = Consumer{StreamEvents, "notifier", []string{"events.*.*.*"}, 45 * time.Second, 65536, 20000}
	NotifierWakeups  = Consumer{StreamWakeups, "notifier", []string{"wakeups.callback.>"}, 45 * time.Second, 65536, 20000}
	WatcherCommands  = Consumer{StreamCommands, "watcher", []string{"commands.cancel.*"}, 45 * time.Second, 1000, 0}
)

// Consumers returns every durable consumer of the topology.
func Consumers() []Consumer {
	return []Consumer{LauncherRequests, LauncherWakeups, LauncherEnds, NotifierEvents, NotifierWakeups, WatcherCommands}
}

func (c Consumer) config() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: c.Name, FilterSubjects: c.Filters, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: c.AckWait, MaxAckPending: c.MaxAckPending, MaxDeliver: -1,
	}
}

// takes reports whether an existing consumer may have that max ack pending; below 0 it
// has no bound.
func (c Consumer) takes(maxAckPending int) bool {
	return maxAckPending < 0 || maxAckPending >= cmp.Or(c.AtLeast, c.MaxAckPending)
}

// raise is the command for a consumer that has less than one made now, to be given once
// no older version runs; empty: it has as much.
func (c Consumer) raise(maxAckPending int) string {
	if maxAckPending < 0 || maxAckPending >= c.MaxAckPending {
		return ""
	}
	return fmt.Sprintf("nats consumer edit %s %s --max-pending=%d", c.Stream, c.Name, c.MaxAckPending)
}

// Mode says what a process does about the topology when it starts.
type Mode string

// The modes (JOBRELAY_TOPOLOGY).
const (
	Create Mode = "create" // make or update what is missing; for development
	Verify Mode = "verify" // only check; an operator applied it
)

// TopologyError says what stands against the topology; a retry does not help.
type TopologyError struct{ Problems []string }

func (e *TopologyError) Error() string {
	return "the JetStream topology is not as expected: " + strings.Join(e.Problems, "; ") +
		"; run `jobrelay topology apply`, or remove the stream that is in the way"
}

// Change is one line of what ApplyTopology did or VerifyTopology found.
type Change struct {
	Name   string `json:"name"`             // EVENTS, or EVENTS/notifier for a consumer
	Action string `json:"action"`           // created, updated, unchanged
	Detail string `json:"detail,omitempty"` // what was updated, or may be once no older version runs
}

// ApplyTopology makes or updates every stream and consumer, idempotently. An
// existing stream that cannot become the expected one is a *TopologyError, and
// is left as it is.
func ApplyTopology(ctx context.Context, js jetstream.JetStream, replicas int) ([]Change, error) {
	var changes []Change
	for _, want := range Topology(replicas) {
		c, err := applyStream(ctx, js, want)
		if err != nil {
			return changes, err
		}
		changes = append(changes, c)
	}
	if err := checkAges(ctx, js); err != nil {
		return changes, err
	}
	for _, want := range Consumers() {
		c, err := applyConsumer(ctx, js, want)
		if err != nil {
			return changes, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

func applyStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (Change, error) {
	change := Change{Name: want.Name, Action: "unchanged"}
	have, err := streamConfig(ctx, js, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		change.Action = "created"
		if _, err = js.CreateStream(ctx, want); err == nil || !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return change, streamError(want.Name, err)
		}
		// Another process was faster, with the same settings or with others.
		have, err = streamConfig(ctx, js, want.Name)
	}
	if err != nil {
		return change, streamError(want.Name, err)
	}
	if fixed := fixedDifferences(want, have); len(fixed) > 0 {
		return change, &TopologyError{fixed}
	}
	diff := differences(want, have)
	if len(diff) == 0 {
		change.Action = "unchanged"
		return change, nil
	}
	if _, err := js.UpdateStream(ctx, merged(want, have)); err != nil {
		return change, streamError(want.Name, err)
	}
	return Change{Name: want.Name, Action: "updated", Detail: strings.Join(diff, "; ")}, nil
}

func applyConsumer(ctx context.Context, js jetstream.JetStream, want Consumer) (Change, error) {
	change, config := Change{Name: want.Stream + "/" + want.Name, Action: "created"}, want.config()
	if c, err := js.Consumer(ctx, want.Stream, want.Name); err == nil {
		have := c.CachedInfo().Config
		if want.takes(have.MaxAckPending) {
			config.MaxAckPending = have.MaxAckPending
		}
		if command := want.raise(config.MaxAckPending); command != "" {
			change.Detail = fmt.Sprintf("keeps max ack pending %d; once no older version runs: %s", config.MaxAckPending, command)
		}
		if len(consumerDifferences(want, have)) == 0 {
			change.Action = "unchanged"
			return change, nil
		}
		change.Action = "updated"
	}
	if _, err := js.CreateOrUpdateConsumer(ctx, want.Stream, config); err != nil {
		return change, streamError(change.Name, err)
	}
	return change, nil
}

// VerifyTopology checks every stream and consumer without changing any. What
// differs is one *TopologyError with all of it.
func VerifyTopology(ctx context.Context, js jetstream.JetStream) error {
	return verify(ctx, js, everything())
}

// verify is VerifyTopology of what a role uses: more of it, the role may not see.
func verify(ctx context.Context, js jetstream.JetStream, role Role) error {
	var problems []string
	uses := role.streams()
	missing := !slices.Contains(uses, StreamRequests) || !slices.Contains(uses, StreamEvents)
	for _, want := range Topology(1) {
		if !slices.Contains(uses, want.Name) {
			continue
		}
		have, err := streamConfig(ctx, js, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			problems = append(problems, "stream "+want.Name+" does not exist")
			missing = true
			continue
		}
		if err != nil {
			return streamError(want.Name, err)
		}
		problems = append(problems, fixedDifferences(want, have)...)
		problems = append(problems, differences(want, have)...)
	}
	if !missing {
		var wrong *TopologyError
		if err := checkAges(ctx, js); errors.As(err, &wrong) {
			problems = append(problems, wrong.Problems...)
		} else if err != nil {
			return err
		}
	}
	for _, want := range role.Consumes {
		c, err := js.Consumer(ctx, want.Stream, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			problems = append(problems, "consumer "+want.Stream+"/"+want.Name+" does not exist")
		case err != nil:
			return streamError(want.Stream+"/"+want.Name, err)
		default:
			problems = append(problems, consumerDifferences(want, c.CachedInfo().Config)...)
		}
	}
	if len(problems) > 0 {
		return &TopologyError{problems}
	}
	return nil
}

const (
	// watchEvery is between two looks at the topology.
	watchEvery   = 15 * time.Second
	watchTimeout = 10 * time.Second
)

// WatchTopology looks at the streams and consumers from time to time and after
// each reconnect, until ctx ends: a server may come back with another store.
// What differs stands against Ready. Where the topology is ours to create,
// what is missing is made again.
func (b *Broker) WatchTopology(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.again:
		case <-tick.C:
		}
		if !b.Connected() {
			continue // Ready says so
		}
		err := b.lookAgain(ctx)
		if ctx.Err() != nil {
			return
		}
		b.stands(err)
		switch text := fmt.Sprint(err); {
		case err == nil && said != "":
			said = ""
			b.log.Info().Msg("the topology is as expected again")
		case err != nil && text != said:
			said = text
			b.log.Error().Err(err).Msg("the topology is not as expected")
		}
	}
}

func (b *Broker) lookAgain(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, watchTimeout, errors.New("JetStream does not answer"))
	defer cancel()
	err := verify(ctx, b.js, b.role())
	var wrong *TopologyError
	if !errors.As(err, &wrong) || b.cfg.Topology == Verify {
		return err
	}
	b.log.Warn().Err(err).Msg("making the topology anew")
	_, err = ApplyTopology(ctx, b.js, max(b.cfg.Replicas, 1))
	return err
}

// checkAges refuses a log that ends before its request: a late message of the
// same id would then start a second Job.
func checkAges(ctx context.Context, js jetstream.JetStream) error {
	requests, err := streamConfig(ctx, js, StreamRequests)
	if err != nil {
		return streamError(StreamRequests, err)
	}
	events, err := streamConfig(ctx, js, StreamEvents)
	if err != nil {
		return streamError(StreamEvents, err)
	}
	if events.MaxAge != 0 && (requests.MaxAge == 0 || events.MaxAge < requests.MaxAge+eventsMargin) {
		return &TopologyError{[]string{fmt.Sprintf("%s keeps %s, and must keep at least %s longer than %s, which keeps %s",
			StreamEvents, events.MaxAge, eventsMargin, StreamRequests, requests.MaxAge)}}
	}
	return nil
}

func streamConfig(ctx context.Context, js jetstream.JetStream, name string) (jetstream.StreamConfig, error) {
	s, err := js.Stream(ctx, name)
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	return s.CachedInfo().Config, nil
}

// codeNoReplicas is the refusal of a single server to have replicas, with the code 500
// (JSStreamReplicasNotSupportedErr).
const codeNoReplicas jetstream.ErrorCode = 10074

// streamError makes the server's refusal a *TopologyError: it stays refused.
// Anything else (no answer, no connection) may pass.
func streamError(name string, err error) error {
	if err == nil {
		return nil
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.Code >= 400 && api.Code < 500 || api.ErrorCode == codeNoReplicas) {
		return &TopologyError{[]string{name + ": " + api.Description}}
	}
	return fmt.Errorf("stream %s: %w", name, err)
}

// difference is a line for one setting that is not as wanted.
func difference[T comparable](stream, setting string, want, have T) []string {
	if want == have {
		return nil
	}
	return []string{fmt.Sprintf("%s has %s %v, expected %v", stream, setting, have, want)}
}

// fixedDifferences are in settings that no update can change.
func fixedDifferences(want, have jetstream.StreamConfig) []string {
	out := difference(want.Name, "retention", want.Retention, have.Retention)
	out = append(out, difference(want.Name, "storage", want.Storage, have.Storage)...)
	if have.DenyDelete && !want.DenyDelete {
		out = append(out, difference(want.Name, "deny delete", want.DenyDelete, have.DenyDelete)...)
	}
	if have.Mirror != nil || have.Sealed {
		out = append(out, want.Name+" is a mirror or sealed: nothing can be published to it")
	}
	return out
}

// differences are in settings that are not the operator's.
func differences(want, have jetstream.StreamConfig) []string {
	var out []string
	if !slices.Equal(want.Subjects, have.Subjects) {
		out = append(out, fmt.Sprintf("%s has subjects %v, expected %v", want.Name, have.Subjects, want.Subjects))
	}
	out = append(out, difference(want.Name, "discard", want.Discard, have.Discard)...)
	out = append(out, difference(want.Name, "messages a subject", want.MaxMsgsPerSubject, have.MaxMsgsPerSubject)...)
	out = append(out, difference(want.Name, "direct get", want.AllowDirect, have.AllowDirect)...)
	out = append(out, difference(want.Name, "message schedules", want.AllowMsgSchedules, have.AllowMsgSchedules)...)
	out = append(out, difference(want.Name, "deny delete", want.DenyDelete, have.DenyDelete)...)
	return append(out, difference(want.Name, "deny purge", want.DenyPurge, have.DenyPurge)...)
}

// merged is the existing stream with our settings and the operator's own.
func merged(want, have jetstream.StreamConfig) jetstream.StreamConfig {
	out := have
	out.Description, out.Subjects, out.Discard = want.Description, want.Subjects, want.Discard
	out.MaxMsgsPerSubject, out.AllowDirect, out.AllowMsgSchedules = want.MaxMsgsPerSubject, want.AllowDirect, want.AllowMsgSchedules
	out.DenyDelete, out.DenyPurge = want.DenyDelete, want.DenyPurge
	return out
}

func consumerDifferences(want Consumer, have jetstream.ConsumerConfig) []string {
	name := want.Stream + "/" + want.Name
	filters := have.FilterSubjects
	if have.FilterSubject != "" { // the server's form of a single one
		filters = []string{have.FilterSubject}
	}
	out := difference(name, "filter", strings.Join(want.Filters, " "), strings.Join(filters, " "))
	out = append(out, difference(name, "ack wait", want.AckWait, have.AckWait)...)
	out = append(out, difference(name, "ack policy", jetstream.AckExplicitPolicy, have.AckPolicy)...)
	if !want.takes(have.MaxAckPending) {
		out = append(out, difference(name, "max ack pending", want.MaxAckPending, have.MaxAckPending)...)
	}
	return append(out, difference(name, "max deliver", -1, have.MaxDeliver)...)
}
