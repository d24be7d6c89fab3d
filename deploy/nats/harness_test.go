package nats_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// secured is a real server with this folder's configuration: the users of every
// role, and an account for each tap.
type secured struct {
	t    *testing.T
	nats interface{ URL() string }
	keys string // folder of the seeds, <user>.nk
	api  string // prefix of JetStream's API in the accounts of the roles; empty: they share one
	ca   string // file with the CA of the server's certificate; empty: it has none
}

// startApart is start with an account for each role.
func startApart(t *testing.T, taps ...broker.Tap) *secured {
	t.Helper()
	return (&secured{t: t, keys: t.TempDir(), api: broker.TapAPI}).start(broker.Apart, taps)
}

func start(t *testing.T, taps ...broker.Tap) *secured {
	t.Helper()
	return (&secured{t: t, keys: t.TempDir()}).start(broker.Account, taps)
}

func (s *secured) start(account func(func(string) string) string, taps []broker.Tap) *secured {
	s.t.Helper()
	accounts := ""
	for _, tap := range taps {
		accounts += tap.Account(s.newKey("tap-" + tap.Name))
	}
	accounts += account(func(role string) string { return s.newKey(role) })
	file := filepath.Join(s.t.TempDir(), "server.conf")
	mustDo(s.t, "configuration", os.WriteFile(file, []byte("accounts {\n"+accounts+"}\n"), 0o600))
	s.nats = s.run(file)
	must[[]broker.Change](s.t, "topology")(broker.ApplyTopology(s.t.Context(), s.open(broker.RoleOperator).JetStream(), 1))
	return s
}

