package request_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// with is base with more members in front.
func with(members string) string { return "{" + members + "," + base[1:] }

func TestHostileBodies(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"empty":                     {``, []string{"$ syntax"}},
		"white space":               {" \n", []string{"$ syntax"}},
		"null":                      {`null`, []string{"$ type"}},
		"array":                     {`[` + base + `]`, []string{"$ type"}},
		"string":                    {`"x"`, []string{"$ type"}},
		"half a surrogate":          {`"\ud800"`, []string{"$ syntax"}},
		"cut short":                 {base[:len(base)-1], []string{"$ syntax"}},
		"trailing comma":            {strings.TrimSuffix(base, "}") + ",}", []string{"$ syntax"}},
		"trailing data":             {base + "x", []string{"$ syntax"}},
		"two messages":              {base + "\n" + base, []string{"$ syntax"}},
		"comment":                   {"/**/" + base, []string{"$ syntax"}},
		"byte order mark":           {"\ufeff" + base, []string{"$ syntax"}},
		"not UTF-8":                 {with(`"x":"` + "\xc3" + `"`), []string{"$ syntax"}},
		"surrogates in UTF-8":       {with(`"x":"` + "\xed\xa0\x80" + `"`), []string{"$ syntax"}},
		"overlong UTF-8":            {with(`"x":"` + "\xc0\xaf" + `"`), []string{"$ syntax"}},
		"control character":         {with(`"x":"` + "\x01" + `"`), []string{"$ syntax"}},
		"leading zero":              {with(`"x":01`), []string{"$ syntax"}},
		"NaN":                       {with(`"x":NaN`), []string{"$ syntax"}},
		"high surrogate alone":      {with(`"x":"\ud800"`), []string{"$.x syntax"}},
		"low surrogate alone":       {with(`"x":"\udc00\ud800"`), []string{"$.x syntax"}},
		"two high surrogates":       {with(`"x":"\ud800\ud800\udc00"`), []string{"$.x syntax"}},
		"half a surrogate in a key": {with(`"\ud800":1`), []string{"$[\"\ufffd\"] syntax"}},
		"escaped backslash":         {with(`"x":"\\ud800"`), nil},
		"a pair":                    {with(`"x":"\ud83d\ude00"`), nil},
		"U+FFFD itself":             {with(`"x":"` + "\ufffd" + `"`), nil},
		"key twice":                 {with(`"x":1,"x":1`), []string{"$.x duplicate"}},
		"key thrice":                {with(`"x":1,"x":1,"X":1`), []string{"$.x duplicate", "$.X duplicate"}},
		"key twice, escaped":        {with(`"\u0069d":"b"`), []string{"$.id duplicate"}},
		"key twice, another case":   {with(`"JOB":1`), []string{"$.job duplicate"}},
		"key twice, folded":         {with(`"ſervice":1`), []string{"$.service duplicate"}},
		"key twice, Kelvin":         {with(`"webhooK":{}` + `,"webhook":{}`), []string{"$.webhook duplicate"}},
		"key twice, within":         {with(`"x":[{"a":{"b":1,"B":2}}]`), []string{"$.x[0].a.B duplicate"}},
		"empty key twice":           {with(`"":1,"":1`), []string{`$[""] duplicate`}},
		"the keys of two objects":   {with(`"x":[{"a":1},{"a":1}]`), nil},
		"as deep as allowed":        {with(`"x":` + deep(31)), nil},
		"too deep":                  {with(`"x":` + deep(32)), []string{"$.x" + strings.Repeat("[0]", 31) + " depth"}},
		"too deep, objects": {with(`"x":` + strings.Repeat(`{"a":`, 40) + `"}"` + strings.Repeat(`}`, 40)),
			[]string{"$.x" + strings.Repeat(".a", 31) + " depth"}},
		"much too deep":        {with(`"x":` + deep(20000)), []string{"$ syntax"}},
		"as large as allowed":  {base + strings.Repeat(" ", request.MaxBytes-len(base)), nil},
		"too large":            {base + strings.Repeat(" ", request.MaxBytes-len(base)+1), []string{"$ size"}},
		"too large when taken": {with(`"x":"` + strings.Repeat(`\"`, 400_000) + `"`), []string{"$ size"}},
		"too many variables":   {strings.Replace(base, `"command"`, `"env":[`+variables(30_000)+`],"command"`, 1), []string{"$.job.env size"}},
		"many variables":       {strings.Replace(base, `"command"`, `"env":[`+variables(20_000)+`],"command"`, 1), nil},
		"everything at once": {`{"id":"","job":{"image":" ","image2":1,"command":[]},"webhook":{"url":"x"}}`, []string{
			"$.id invalid", "$.service required", "$.job.prefixName required", "$.job.namespace required",
			"$.job.image invalid", "$.job.command invalid", "$.webhook.url invalid",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			res := request.Parse([]byte(c.body), request.Options{})
			if diff := cmp.Diff(c.want, codes(res.Problems)); diff != "" {
				t.Errorf("%s\n%v", diff, res.Problems)
			}
			if (res.Request == nil) != (len(c.want) > 0) {
				t.Errorf("request %v", res.Request)
			}
		})
	}
}

// variables are n of different names; pkg/kubejob tries how many Kubernetes takes.
func variables(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,{"name":"%x"}`, i)
	}
	return b.String()[1:]
}

func TestProblemsAreBounded(t *testing.T) {
	long := strings.Repeat("k", 500_000)
	for name, body := range map[string]string{
		"types":      with(`"x":1`)[:len(with(`"x":1`))-2] + `,"args":[0` + strings.Repeat(",0", 149) + `]}}`,
		"duplicates": with(`"` + long + `":{"":0` + strings.Repeat(`,"":0`, 150) + `}`),
	} {
		res := request.Parse([]byte(body), request.Options{})
		if len(res.Problems) != request.MaxProblems+1 {
			t.Fatalf("%s: %d problems", name, len(res.Problems))
		}
		want := request.Problem{Path: "$", Code: request.CodeMore, Message: "… and 50 more"}
		if diff := cmp.Diff(want, res.Problems[request.MaxProblems]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, p := range res.Problems {
			if len(p.Path) > 256 || len(p.Message) > 256 {
				t.Errorf("%s: a problem of %d and %d bytes", name, len(p.Path), len(p.Message))
			}
		}
	}
	var body bytes.Buffer
	for i := range 150 {
		fmt.Fprintf(&body, `"x%d":0,`, i)
	}
	res := request.Parse([]byte(with(strings.TrimSuffix(body.String(), ","))), request.Options{})
	if len(res.Warnings) != request.MaxProblems+1 || len(res.Request.GetUnknown()) != 150 {
		t.Errorf("%d warnings, %d unknown fields", len(res.Warnings), len(res.Request.GetUnknown()))
	}
}
