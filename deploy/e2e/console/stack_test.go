//go:build browser

package console

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
)

// stack is a real NATS with the users of every role, and whatever a test starts
// beside it.
type stack struct {
	t    *testing.T
	keys string // folder of the seeds, <user>.nk
	conf natsd.Config
	nats *natsd.Server
}

// startStack starts NATS with all streams. The user test,
// which may do everything, is the only one that is not of deploy/nats.
func startStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, keys: t.TempDir()}
	accounts := broker.Account(s.newKey)
	accounts = strings.Replace(accounts, "users: [", "users: [ { nkey: "+s.newKey("test")+" }", 1)
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte("accounts {\n"+accounts+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ports, err := child.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	s.conf = natsd.Config{Dir: t.TempDir(), Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), File: file}
	s.startNATS()
	t.Cleanup(func() { s.nats.Stop() })
	s.writer() // makes the streams
	return s
}

// startNATS starts it, or starts it again where it was.
func (s *stack) startNATS() {
	s.t.Helper()
	var err error
	if s.nats, err = natsd.Start(context.WithoutCancel(s.t.Context()), s.conf); err != nil {
		s.t.Fatal(err)
	}
}

// newKey makes the seed of a user and returns its public key.
func (s *stack) newKey(name string) string {
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

func (s *stack) seed(name string) string { return filepath.Join(s.keys, name+".nk") }

// served is a console's process.
type served struct {
	*child.Process

	url     string // of its pages
	metrics string // of /readyz
}

// console starts one with the login of its role, and waits until it serves.
func (s *stack) console(env ...string) *served {
	s.t.Helper()
	c := s.startConsole(env...)
	c.answers(s.t, c.url+"/")
	return c
}

// ready is console, and waits until its index is filled.
func (s *stack) ready(env ...string) *served {
	s.t.Helper()
	c := s.console(env...)
	await.That(s.t, "the index is filled", func() bool { return c.sample(s.t, "jobrelay_console_filled") == 1 })
	return c
}

func (s *stack) startConsole(env ...string) *served {
	s.t.Helper()
	ports, err := child.FreePorts(2)
	if err != nil {
		s.t.Fatal(err)
	}
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	c := &served{url: "http://" + address(0), metrics: "http://" + address(1)}
	log := filepath.Join(s.t.TempDir(), "console.log")
	c.Process = &child.Process{
		Name: "console", Binary: filepath.Join(os.Getenv("JOBRELAY_BIN_DIR"), "console"), Log: log,
		Env: append(child.CleanEnvironment(), append([]string{
			"JOBRELAY_NATS_URL=" + s.nats.URL(), "JOBRELAY_NATS_NKEY=" + s.seed(broker.RoleConsole), "JOBRELAY_TOPOLOGY=verify",
			"JOBRELAY_LISTEN=" + address(0), "JOBRELAY_METRICS_ADDR=" + address(1),
		}, env...)...),
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			s.t.Error(err)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			s.t.Error(err)
		}
		if s.t.Failed() {
			s.t.Logf("the console's log ends with:\n%s", c.LastLines())
		}
		for _, bad := range []string{"permissions violation", "panic", secret} {
			if strings.Contains(strings.ToLower(string(text)), bad) {
				s.t.Errorf("the console's log has %q:\n%s", bad, text)
			}
		}
	})
	return c
}

// answers waits until url is answered 2xx, or 401: it is there, and wants a login.
func (c *served) answers(t *testing.T, url string) {
	t.Helper()
	await.That(t, url+" answers", func() bool {
		if !c.Running() {
			t.Fatalf("the console ended: %s", c.LastLines())
		}
		res, err := http.Get(url)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode < 300 || res.StatusCode == http.StatusUnauthorized
	})
}

// link is a way to a server that can be cut and mended.
type link struct {
	to       string
	listener net.Listener
	state    chan linkState
}

type linkState struct {
	cut    bool
	conns  map[net.Conn]struct{}
	frozen map[net.Conn]struct{} // of these nothing is carried on
}

// through starts a link to a server; the address is the link's own end.
func through(t *testing.T, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := &link{to: strings.TrimPrefix(to, "http://"), listener: l, state: make(chan linkState, 1)}
	out.state <- linkState{conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() { l.Close(); out.cut() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go out.carry(c)
		}
	}()
	return out
}

func (l *link) url() string { return "http://" + l.listener.Addr().String() }

// carry copies both ways until either end closes; while the link is cut it closes
// at once.
func (l *link) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer server.Close()
	s := <-l.state
	if !s.cut {
		s.conns[client], s.conns[server] = struct{}{}, struct{}{}
	}
	l.state <- s
	if s.cut {
		return
	}
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			l.copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done
	client.Close()
	server.Close()
	<-done
	s = <-l.state
	delete(s.conns, client)
	delete(s.conns, server)
	l.state <- s
}

func (l *link) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		s := <-l.state
		_, frozen := s.frozen[from]
		l.state <- s
		if frozen {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut ends every connection and lets no other through, until mend.
func (l *link) cut() {
	s := <-l.state
	s.cut = true
	for c := range s.conns {
		c.Close()
	}
	l.state <- s
}

func (l *link) mend() {
	s := <-l.state
	s.cut = false
	l.state <- s
}

// freeze keeps every connection that there is and carries nothing on them any more, as
// a way does that forgot them; new ones pass.
func (l *link) freeze() {
	s := <-l.state
	s.frozen = maps.Clone(s.conns)
	l.state <- s
}
