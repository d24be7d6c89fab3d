package broker_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

var keepTopology = flag.Bool("keep-topology", false, "write the topology of now as the next of testdata/topologies")

// kept is the topology of a release: testdata/topologies/<n>.json, the newest last. One
// that was released is never changed.
type kept struct {
	Streams   []jetstream.StreamConfig `json:"streams"`
	Consumers []broker.Consumer        `json:"consumers"`
}

func keptFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/topologies/*.json")
	if err != nil || len(files) == 0 && !*keepTopology {
		t.Fatal("no topology is kept", err)
	}
	slices.Sort(files)
	return files
}

// TestTopologyOfNowIsKept: a change of the topology is a step of its own, which every
// store goes through.
func TestTopologyOfNowIsKept(t *testing.T) {
	now, err := json.MarshalIndent(kept{broker.Topology(1), broker.Consumers()}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	now = append(now, '\n')
	files := keptFiles(t)
	if *keepTopology {
		if err := os.WriteFile(fmt.Sprintf("testdata/topologies/%03d.json", len(files)+1), now, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	last, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(last), string(now)); diff != "" {
		t.Errorf("the topology is not that of %s; read docs/upgrade.md, then keep it with `go test ./pkg/broker -run TestTopologyOfNowIsKept -keep-topology`:\n%s", files[len(files)-1], diff)
	}
}

// TestEveryKeptTopologyCanBeUpgraded: on the streams of each release, with messages in
// them, the topology of now is applied, and nothing is lost. The release before finds
// all as it asks for, so that it can be rolled back to.
func TestEveryKeptTopologyCanBeUpgraded(t *testing.T) {
	files := keptFiles(t)
	before := files[max(len(files)-2, 0)]
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var old kept
			if err := json.Unmarshal(text, &old); err != nil {
				t.Fatal(err)
			}
			b, err := broker.OpenAdmin(t.Context(), broker.Access{URL: server(t).URL()}, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			js := b.JetStream()
			for _, s := range old.Streams {
				if _, err := js.CreateStream(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range old.Consumers {
				if _, err := js.CreateConsumer(t.Context(), c.Stream, jetstream.ConsumerConfig{
					Durable: c.Name, FilterSubjects: c.Filters, AckPolicy: jetstream.AckExplicitPolicy, AckWait: c.AckWait, MaxAckPending: c.MaxAckPending, MaxDeliver: -1,
				}); err != nil {
					t.Fatal(err)
				}
			}
			messages := map[string]string{
				broker.StreamRequests: "requests.k", broker.StreamRejections: "rejections.k-h", broker.StreamEvents: "events.s.k.started",
				broker.StreamLedger: "ledger.callback.k", broker.StreamWakeups: "wakeups.launch.k", broker.StreamCommands: "commands.cancel.k",
				broker.StreamControls: "controls.pause.s", broker.StreamDeadLetters: "deadletters.callback.s.k.0", broker.StreamStatus: "status.r.i",
			}
			for _, subject := range messages {
				if _, err := js.Publish(t.Context(), subject, []byte("x")); err != nil {
					t.Fatalf("%s: %v", subject, err)
				}
			}
			changes, err := broker.ApplyTopology(t.Context(), js, 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := broker.VerifyTopology(t.Context(), js); err != nil {
				t.Error(err)
			}
			for name, subject := range messages {
				stream, err := js.Stream(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				if m, err := stream.GetLastMsgForSubject(t.Context(), subject); err != nil || string(m.Data) != "x" {
					t.Errorf("%s: %v", subject, err)
				}
			}
			for _, c := range changes {
				if c.Action != "unchanged" || c.Detail != "" {
					t.Log(c)
				}
			}
			if file == before {
				old.ready(t, js)
			}
		})
	}
}

// ready fails for each setting that a service of the old release asks for and does not
// find: with --topology=verify it would not start again.
func (k kept) ready(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	asked := func(s jetstream.StreamConfig) []any {
		return []any{s.Retention, s.Storage, s.Subjects, s.Discard, s.MaxMsgsPerSubject, s.AllowDirect, s.AllowMsgSchedules, s.DenyDelete, s.DenyPurge}
	}
	for _, want := range k.Streams {
		s, err := js.Stream(t.Context(), want.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(asked(want), asked(s.CachedInfo().Config)); diff != "" {
			t.Errorf("%s: a service of the release before is not ready with it:\n%s", want.Name, diff)
		}
	}
	for _, want := range k.Consumers {
		c, err := js.Consumer(t.Context(), want.Stream, want.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		have := c.CachedInfo().Config
		filters := have.FilterSubjects
		if have.FilterSubject != "" {
			filters = []string{have.FilterSubject}
		}
		if diff := cmp.Diff(want, broker.Consumer{
			Stream: want.Stream, Name: want.Name, Filters: filters, AckWait: have.AckWait, MaxAckPending: have.MaxAckPending, AtLeast: want.AtLeast,
		}); diff != "" {
			t.Errorf("%s/%s: a service of the release before is not ready with it:\n%s", want.Stream, want.Name, diff)
		}
	}
}
