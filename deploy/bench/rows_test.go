package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// TestCallbackRows: every callback comes, on both sides, and each is written once
// at least; none is left out.
func TestCallbackRows(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, row := range []row{callbacksMany, callbacksReplicas, callbacksSynced, scaleOutTwo} {
		row.Once = true
		m, err := row.measure(t.Context(), testLab(t, 90), 1)
		if err != nil {
			t.Fatalf("%s: %v", row.ID, err)
		}
		p := m.Pairs[0]
		if p.Ours.Rate <= 0 || p.Bare.Rate <= 0 || m.Counters[writesPerCallback].Ours.Median < 1 {
			t.Errorf("%s: %+v", row.ID, m)
		}
		if want := map[bool]string{true: "file storage, sync always, 1 replica", false: "file storage, sync every 2m0s, 1 replica"}; p.Ours.JetStream != want[row.ID == callbacksSynced.ID] {
			t.Errorf("%s: %s", row.ID, p.Ours.JetStream)
		}
	}
	nothingIsLeft(t)
}

// TestPacedRows: the callbacks to the counted endpoints all come, dead ones beside
// them or not, and as many of them on both sides.
func TestPacedRows(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, row := range []row{isolation, scaleOutJoin} {
		row.Once = true
		m, err := row.measure(t.Context(), testLab(t, 60), 1)
		if err != nil {
			t.Fatalf("%s: %v", row.ID, err)
		}
		for _, side := range []result{m.Pairs[0].Ours, m.Pairs[0].Bare} {
			want := 60.0
			if row.ID == isolation.ID {
				want = 42
			}
			if c := side.Counters; side.Rate <= 0 || c[deliveredShare] != 100 || c["callbacks counted"] != want {
				t.Errorf("%s: %+v", row.ID, side)
			}
		}
	}
	nothingIsLeft(t)
}

