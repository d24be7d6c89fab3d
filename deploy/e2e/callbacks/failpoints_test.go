//go:build e2e

package callbacks

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/failpoint"
)

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
	points := failpoint.All()
	rows := make([]string, 2*len(points))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range rows {
		point, replicas := points[i/2], 2+i%2
		group.Go(func() error {
			name := fmt.Sprintf("%s with %d replicas", point, replicas)
			out, err := killedAt(point, replicas)(t.Context(), filepath.Join(dir, fmt.Sprint(i)), binary)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return nil
			}
			if len(out.violations) > 0 {
				t.Errorf("%s: %s\n%s", name, strings.Join(out.violations, "\n"), out.logs)
			}
			if out.deaths != replicas-1 {
				t.Errorf("%s: %d died", name, out.deaths)
			}
			rows[i] = fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f s", point, replicas, out.deaths, out.jobs, out.delivered, out.attempts, out.repeats, out.took.Seconds())
			return nil
		})
	}
	_ = group.Wait() // the scenes report themselves
	t.Log(table("failpoint\treplicas\tdeaths\tjobs\tdelivered\tattempts\trepeats\ttook", rows))
}
