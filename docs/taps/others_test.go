//go:build taps

package taps_test

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
)

// What needs more than the product's own modules is apart: make test-js and make
// test-cli.

func TestJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	mustDo(t, err)
	try(t, node, "javascript/tap.mjs", "billing")
}

// TestCLI types the line of docs/taps.md that begins with nats.
func TestCLI(t *testing.T) {
	page, err := os.ReadFile("../taps.md")
	mustDo(t, err)
	line := regexp.MustCompile(`(?m)^nats (consumer next .*)$`).FindSubmatch(page)
	if line == nil {
		t.Fatal("docs/taps.md shows no such line")
	}
	l := start(t)
	args := strings.Fields(strings.NewReplacer("--count 10", "--count 5", "keys/tap-billing.nk", l.seed).Replace(string(line[1])))
	cli := exec.CommandContext(t.Context(), os.Getenv("JOBRELAY_NATS_CLI"), args...)
	cli.Env = append(os.Environ(), "NATS_URL="+l.url)
	out, err := cli.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.compare(fromCLI(t, string(out)))
	l.acknowledged()
}

// fromCLI reads the events that the nats command printed: their headers, then their
// data.
func fromCLI(t *testing.T, printed string) (out []cloudevents.Event) {
	attributes := map[string]any{}
	for line := range strings.Lines(printed) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, ": "); ok && strings.HasPrefix(name, "ce-") {
			decoded, err := url.PathUnescape(value)
			mustDo(t, err)
			attributes[strings.TrimPrefix(name, "ce-")] = decoded
		}
		if strings.HasPrefix(line, "{") {
			attributes["data"] = json.RawMessage(line)
			text, err := json.Marshal(attributes)
			mustDo(t, err)
			var e cloudevents.Event
			mustDo(t, json.Unmarshal(text, &e))
			out, attributes = append(out, e), map[string]any{}
		}
	}
	return out
}
