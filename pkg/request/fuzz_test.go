package request_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// seedMessages adds every fixture to the corpus.
func seedMessages(f *testing.F) {
	f.Add(request.Sample)
	f.Add([]byte(full))
	f.Add([]byte(base))
	paths, err := filepath.Glob(filepath.Join(messagesDir, "*", "*.json"))
	if err != nil || len(paths) == 0 {
		f.Fatal("no messages", err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

func FuzzParse(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		holds(t, body, request.Options{})
		holds(t, body, request.Options{Strict: true})
	})
}

// FuzzSchema: schema and parser differ only in what a schema cannot say.
func FuzzSchema(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, body []byte) { agree(t, body) })
}

// FuzzHash: another writer of the same message, with other white space, order
// and escapes, has the same hash and the same accepted form.
func FuzzHash(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		res := request.Parse(body, request.Options{})
		if res.Request == nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var root any
		if err := d.Decode(&root); err != nil {
			t.Fatalf("accepted, but no JSON: %v", err)
		}
		again, err := json.MarshalIndent(root, " ", "\t") // sorts keys, escapes <, >, & and U+2028
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > request.MaxBytes/16 {
			return // may be too large in this form
		}
		other := request.Parse(again, request.Options{})
		if other.Request.GetHash() != res.Request.GetHash() {
			t.Fatalf("%s and %s (%v): %q", res.Request.GetHash(), other.Request.GetHash(), other.Problems, again)
		}
	})
}

// FuzzQuantity: what is read is what Kubernetes reads, from 0 to 1P, and its
// canonical form is read as the same.
func FuzzQuantity(f *testing.F) {
	for _, s := range []string{"500m", "1.5Gi", "+1.", ".5", "-0", "1e15", "1P", "1Pi", "1e-99", "1E", "1Ei", "0.0000000001", "9999999999999999999999"} {
		f.Add(s)
	}
	largest := resource.MustParse("1P")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := request.ParseQuantity(text)
		if err != nil {
			return
		}
		theirs, err := resource.ParseQuantity(text)
		if err != nil || q.Cmp(theirs) != 0 {
			t.Fatalf("%q is %v, to Kubernetes %v, %v", text, q, theirs, err)
		}
		if q.Sign() < 0 || q.Cmp(largest) > 0 || q.MilliValue() < 0 {
			t.Fatalf("%q is %v", text, q)
		}
		again, err := request.ParseQuantity(q.String())
		if err != nil || again.Cmp(q) != 0 {
			t.Fatalf("%q is %v, and that is %v, %v", text, q.String(), again, err)
		}
	})
}

// FuzzWebhookURL: an accepted address can be called as it is, and has none of
// what readers take for different hosts.
func FuzzWebhookURL(f *testing.F) {
	for _, field := range fields {
		if field.field != "webhook.url" {
			continue
		}
		for _, text := range field.good {
			f.Add(text)
		}
		for text := range field.bad {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s string
		if json.Unmarshal([]byte(text), &s) != nil {
			s = strings.ToValidUTF8(text, "")
		}
		body := message(t, "webhook.url", string(encode(t, s)))
		agree(t, body)
		res := request.Parse(body, request.Options{})
		if res.Request == nil {
			return
		}
		if got := res.Webhook.GetUrl(); got != s {
			t.Fatalf("%q became %q", s, got)
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
			t.Fatalf("%q: %#v, %v", s, u, err)
		}
		if strings.ContainsFunc(u.Host, func(c rune) bool {
			return unicode.IsSpace(c) || unicode.IsControl(c) || c == unicode.ReplacementChar || strings.ContainsRune(`/?#@\%`, c)
		}) {
			t.Fatalf("%q has host %q", s, u.Host)
		}
		again, err := url.Parse(u.String())
		if err != nil || again.Host != u.Host || again.RequestURI() != u.RequestURI() {
			t.Fatalf("%q is written as %q: %v", s, u, err)
		}
		if _, err := http.NewRequest(http.MethodPost, s, nil); err != nil {
			t.Fatalf("%q cannot be called: %v", s, err)
		}
	})
}
