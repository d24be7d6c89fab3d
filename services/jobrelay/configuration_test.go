package jobrelay

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/process"
	pages "github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

var update = flag.Bool("update", false, "write the generated pages of docs anew")

// TestConfigurationPage compares docs/configuration.md with the flags.
func TestConfigurationPage(t *testing.T) {
	var page bytes.Buffer
	page.WriteString(`# Configuration

Each service reads flags and the environment; a flag wins. This page is generated
from the flags themselves (` + "`make generate`" + `); a bad value is one line and exit code 2.
Each variable ` + "`JOBRELAY_X` may be given as `JOBRELAY_X_FILE`" + `, the file that holds its
value: so a secret, such as a login in the address of NATS, stands in no environment.

All know the verb ` + "`healthcheck`" + `, serve ` + "`/healthz`, `/readyz` and `/metrics`" + `,
and stop in order within 25 s after SIGTERM.
The AWS SDK's own variables (` + "`AWS_REGION`, `AWS_ENDPOINT_URL_SQS`" + `, credentials) hold for ingest.
`)
	for _, s := range []struct {
		name string
		cfg  any
		vars map[string]string
	}{
		{"ingest", &ingest.Config{}, nil}, {"launcher", &launcher.Config{}, nil},
		{"watcher", &watcher.Config{}, nil}, {"notifier", &notifier.Config{}, notifier.Vars()},
		{"console", &pages.Config{}, nil},
	} {
		fmt.Fprintf(&page, "\n## %s\n\n", s.name)
		if err := process.WriteFlags(&page, s.cfg, s.vars); err != nil {
			t.Fatal(err)
		}
	}
	page.WriteString("\n## Every service: the log\n\n")
	if err := process.WriteFlags(&page, &process.Log{}, nil); err != nil {
		t.Fatal(err)
	}
	generated(t, "docs/configuration.md", page.Bytes())
}

// generated fails where a file, named from the repository's root, is not what its
// source gives now; with -update it writes it.
func generated(t *testing.T, file string, want []byte) {
	t.Helper()
	path := filepath.Join("../..", file)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), string(want)); diff != "" {
		t.Errorf("%s is stale, run `make generate`:\n%s", file, diff)
	}
}
