package console

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// lab is a real NATS with the permissions of pkg/broker, and somebody who may write
// everything, as the services together do.
type lab struct {
	*broker.Broker

	t      *testing.T
	nats   *natsd.Server
	config natsd.Config
	keys   string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, keys: t.TempDir()}
	accounts := broker.Account(l.newKey)
	accounts = strings.Replace(accounts, "users: [\n", "users: [\n    { nkey: "+l.newKey("writer")+" }\n", 1)
	file := filepath.Join(l.keys, "server.conf")
	if err := os.WriteFile(file, []byte("accounts {\n"+accounts+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.config = natsd.Config{Dir: t.TempDir(), File: file}
	l.up()
	var err error
	l.Broker, err = broker.Open(t.Context(), broker.Config{URL: l.nats.URL(), Login: broker.Login{NKey: l.seed("writer")}, Role: "writer"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// up starts NATS, on the address that it had before.
func (l *lab) up() {
	l.t.Helper()
	var err error
	if l.nats, err = natsd.Start(l.t.Context(), l.config); err != nil {
		l.t.Fatal(err)
	}
	l.config.Addr = strings.TrimPrefix(l.nats.URL(), "nats://")
	l.t.Cleanup(l.nats.Stop)
}

func (l *lab) seed(name string) string { return filepath.Join(l.keys, name+".nk") }

func (l *lab) newKey(name string) string {
	l.t.Helper()
	seed, public, err := broker.NewKey()
	if err == nil {
		err = os.WriteFile(l.seed(name), seed, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return public
}

// life appends events to the log of an id.
func (l *lab) life(id, service string, events ...proto.Message) (logKey string) {
	l.t.Helper()
	key := event.Key(id)
	tail, err := l.Tail(l.t.Context(), service, key)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, data := range events {
		e, err := event.New(key, event.SourceOfNamespace("default", "ns"), id, 0, time.Now().UTC(), data)
		if err != nil {
			l.t.Fatal(err)
		}
		if tail, err = l.Append(l.t.Context(), service, tail, e); err != nil {
			l.t.Fatal(err)
		}
	}
	return key
}

// running is a console.
type running struct {
	t    *testing.T
	url  string
	said *await.Text
	stop func()
}

// console runs one with the flags, as its main would, until its index is filled.
func (l *lab) console(flags ...string) *running {
	l.t.Helper()
	var cfg Config
	user := broker.RoleConsole
	for _, f := range flags {
		if f == "--allow-actions" {
			user = broker.RoleActions
		}
	}
	if err := processParse(&cfg, append([]string{"--nats-url=" + l.nats.URL(), "--nats-nkey=" + l.seed(user), "--metrics-addr=127.0.0.1:0", "--listen=127.0.0.1:0"}, flags...)...); err != nil {
		l.t.Fatal(err)
	}
	r := &running{t: l.t, said: &await.Text{}}
	ready := make(chan string, 1)
	cfg.OnListen = func(address string) { ready <- address }
	ctx, cancel := context.WithCancel(l.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := Run(ctx, cfg, zerolog.New(r.said)); err != nil {
			l.t.Errorf("console: %v\n%s", err, r.said)
			close(ready)
		}
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	l.t.Cleanup(func() {
		r.stop()
		if strings.Contains(strings.ToLower(r.said.String()), "permissions violation") {
			l.t.Errorf("%s", r.said)
		}
	})
	r.url = "http://" + <-ready
	await.That(l.t, "the index is filled", func() bool { return strings.Contains(r.said.String(), "the index is filled") })
	return r
}

// page is an answer.
type page struct {
	status int
	header http.Header
	body   string
}

func (r *running) get(path string) page { return r.ask("GET", path, nil, "") }

func (r *running) ask(method, path string, header http.Header, body string) page {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for name, values := range header {
		if name == "Host" {
			req.Host = values[0]
		}
		req.Header[name] = values
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return page{answer.StatusCode, answer.Header, string(text)}
}

// shows waits until a page has a text.
func (r *running) shows(path, text string) page {
	r.t.Helper()
	var p page
	await.That(r.t, path+" shows "+text, func() bool {
		p = r.get(path)
		return strings.Contains(p.body, text)
	})
	return p
}

// processParse reads flags as the console's main would.
func processParse(cfg *Config, flags ...string) error { return process.Parse(cfg, nil, flags...) }
