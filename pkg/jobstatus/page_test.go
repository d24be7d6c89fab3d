package jobstatus_test

import (
	"flag"
	"os"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

var update = flag.Bool("update", false, "write docs/error-codes.md anew")

// TestErrorCodesPage: the page is what the definitions give now.
func TestErrorCodesPage(t *testing.T) {
	const page = "../../docs/error-codes.md"
	if *update {
		if err := os.WriteFile(page, []byte(jobstatus.Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(page)
	if err != nil || string(b) != jobstatus.Markdown() {
		t.Errorf("%s is stale (%v): make generate", page, err)
	}
}