// configuration is one of this folder's files for a server with all that it includes,
// where accounts is in the place of jobrelay.conf. Every user of it has a key.
func (s *secured) configuration(server, accounts string) (file string) {
	s.t.Helper()
	dir := s.t.TempDir()
	for _, name := range []string{broker.RoleIngest, broker.RoleLauncher, broker.RoleWatcher, broker.RoleNotifier, broker.RoleConsole, broker.RoleActions, broker.RoleOperator, "tap-billing", "tap-tenant"} {
		s.t.Setenv(broker.KeyVariable(name), s.newKey(name))
	}
	for _, name := range []string{server, accounts, "tap.conf", "tenant.conf"} {
		text := strings.ReplaceAll(string(must[[]byte](s.t, name)(os.ReadFile(name))), "include jobrelay.conf", "include "+accounts)
		mustDo(s.t, name, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return filepath.Join(dir, server)
}

func (s *secured) run(file string) *natsd.Server {
	s.t.Helper()
	n, err := natsd.Start(s.t.Context(), natsd.Config{Dir: s.t.TempDir(), File: file})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(n.Stop)
	return n
}

// newKey makes the seed of a user and returns its public key.
func (s *secured) newKey(name string) string {
	s.t.Helper()
	seed, public, err := broker.NewKey()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.seed(name), seed, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return public
}

func (s *secured) seed(name string) string { return filepath.Join(s.keys, name+".nk") }

// open is the connection of a role, as its process or command makes it. At the end
// the server must not have refused it anything.
func (s *secured) open(role string) *broker.Broker {
	s.t.Helper()
	said := &await.Text{}
	var b *broker.Broker
	var err error
	login := broker.Login{NKey: s.seed(role), API: s.api, CA: s.ca}
	if role == broker.RoleOperator {
		b, err = broker.OpenReader(s.t.Context(), broker.Access{URL: s.nats.URL(), Login: login}, zerolog.New(said), s.streams()...)
	} else {
		b, err = broker.Open(s.t.Context(), broker.Config{URL: s.nats.URL(), Login: login, Topology: broker.Verify, Role: role, Instance: "one"}, zerolog.New(said))
	}
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", role, err, said)
	}
	s.t.Cleanup(func() {
		b.Close()
		if strings.Contains(strings.ToLower(said.String()), "permissions violation") {
			s.t.Errorf("%s: %s", role, said)
		}
	})
	return b
}

// streams are those that are there: none before the topology is applied.
func (s *secured) streams() []string {
	if _, err := os.Stat(filepath.Join(s.keys, "applied")); err != nil {
		if err := os.WriteFile(filepath.Join(s.keys, "applied"), nil, 0o600); err != nil {
			s.t.Fatal(err)
		}
		return nil
	}
	var out []string
	for _, stream := range broker.Topology(1) {
		out = append(out, stream.Name)
	}
	return out
}

// thief is a plain connection with a user's key: it tries what no process of ours
// would.
type thief struct {
	t    *testing.T
	conn *nats.Conn
}

func (s *secured) thief(user, inbox string) *thief {
	s.t.Helper()
	th := &thief{t: s.t}
	nkey, err := nats.NkeyOptionFromSeed(s.seed(user))
	if err != nil {
		s.t.Fatal(err)
	}
	options := []nats.Option{nkey, nats.CustomInboxPrefix(inbox), nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	if s.ca != "" {
		options = append(options, nats.RootCAs(s.ca))
	}
	th.conn, err = nats.Connect(s.nats.URL(), options...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(th.conn.Close)
	return th
}

// publishes reports whether the server takes a message on the subject from the user.
func (th *thief) publishes(subject string) bool {
	th.t.Helper()
	return th.taken(`publish to "`+subject+`"`, func() error { return th.conn.Publish(subject, []byte("{}")) })
}

// subscribes reports whether the server lets the user listen to the subject.
func (th *thief) subscribes(subject string) bool {
	th.t.Helper()
	return th.taken(`subscription to "`+subject+`"`, func() error {
		_, err := th.conn.SubscribeSync(subject)
		return err
	})
}

// taken tries, and waits until the server has answered all before it.
func (th *thief) taken(refusal string, try func() error) bool {
	th.t.Helper()
	if err := try(); err != nil {
		th.t.Fatal(err)
	}
	if err := th.conn.FlushTimeout(10 * time.Second); err != nil {
		th.t.Fatal(err)
	}
	said := th.conn.LastError() // set before the answer to the flush is read
	return said == nil || !strings.Contains(strings.ToLower(said.Error()), strings.ToLower(refusal))
}

func newEvent(t *testing.T, id string, data proto.Message) event.Event {
	t.Helper()
	e, err := event.New(event.Key(id), event.SourceOfNamespace("default", "default"), id, 0, time.Now().UTC(), data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// must fails the test where a call of a role fails.
func must[T any](t *testing.T, what string) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func mustDo(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// consume hands the durable's first message to h and ends once h has had it.
func consume(t *testing.T, b *broker.Broker, c broker.Consumer, h func(ctx context.Context, m broker.Message) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var once sync.Once
	seen := errors.New("none")
	if err := b.Consume(ctx, c, broker.ConsumeOptions{InFlight: 1}, func(ctx context.Context, m broker.Message) error {
		defer once.Do(func() { seen = nil; cancel() })
		return h(ctx, m)
	}); err != nil || seen != nil {
		t.Fatalf("%s/%s: %v, %v", c.Stream, c.Name, err, seen)
	}
}

// concrete is a subject that a pattern of permissions covers.
func concrete(pattern string) string {
	return strings.ReplaceAll(strings.ReplaceAll(pattern, "*", "x"), ">", "x.1.2.3.4.5.6")
}

// covers reports whether one of the patterns covers the subject.
func covers(patterns []string, subject string) bool {
	for _, pattern := range patterns {
		p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
		for i := 0; ; i++ {
			if i == len(p) || i == len(s) {
				if len(p) == len(s) && i == len(p) {
					return true
				}
				break
			}
			if p[i] == ">" {
				return true
			}
			if p[i] != "*" && p[i] != s[i] {
				break
			}
		}
	}
	return false
}
