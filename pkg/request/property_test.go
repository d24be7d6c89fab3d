package request_test

import (
	"encoding/json"
	"slices"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/request"
)

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// holds are the promises of Parse for any body.
func holds(t interface{ Fatalf(string, ...any) }, body []byte, opt request.Options) {
	res := request.Parse(body, opt)
	if (res.Request == nil) != (len(res.Problems) > 0) {
		t.Fatalf("request %v and problems %v", res.Request, res.Problems)
	}
	for _, list := range [][]request.Problem{res.Problems, res.Warnings} {
		if len(list) > request.MaxProblems+1 {
			t.Fatalf("%d problems", len(list))
		}
		for _, p := range list {
			if p.Path == "" || p.Code == "" || p.Message == "" || len(p.Path) > 256 || len(p.Message) > 256 || !utf8.ValidString(p.Path+p.Message) {
				t.Fatalf("problem %+v", p)
			}
		}
	}
	if res.Request == nil {
		return
	}
	// Whatever is accepted is JSON for every other reader too, and its accepted
	// form has a bounded size.
	if !json.Valid(body) {
		t.Fatalf("accepted, but no JSON: %q", body)
	}
	form, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(res.Request)
	if err != nil || len(form) > 16*len(body)+1024 {
		t.Fatalf("accepted form of %d bytes for %d: %v", len(form), len(body), err)
	}
	if len(res.Request.GetHash()) != 64 || res.ID != res.Request.GetId() || res.Service != res.Request.GetService() {
		t.Fatalf("hash %q, id %q, service %q", res.Request.GetHash(), res.ID, res.Service)
	}
}

func TestAnyBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		holds(t, rapid.SliceOf(rapid.Byte()).Draw(t, "body"), request.Options{})
	})
}

// TestMutatedSamples cuts, repeats and overwrites parts of a good message.
func TestMutatedSamples(t *testing.T) {
	part := rapid.SampledFrom([]string{
		`"`, `{`, `}`, `[`, `]`, `,`, `:`, `null`, `\u0000`, `\ud800`, "\xff", `1e9999`, `-`, `"id":1,`, `"x":{},`, "\\", `"1e99"`,
	})
	rapid.Check(t, func(t *rapid.T) {
		body := []byte(rapid.SampledFrom([]string{full, string(request.Sample), base}).Draw(t, "seed"))
		for range rapid.IntRange(1, 4).Draw(t, "edits") {
			from := rapid.IntRange(0, len(body)).Draw(t, "from")
			to := min(len(body), from+rapid.IntRange(0, 20).Draw(t, "length"))
			body = slices.Replace(body, from, to, []byte(part.Draw(t, "part"))...)
		}
		holds(t, body, request.Options{Strict: rapid.Bool().Draw(t, "strict")})
	})
}

// TestMutatedValues keeps the JSON whole and puts any value anywhere.
func TestMutatedValues(t *testing.T) {
	value := rapid.OneOf(
		rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(), rapid.String().AsAny(),
		rapid.StringMatching(`[0-9.]{0,4}[a-zA-Z]{0,3}[0-9]{0,10}`).AsAny(),
		rapid.Just[any](map[string]any{}), rapid.Just[any]([]any{}),
	)
	rapid.Check(t, func(rt *rapid.T) {
		root := tree(t, []byte(full))
		var sets []func(any)
		walk("$", root, func(_ string, _ any, set func(any), _ func()) { sets = append(sets, set) })
		for range rapid.IntRange(1, 3).Draw(rt, "edits") {
			rapid.SampledFrom(sets).Draw(rt, "field")(value.Draw(rt, "value"))
		}
		body, err := json.Marshal(root)
		if err != nil {
			rt.Fatal(err)
		}
		holds(rt, body, request.Options{})
	})
}

func TestParseQuantityNeverPanics(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[+-]?[0-9.]{0,12}([eE][+-]?[0-9]{0,12}|[numkMGTPEi]{0,3})`))
	rapid.Check(t, func(t *rapid.T) {
		q, err := request.ParseQuantity(text.Draw(t, "text"))
		if err == nil && (q.Sign() < 0 || q.Value() < 0 || q.MilliValue() < 0 || q.String() == "") {
			t.Fatalf("%v", q)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		request.Parse(request.Sample, request.Options{})
	}
}
