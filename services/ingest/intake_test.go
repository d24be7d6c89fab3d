package ingest

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// newIntake is an intake that stores in a NATS of its own.
func newIntake(t *testing.T) (*broker.Broker, *intake) {
	t.Helper()
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	b, err := broker.Open(t.Context(), broker.Config{URL: n.URL(), Role: "test"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b, &intake{
		broker: b, log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel), installation: "test", options: request.Options{MaxBackoffLimit: 6},
		metrics: newMetrics(prometheus.NewRegistry()), policy: func() *request.Policy { return nil }, parsing: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// TestAnyBodyIsRecordable: 1 MiB of anything is accepted or recorded, byte for
// byte, and never an error for ever.
func TestAnyBodyIsRecordable(t *testing.T) {
	b, in := newIntake(t)
	full := func(begin, fill, end string) []byte {
		n := (request.MaxBytes - len(begin) - len(end)) / len(fill)
		return []byte(begin + strings.Repeat(fill, n) + end)
	}
	const begin = `{"id":"a","service":"s","job":{"prefixName":"p","namespace":"default","image":"i","command":["`
	const end = `"]}}`
	for name, c := range map[string]struct {
		body     []byte
		accepted bool
	}{
		"a command of <":           {full(strings.Replace(begin, `"a"`, `"<"`, 1), "<", end), true},
		"a command of escaped <":   {full(strings.Replace(begin, `"a"`, `"\u003c<"`, 1), `\u003c`, end), true},
		"a command of line breaks": {full(strings.Replace(begin, `"a"`, `"n"`, 1), `\n`, end), true},
		"a command of U+2028":      {full(strings.Replace(begin, `"a"`, `"u"`, 1), "\u2028", end), true},
		"an unknown field of <":    {full(strings.Replace(begin, `"a"`, `"f"`, 1)+`x"]},"more":"`, "<", `"}`), true},
		"nothing but <":            {full("", "<", ""), false},
		"a million numbers":        {full("[0", ",1", "]"), false},
		"an object of numbers":     {full(`{"id":"numbers","service":"s","job":[0`, ",1", "]}"), false},
		"a million opens":          {full("", "[", ""), false},
		"a million empty keys":     {full(`{"":0`, `,"":0`, `}`), false},
		"bytes of no encoding":     {bytes.Repeat([]byte{0xff}, request.MaxBytes), false},
		"zeros":                    {make([]byte, request.MaxBytes), false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &sqsqueue.Message{Body: bytes.Clone(c.body)}
			if err := in.take(t.Context(), queue{name: "q"}, m); err != nil {
				t.Fatal(err)
			}
			parsed := request.Parse(c.body, in.options)
			if (parsed.Request != nil) != c.accepted {
				t.Fatalf("%.200v", parsed.Problems)
			}
			if c.accepted {
				e, err := b.Request(t.Context(), event.Key(parsed.ID))
				if err != nil || e.ID != parsed.ID {
					t.Errorf("%v", err)
				}
				return
			}
			r, err := b.Rejection(t.Context(), event.RejectedLogKey(parsed.ID, c.body))
			if err != nil || !bytes.Equal(r.Body, c.body) || len(r.Problems) == 0 {
				t.Errorf("%d bytes, %d problems, %v", len(r.Body), len(r.Problems), err)
			}
		})
	}
}

// TestServiceOfAQueue: a queue's fixed service is told beside all other problems,
// and its absence is none of its own.
func TestServiceOfAQueue(t *testing.T) {
	b, in := newIntake(t)
	sample := string(request.Sample)
	for _, c := range []struct {
		service, body string
		problems      int
	}{
		{"example", sample, 0},
		{"", strings.Replace(sample, `"example"`, `"another"`, 1), 0},
		{"billing", sample, 1},
		{"billing", strings.Replace(sample, `"busybox"`, `""`, 1), 2},
		{"billing", strings.Replace(sample, `"example"`, `""`, 1), 1},
	} {
		m := &sqsqueue.Message{Body: []byte(strings.Replace(c.body, "31a89a91", "a"+c.service, 1))}
		parsed := request.Parse(m.Body, in.options)
		if err := in.take(t.Context(), queue{name: "q", service: c.service}, m); err != nil {
			t.Fatal(err)
		}
		if c.problems == 0 {
			if _, err := b.Request(t.Context(), event.Key(parsed.ID)); err != nil {
				t.Errorf("%q: %v", c.service, err)
			}
			continue
		}
		r, err := b.Rejection(t.Context(), event.RejectedLogKey(parsed.ID, m.Body))
		if err != nil || len(r.Problems) != c.problems {
			t.Errorf("%q: %v %v", c.service, r.Problems, err)
		}
	}
}
