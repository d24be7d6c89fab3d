package request_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/request"
)

const (
	schemaFile = "../../docs/message.schema.json"
	// messagesDir holds valid messages, messages with one break that the schema
	// sees (invalid), and messages with one that is beyond it. deploy/js reads
	// them, too.
	messagesDir = "testdata/messages"
)

var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile(schemaFile) // checks it against the metaschema, too
})

// fits reports whether the schema takes the body; json is false where the body
// is no JSON, of which a schema says nothing.
func fits(t interface{ Fatal(...any) }, body []byte) (fits, json bool) {
	schema, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return false, false
	}
	return schema.Validate(instance) == nil, true
}

// beyond are the problems, as "path code", that no schema sees
// (testdata/messages/beyond.json says why).
var beyond = regexp.MustCompile(`^\$.* (duplicate|syntax|depth|size|more)$` +
	`|^\$\.job\.(ttlSecondsAfterFinished|backoffLimit|activeDeadlineSeconds) type$|^\$\.webhook\.statuses\[\d+\] type$` +
	`|^\$\.job\.resources\.(limits|requests)\.(cpu|memory) range$` +
	`|^\$\.(job\.image|webhook\.url) invalid$`)

// agree fails where schema and parser differ in more than the schema can say.
func agree(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, body []byte,
) {
	takes, isJSON := fits(t, body)
	res := request.Parse(body, request.Options{})
	switch {
	case res.Request != nil && !takes:
		t.Fatalf("accepted, but not by the schema: %q", body)
	case res.Request == nil && takes && isJSON:
		var sent struct {
			Job     struct{ Image string }
			Webhook struct{ URL string }
		}
		_ = json.Unmarshal(body, &sent) // what has other types is not compared
		for _, c := range codes(res.Problems) {
			if beyond.MatchString(c) &&
				(c != "$.job.image invalid" || len(sent.Job.Image) > 255) &&
				(c != "$.webhook.url invalid" || strings.ContainsAny(sent.Webhook.URL, "[%")) {
				return
			}
		}
		t.Fatalf("the schema takes what is refused for %v: %q", res.Problems, body)
	}
}

// fixtures are the messages of a folder by name.
func fixtures(t *testing.T, folder string, least int) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(messagesDir, folder, "*.json"))
	if err != nil || len(paths) < least {
		t.Fatalf("%d files in %s: %v", len(paths), folder, err)
	}
	out := map[string][]byte{}
	for _, p := range paths {
		if out[strings.TrimSuffix(filepath.Base(p), ".json")], err = os.ReadFile(p); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// table reads what is expected of the messages of a folder.
func table(t *testing.T, folder string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(messagesDir, folder+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", folder, err)
	}
}

func TestValidMessages(t *testing.T) {
	for name, body := range fixtures(t, "valid", 30) {
		accepted(t, body, request.Options{})
		if ok, _ := fits(t, body); !ok {
			t.Errorf("%s: the schema does not take it", name)
		}
	}
	if ok, _ := fits(t, request.Sample); !ok {
		t.Error("the schema does not take the original's sample")
	}
}

func TestInvalidMessages(t *testing.T) {
	var want map[string][]string
	table(t, "invalid", &want)
	refused(t, "invalid", want, false)
}

func TestMessagesBeyondTheSchema(t *testing.T) {
	var of map[string]struct {
		Problems []string
		Why      string
	}
	table(t, "beyond", &of)
	want := map[string][]string{}
	for name, c := range of {
		want[name] = c.Problems
		if c.Why == "" || !beyond.MatchString(c.Problems[0]) {
			t.Errorf("%s: why can no schema say it?", name)
		}
	}
	refused(t, "beyond", want, true)
}

func refused(t *testing.T, folder string, want map[string][]string, fit bool) {
	bodies := fixtures(t, folder, len(want))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(bodies))); diff != "" {
		t.Errorf("%s.json and its folder differ: %s", folder, diff)
	}
	for name, body := range bodies {
		if diff := cmp.Diff(want[name], codes(request.Parse(body, request.Options{}).Problems)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if ok, isJSON := fits(t, body); ok != fit || !isJSON {
			t.Errorf("%s: the schema takes it: %v", name, ok)
		}
	}
}

// TestSchemaAgreesOnFields: every text of the table of fields.
func TestSchemaAgreesOnFields(t *testing.T) {
	for _, f := range fields {
		for _, text := range f.good {
			agree(t, message(t, f.field, text))
		}
		for text := range f.bad {
			agree(t, message(t, f.field, text))
		}
	}
}

