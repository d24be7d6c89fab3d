//go:build e2e

package callbacks

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// failpoints are those of the notifier; pkg/failpoint's test holds the list
// against the source.
var failpoints = strings.Fields(`
	posting posted recorded conflict
	surrendering surrendered inheriting inherited
	scheduling scheduled woken
	gave-up acking acked`)

// atOnce is how many scenes run side by side: they mostly wait for AckWait.
const atOnce = 6

// TestKilledAtEachFailpoint, with two and with three replicas, of which all but
// one die there.
func TestKilledAtEachFailpoint(t *testing.T) {
	dir := t.TempDir()
	binary, err := build(filepath.Join(dir, "build"), ackWait()...)
	if err != nil {
		t.Fatal(err)
	}
	rows := make([]string, 2*len(failpoints))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range rows {
		failpoint, replicas := failpoints[i/2], 2+i%2
		group.Go(func() error {
			name := fmt.Sprintf("%s with %d replicas", failpoint, replicas)
			out, err := killedAt(failpoint, replicas)(t.Context(), filepath.Join(dir, fmt.Sprint(i)), binary)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return nil
			}
			for _, v := range out.violations {
				t.Errorf("%s: %s", name, v)
			}
			if out.deaths != replicas-1 {
				t.Errorf("%s: %d died", name, out.deaths)
			}
			rows[i] = fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f s", failpoint, replicas, out.deaths, out.jobs, out.delivered, out.attempts, out.repeats, out.took.Seconds())
			return nil
		})
	}
	_ = group.Wait() // the scenes report themselves
	t.Log(table("failpoint\treplicas\tdeaths\tjobs\tdelivered\tattempts\trepeats\ttook", rows))
}
