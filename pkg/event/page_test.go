package event_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/jobrelay/jobrelay/pkg/event"
)

// appended says when an event of each type is, for docs/taps.md.
var appended = map[event.Type]string{
	event.TypeJobStarted:      "The Job exists in Kubernetes: by the launcher once the API server has taken it, or by the watcher that sees it first.",
	event.TypePodStarted:      "The container of the Job's first Pod has started. Once a job, however many Pods it takes; before its end if a Pod ever ran.",
	event.TypeJobCompleted:    "The Job is Complete in Kubernetes.",
	event.TypeJobFailed:       "The Job is Failed in Kubernetes: its container failed too often, or its deadline passed.",
	event.TypeJobException:    "Every other end: no Job could be created, it could not start, it was deleted or cancelled, or nobody saw how it ended.",
	event.TypeRequestRejected: "A message was not accepted. It is the only event of its log, which is not the log of the message's id.",
}

// TestTapsPage holds the events in docs/taps.md to the golden files.
func TestTapsPage(t *testing.T) {
	var want strings.Builder
	for _, typ := range event.Types() {
		if typ.Token() == "" {
			continue
		}
		b, err := os.ReadFile(filepath.Join("testdata", string(typ)+".golden"))
		if err != nil {
			t.Fatal(err)
		}
		golden := string(b)
		schema := golden[strings.Index(golden, "/jobrelay.jobs.v1.")+1:]
		schema, _, _ = strings.Cut(schema, "\n")
		fmt.Fprintf(&want, "### %s\n\n%s\n\nSubject `events.<service>.<log key>.%s`, callback %d, data [%s](schemas/%s.json).\n\n```\n%s```\n\n",
			typ, appended[typ], typ.Token(), typ.Status(), strings.TrimPrefix(schema, "jobrelay.jobs.v1."), schema, golden)
	}
	const file = "../../docs/taps.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), " -update -->\n")
	have, after, closed := strings.Cut(rest, "<!-- end -->")
	if !ok || !closed {
		t.Fatalf("%s has no place for the events", file)
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+" -update -->\n"+want.String()+"<!-- end -->"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want.String(), have); diff != "" {
		t.Errorf("%s is stale, run `make generate`:\n%s", file, diff)
	}
}

// TestSchemas: what stands on the wire is valid by the schema that its dataschema
// names, with a field that a later version adds, too; and what is not is not.
func TestSchemas(t *testing.T) {
	for _, e := range examples(t) {
		if e.Type.Token() == "" {
			continue
		}
		name := string(e.Data.ProtoReflect().Descriptor().FullName())
		schema, err := jsonschema.NewCompiler().Compile(filepath.Join("../../docs/schemas", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		data, err := event.DataJSON(e)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		v["addedLater"] = map[string]any{"a": 1.0}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", e.Type, err)
		}
		for field := range v {
			if field != "addedLater" {
				v[field] = []any{false}
			}
		}
		if schema.Validate(v) == nil {
			t.Errorf("%s: what is no such event is valid", e.Type)
		}
	}
}
