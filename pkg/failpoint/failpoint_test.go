package failpoint_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/failpoint"
)

var (
	constant = regexp.MustCompile(`(?m)^\t(\w+) +Point = "([a-z-]+)"`)
	place    = regexp.MustCompile(`failpoint\.Here\(failpoint\.(\w+)\)`)
	row      = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ")
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestEveryPointIsSomewhere: each is at one place of the source, in All, which
// the fault tests go through, and in the page.
func TestEveryPointIsSomewhere(t *testing.T) {
	var points, there, documented, all []string
	names := map[string]string{}
	for _, m := range constant.FindAllStringSubmatch(read(t, "failpoint.go"), -1) {
		names[m[1]] = m[2]
		points = append(points, m[2])
	}
	for _, root := range []string{"../../services", "../../pkg"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, m := range place.FindAllStringSubmatch(read(t, path), -1) {
				there = append(there, names[m[1]])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, page, _ := strings.Cut(read(t, "../../docs/architecture.md"), "| failpoint |")
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		documented = append(documented, m[1])
	}
	for _, p := range failpoint.All() {
		all = append(all, string(p))
	}
	slices.Sort(points)
	for what, have := range map[string][]string{"All": all, "the source": there, "docs/architecture.md": documented} {
		slices.Sort(have)
		if diff := cmp.Diff(points, have); diff != "" {
			t.Errorf("constants, and %s:\n%s", what, diff)
		}
	}
}
