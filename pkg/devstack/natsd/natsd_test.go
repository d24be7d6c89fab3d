package natsd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg natsd.Config) *natsd.Server {
	t.Helper()
	s, err := natsd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t *testing.T, s *natsd.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestARestartOnTheSameFolderAndPortKeepsMessages(t *testing.T) {
	for _, syncAlways := range []bool{false, true} {
		dir := t.TempDir()
		first := start(t, natsd.Config{Dir: dir, SyncAlways: syncAlways})
		nc, js := connect(t, first)
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Storage: jetstream.FileStorage}); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
			t.Fatal(err)
		}
		nc.Close()
		first.Stop()
		first.Stop()
		<-first.Done()

		second := start(t, natsd.Config{Dir: dir, Addr: first.Addr(), SyncAlways: syncAlways})
		if second.URL() != first.URL() {
			t.Fatalf("restarted on %s, want %s", second.URL(), first.URL())
		}
		_, js = connect(t, second)
		stream, err := js.Stream(t.Context(), "S")
		if err != nil {
			t.Fatal(err)
		}
		msg, err := stream.GetMsg(t.Context(), 1)
		if err != nil || string(msg.Data) != "kept" {
			t.Fatalf("message after restart: %v, %v", msg, err)
		}
	}
}

func TestAMessageMayBeTwoMebibytes(t *testing.T) {
	nc, _ := connect(t, start(t, natsd.Config{Dir: t.TempDir()}))
	if got := nc.MaxPayload(); got != 2<<20 {
		t.Errorf("max payload %d, want %d", got, 2<<20)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	running := start(t, natsd.Config{Dir: t.TempDir()})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  natsd.Config
		want string
	}{
		"port is taken":      {natsd.Config{Dir: t.TempDir(), Addr: running.Addr()}, running.Addr()},
		"no folder":          {natsd.Config{}, "Config.Dir is empty"},
		"folder is a file":   {natsd.Config{Dir: file}, file},
		"address lacks port": {natsd.Config{Dir: t.TempDir(), Addr: "localhost"}, "host:port"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := natsd.Start(t.Context(), c.cfg)
			if err == nil {
				s.Stop()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, c.want)
			}
		})
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := natsd.Start(ctx, natsd.Config{Dir: t.TempDir()})
	if err == nil { // the server was faster
		s.Stop()
		return
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}

// TestTrail: the direct get misses what the leader has, until it has caught up.
func TestTrail(t *testing.T) {
	s := start(t, natsd.Config{Dir: t.TempDir()})
	_, js := connect(t, s)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowDirect: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.a", []byte("there")); err != nil {
		t.Fatal(err)
	}
	end, err := s.Trail("S")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetLastMsgForSubject(t.Context(), "s.a"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("it answers %v", err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("s.a"))
	if err != nil || info.State.Subjects["s.a"] != 1 {
		t.Errorf("the leader says %v, %v", info, err)
	}
	end()
	if m, err := stream.GetLastMsgForSubject(t.Context(), "s.a"); err != nil || string(m.Data) != "there" {
		t.Error(err)
	}
}
