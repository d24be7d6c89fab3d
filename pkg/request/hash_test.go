package request_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// The hash stands in streams that outlive a version: this value never changes.
const sampleHash = "5174a00fda608851b5e785317c7f169a2cd113e0e560cd4bc3b31f8db0043698"

func TestHashOfTheSample(t *testing.T) {
	if got := accepted(t, request.Sample, request.Options{}).GetHash(); got != sampleHash {
		t.Errorf("%s, want %s", got, sampleHash)
	}
}

func TestHashCountsWhatWasSent(t *testing.T) {
	hashOf := func(body string) string { return accepted(t, []byte(body), request.Options{}).GetHash() }
	want := hashOf(base)
	for name, body := range map[string]string{
		"unknown field":        with(`"x":1`),
		"unknown field within": strings.Replace(base, `"job":{`, `"job":{"Images":"x",`, 1),
		"escapes":              strings.Replace(base, `"id":"a"`, `"\u0069d":"\u0061"`, 1),
	} {
		if hashOf(body) != want {
			t.Errorf("%s changes the hash", name)
		}
	}
	for name, body := range map[string]string{
		"a default that is sent": strings.Replace(base, `"job":{`, `"job":{"backoffLimit":0,`, 1),
		"an empty object":        strings.Replace(base, `"job":{`, `"job":{"resources":{},`, 1),
		"a webhook without url":  with(`"webhook":{}`),
	} {
		if hashOf(body) == want {
			t.Errorf("%s does not change the hash", name)
		}
	}
	second := string(request.Sample)
	if hashOf(second) != hashOf(strings.Replace(second, `"volume:"`, `"volume"`, 1)) {
		t.Error("the spelling of volume changes the hash")
	}
}

// full has every known field.
const full = `{"id":"a","service":"s","job":{"prefixName":"p","namespace":"n","image":"i","command":["c","d"],
	"args":["x"],"env":[{"name":"N","value":"v"},{"name":"M","value":""}],"serviceAccount":"sa",
	"ttlSecondsAfterFinished":61,"backoffLimit":1,"activeDeadlineSeconds":5,
	"resources":{"limits":{"cpu":"2","memory":"2Gi"},"requests":{"cpu":"1","memory":"1Gi"}},
	"nodeSelector":{"matchKey":"k","matchValue":"v"},"toleration":{"key":"k","value":"v"},
	"volume":{"mountPath":"/m","pvc":"c"}},"webhook":{"url":"http://h","statuses":[0,2]}}`

func tree(t testing.TB, body []byte) map[string]any {
	var out map[string]any
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestHashIgnoresForm(t *testing.T) {
	want := accepted(t, []byte(full), request.Options{}).GetHash()
	rapid.Check(t, func(rt *rapid.T) {
		body := write(rt, tree(t, []byte(full)))
		res := request.Parse([]byte(body), request.Options{})
		if res.Request.GetHash() != want {
			rt.Fatalf("another hash: %v\n%s", res.Problems, body)
		}
	})
}

// write is JSON of any order of keys, white space and escapes.
func write(t *rapid.T, v any) string {
	space := func() string { return rapid.StringMatching(`[ \t\r\n]{0,2}`).Draw(t, "space") }
	var parts []string
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		for _, k := range rapid.Permutation(sorted(keys)).Draw(t, "keys") {
			parts = append(parts, space()+write(t, k)+space()+":"+space()+write(t, v[k])+space())
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		for _, e := range v {
			parts = append(parts, space()+write(t, e)+space())
		}
		return "[" + strings.Join(parts, ",") + "]"
	case string:
		var b strings.Builder
		for _, c := range v {
			if rapid.Bool().Draw(t, "escape") {
				fmt.Fprintf(&b, `\u%04X`, c)
			} else {
				b.WriteRune(c)
			}
		}
		return `"` + b.String() + `"`
	default:
		return fmt.Sprint(v)
	}
}

// TestHashSeesEveryValue changes, and then drops, each value of full in turn.
func TestHashSeesEveryValue(t *testing.T) {
	seen := map[string]string{accepted(t, []byte(full), request.Options{}).GetHash(): "full"}
	look := func(name string, root map[string]any) {
		body, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		res := request.Parse(body, request.Options{})
		if res.Request == nil {
			if !strings.HasSuffix(name, "dropped") {
				t.Errorf("%s: %v", name, res.Problems)
			}
			return
		}
		if other, twice := seen[res.Request.GetHash()]; twice {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[res.Request.GetHash()] = name
	}
	root := tree(t, []byte(full))
	changed := 0
	walk("$", root, func(path string, v any, set func(any), drop func()) {
		set(change(v))
		look(path+" changed", root)
		changed++
		if drop != nil {
			drop()
			look(path+" dropped", root)
		}
		set(v)
	})
	if changed != 29 {
		t.Errorf("%d values changed: full is not whole", changed)
	}
}

// walk visits every scalar.
func walk(path string, v any, visit func(path string, v any, set func(any), drop func())) {
	step := func(path string, v any, set func(any), drop func()) {
		switch v.(type) {
		case map[string]any, []any:
			walk(path, v, visit)
		default:
			visit(path, v, set, drop)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		for _, k := range sorted(keys) {
			step(path+"."+k, v[k], func(x any) { v[k] = x }, func() { delete(v, k) })
		}
	case []any:
		for i := range v {
			step(fmt.Sprintf("%s[%d]", path, i), v[i], func(x any) { v[i] = x }, nil)
		}
	}
}

// change gives another value that the rules take, too.
func change(v any) any {
	switch v := v.(type) {
	case float64:
		return v + 1
	case string:
		if other, ok := map[string]string{"1": "0.5", "2": "4", "1Gi": "512Mi", "2Gi": "4Gi"}[v]; ok {
			return other
		}
		return v + "z"
	}
	return v
}
