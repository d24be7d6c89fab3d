package messages_test

import (
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/devstack/messages"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// TestTheParserSaysWhatIsKnown of every message.
func TestTheParserSaysWhatIsKnown(t *testing.T) {
	bodies, ids := map[string]bool{}, map[string]bool{}
	breaks := map[int]int{}
	for i, m := range messages.Generate(7, 6000, "default") {
		res := request.Parse([]byte(m.Body), request.Options{})
		var paths []string
		for _, p := range res.Problems {
			paths = append(paths, p.Path)
		}
		slices.Sort(paths)
		slices.Sort(m.Breaks)
		if diff := cmp.Diff(m.Breaks, slices.Compact(paths)); diff != "" || res.ID != m.ID || (res.Request != nil) != (i%2 == 0) {
			t.Errorf("%s: %q, %v\n%s", diff, res.ID, res.Problems, m.Body)
		}
		if len(m.Body) > 32<<10 || !utf8.ValidString(m.Body) || bodies[m.Body] || m.ID != "" && ids[m.ID] {
			t.Errorf("%d bytes, or not unique, or not UTF-8: %q", len(m.Body), m.Body)
		}
		bodies[m.Body], ids[m.ID] = true, true
		breaks[len(m.Breaks)]++
	}
	if breaks[0] != 3000 || breaks[1] < 500 || breaks[2] < 500 || breaks[3] < 500 || len(breaks) != 4 {
		t.Errorf("%v", breaks)
	}
}

func TestASeedGivesTheSameMessages(t *testing.T) {
	a, b := messages.Generate(1, 50, "n"), messages.Generate(1, 50, "n")
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(a, messages.Generate(2, 50, "n")) {
		t.Error("another seed gives the same")
	}
}
