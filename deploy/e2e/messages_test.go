//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
	"github.com/jobrelay/jobrelay/pkg/devstack/messages"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// TestTwoThousandMessages, half of them broken in one to three ways: each has
// exactly one Job, or exactly one recorded rejection that names every break;
// nothing remains in the queue, nothing is lost, and ingest does not grow.
func TestTwoThousandMessages(t *testing.T) {
	n := seed(t)
	// No watcher: the Jobs stay. No notifier: the addresses are nobody's.
	s := under(t, map[faults.Role]int{faults.Ingest: 1, faults.Watcher: 0, faults.Notifier: 0})
	reader, err := broker.Open(t.Context(), broker.Config{URL: s.NATSURL, Topology: broker.Verify, Role: "e2e"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	log := &recorded{t, reader}
	metrics := s.Process("ingest-1").Metrics
	producer := &dev{t: t, out: &tail{}, queue: sqs.New(sqs.Options{
		BaseEndpoint: &s.SQSEndpoint, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	})}
	producer.SQS.QueueURL = s.QueueURL

	all := messages.Generate(n, 2000, "default")
	sent := 0
	send := func(until int) footprint {
		var bodies []string
		for ; sent < until; sent++ {
			bodies = append(bodies, all[sent].Body)
		}
		producer.send(bodies...)
		producer.eventually(fmt.Sprintf("%d messages are settled", sent), 5*time.Minute, func() bool {
			depth, err := s.QueueDepth(t.Context())
			return err == nil && depth == 0 && log.count(broker.StreamRequests) == sent/2 && log.count(broker.StreamRejections) == sent/2 &&
				len(log.subjects(broker.StreamEvents, "events.*.*.started")) == sent/2
		})
		return footprintOf(t, metrics)
	}
	before, after := send(500), send(2000)
	t.Logf("after 500 messages %v, after 2000 %v", before, after)
	if after.heap > before.heap+16<<20 || after.resident > before.resident+48<<20 {
		t.Error("ingest grows with the messages that it has settled")
	}
	log.check(s, all)
}

// recorded is what the streams hold.
type recorded struct {
	t *testing.T
	*broker.Broker
}

func (r *recorded) info(stream string, opts ...jetstream.StreamInfoOpt) *jetstream.StreamInfo {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	s, err := r.JetStream().Stream(ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(ctx, opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

func (r *recorded) count(stream string) int { return int(r.info(stream).State.Msgs) }

// subjects are those of a stream that match, and how many messages each has.
func (r *recorded) subjects(stream, filter string) map[string]uint64 {
	return r.info(stream, jetstream.WithSubjectFilter(filter)).State.Subjects
}

// check compares with what was sent.
func (r *recorded) check(s *faults.Stack, sent []messages.Message) {
	r.t.Helper()
	started := byLog(r.subjects(broker.StreamEvents, "events.*.*.started"))
	rejected := byLog(r.subjects(broker.StreamEvents, "events.*.*.rejected"))
	jobs, err := s.Jobs(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if valid := len(sent) / 2; len(jobs) != valid || len(started) != valid || len(rejected) != len(sent)-valid || r.count(broker.StreamEvents) != len(sent) {
		r.t.Errorf("%d ids with a Job, %d started, %d rejected, %d events in all", len(jobs), len(started), len(rejected), r.count(broker.StreamEvents))
	}
	for i, m := range sent {
		if len(m.Breaks) == 0 {
			key := event.Key(m.ID)
			if len(jobs[m.ID]) != 1 || started[key] != 1 {
				r.t.Errorf("message %d has Jobs %v and %d started", i, jobs[m.ID], started[key])
			}
			if stored, err := r.Request(r.t.Context(), key); err != nil || stored.ID != m.ID {
				r.t.Errorf("message %d, request %s: %v", i, key, err)
			}
			continue
		}
		key := event.RejectedLogKey(m.ID, []byte(m.Body))
		rejection, err := r.Rejection(r.t.Context(), key)
		if err != nil || rejected[key] != 1 || !bytes.Equal(rejection.Body, []byte(m.Body)) || rejection.ID != m.ID {
			r.t.Errorf("message %d, rejection %s of %q, %d rejected: %v", i, key, rejection.ID, rejected[key], err)
		}
		var named []string
		for _, p := range rejection.Problems {
			named = append(named, p.GetPath())
		}
		slices.Sort(named)
		if diff := cmp.Diff(slices.Sorted(slices.Values(m.Breaks)), slices.Compact(named)); diff != "" {
			r.t.Errorf("message %d: %s", i, diff)
		}
	}
}

// byLog are counts by the log key of their subjects on EVENTS.
func byLog(subjects map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for subject, n := range subjects {
		out[strings.Split(subject, ".")[2]] += n
	}
	return out
}

// footprint is a process's memory in bytes.
type footprint struct{ heap, resident float64 }

func (f footprint) String() string {
	return fmt.Sprintf("heap in use %.1f MiB, resident %.1f MiB", f.heap/(1<<20), f.resident/(1<<20))
}

func footprintOf(t *testing.T, url string) footprint {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	gauge := func(name string) float64 {
		f := families[name]
		if len(f.GetMetric()) != 1 {
			t.Fatalf("%s has no %s", url, name)
		}
		return f.GetMetric()[0].GetGauge().GetValue()
	}
	return footprint{gauge("go_memstats_heap_inuse_bytes"), gauge("process_resident_memory_bytes")}
}