// TestSchemaAgrees draws messages from the table of fields, its texts mutated
// and anything else, in up to four fields at once.
func TestSchemaAgrees(t *testing.T) {
	odd := rapid.SampledFrom([]rune("aA0.-_/:@#?%[]\\ \n\u00a0\u0085é=+~eEmKi,$"))
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,5})(\.[0-9])?([eE][0-9])?`)
	address := rapid.StringMatching(`(http|HTTPS|ftp)(://|:/)([a-z@.:]{0,6}|\[[0-9a-f:.]{0,6}\])(:[0-9]{0,5})?[/?#a%0-9@]{0,4}`)
	amount := rapid.StringMatching(`[+-]?[0-9.]{0,4}([numkMGTPEi]{0,2}|[eE][+-]?[0-9]{0,2})`)
	image := rapid.StringMatching(`([a-zA-Z0-9.:-]{1,6}/)?[a-z0-9._/-]{1,8}(:[a-zA-Z0-9._-]{0,3})?`)
	rapid.Check(t, func(rt *rapid.T) {
		root := tree(t, []byte(rapid.SampledFrom([]string{base, full}).Draw(rt, "seed")))
		for range rapid.IntRange(1, 4).Draw(rt, "edits") {
			f := rapid.SampledFrom(fields).Draw(rt, "field")
			texts := slices.Concat(f.good, slices.Sorted(maps.Keys(f.bad)))
			text := rapid.SampledFrom(texts).Draw(rt, "text")
			var s string
			switch rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0: // as it is
			case 1:
				text = number.Draw(rt, "number")
			case 2:
				if json.Unmarshal([]byte(text), &s) == nil {
					r := []rune(s)
					at := rapid.IntRange(0, len(r)).Draw(rt, "at")
					text = string(encode(t, string(slices.Insert(r, at, odd.Draw(rt, "odd")))))
				}
			case 3:
				s = rapid.OneOf(rapid.StringN(0, 20, -1), address, amount, image).Draw(rt, "string")
				text = string(encode(t, s))
			}
			set(root, f.field, text)
		}
		agree(rt, encode(t, root))
	})
}

func encode(t testing.TB, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// each visits the fields that the schema describes, $.job.env[].name.
func each(root, schema map[string]any, path string, visit func(path string, schema map[string]any)) {
	if ref, ok := schema["$ref"].(string); ok {
		each(root, root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any), path, visit)
	}
	if items, ok := schema["items"].(map[string]any); ok {
		each(root, items, path+"[]", visit)
	}
	properties, _ := schema["properties"].(map[string]any)
	for name, of := range properties {
		visit(path+"."+name, of.(map[string]any))
		each(root, of.(map[string]any), path+"."+name, visit)
	}
}

func schemaTree(t *testing.T) map[string]any {
	b, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return tree(t, b)
}

// TestSchemaHasEveryField, and no other: full has each that the parser knows.
func TestSchemaHasEveryField(t *testing.T) {
	root := schemaTree(t)
	got := map[string]bool{}
	each(root, root, "$", func(path string, _ map[string]any) { got[path] = true })
	want := map[string]bool{}
	accepted(t, []byte(full), request.Options{Strict: true})
	index := regexp.MustCompile(`\[\d+\]`)
	walk("$", tree(t, []byte(full)), func(path string, _ any, _ func(any), _ func()) {
		path = strings.TrimSuffix(index.ReplaceAllString(path, "[]"), "[]")
		for ; path != "$"; path = path[:strings.LastIndexByte(path, '.')] {
			want[strings.TrimSuffix(path, "[]")] = true
			if strings.HasPrefix(path, "$.job.volume") {
				want[strings.Replace(path, "volume", "volume:", 1)] = true
			}
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSchemaDefaults: to send a default is to leave it out.
func TestSchemaDefaults(t *testing.T) {
	root := schemaTree(t)
	seen := 0
	each(root, root, "$", func(path string, schema map[string]any) {
		text, given := schema["default"]
		if !given {
			return
		}
		seen++
		b := encode(t, text)
		field := strings.TrimPrefix(path, "$.")
		least, sent := tree(t, []byte(full)), tree(t, []byte(full))
		if before, after, ok := strings.Cut(field, "[]."); ok {
			set(least, before, `[{"name":"N"}]`)
			set(sent, before, `[{"name":"N","`+after+`":`+string(b)+`}]`)
		} else {
			set(least, field, "")
			set(sent, field, string(b))
		}
		with, without := accepted(t, encode(t, sent), request.Options{}), accepted(t, encode(t, least), request.Options{})
		with.Hash, without.Hash = "", "" // it counts what was sent
		if diff := cmp.Diff(without, with, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	})
	if seen != 7 {
		t.Errorf("%d defaults", seen)
	}
}
