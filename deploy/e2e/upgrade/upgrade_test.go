//go:build e2e

// Package upgrade runs two builds of jobrelay side by side: the version before, out of
// the repository's history, and that of now. run.sh makes both.
package upgrade

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

// build is one of the two.
type build string

const (
	before build = "before"
	now    build = "now"
)

const (
	patience = 2 * time.Minute
	replicas = 2  // of each service
	enough   = 60 // jobs that end in a phase, before it is over
)

// fleet is every service twice over one NATS, one SQS endpoint and one Kubernetes, each
// replica of one build or the other.
type fleet struct {
	*faults.Stack

	t        *testing.T
	dir      string
	binaries map[build]string

	others *hookd.Server // hears what is not of the load: see side
	open   atomic.Bool   // of what answered 410 before
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), binaries: map[build]string{before: os.Getenv("JOBRELAY_PREVIOUS_BIN_DIR"), now: os.Getenv(faults.BinariesEnv)}}
	for b, dir := range f.binaries {
		if dir == "" {
			t.Fatalf("there are no binaries of the version %s: run make e2e-upgrade", b)
		}
	}
	var err error
	f.others, err = hookd.Start(hookd.Config{Answer: func(c hookd.Call) hookd.Answer {
		if strings.HasPrefix(c.Path, "/gone") && !f.open.Load() {
			return hookd.Answer{Status: 410}
		}
		return hookd.Answer{}
	}})
	f.must(err)
	t.Cleanup(func() { _ = f.others.Stop(context.Background()) })
	none := map[faults.Role]int{}
	for _, role := range faults.Services() {
		none[role] = 0
	}
	f.Stack, err = faults.Start(t.Context(), faults.Config{
		Dir: f.dir, Binaries: f.binaries[now], Services: f.binaries[before], Replicas: none, Answer: failsOnce(),
		Env: []string{"JOBRELAY_TOPOLOGY=verify", "JOBRELAY_LEASE_DURATION=3s", "JOBRELAY_RETRY_SCHEDULE=0s,1s,2s,4s,8s,8s"},
	})
	f.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range f.Processes() {
				t.Logf("%s ends with:\n%s", p.Name, p.LastLines())
			}
		}
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// failsOnce refuses the first attempt of each sixth callback: a retry that one build has
// parked is often another's to make.
func failsOnce() func(hookd.Call) hookd.Answer {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(c hookd.Call) hookd.Answer {
		id := c.Header.Get("Webhook-Id")
		mu.Lock()
		defer mu.Unlock()
		again := seen[id]
		if seen[id] = true; !again && len(seen)%6 == 0 {
			return hookd.Answer{Status: 503}
		}
		return hookd.Answer{}
	}
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// command runs the operator's command of a build, and returns what it prints.
func (f *fleet) command(b build, args ...string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(f.binaries[b], "jobrelay"), append(args, "--nats-url", f.NATSURL)...)
	cmd.Env = child.CleanEnvironment()
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		f.t.Fatalf("jobrelay %s (%s): %v\n%s%s", strings.Join(args, " "), b, err, out.String(), said.String())
	}
	return out.String()
}

// lines are those that a command prints for machines.
func (f *fleet) lines(b build, args ...string) []string {
	f.t.Helper()
	return slices.Collect(strings.Lines(f.command(b, append(args, "--output", "json")...)))
}

func (f *fleet) ready() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	f.must(f.AwaitReady(ctx))
}

// roll puts replica n of every service on a build, one after the other, each ready
// before the next: the first replica is stopped in order, the second one killed.
func (f *fleet) roll(n int, to build) {
	f.t.Helper()
	for _, role := range faults.Services() {
		p := f.Process(fmt.Sprintf("%s-%d", role, n))
		end := p.Stop
		if n == replicas {
			end = p.Kill
		}
		f.must(end())
		p.Binary, p.Log = filepath.Join(f.binaries[to], string(role)), f.log(p.Name, to)
		f.must(p.Start())
		f.ready()
	}
}

// log is the file of a replica's log while it is of a build.
func (f *fleet) log(name string, b build) string {
	return filepath.Join(f.dir, fmt.Sprintf("%s.%s.log", name, b))
}

// flow waits until enough more jobs of the load have ended.
func (f *fleet) flow(phase string) {
	f.t.Helper()
	begin := time.Now()
	had := ended(f.Hooks.Calls())
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	if err := f.Hooks.Wait(ctx, func(calls []hookd.Call) bool { return ended(calls) >= had+enough }); err != nil {
		f.t.Fatalf("%s: %d jobs did not end: %v", phase, enough, err)
	}
	f.ready()
	f.t.Logf("%s: %d jobs ended in %s", phase, ended(f.Hooks.Calls())-had, time.Since(begin).Round(100*time.Millisecond))
}

// ended counts the jobs that have their end's callback.
func ended(calls []hookd.Call) int {
	ids := map[string]bool{}
	for _, c := range faults.Callbacks(calls) {
		if c.Status >= 2 {
			ids[c.ID] = true
		}
	}
	return len(ids)
}

