package replica_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
)

func config(t *testing.T, url string, args ...string) replica.Config {
	t.Helper()
	var cfg replica.Config
	if err := process.Parse(&cfg, nil, append(args, "--metrics-addr=127.0.0.1:0", "--nats-url="+url)...); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestBadFlags(t *testing.T) {
	for flag, wants := range map[string]string{
		"--installation=not a label":       "--installation",
		"--instance=two.tokens":            "--instance",
		"--instance=*":                     "--instance",
		"--nats-replicas=2":                "--nats-replicas",
		"--topology=perhaps":               "--topology",
		"--instance=" + string(rune(0x7f)): "--instance",
	} {
		var cfg replica.Config
		if err := process.Parse(&cfg, nil, flag); err == nil || !strings.Contains(err.Error(), wants) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestTwoReplicasHaveTwoNames(t *testing.T) {
	names := map[string]bool{}
	for range 2 {
		r, err := replica.Start(t.Context(), "ingest", config(t, "nats://127.0.0.1:1"), zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Stop()
		names[r.Name] = true
	}
	if len(names) != 2 {
		t.Errorf("%v", names)
	}
}

// TestReadinessAndStatus follows a replica through a NATS that comes late, goes
// and comes back empty.
func TestReadinessAndStatus(t *testing.T) {
	first, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	url := first.URL()
	address := strings.TrimPrefix(url, "nats://")
	first.Stop()

	ctx, cancel := context.WithCancel(t.Context())
	r, err := replica.Start(ctx, "launcher", config(t, url, "--instance=one"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	says := func(want string) {
		t.Helper()
		await.That(t, "nats: "+want, func() bool {
			said, ready := r.Checks()
			return strings.Contains(said["nats"], want) && ready == (want == "ok")
		})
	}
	says("waiting for NATS")
	connected := make(chan error, 1)
	var running context.Context
	go func() {
		var err error
		running, err = r.Connect(ctx)
		connected <- err
	}()
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir(), Addr: address})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	says("ok")

	reader, err := broker.Open(t.Context(), broker.Config{URL: url, Role: "test"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var last []broker.Status
	status := func() bool {
		var err error
		last, err = reader.Statuses(t.Context())
		return err == nil && len(last) == 1
	}
	await.That(t, "the status", status)
	if s := last[0]; s.Role != "launcher" || s.Instance != "one" || !s.Ready || s.Checks["nats"] != "ok" {
		t.Errorf("%+v", s)
	}

	n.Stop()
	says("not connected")
	// Another, empty store: the streams are ours to create, and are made again.
	n, err = natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir(), Addr: address})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	await.That(t, "a topology made anew", func() bool {
		return reader.Connected() && broker.VerifyTopology(t.Context(), reader.JetStream()) == nil
	})
	says("ok")

	cancel()
	<-running.Done()
	if cause := context.Cause(running); !errors.Is(cause, context.Canceled) {
		t.Errorf("ended because of %v", cause)
	}
	r.Stop()
	await.That(t, "the last status", func() bool { return status() && !last[0].Ready && last[0].Checks["process"] == "stopped" })
}

func TestTheTopologyIsOnlyVerifiedWhereItIsNotOurs(t *testing.T) {
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	r, err := replica.Start(t.Context(), "launcher", config(t, n.URL(), "--topology=verify"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	var wrong *broker.TopologyError
	if _, err := r.Connect(t.Context()); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "jobrelay topology apply") {
		t.Errorf("%v", err)
	}
}

// TestNoLoginIsTold: /readyz and STATUS are read by anybody.
func TestNoLoginIsTold(t *testing.T) {
	for _, url := range []string{
		"nats://me:secret@127.0.0.1:1", "nats://secret@127.0.0.1:1",
		"nats://me:secret@127.0.0.1:1,nats://me:secret@127.0.0.1:2", "me:secret@127.0.0.1:1", "me:secret@127.0.0.1:1, nats://b:2",
	} {
		r, err := replica.Start(t.Context(), "ingest", config(t, url), zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		said, _ := r.Checks()
		r.Stop()
		if strings.Contains(said["nats"], "secret") || !strings.Contains(said["nats"], "waiting for NATS") {
			t.Errorf("%s: %q", url, said["nats"])
		}
	}
}
