// Package messages makes messages as producers send them, good and bad, of
// which is known what a reader has to say.
package messages

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Message is one of Generate's.
type Message struct {
	// ID is the message's id, unlike any other's of the same seed; empty where
	// the message is broken so that it cannot be read.
	ID   string
	Body string
	// Breaks are the JSON paths of what is wrong, each once, in no order; none
	// where the message is valid. "$": the whole body.
	Breaks []string
}

// Generate makes n messages for Jobs in the namespace, every second one broken
// in one to three ways. The same seed, n and namespace give the same messages.
// Bodies differ, are UTF-8, fit SQS and are below 32 KiB.
func Generate(seed uint64, n int, namespace string) []Message {
	out := make([]Message, n)
	for i := range out {
		d := newDraft(rand.New(rand.NewPCG(seed, uint64(i))), fmt.Sprintf("%x-%d", seed, i), namespace)
		if i%2 == 1 {
			d.spoil()
		}
		body := d.text(d.root)
		if d.finish != nil {
			body = d.finish(body)
		}
		out[i] = Message{ID: d.id, Body: body, Breaks: d.breaks}
	}
	return out
}

// draft is a message that is being made.
type draft struct {
	*rand.Rand

	unique  string // within the seed
	id      string
	root    *object
	job     *object
	breaks  []string
	finish  func(body string) string // nil, or what is done to the whole
	escapes bool                     // strings are written as escapes, where that may be
}

// odd is what ids are made of: characters that mean something to subjects,
// paths, JSON, HTML, URLs, shells or terminals.
var odd = []string{"", "é", "日本語", "a b", "<&>", `"`, `\`, "'", "/../", "*", ">", ".", "$.x", "%2F", "%", "\u2028", "\u00a0", "\u200f", "😀", "_", "-", "\ufeff", "{}", "$(id)"}

func newDraft(r *rand.Rand, unique, namespace string) *draft {
	d := &draft{Rand: r, unique: unique, escapes: r.IntN(8) == 0}
	d.id = d.one(odd...) + unique + d.one(odd...)
	if r.IntN(20) == 0 {
		d.id += strings.Repeat("é", 256-len([]rune(d.id)))
	}
	d.job = &object{
		{"prefixName", d.one("p", "a--b", "job-9", strings.Repeat("p", 54))},
		{"namespace", namespace},
		{"image", d.one("sim/succeed", "busybox", "registry.example:5000/team/app:v1.2", "app@sha256:"+strings.Repeat("0", 64))},
		{"command", d.any([]any{"/bin/true"}, []any{"/bin/sh", "-c", "echo $(A) && exit 0"}, []any{"a", "", "\t\n\u0001é"})},
	}
	d.maybe("args", []any{}, []any{"--n=1", ""}, []any{strings.Repeat("x", 16<<10)})
	d.maybe("env", []any{}, []any{&object{{"name", "A"}, {"value", "1"}}, &object{{"name", "A"}}}, []any{&object{{"name", "a b.c"}, {"value", "é\n"}}})
	d.maybe("serviceAccount", "default", "runner.v1")
	d.maybe("ttlSecondsAfterFinished", 60, 3600, 2147483647)
	d.maybe("backoffLimit", 0, 6, raw("-0"))
	d.maybe("activeDeadlineSeconds", 1, 86400)
	d.maybe("resources", &object{}, &object{{"limits", &object{{"cpu", "1"}, {"memory", "512Mi"}}}, {"requests", &object{{"cpu", "1000m"}, {"memory", "0.5Gi"}}}},
		&object{{"requests", &object{{"memory", "1e3"}}}}, &object{{"limits", &object{{"cpu", "+.5"}, {"gpu", 1}}}})
	d.maybe("nodeSelector", &object{{"matchKey", "kubernetes.io/hostname"}, {"matchValue", "node-1"}}, &object{{"matchKey", "disk"}, {"matchValue", ""}})
	d.maybe("toleration", &object{{"key", "example.com/gpu"}}, &object{{"key", "k"}, {"value", "V_1"}})
	d.maybe(d.one("volume", "volume:"), &object{{"mountPath", "work dir"}, {"pvc", "ps-pvc"}}, &object{{"mountPath", "/a/..b/"}, {"pvc", "a.b"}})
	d.maybe("priority", 1, "high", nil) // no field of the contract, as the next
	d.root = &object{{"id", d.id}, {"service", d.one("example", "A_b.c", "9", strings.Repeat("s", 63))}, {"job", d.job}}
	if d.IntN(3) > 0 {
		d.root.add("webhook", d.any(&object{{"url", "http://hooks.example/a?x=1"}}, &object{}, &object{{"url", "HTTPS://[2001:db8::1]:8443"}, {"statuses", []any{}}},
			&object{{"url", "http://bücher.example/%20"}, {"statuses", []any{99, 0}}, {"method", "PUT"}}))
	}
	if d.IntN(4) == 0 {
		d.root.add("trace", &object{{"a", []any{raw("1.50"), raw("true"), nil}}, {"A b", "<&>"}})
	}
	for _, o := range []*object{d.root, d.job} {
		d.Shuffle(len(*o), func(i, j int) { (*o)[i], (*o)[j] = (*o)[j], (*o)[i] })
	}
	return d
}

func (d *draft) one(texts ...string) string { return texts[d.IntN(len(texts))] }
func (d *draft) any(values ...any) any      { return values[d.IntN(len(values))] }

// maybe gives the job a field, half of the time.
func (d *draft) maybe(key string, values ...any) {
	if d.IntN(2) == 0 {
		d.job.add(key, d.any(values...))
	}
}
