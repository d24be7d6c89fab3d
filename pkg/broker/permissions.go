package broker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

// The roles.
const (
	RoleIngest   = "ingest"
	RoleLauncher = "launcher"
	RoleWatcher  = "watcher"
	RoleNotifier = "notifier"
	RoleConsole  = "console"
	RoleActions  = "console-actions" // of a console that may act
	RoleOperator = "operator"
)

// Role is a kind of process or person on NATS, and all that it may do there.
// deploy/nats/jobrelay.conf is made of these, a process with topology verify looks at
// the streams and consumers of its role alone, and Inspect tries a login on them.
type Role struct {
	Name     string
	What     string     // one line for the configuration's reader
	Writes   []string   // subjects that it publishes to
	Reads    []string   // streams of which it may get any message
	Consumes []Consumer // durables that it pulls from and acknowledges
	Operates bool       // makes and changes streams and consumers
}

// Roles returns every role. Each also writes its own status.
func Roles() []Role {
	return []Role{
		{
			Name: RoleIngest, What: "accepts messages, or refuses them",
			Writes: []string{"requests.*", "rejections.*", "events.*.*.rejected"},
			Reads:  []string{StreamRequests, StreamEvents},
		},
		{
			Name: RoleLauncher, What: "makes Jobs of requests; refuses an id whose old log is kept (docs/adr/0011)",
			Writes:   []string{"events.*.*.started", "events.*.*.exception", "events.*.*.rejected", "rejections.*", "schedules.launch.>", "ledger.active.*"},
			Reads:    []string{StreamRequests, StreamEvents, StreamControls, StreamLedger},
			Consumes: []Consumer{LauncherRequests, LauncherWakeups, LauncherEnds},
		},
		{
			Name: RoleWatcher, What: "records what becomes of Jobs",
			Writes:   []string{"events.*.*.started", "events.*.*.pod-started", "events.*.*.completed", "events.*.*.failed", "events.*.*.exception"},
			Reads:    []string{StreamRequests, StreamEvents},
			Consumes: []Consumer{WatcherCommands},
		},
		{
			Name: RoleNotifier, What: "sends callbacks",
			Writes:   []string{"ledger.callback.*", "ledger.replay.*.*", "schedules.callback.>", "deadletters.callback.>"},
			Reads:    []string{StreamRequests, StreamRejections, StreamEvents, StreamLedger, StreamWakeups, StreamDeadLetters},
			Consumes: []Consumer{NotifierEvents, NotifierWakeups},
		},
		{
			Name: RoleConsole, What: "shows jobs to people; never a request, which has the webhook's address",
			Reads: consoleReads,
		},
		{
			Name: RoleActions, What: "the console with --allow-actions: cancels jobs and replays dead letters, too",
			Writes: []string{"commands.cancel.*", "wakeups.callback.>"},
			Reads:  append(slices.Clone(consoleReads), StreamCommands),
		},
		{
			Name: RoleOperator, What: "the command jobrelay: applies the topology, reads all, cancels, pauses, replays, makes taps",
			Writes:   []string{"commands.>", "controls.>", "wakeups.callback.>"},
			Reads:    []string{StreamRequests, StreamRejections, StreamEvents, StreamLedger, StreamWakeups, StreamCommands, StreamControls, StreamDeadLetters, StreamStatus},
			Operates: true,
		},
	}
}

// consoleReads are the streams that a console reads. It makes no consumer and has none:
// it gets messages by their places (docs/adr/0018).
var consoleReads = []string{StreamEvents, StreamLedger, StreamWakeups, StreamRejections, StreamDeadLetters, StreamStatus}

// roleNamed is the role of that name; false: there is none, such as in tests.
func roleNamed(name string) (Role, bool) {
	for _, r := range Roles() {
		if r.Name == name {
			return r, true
		}
	}
	return Role{}, false
}

// everything is a role that uses the whole topology.
func everything() Role {
	r := Role{Consumes: Consumers()}
	for _, s := range Topology(1) {
		r.Reads = append(r.Reads, s.Name)
	}
	return r
}

// operates are the requests by which streams and consumers are made and changed.
// None of them removes a stream or a message.
var operates = []string{
	"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*",
	"$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.*.*", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.NAMES.*",
	"$JS.API.CONSUMER.MSG.NEXT.*.*", // of consumers of its own making; all of them acknowledge nothing
}

// Publish is every subject that the role may publish to, and so every request that
// it may make of JetStream.
func (r Role) Publish() []string {
	out := r.writes()
	for _, s := range r.streams() {
		out = append(out, "$JS.API.STREAM.INFO."+s)
	}
	for _, s := range r.Reads {
		out = append(out, "$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".>")
	}
	for _, c := range r.Consumes {
		out = append(out, pulls(c.Stream, c.Name)...)
	}
	if r.Operates {
		out = append(out, operates...)
	}
	return out
}

// writes is Writes and the status that each role writes.
func (r Role) writes() []string {
	return slices.Concat(r.Writes, []string{"status." + r.Name + ".*"})
}

// probes are a subject of each kind that the role publishes to. What is sent there
// must be refused by its stream.
func (r Role) probes() []string {
	out := r.writes()
	for i, pattern := range out {
		out[i] = strings.NewReplacer("*", "doctor", ">", "doctor").Replace(pattern)
	}
	return out
}

// consumes reports whether the role pulls from the durable.
func (r Role) consumes(c Consumer) bool {
	return slices.ContainsFunc(r.Consumes, func(own Consumer) bool { return own.Stream == c.Stream && own.Name == c.Name })
}

// Subscribe is every subject that the role may subscribe to: its own inboxes.
func (r Role) Subscribe() []string { return []string{"_INBOX_" + r.Name + ".>"} }

// pulls are the requests of a durable: how far it is, its next messages, and their
// acknowledgements.
func pulls(stream, durable string) []string {
	return []string{"$JS.API.CONSUMER.INFO." + stream + "." + durable, "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + durable, "$JS.ACK." + stream + "." + durable + ".>"}
}

// streams are those that the role writes, reads or consumes, in the topology's order.
func (r Role) streams() []string {
	var out []string
	for _, s := range Topology(1) {
		uses := s.Name == StreamStatus || slices.Contains(r.Reads, s.Name) ||
			slices.ContainsFunc(r.Consumes, func(c Consumer) bool { return c.Stream == s.Name }) ||
			slices.ContainsFunc(r.Writes, func(subject string) bool {
				return slices.ContainsFunc(s.Subjects, func(of string) bool { return root(of) == root(subject) })
			})
		if uses {
			out = append(out, s.Name)
		}
	}
	return out
}

// root is the first token of a subject: no two streams share one.
func root(subject string) string {
	token, _, _ := strings.Cut(subject, ".")
	return token
}

// NewKey makes the nkey of a user. The seed is its secret; the public key stands in
// NATS's configuration.
func NewKey() (seed []byte, public string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, "", err
	}
	if seed, err = pair.Seed(); err != nil {
		return nil, "", err
	}
	public, err = pair.PublicKey()
	return seed, public, err
}

// PublicKey is the public key of a seed.
func PublicKey(seed []byte) (string, error) {
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return "", fmt.Errorf("no seed of an nkey: %w", err)
	}
	return pair.PublicKey()
}

// IsPublicKey reports whether key is the public key of a user.
func IsPublicKey(key string) bool { return nkeys.IsValidPublicUserKey(key) }

// KeyVariable is the variable of NATS's configuration that holds the public key of
// the user of that name.
func KeyVariable(name string) string {
	return "JOBRELAY_NKEY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
