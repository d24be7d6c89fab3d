package nats_test

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

var update = flag.Bool("update", false, "write the configuration files anew")

const generated = "# Generated (make generate): what is in pkg/broker/permissions.go, in NATS's own form.\n"

// TestConfiguration holds the files that an operator includes to the table of
// permissions in pkg/broker.
func TestConfiguration(t *testing.T) {
	for file, text := range map[string]string{
		"jobrelay.conf": broker.Account(func(role string) string { return "$" + broker.KeyVariable(role) }),
		"apart.conf":    broker.Apart(func(role string) string { return "$" + broker.KeyVariable(role) }),
		"tap.conf":      broker.Tap{Name: "billing"}.Account("$" + broker.KeyVariable("tap-billing")),
		"tenant.conf":   broker.Tap{Name: "tenant", Mirror: true}.Account("$" + broker.KeyVariable("tap-tenant")),
	} {
		text = generated + text
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(have), text); diff != "" {
			t.Errorf("%s is stale, run `make generate`:\n%s", file, diff)
		}
	}
}
