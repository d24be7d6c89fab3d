//go:build e2e

package callbacks

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/failpoint"
)

// mutant is the notifier without one of its guards, and the scene that must
// tell. Where chance would miss the moment, a failpoint makes it certain:
// DoubleAck waits until the server has the acknowledgement.
type mutant struct {
	name  string
	scene string
	change
}

var mutants = []mutant{
	{"ack before ledger", "killed after a POST", change{
		"pkg/broker/consume.go", `stop := r.heartbeat(m)`, `_ = m.DoubleAck(r.ctx); stop := r.heartbeat(m)`,
	}},
	{"no surrender", "a slow head", change{
		"services/notifier/token.go", `left, err = n.swap(ctx, t, t.ledger.Surrendered(t.wakeup.N, t.wakeup.Sequence))`, `left = true`,
	}},
	{"no expected revision", "a slow head", change{
		"pkg/broker/ledger.go", `b.publish(ctx, &nats.Msg{Subject: subject, Data: data}, jetstream.WithExpectLastSequencePerSubject(old))`,
		`b.publish(ctx, &nats.Msg{Subject: subject, Data: data}, []jetstream.PublishOpt{}...)`,
	}},
	{"schedule after ack", "killed before a schedule", change{
		"pkg/broker/consume.go", `failpoint.Here(failpoint.Scheduling)`, `_ = m.DoubleAck(r.ctx); failpoint.Here(failpoint.Scheduling)`,
	}},
	{"one schedule subject a job", "frozen before a schedule", change{
		"pkg/delivery/ledger.go", `w.Ledger() + "." + strconv.Itoa(w.N)`, `w.Ledger() + "." + strconv.Itoa(0)`,
	}},
}

var scenes = map[string]scene{
	"a slow head":              killedAt("", 2),
	"killed after a POST":      killedAt(failpoint.Posted, 2),
	"killed before a schedule": killedAt(failpoint.Scheduling, 2),
	"frozen before a schedule": frozenAtScheduling,
}

// unchanged names the notifier as it is, which passes every scene.
const unchanged = "none"

// TestMutants: each guard is needed, and a scene notices that it is gone.
func TestMutants(t *testing.T) {
	dir := t.TempDir()
	var runs []mutant
	for name := range scenes {
		runs = append(runs, mutant{name: unchanged, scene: name})
	}
	slices.SortFunc(runs, func(a, b mutant) int { return strings.Compare(a.scene, b.scene) })
	runs = append(runs, mutants...)
	rows := make([]string, len(runs))
	var group errgroup.Group
	var building sync.Mutex // each takes every core
	for i, m := range runs {
		group.Go(func() error {
			changes := ackWait()
			if m.name != unchanged {
				changes = append(changes, m.change)
			}
			at := filepath.Join(dir, fmt.Sprint(i))
			building.Lock()
			binary, err := build(filepath.Join(at, "build"), changes...)
			building.Unlock()
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				return nil
			}
			out, err := scenes[m.scene](t.Context(), at, binary)
			if err != nil {
				t.Errorf("%s: %s: %v", m.name, m.scene, err)
				return nil
			}
			verdict := "passed"
			switch caught := len(out.violations) > 0; {
			case m.name == unchanged && caught:
				verdict = "FAILED"
				t.Errorf("the unchanged notifier fails in %q: %s\n%s", m.scene, strings.Join(out.violations, "\n"), out.logs)
			case m.name != unchanged && caught:
				verdict = "caught"
			case m.name != unchanged:
				verdict = "MISSED"
				t.Errorf("%q is not noticed in %q", m.name, m.scene)
			}
			saw := "nothing"
			if len(out.violations) > 0 {
				saw = fmt.Sprintf("%d: %s", len(out.violations), out.violations[0])
			}
			rows[i] = fmt.Sprintf("%s\t%s\t%s\t%.1f s\t%s", m.name, m.scene, verdict, out.took.Seconds(), saw)
			return nil
		})
	}
	_ = group.Wait() // the runs report themselves
	t.Log(table("mutant\tscene\tverdict\ttook\tsaw", rows))
}
