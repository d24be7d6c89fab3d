package event_test

import (
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

var update = flag.Bool("update", false, "write the golden files anew")

const sampleID = "31a89a91-43d8-4786-a195-9b25cec28a44"

var at = time.Date(2026, 11, 23, 22, 5, 7, 123456789, time.UTC)

// examples has an event of every type.
func examples(t *testing.T) []event.Event {
	t.Helper()
	uid := "08c87282-97e8-4993-9da4-359f3e84fdfd"
	cause := &jobsv1.Error{ErrorCode: "CONTAINER_EXIT_NONZERO", Message: `container "example" exited with code 3 <&>`}
	data := []proto.Message{
		&jobsv1.JobRequested{
			Id: sampleID, Service: "example", Hash: "ab", QueuedAt: timestamppb.New(at), AcceptedAt: timestamppb.New(at),
			Job:     &jobsv1.Job{PrefixName: "bb", Namespace: "default", Image: "busybox", Command: []string{"/bin/sh", "-c", "echo <hi> && exit 0"}, ServiceAccount: "default", TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 600},
			Webhook: &jobsv1.Webhook{Url: "http://webhook.com", Statuses: []int32{0, 1, 2, 3, 99}},
			Unknown: []*jobsv1.UnknownField{{Path: "$.colour", Json: `"red"`}},
		},
		&jobsv1.JobStarted{JobId: uid, JobName: "bb-fbe70e59", Namespace: "default", Service: "example", Image: "busybox", QueueMilliseconds: 42, Resources: &jobsv1.Resources{Limits: &jobsv1.Quantities{Cpu: "1", Memory: "512Mi"}}},
		&jobsv1.PodStarted{JobId: uid, JobName: "bb-fbe70e59", Namespace: "default", PodId: uid, PodName: "bb-fbe70e59-ww7g2", NodeName: "k8s-node-1"},
		&jobsv1.JobCompleted{
			JobId: uid, JobName: "bb-fbe70e59", Namespace: "default", DurationSeconds: 2,
			Times: &jobsv1.Times{CreatedAt: timestamppb.New(at.Truncate(time.Second)), StartedAt: timestamppb.New(at.Truncate(time.Second)), EndedAt: timestamppb.New(at.Truncate(time.Second).Add(2 * time.Second)), RunSeconds: 1, QueueMilliseconds: new(uint32(42))},
		},
		&jobsv1.JobFailed{
			JobId: uid, JobName: "bb-fbe70e59", Namespace: "default", Error: cause,
			Times:    &jobsv1.Times{CreatedAt: timestamppb.New(at.Truncate(time.Second)), StartedAt: timestamppb.New(at.Truncate(time.Second)), EndedAt: timestamppb.New(at.Truncate(time.Second)), RunSeconds: 1, QueueMilliseconds: new(uint32(0))},
			Evidence: &jobsv1.Evidence{PodId: uid, PodName: "bb-fbe70e59-ww7g2", NodeName: "k8s-node-1", Container: "example", ExitCode: 3, Reason: "Error", TerminationMessage: "a <b>", LogTail: "first\n  second"},
		},
		&jobsv1.JobException{JobName: "bb-fbe70e59", Namespace: "default", Error: &jobsv1.Error{ErrorCode: "CANCELLED", Message: "Cancelled by an operator: maintenance."}},
		&jobsv1.RequestRejected{Id: sampleID, Service: "example", Callback: true, Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID", Message: "$.job.image is required."}, Problems: []*jobsv1.Problem{{Path: "$.job.image", Code: "required", Message: "is required"}}},
	}
	var out []event.Event
	for i, d := range data {
		logKey, source := event.Key(sampleID), event.SourceOfNamespace("default", "default")
		if _, ok := d.(*jobsv1.RequestRejected); ok {
			logKey, source = event.RejectedLogKey(sampleID, []byte("{}")), event.SourceOfQueue("default", "jobs")
		}
		e, err := event.New(logKey, source, sampleID, i, at, d)
		if err != nil {
			t.Fatal(err)
		}
		e.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		out = append(out, e)
	}
	return out
}

// TestWire holds each event as it stands on the wire: subject, headers, data.
func TestWire(t *testing.T) {
	for _, e := range examples(t) {
		header, data, err := event.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		subject := event.RequestSubject(e.LogKey)
		if e.Type != event.TypeJobRequested {
			subject = event.Subject("example", e.LogKey, e.Type)
		}
		lines := []string{}
		for name, values := range header {
			lines = append(lines, name+": "+strings.Join(values, "|"))
		}
		slices.Sort(lines)
		got := subject + "\n" + strings.Join(lines, "\n") + "\n\n" + string(data) + "\n"
		file := filepath.Join("testdata", string(e.Type)+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (go test ./pkg/event -update):\n%s", e.Type, diff)
		}
	}
	if len(examples(t)) != len(event.Types()) {
		t.Error("a type has no golden file")
	}
}

func TestDecodeIsEncodesInverse(t *testing.T) {
	for _, e := range examples(t) {
		header, data, err := event.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		header["Nats-Sequence"] = []string{"7"} // a direct get adds headers
		got, err := event.Decode(header, data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s:\n%s", e.Type, diff)
		}
	}
}

// TestDecodeWebhookReadsWhatDecodeReads: of any request, and of nothing else.
func TestDecodeWebhookReadsWhatDecodeReads(t *testing.T) {
	hook := rapid.Custom(func(t *rapid.T) *jobsv1.Webhook {
		return &jobsv1.Webhook{Url: rapid.String().Draw(t, "url"), Statuses: rapid.SliceOf(rapid.Int32()).Draw(t, "statuses")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.OneOf(rapid.Just[*jobsv1.Webhook](nil), hook).Draw(rt, "webhook")
		e := examples(t)[0]
		queued := time.Unix(0, rapid.Int64Range(0, 4e18).Draw(rt, "queued")).UTC()
		e.Data = &jobsv1.JobRequested{Id: e.ID, Service: "example", Webhook: want, QueuedAt: timestamppb.New(queued)}
		header, data, err := event.Encode(e)
		if err != nil {
			rt.Skip("no valid UTF-8")
		}
		got, gotQueued, err := event.DecodeWebhook(header, data)
		if !gotQueued.Equal(queued) {
			rt.Fatalf("queued at %s, was %s", gotQueued, queued)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			rt.Fatalf("%v\n%s", err, diff)
		}
	})
	header, data, err := event.Encode(examples(t)[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := event.DecodeWebhook(header, data); !errors.Is(err, event.ErrNotAnEvent) {
		t.Errorf("of another type: %v", err)
	}
}

func TestIDsOfAnyCharacterSurviveTheHeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringN(1, 256, -1).Draw(t, "id")
		e, err := event.New(event.Key(id), event.SourceOfNamespace("i", "n"), id, 0, at, &jobsv1.JobStarted{})
		if err != nil {
			t.Fatal(err)
		}
		header, data, err := event.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, values := range header {
			for _, c := range []byte(values[0]) {
				if c <= ' ' || c >= 0x7f {
					t.Fatalf("header value %q", values[0])
				}
			}
		}
		got, err := event.Decode(header, data)
		if err != nil || got.ID != id {
			t.Fatalf("%q came back as %q (%v)", id, got.ID, err)
		}
	})
}

func TestDecodeRefusesWhatIsNoEvent(t *testing.T) {
	good, data, err := event.Encode(examples(t)[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"ce-specversion": "0.3", "ce-type": "dev.other.v1", "ce-id": "k", "ce-time": "yesterday", "ce-sequence": "-1",
	} {
		header := map[string][]string{}
		for k, v := range good {
			header[k] = v
		}
		header[name] = []string{value}
		if _, err := event.Decode(header, data); err == nil {
			t.Errorf("%s: %s was taken", name, value)
		}
	}
	if _, err := event.Decode(good, []byte("{")); err == nil {
		t.Error("broken data was taken")
	}
	if _, err := event.Decode(good, []byte(`{"jobId":"x","fromANewerVersion":1}`)); err != nil {
		t.Errorf("a newer writer's field: %v", err)
	}
}

func TestSubjects(t *testing.T) {
	if key := event.Key(sampleID); key != "fbe70e59"+key[8:] || len(key) != 32 {
		t.Errorf("key %s", key)
	}
	for _, service := range []string{"example", "a.b", "a%2Eb", "", "A-b_c.d"} {
		for _, typ := range event.Types()[1:] {
			subject := event.Subject(service, "k", typ)
			if strings.Count(subject, ".") != 3 {
				t.Errorf("%q has not four tokens", subject)
			}
			gotService, gotKey, gotType, err := event.ParseSubject(subject)
			if err != nil || gotService != service || gotKey != "k" || gotType != typ {
				t.Errorf("%q: %q %q %q %v", subject, gotService, gotKey, gotType, err)
			}
		}
	}
	for _, subject := range []string{"", "events.a.b", "events.a.b.nothing", "requests.a.b.started", "events.a.b."} {
		if _, _, _, err := event.ParseSubject(subject); err == nil {
			t.Errorf("%q was taken", subject)
		}
	}
}

// TestOutline: it says what the whole event does.
func TestOutline(t *testing.T) {
	at := time.Date(2026, 11, 24, 4, 53, 15, 123456789, time.UTC)
	for _, data := range []proto.Message{
		&jobsv1.JobStarted{JobId: "u", JobName: "p-1", Namespace: "ns", Image: "i"},
		&jobsv1.JobFailed{JobId: "u", JobName: "p-1", Namespace: "ns", Error: &jobsv1.Error{ErrorCode: "OOM_KILLED", Message: "m"}},
		&jobsv1.JobCompleted{},
		&jobsv1.RequestRejected{Id: " ü%\" ", Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID"}},
	} {
		e, err := event.New(event.Key("id"), event.SourceOfNamespace("default", "ns"), " ü%\" ", 2, at, data)
		if err != nil {
			t.Fatal(err)
		}
		header, text, err := event.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := event.Decode(header, text)
		if err != nil {
			t.Fatal(err)
		}
		want := event.Outline{Type: e.Type, LogKey: whole.LogKey, ID: whole.ID, Time: whole.Time, N: whole.Sequence}
		if d, ok := whole.Data.(interface {
			GetJobName() string
			GetNamespace() string
		}); ok {
			want.Job, want.Namespace = d.GetJobName(), d.GetNamespace()
		}
		if d, ok := whole.Data.(interface{ GetError() *jobsv1.Error }); ok {
			want.Code = d.GetError().GetErrorCode()
		}
		got, err := event.DecodeOutline(e.LogKey, e.Type, header, text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", e.Type, diff)
		}
		for what, broken := range map[string]string{"type": "other", "time": "yesterday", "sequence": "-1"} {
			other := maps.Clone(header)
			other["ce-"+what] = []string{broken}
			if _, err := event.DecodeOutline(e.LogKey, e.Type, other, text); !errors.Is(err, event.ErrNotAnEvent) {
				t.Errorf("with a %s of %s: %v", what, broken, err)
			}
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	e, err := event.New(event.Key("id"), event.SourceOfNamespace("default", "ns"), sampleID, 2, at, &jobsv1.JobStarted{JobId: sampleID, JobName: "bb-fbe70e59", Namespace: "default", Service: "billing", Image: "busybox"})
	if err != nil {
		b.Fatal(err)
	}
	header, text, err := event.Encode(e)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := event.Decode(header, text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("outline", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := event.DecodeOutline(e.LogKey, e.Type, header, text); err != nil {
				b.Fatal(err)
			}
		}
	})
}