const (
	batch = 32 // messages of the load, sent over 4 seconds
	// behind is how many jobs of the load may be without an end when the next batch is
	// sent: a slow machine gets a slow load, and no queue that grows.
	behind = 2 * batch
)

// press sends jobs until the returned function is called, which returns what was sent.
func (f *fleet) press() (release func() []faults.Sent) {
	ctx, cancel := context.WithCancel(f.t.Context())
	var all []faults.Sent
	var failed error
	var pressing sync.WaitGroup
	pressing.Go(func() {
		ends := []faults.End{faults.Success(), faults.Success(), {Image: "sim/exit:3", Statuses: []int{0, 1, 3}, Code: "CONTAINER_EXIT_NONZERO"}}
		for i := 0; ctx.Err() == nil && failed == nil; i++ {
			var sent faults.Sent
			sent, failed = f.Send(f.t.Context(), faults.Load{Name: "load", Seed: uint64(i), Messages: batch, Duplicates: 0.2, Over: 4 * time.Second, Ends: ends})
			all = append(all, sent)
			_ = f.Hooks.Wait(ctx, func(calls []hookd.Call) bool { return ended(calls) >= (i+1)*batch-behind }) // ctx is looked at
		}
	})
	f.t.Cleanup(func() { cancel(); pressing.Wait() })
	return func() []faults.Sent {
		f.t.Helper()
		cancel()
		pressing.Wait()
		f.must(failed)
		return all
	}
}

// sides are how many jobs of each kind side sends.
const sides = 5

// side sends, for a phase, what the load does not have: jobs of a service that is
// paused, jobs whose receiver is gone, jobs that go on until they are cancelled, and
// messages that are rejected.
func (f *fleet) side(phase build) {
	f.t.Helper()
	for i := range sides {
		for kind, image := range map[string]string{"held": "busybox", "gone": "busybox", "stop": "sim/hang", "bad": ""} {
			f.must(f.SendBody(f.t.Context(), f.message(kind, phase, i, image)))
		}
	}
	f.hear(phase, "bad", 99)
	f.eventually("the dead letters of "+name("gone", phase), func() bool {
		return len(f.lines(now, "deadletters", "list", "--service", name("gone", phase))) == 3*sides
	})
	f.hear(phase, "stop", 0, 1)
}

func name(kind string, phase build) string { return kind + "-" + string(phase) }

// message without an image is one that is rejected.
func (f *fleet) message(kind string, phase build, i int, image string) string {
	container := ""
	if image != "" {
		container = fmt.Sprintf(`"image":%q,`, image)
	}
	service := name(kind, phase)
	return fmt.Sprintf(`{"id":"%s-%d","service":%q,"job":{"prefixName":"u","namespace":"default",%s"command":["/bin/true"],"ttlSecondsAfterFinished":86400},"webhook":{"url":"%s/%s"}}`,
		service, i, service, container, f.others.URL(), service)
}

// hear waits until each job of a kind that side sent has had these callbacks, in order,
// and no other.
func (f *fleet) hear(phase build, kind string, statuses ...int) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s: callbacks %v", name(kind, phase), statuses), func() bool {
		heard := f.heard()
		for i := range sides {
			if !slices.Equal(heard[fmt.Sprintf("%s-%d", name(kind, phase), i)], statuses) {
				return false
			}
		}
		return true
	})
}

// heard are the statuses of each id beside the load; a repeat of the same bytes counts
// once.
func (f *fleet) heard() map[string][]int {
	out, bodies := map[string][]int{}, map[string]string{}
	for _, c := range faults.Callbacks(f.others.Calls()) {
		if body, again := bodies[c.WebhookID]; !again || body != c.Body {
			out[c.ID] = append(out[c.ID], c.Status)
		}
		bodies[c.WebhookID] = c.Body
	}
	return out
}

func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			f.t.Fatalf("%s: not within %s; heard %v", what, patience, f.heard())
		case <-tick.C:
		}
	}
}

// takeOver has what side sent while the other build ran finished: a command of one
// build, and services of the other.
func (f *fleet) takeOver(sent, command build) {
	f.t.Helper()
	f.command(command, "resume", name("held", sent))
	f.hear(sent, "held", 0, 1, 2)
	for i := range sides {
		f.command(command, "cancel", fmt.Sprintf("%s-%d", name("stop", sent), i))
	}
	f.hear(sent, "stop", 0, 1, 99)
	f.open.Store(true)
	f.command(command, "deadletters", "replay", "--service", name("gone", sent))
	f.hear(sent, "gone", 0, 1, 2)
	f.open.Store(false)
	// SQS brings them once more: the same request again, by the other build's reading.
	for i := range sides {
		f.must(f.SendBody(f.t.Context(), f.message("gone", sent, i, "busybox")))
	}
	f.eventually("an empty queue", func() bool {
		depth, err := f.QueueDepth(f.t.Context())
		return err == nil && depth == 0
	})
}