// TestTapRows: the tap has the backlog behind it and what was appended since, away or
// reading, and the notifier calls nobody for the backlog. The store is made once.
func TestTapRows(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	l := testLab(t, 90)
	l.backlog = 3000
	const all = 90 + 22 + 11 // with what comes before the window and behind it
	for _, row := range []row{tapAway, tapReading} {
		row.Once = true
		m, err := row.measure(t.Context(), l, 1)
		if err != nil {
			t.Fatalf("%s: %v", row.ID, err)
		}
		p := m.Pairs[0]
		left, read := p.Ours.Counters[eventsBehind], p.Ours.Counters[eventsRead]
		if away := row.ID == tapAway.ID; away && (left != float64(l.backlog+all) || read != 0) || !away && left >= float64(l.backlog+all) {
			t.Errorf("%s: %v behind, %v read/s", row.ID, left, read)
		}
		if _, tapped := p.Bare.Counters[eventsBehind]; tapped || p.Ours.Rate <= 0 || p.Bare.Rate <= 0 {
			t.Errorf("%s: %+v", row.ID, p)
		}
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
	nothingIsLeft(t)
}

// TestConsoleRow: the console is there on our side alone, and browsers load what it shows.
func TestConsoleRow(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	row := consoleBeside
	row.Once = true
	m, err := row.measure(t.Context(), testLab(t, 90), 1)
	if err != nil {
		t.Fatal(err)
	}
	p := m.Pairs[0]
	if _, shown := p.Bare.Counters[consolePages]; shown || p.Ours.Counters[consolePages] < 1 || p.Ours.Rate <= 0 || p.Bare.Rate <= 0 {
		t.Errorf("%+v", p)
	}
	nothingIsLeft(t)
}

// TestWaves: a job's events are a wave apart, and each of a job's comes once.
func TestWaves(t *testing.T) {
	l := &logs{wave: 2}
	var got []int
	for i := range 14 {
		got = append(got, l.jobOf(i))
	}
	if want := []int{0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestAddresses: of ten endpoints three are uncounted, and where some of those hang
// as many others refuse.
func TestAddresses(t *testing.T) {
	some := func(n int, port int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("http://127.0.0.1:%d/hook", port+i))
		}
		return out
	}
	for _, c := range []struct {
		urls                                  endpointURLs
		counted, uncounted, hanging, refusing int
	}{
		{endpointURLs{Counted: some(1000, 10000)}, 1000, 0, 0, 0},
		{endpointURLs{Counted: some(700, 10000), Uncounted: some(300, 20000)}, 700, 300, 0, 0},
		{endpointURLs{Counted: some(700, 10000), Hanging: some(150, 20000)}, 700, 0, 150, 150},
	} {
		all := (&receivers{URLs: c.urls}).addresses()
		seen := map[string]bool{}
		refusing := 0
		for i, address := range all {
			seen[address] = true
			if !strings.HasPrefix(address, "http://127.0.0.1:") {
				refusing++
			}
			if counted := slices.Contains(c.urls.Counted, address); counted == uncounted(i) && c.counted < 1000 {
				t.Errorf("endpoint %d is %s", i, address)
			}
		}
		for _, kind := range []struct {
			urls []string
			want int
		}{{c.urls.Counted, c.counted}, {c.urls.Uncounted, c.uncounted}, {c.urls.Hanging, c.hanging}} {
			n := 0
			for _, url := range kind.urls {
				if seen[url] {
					n++
				}
			}
			if n != kind.want {
				t.Errorf("%d of %d", n, kind.want)
			}
		}
		if len(seen) != manyEndpoints || refusing != c.refusing {
			t.Errorf("%d endpoints, %d refuse", len(seen), refusing)
		}
	}
}

// TestTimeOf: a time comes back out of its traceparent, and of nothing else.
func TestTimeOf(t *testing.T) {
	at := time.Unix(1_790_000_000, 123_456_789)
	if got, ok := timeOf(traceparentOf(at)); !ok || !got.Equal(at) {
		t.Errorf("%s %t", got, ok)
	}
	for _, other := range []string{"", "00-x-y-01", strings.Repeat("z", len(traceparentOf(at))), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} {
		if got, ok := timeOf(other); ok {
			t.Errorf("%q is %s", other, got)
		}
	}
}

// TestReceivers: a window is counted behind what is skipped, a repeat is counted as
// a call and not as an answer, and what hangs does so until its caller goes.
func TestReceivers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := testLab(t, 0).stage("receivers", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	r, err := s.receivers(t.Context(), receiving{Counted: 2, Uncounted: 1, Hanging: 1, Skip: 1, Window: 3})
	if err != nil {
		t.Fatal(err)
	}
	call := func(url, id string) error {
		return post(t.Context(), http.DefaultClient, url, http.Header{"Webhook-Id": {id}, "Traceparent": {traceparentOf(time.Now().Add(-time.Second))}}, []byte("{}"))
	}
	u := r.URLs
	for i, url := range []string{u.Counted[0], u.Counted[1], u.Counted[0], u.Uncounted[0]} {
		if err := call(url, strconv.Itoa(i%2)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := r.heard(t.Context())
	if err != nil || h.Calls != 3 || h.Seconds != 0 || h.Answered != 2 {
		t.Errorf("%+v %v", h, err)
	}
	if err := call(u.Counted[1], "2"); err != nil {
		t.Fatal(err)
	}
	if h, err = r.heard(t.Context()); err != nil || h.Calls != 4 || h.Seconds <= 0 || h.Answered != 3 {
		t.Errorf("%+v %v", h, err)
	}
	if waits, err := r.waits(t.Context()); err != nil || len(waits) != 3 || waits[0] < time.Second {
		t.Errorf("%v %v", waits, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := post(ctx, http.DefaultClient, u.Hanging[0], http.Header{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it answered: %v", err)
	}
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
	}{{nil, 7}, {[]string{"b2", "B1idle"}, 2}, {[]string{"B99"}, 0}} {
		chosen, err := (&cli{Rows: c.asked}).chosen()
		if len(chosen) != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%v: %d rows (%v)", c.asked, len(chosen), err)
		}
	}
}
