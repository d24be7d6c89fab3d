//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
)

// lease is how long a leader that is silent remains the leader in these tests, the
// shortest that may be set.
const lease = 3 * time.Second

// leader waits until one watcher but the given one says that it leads, and tells
// how long that took.
func leader(t *testing.T, s *faults.Stack, but *faults.Process) (*faults.Process, time.Duration) {
	t.Helper()
	begin := time.Now()
	client := &http.Client{Timeout: time.Second}
	for time.Since(begin) < time.Minute {
		for _, p := range s.Of(faults.Watcher) {
			if p == but || !p.Running() || p.Frozen() {
				continue
			}
			res, err := client.Get(p.Metrics)
			if err != nil {
				continue
			}
			page, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && strings.Contains(string(page), "\njobrelay_watcher_leading 1\n") {
				return p, time.Since(begin)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("nobody leads the watchers after a minute")
	return nil, 0
}

// TestHandover: while jobs end all the time, the leading watcher is killed, and
// later frozen for longer than its Lease and thawed: it still believes that it
// leads. The other takes over each time, and every job has each of its callbacks
// once: the log decides, whoever leads.
func TestHandover(t *testing.T) {
	s, err := faults.Start(t.Context(), faults.Config{
		Dir: t.TempDir(), Replicas: map[faults.Role]int{faults.Watcher: 2}, Env: []string{"JOBRELAY_LEASE_DURATION=" + lease.String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s)
	ends := []faults.End{faults.Success(), {Image: "sim/exit:3", Statuses: []int{0, 1, 3}, Code: "CONTAINER_EXIT_NONZERO"}}
	var sent faults.Sent
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() (err error) {
		sent, err = s.Send(ctx, faults.Load{Messages: 200, Over: 30 * time.Second, Ends: ends})
		return err
	})
	first, _ := leader(t, s, nil)
	time.Sleep(4 * time.Second) // of jobs that end
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	second, took := leader(t, s, first)
	t.Logf("%s killed: %s leads after %s (lease %s)", first.Name, second.Name, took.Round(10*time.Millisecond), lease)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	if err := second.Freeze(); err != nil {
		t.Fatal(err)
	}
	third, took := leader(t, s, second)
	t.Logf("%s frozen: %s leads after %s", second.Name, third.Name, took.Round(10*time.Millisecond))
	time.Sleep(2 * lease)
	if err := second.Thaw(); err != nil { // it goes on where it was: two lead for a moment
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	settle(t, s, 0, sent)
}
