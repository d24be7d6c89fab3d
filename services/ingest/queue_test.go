package ingest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestQueues: the options of each queue, what they leave to the others, and one
// line for each mistake.
func TestQueues(t *testing.T) {
	config := func(inFlight int, urls ...string) *Config {
		return &Config{QueueURLs: urls, InFlight: inFlight, Receivers: 4}
	}
	got, err := config(256, "http://sqs/0/a", " http://sqs/0/b;receivers=8;in-flight=56;service=billing", "https://sqs/0/c.fifo;").queues()
	if err != nil {
		t.Fatal(err)
	}
	want := []queue{
		{url: "http://sqs/0/a", name: "a", receivers: 4, inFlight: 100},
		{url: "http://sqs/0/b", name: "b", receivers: 8, inFlight: 56, service: "billing"},
		{url: "https://sqs/0/c.fifo", name: "c.fifo", receivers: 4, inFlight: 100},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(queue{})); diff != "" {
		t.Error(diff)
	}
	for text, says := range map[string]string{
		"jobs":                                        "not a queue's URL",
		"http://sqs/0/a;receivers=0":                  "queue a: receivers takes 1 to 16",
		"http://sqs/0/a;receivers=17":                 "receivers takes 1 to 16",
		"http://sqs/0/a;in-flight=many":               "in-flight takes 1 to 5000",
		"http://sqs/0/a;service=":                     "service takes what",
		"http://sqs/0/a;services=x":                   "services is none of the options",
		"http://sqs/0/a;=x":                           "without an option",
		"http://sqs/0/a,http://sqs/1/a":               "has queue a twice",
		"http://sqs/0/a;in-flight=5000":               "too few",
		"http://sqs/0/a,http://sqs/0/b;in-flight=256": "too few",
	} {
		if _, err := config(256, strings.Split(text, ",")...).queues(); err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "--") {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}
