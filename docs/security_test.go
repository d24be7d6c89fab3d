package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatsHaveTests: each row of the tables of security.md names a test, with the
// folder that it is in, and it is there.
func TestThreatsHaveTests(t *testing.T) {
	page, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.HasPrefix(cells[0], "---") || strings.TrimSpace(cells[0]) == "threat" {
			continue
		}
		rows++
		named := 0
		for _, group := range regexp.MustCompile("((?:`[A-Za-z0-9]+` )+)\\(([a-z0-9/]+)\\)").FindAllStringSubmatch(cells[2], -1) {
			for _, name := range strings.Fields(strings.ReplaceAll(group[1], "`", " ")) {
				named++
				if !hasTest(t, filepath.Join("..", group[2]), name) {
					t.Errorf("%s: there is no %s in %s", strings.TrimSpace(cells[0]), name, group[2])
				}
			}
		}
		if named != strings.Count(cells[2], "`")/2 || named == 0 {
			t.Errorf("%s: %d of its tests have a folder", strings.TrimSpace(cells[0]), named)
		}
	}
	if rows < 25 {
		t.Errorf("%d threats were looked at", rows)
	}
}

// hasTest reports whether a folder's tests have a function.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^func ` + name + `\(`).Match(text) {
			return true
		}
	}
	return false
}
