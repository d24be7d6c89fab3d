package request_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/request"
)

var update = flag.Bool("update", false, "write the golden files")

// base is the smallest message.
const base = `{"id":"a","service":"s","job":{"prefixName":"p","namespace":"n","image":"i","command":["c"]}}`

// message is base with one field, a.b.c, set to JSON text, or left out where
// the text is empty.
func message(t testing.TB, field, text string) []byte {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal([]byte(base), &root); err != nil {
		t.Fatal(err)
	}
	set(root, field, text)
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// set puts JSON text at a field, a.b.c, or leaves it out where the text is empty.
func set(root map[string]any, field, text string) {
	at, steps := root, strings.Split(field, ".")
	for _, s := range steps[:len(steps)-1] {
		inner, ok := at[s].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[s] = inner
		}
		at = inner
	}
	last := steps[len(steps)-1]
	if text == "" {
		delete(at, last)
	} else {
		at[last] = json.RawMessage(text)
	}
}

// codes are problems as "path code".
func codes(problems []request.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Path+" "+p.Code)
	}
	return out
}

func accepted(t testing.TB, body []byte, opt request.Options) *jobsv1.JobRequested {
	t.Helper()
	res := request.Parse(body, opt)
	if len(res.Problems) > 0 || res.Request == nil {
		t.Fatalf("not accepted: %v", res.Problems)
	}
	return res.Request
}

// golden compares with a file of testdata, or writes it under -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), -update writes it:\n%s", path, diff)
	}
}

func TestSampleIsAccepted(t *testing.T) {
	res := request.Parse(request.Sample, request.Options{Strict: true})
	if len(res.Problems) > 0 {
		t.Fatal(res.Problems)
	}
	if diff := cmp.Diff([]string{`$.job["volume:"] spelling`}, codes(res.Warnings)); diff != "" {
		t.Error(diff)
	}
	if res.ID != "31a89a91-43d8-4786-a195-9b25cec28a44" || res.Service != "example" || res.Webhook.GetUrl() != "http://webhook.com" {
		t.Errorf("read %q %q %v", res.ID, res.Service, res.Webhook)
	}
	e, err := event.New(event.Key(res.ID), event.SourceOfQueue("default", "q"), res.ID, 0, time.Unix(0, 0), res.Request)
	if err != nil {
		t.Fatal(err)
	}
	_, data, err := event.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "sample.accepted.json", append(data, '\n'))
}

