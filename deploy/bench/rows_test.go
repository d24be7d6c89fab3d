package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
)

// TestMain is also every process that the rows start: the product's binaries
// are not there in a test.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == asVerb {
		roles["nats-server"] = natsMain
		os.Exit(as(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// natsMain is nats-server -c FILE, until a signal.
func natsMain() int {
	options, err := server.ProcessConfigFile(os.Args[2])
	if err == nil {
		var s *server.Server
		if s, err = server.NewServer(options); err == nil {
			err = server.Run(s)
			s.WaitForShutdown()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// testLab runs rows with few messages, on the shared cluster.
func testLab(t *testing.T, messages int) *lab {
	return &lab{dir: t.TempDir(), messages: messages, self: true, begin: time.Now(), progress: t.Output()}
}

// TestIntakeRow: every message is received and deleted on both sides, counted
// at the endpoint, and nothing is left.
func TestIntakeRow(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	m, err := intakeNear.measure(t.Context(), testLab(t, 100), 1)
	if err != nil {
		t.Fatal(err)
	}
	requests := m.Counters[sqsRequests]
	if m.Ratio.Median <= 0 || m.Rates[ours].Median <= 0 || requests.Ours.Median < 0.2 || requests.Bare.Median < 0.2 || requests.Bare.Median > 0.3 {
		t.Errorf("%+v", m)
	}
	if p := m.Pairs[0]; p.Ours.JetStream != "file storage, sync every 2m0s, 1 replica" || p.Bare.JetStream != "" {
		t.Errorf("%+v", p)
	}
	nothingIsLeft(t)
}

// TestCreationRow: each Job is written once, on both sides, and the profile is
// there.
func TestCreationRow(t *testing.T) {
	shared := kubedtest.Shared(t).Kubeconfig()
	t.Setenv("TMPDIR", t.TempDir())
	l := testLab(t, 40)
	l.kubeconfig = shared
	row := creation
	row.Once = true
	m, err := row.measure(t.Context(), l, 1)
	if err != nil {
		t.Fatal(err)
	}
	// Others use this cluster, too: they may write Jobs of their own meanwhile.
	if w := m.Counters[writesPerJob]; w.Ours.Median < 1 || w.Bare.Median < 1 || m.Ratio.Median <= 0 {
		t.Errorf("%+v", m)
	}
	file, err := row.profile(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("no profile (%v)", err)
	}
	nothingIsLeft(t)
}

// TestWatchRows: both sides digest what is written, keep it and find it again.
func TestWatchRows(t *testing.T) {
	shared := kubedtest.Shared(t).Kubeconfig()
	t.Setenv("TMPDIR", t.TempDir())
	l := testLab(t, 20)
	l.kubeconfig = shared
	for _, row := range []row{digest, digestProtobuf, digestPace, heap, restart, podStart} {
		row.Once = true
		m, err := row.measure(t.Context(), l, 1)
		if err != nil {
			t.Fatalf("%s: %v", row.ID, err)
		}
		if p := m.Pairs[0]; row.ID != heap.ID && (p.Ours.Rate <= 0 || p.Bare.Rate <= 0) || p.Ours.JetStream == "" {
			t.Errorf("%s: %+v", row.ID, m)
		}
	}
	nothingIsLeft(t)
}

// TestAStopInTheMiddle: a row that is told to end does, and leaves nothing.
func TestAStopInTheMiddle(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begin := time.Now()
	if _, err := idle.measure(ctx, testLab(t, 0), 1); err == nil {
		t.Error("it was told to end, and went on")
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %s to end", took)
	}
	nothingIsLeft(t)
}

func nothingIsLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "jobrelay-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}

func TestChosenRows(t *testing.T) {
	for _, c := range []struct {
		asked []string
		want  int
	}{{nil, 5}, {[]string{"b2", "B1idle"}, 2}, {[]string{"B99"}, 0}} {
		chosen, err := (&cli{Rows: c.asked}).chosen()
		if len(chosen) != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%v: %d rows (%v)", c.asked, len(chosen), err)
		}
	}
}