// ran are the roles, with the build, of the replicas that are ready, as the command of a
// build shows them.
func (f *fleet) ran(by build) []string {
	f.t.Helper()
	type replica struct {
		Role, Version string
		Ready         bool
	}
	var all []replica
	for _, line := range f.lines(by, "replicas") {
		var some []replica
		if json.Unmarshal([]byte(line), &some) != nil { // the one build prints a list, the other lines
			some = make([]replica, 1)
			f.must(json.Unmarshal([]byte(line), &some[0]))
		}
		all = append(all, some...)
	}
	var out []string
	for _, r := range all {
		b := now
		if r.Version == string(before) {
			b = before
		}
		if r.Ready {
			out = append(out, r.Role+" "+string(b))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestUpgradeAndRollback: under load every replica of the version before is replaced by
// one of now, then by one of before again. The topology is that of before, and now's is
// applied. Jobs flow while both run; what one has accepted, parked, given up or been told
// to hold, the other goes on with. Each job has its callbacks once, in order, and no
// build meets a message that it cannot read.
func TestUpgradeAndRollback(t *testing.T) {
	f := newFleet(t)
	f.command(before, "topology", "apply")
	for _, phase := range []build{before, now} {
		f.command(before, "pause", name("held", phase))
	}
	for _, role := range faults.Services() {
		f.must(f.Scale(t.Context(), role, replicas))
	}
	for _, p := range f.Processes() {
		if slices.Contains(faults.Services(), p.Role) {
			kept := f.log(p.Name, before)
			f.must(os.Rename(p.Log, kept))
			p.Log = kept
		}
	}
	f.ready()
	release := f.press()
	f.flow("before")
	f.side(before)

	t.Logf("topology apply:\n%s", f.command(now, "topology", "apply"))
	f.command(before, "topology", "verify")
	for _, phase := range []struct{ to, from build }{{now, before}, {before, now}} {
		f.roll(1, phase.to)
		f.flow("one replica of each, to " + string(phase.to))
		for _, by := range []build{before, now} {
			if diff := cmp.Diff([]string{
				"ingest before", "ingest now", "launcher before", "launcher now", "notifier before", "notifier now", "watcher before", "watcher now",
			}, f.ran(by)); diff != "" {
				t.Errorf("`jobrelay replicas` (%s): %s", by, diff)
			}
		}
		f.roll(2, phase.to)
		f.flow("all, to " + string(phase.to))
		f.command(phase.to, "topology", "verify")
		// The command of the build that no service is of.
		f.takeOver(phase.from, phase.from)
		if phase.to == now {
			f.side(now)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	report, err := f.Settle(ctx, release()...)
	f.must(err)
	report.Violations = slices.DeleteFunc(report.Violations, ofSide)
	t.Log(report)
	for _, v := range report.Violations {
		t.Error(v)
	}
	for _, by := range []build{before, now} {
		if n := len(f.lines(by, "rejections", "list")); n != 2*sides {
			t.Errorf("`jobrelay rejections list` (%s) has %d lines, expected the %d that are bad: a request that came again was taken for another", by, n, 2*sides)
		}
	}
	f.hands().check(t)
}

// ofSide reports whether it is about a Job of side, which Settle knows nothing of.
func ofSide(violation string) bool {
	return slices.ContainsFunc([]string{"held", "gone", "stop"}, func(kind string) bool { return strings.HasPrefix(violation, `a Job for "`+kind+"-") })
}

// hands are which build did each step of each job, by its log.
type hands map[string]map[string]build

// steps are what a log says of a job, in order.
var steps = []string{"request accepted", "job started", "job ended", "callback ended"}

func (f *fleet) hands() hands {
	f.t.Helper()
	out := hands{}
	again := 0
	for _, p := range f.Processes() {
		for _, b := range []build{before, now} {
			if !slices.Contains(faults.Services(), p.Role) {
				continue
			}
			file, err := os.Open(f.log(p.Name, b))
			f.must(err)
			lines := bufio.NewScanner(file)
			for lines.Buffer(nil, 1<<20); lines.Scan(); {
				var line struct{ Message, ID string }
				if json.Unmarshal(lines.Bytes(), &line) != nil {
					continue // of a process that was killed while it wrote
				}
				switch {
				case strings.HasPrefix(line.Message, "unreadable message"):
					f.t.Errorf("%s (%s): %s", p.Name, b, lines.Text())
				case line.Message == "will be redelivered":
					again++
				case slices.Contains(steps, line.Message):
					if out[line.ID] == nil {
						out[line.ID] = map[string]build{}
					}
					out[line.ID][line.Message] = b
				}
			}
			f.must(lines.Err())
			_ = file.Close()
		}
	}
	f.t.Logf("%d handlings ended with a redelivery", again)
	return out
}

// check fails where a step was never done by one build behind the other's, each way.
func (h hands) check(t *testing.T) {
	t.Helper()
	for i := range len(steps) - 1 {
		for _, way := range [][2]build{{before, now}, {now, before}} {
			n := 0
			for _, did := range h {
				if did[steps[i]] == way[0] && did[steps[i+1]] == way[1] {
					n++
				}
			}
			t.Logf("%-16s (%-6s) → %-14s (%-6s): %d jobs", steps[i], way[0], steps[i+1], way[1], n)
			if n == 0 {
				t.Errorf("no job went from %q of %s to %q of %s", steps[i], way[0], steps[i+1], way[1])
			}
		}
	}
}