func TestDefaults(t *testing.T) {
	got := accepted(t, []byte(base), request.Options{})
	want := &jobsv1.JobRequested{
		Id: "a", Service: "s", Hash: got.GetHash(),
		Job: &jobsv1.Job{
			PrefixName: "p", Namespace: "n", Image: "i", Command: []string{"c"},
			ServiceAccount: "default", TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 86400,
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestStatuses(t *testing.T) {
	for text, want := range map[string]*jobsv1.Webhook{
		`{"url":"http://h"}`:                   {Url: "http://h", Statuses: []int32{0, 1, 2, 3, 99}},
		`{"url":"http://h","statuses":[]}`:     {Url: "http://h"},
		`{"url":"http://h","statuses":[99,2]}`: {Url: "http://h", Statuses: []int32{99, 2}},
		`{}`:                                   nil,
		`{"statuses":[2]}`:                     nil,
	} {
		res := request.Parse(message(t, "webhook", text), request.Options{})
		if res.Request == nil {
			t.Fatal(text, res.Problems)
		}
		for _, got := range []*jobsv1.Webhook{res.Webhook, res.Request.Webhook} {
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("%s: %s", text, diff)
			}
		}
		if want == nil {
			if diff := cmp.Diff([]string{"$.webhook required"}, codes(res.Warnings)); diff != "" {
				t.Errorf("%s: %s", text, diff)
			}
		}
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	body := []byte(`{"Id2":{"a": [1.50, "\u00e9"]},` + strings.TrimSuffix(base[1:], "}}") +
		`,"a.b":null,"<&>":"<&>","env":[{"name":"N","from":1}],"resources":{"limits":{"gpu":"1"}}},"webhook":{"Url":"x"}}`)
	res := request.Parse(body, request.Options{})
	want := []*jobsv1.UnknownField{
		{Path: "$.job.env[0].from", Json: "1"},
		{Path: "$.job.resources.limits.gpu", Json: `"1"`},
		{Path: `$.job["a.b"]`, Json: "null"},
		{Path: `$.job["<&>"]`, Json: `"<&>"`},
		{Path: "$.webhook.Url", Json: `"x"`},
		{Path: "$.Id2", Json: `{"a":[1.50,"\u00e9"]}`},
	}
	if diff := cmp.Diff(want, res.Request.GetUnknown(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if len(res.Warnings) != len(want)+1 {
		t.Errorf("warnings %v", res.Warnings)
	}
	res = request.Parse(body, request.Options{Strict: true})
	if res.Request != nil || len(res.Problems) != len(want) || res.Problems[0].Code != request.CodeUnknown {
		t.Errorf("strict: %v", res.Problems)
	}
	if res.ID != "a" {
		t.Errorf("strict: the id %q can be read", res.ID)
	}
}

func TestMaxBackoffLimit(t *testing.T) {
	for _, c := range []struct {
		limit int
		good  string
		bad   string
	}{{0, "6", "7"}, {10, "10", "11"}, {-1, "0", "1"}} {
		opt := request.Options{MaxBackoffLimit: c.limit}
		accepted(t, message(t, "job.backoffLimit", c.good), opt)
		got := codes(request.Parse(message(t, "job.backoffLimit", c.bad), opt).Problems)
		if diff := cmp.Diff([]string{"$.job.backoffLimit range"}, got); diff != "" {
			t.Errorf("%d: %s", c.limit, diff)
		}
	}
}

// What a rejection may carry of a message.
func TestReadableOfARefusedMessage(t *testing.T) {
	hook := `"webhook":{"url":"http://h"}`
	for name, c := range map[string]struct {
		body    string
		id, url string
	}{
		"all":                    {`{"id":"a","service":"s",` + hook + `}`, "a", "http://h"},
		"id twice":               {`{"id":"a","id":"b",` + hook + `}`, "", "http://h"},
		"id twice, another case": {`{"id":"a","ID":"b",` + hook + `}`, "", "http://h"},
		"id in another case":     {`{"ID":"a",` + hook + `}`, "", "http://h"},
		"id escaped twice":       {`{"id":"a","\u0069d":"b",` + hook + `}`, "", "http://h"},
		"id of another type":     {`{"id":1,` + hook + `}`, "", "http://h"},
		"webhook twice":          {`{"id":"a",` + hook + `,` + hook + `}`, "a", ""},
		"url twice":              {`{"id":"a","webhook":{"url":"http://h","URL":"http://i"}}`, "a", ""},
		"statuses twice":         {`{"id":"a","webhook":{"url":"http://h","statuses":[1],"Statuses":[2]}}`, "a", ""},
		"statuses bad":           {`{"id":"a","webhook":{"url":"http://h","statuses":[7]}}`, "a", ""},
		"url bad":                {`{"id":"a","webhook":{"url":"ftp://h"}}`, "a", ""},
		"duplicate elsewhere":    {`{"id":"a","x":1,"x":2,` + hook + `}`, "a", "http://h"},
		"too deep elsewhere":     {`{"id":"a","x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `,` + hook + `}`, "a", "http://h"},
		"trailing data":          {`{"id":"a",` + hook + `}{}`, "", ""},
		"not UTF-8":              {`{"id":"a",` + hook + `,"x":"` + "\xff" + `"}`, "", ""},
	} {
		res := request.Parse([]byte(c.body), request.Options{})
		if res.Request != nil || len(res.Problems) == 0 {
			t.Errorf("%s: accepted", name)
		}
		if res.ID != c.id || res.Webhook.GetUrl() != c.url {
			t.Errorf("%s: read %q and %v", name, res.ID, res.Webhook)
		}
	}
}

func TestMessagesHoldNoValues(t *testing.T) {
	const secret = "hunter2"
	body := []byte(`{"id":"a\u0000` + secret + `","service":"` + secret + `!","job":{"prefixName":"` + secret + `!","namespace":"` + secret + `!",
		"image":"` + secret + `!","command":["` + secret + `\u0000"],"args":"` + secret + `","env":[{"name":"=","value":"` + secret + `\u0000"}],
		"serviceAccount":"` + secret + `!","ttlSecondsAfterFinished":"` + secret + `","resources":{"limits":{"cpu":"` + secret + `"}},
		"nodeSelector":{"matchKey":"` + secret + `!","matchValue":"` + secret + `!"},"toleration":{"key":"` + secret + `!","value":"` + secret + `!"},
		"volume":{"mountPath":":` + secret + `","pvc":"` + secret + `!"}},"webhook":{"url":"ftp://h/?` + secret + `","statuses":"` + secret + `"}}`)
	res := request.Parse(body, request.Options{})
	if len(res.Problems) != 20 {
		t.Errorf("%d problems: %v", len(res.Problems), codes(res.Problems))
	}
	for _, p := range res.Problems {
		if strings.Contains(p.Path+p.Message, secret) {
			t.Errorf("%+v", p)
		}
	}
}

func TestInputIsNotKept(t *testing.T) {
	body := bytes.Clone(request.Sample)
	got := accepted(t, body, request.Options{})
	for i := range body {
		body[i] = 'x'
	}
	if diff := cmp.Diff(accepted(t, request.Sample, request.Options{}), got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}
