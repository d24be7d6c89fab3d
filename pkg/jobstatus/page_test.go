package jobstatus_test

import (
	"flag"
	"os"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

var update = flag.Bool("update", false, "write the generated pages and the golden file anew")

// TestErrorCodesPage: the page is what the definitions give now.
func TestErrorCodesPage(t *testing.T) {
	isPage(t, "../../docs/error-codes.md", jobstatus.Markdown())
}

func isPage(t *testing.T, page, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(page)
	if err != nil || string(b) != want {
		t.Errorf("%s is stale (%v): make generate", page, err)
	}
}
