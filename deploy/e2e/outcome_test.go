//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
)

// ends are what the simulated nodes can make of a Job.
var ends = []faults.End{
	faults.Success(),
	{Image: "sim/succeed:100ms", Statuses: []int{0, 1, 2}},
	{Image: "sim/exit:3", Statuses: []int{0, 1, 3}, Code: "CONTAINER_EXIT_NONZERO"},
	{Image: "sim/oom", Statuses: []int{0, 1, 3}, Code: "OOM_KILLED"},
	{Image: "sim/evict", Statuses: []int{0, 1, 3}, Code: "EVICTED"},
	// The Job controller deletes the Pods first and then records the deadline; killed
	// between the two it finds a Pod that failed, and a backoff limit of 0 that is
	// exceeded, which it asks for before the deadline.
	{Image: "sim/hang", Job: `"activeDeadlineSeconds":20`, Statuses: []int{0, 1, 3}, Code: "DEADLINE_EXCEEDED", PodsGo: true, Cut: "POD_DELETED"},
	{Image: "sim/pull-fail", Statuses: []int{0, 99}, Code: "IMAGE_PULL_FAILED"},
	{Image: "sim/bad-name", Statuses: []int{0, 99}, Code: "IMAGE_NAME_INVALID"},
	{Image: "sim/config-error", Statuses: []int{0, 99}, Code: "CONTAINER_CONFIG_ERROR"},
}

// TestEndsUnderFire: 1,000 jobs that end in every way, while a watcher is killed
// each second, the API server three times, and every connection to it is cut
// after some seconds: each has its one end, with its status and code.
func TestEndsUnderFire(t *testing.T) {
	n := seed(t)
	none := map[faults.Role]int{}
	for _, role := range faults.Services() {
		none[role] = 0 // until the way to the API server is there
	}
	dir := t.TempDir()
	cut := filepath.Join(dir, "kubeconfig-cut")
	s, err := faults.Start(t.Context(), faults.Config{Dir: dir, Replicas: none, Env: []string{
		"KUBECONFIG=" + cut, "JOBRELAY_IMAGE_PULL_DEADLINE=5s", "JOBRELAY_UNSTARTABLE_DEADLINE=3s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s)
	text, err := os.ReadFile(s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "https://")
	server, _, _ := strings.Cut(rest, "\n")
	server = strings.Trim(server, `" `)
	if err := os.WriteFile(cut, []byte(strings.ReplaceAll(string(text), server, cutter(t, server, n))), 0o600); err != nil {
		t.Fatal(err)
	}
	for role, replicas := range map[faults.Role]int{faults.Ingest: 1, faults.Launcher: 1, faults.Watcher: 2, faults.Notifier: 1} {
		if err := s.Scale(t.Context(), role, replicas); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	var sent faults.Sent
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() error {
		return s.Inject(ctx, faults.Plan{Seed: n, For: 70 * time.Second, Weights: map[faults.Role]int{faults.Watcher: 1}})
	})
	group.Go(func() error {
		return s.Inject(ctx, faults.Plan{Seed: n, Every: 20 * time.Second, For: 70 * time.Second, Weights: map[faults.Role]int{faults.Kubernetes: 1}})
	})
	group.Go(func() (err error) {
		sent, err = s.Send(ctx, faults.Load{Messages: 1000, Over: 65 * time.Second, Seed: n, Ends: ends})
		return err
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	r := settle(t, s, n, sent)
	if r.Kills[faults.Kubernetes] < 3 || r.Kills[faults.Watcher] < 30 {
		t.Errorf("the faults did not happen: %v", r.Kills)
	}
}

// cutter forwards connections to the address, and cuts each after 1 to 10 s.
func cutter(t *testing.T, to string, seed uint64) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(seed, 2))
	ctx, cancel := context.WithCancel(context.Background())
	var open sync.WaitGroup
	open.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			life := time.Second + time.Duration(random.Int64N(int64(9*time.Second)))
			open.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				limit, stop := context.WithTimeout(ctx, life)
				defer stop()
				defer context.AfterFunc(limit, func() { _ = in.Close(); _ = out.Close() })()
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(out, in); stop() })
				both.Go(func() { _, _ = io.Copy(in, out); stop() })
				both.Wait()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		open.Wait()
	})
	return l.Addr().String()
}

// TestWatcherAwayPastTheTTL: 100 Jobs end and their TTL passes while no watcher
// looks: each end arrives with its status when one is back, and the Jobs go.
func TestWatcherAwayPastTheTTL(t *testing.T) {
	n := seed(t)
	s := under(t, map[faults.Role]int{faults.Ingest: 1, faults.Launcher: 1, faults.Watcher: 0, faults.Notifier: 1})
	sent, err := s.Send(t.Context(), faults.Load{Messages: 100, Over: time.Second, Seed: n, TTL: time.Minute, Ends: []faults.End{
		faults.Success(), {Image: "sim/exit:3", Statuses: []int{0, 1, 3}, Code: "CONTAINER_EXIT_NONZERO"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	jobs := s.Client.BatchV1().Jobs("default")
	eventually(t, "every Job's TTL", 4*time.Minute, func() bool {
		list, err := jobs.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		deleted := 0
		for _, j := range list.Items {
			if j.DeletionTimestamp != nil {
				deleted++
			}
		}
		return deleted == 100
	})
	if err := s.Scale(t.Context(), faults.Watcher, 1); err != nil {
		t.Fatal(err)
	}
	var got map[string][]callback
	eventually(t, "every end", time.Minute, func() bool {
		got = heard(t, s.Hooks.Calls())
		for _, id := range sent.IDs {
			if c := got[id]; len(c) == 0 || c[len(c)-1].Status < 2 {
				return false
			}
		}
		return true
	})
	codes := map[string]int{}
	for _, id := range sent.IDs {
		// The Pods went with the TTL: whether one ran, and why it failed, is not
		// known any more (docs/contract.md).
		statuses, _ := statuses(t, got[id])
		last := got[id][len(got[id])-1]
		want := sent.Ends[id]
		end := want.Statuses[2]
		if s := fmt.Sprint(statuses); s != fmt.Sprint([]int{0, end}) && s != fmt.Sprint(want.Statuses) {
			t.Errorf("%s (%s): %v", id, want.Image, statuses)
		}
		codes[last.Detail.Error.ErrorCode]++
		if code := last.Detail.Error.ErrorCode; code != want.Code && code != "JOB_FAILED" {
			t.Errorf("%s (%s): code %s", id, want.Image, code)
		}
	}
	t.Logf("codes of the 100 ends: %v", codes)
	eventually(t, "the Jobs to go", time.Minute, func() bool {
		list, err := jobs.List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	})
}
