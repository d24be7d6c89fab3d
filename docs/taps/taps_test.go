// Package taps_test runs the example taps beside a real NATS, each with the account
// that a tap has.
package taps_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

func TestGo(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "tap")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	try(t, binary, "billing")
}

// try runs an example that prints CloudEvents, for the tap billing of two services.
func try(t *testing.T, command string, args ...string) {
	t.Helper()
	l := start(t)
	printed := filepath.Join(t.TempDir(), "printed")
	p := &child.Process{Name: "tap", Binary: command, Args: args, Log: printed, Env: append(os.Environ(), "NATS_URL="+l.url, "NATS_NKEY="+l.seed)}
	mustDo(t, p.Start())
	t.Cleanup(func() { _ = p.Kill() })
	read := func() string {
		text, err := os.ReadFile(printed)
		mustDo(t, err)
		return string(text)
	}
	await.That(t, "every event is printed", func() bool {
		if !p.Running() {
			t.Fatalf("the tap ended: %s", read())
		}
		return strings.Count(read(), "\n") == len(l.events)
	})
	var got []cloudevents.Event
	for line := range strings.Lines(read()) {
		var e cloudevents.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		got = append(got, e)
	}
	l.compare(got)
	l.acknowledged()
}

// log is what a tap reads in these tests: a server with its events.
type log struct {
	t         *testing.T
	url, seed string
	admin     *broker.Broker
	events    []cloudevents.Event // that the tap must get, in order
}

func start(t *testing.T) *log {
	t.Helper()
	seed, tapKey, err := broker.NewKey()
	mustDo(t, err)
	adminSeed, adminKey, err := broker.NewKey()
	mustDo(t, err)
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		mustDo(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	tap := broker.Tap{Name: "billing", Services: []string{"billing.eu", "mail"}}
	unused := func(string) string { _, key, _ := broker.NewKey(); return key }
	ours := strings.Replace(broker.Account(unused), "users: [", "users: [ { nkey: "+adminKey+" }", 1)
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir(), File: file("server.conf", "accounts {\n"+ours+tap.Account(tapKey)+"}\n")})
	mustDo(t, err)
	t.Cleanup(n.Stop)
	l := &log{t: t, url: n.URL(), seed: file("tap.nk", string(seed)+"\n")}
	l.admin, err = broker.Open(t.Context(), broker.Config{URL: n.URL(), Login: broker.Login{NKey: file("admin.nk", string(adminSeed))}, Role: "test"}, zerolog.Nop())
	mustDo(t, err)
	t.Cleanup(l.admin.Close)
	mustDo(t, l.admin.CreateTap(t.Context(), tap))
	l.fill()
	return l
}

// fill appends jobs of three services; the ids have what a header must escape.
func (l *log) fill() {
	at := time.Date(2026, 11, 23, 22, 5, 7, 123_000_000, time.UTC) // JavaScript's clock has milliseconds
	for _, job := range []struct {
		service, id string
		data        []proto.Message
	}{
		{"billing.eu", "31a89a91", []proto.Message{&jobsv1.JobStarted{JobId: "u", Service: "billing.eu", QueueMilliseconds: 42}, &jobsv1.PodStarted{JobId: "u", NodeName: "node"}, &jobsv1.JobCompleted{JobId: "u", DurationSeconds: 3}}},
		{"secret", "not yours", []proto.Message{&jobsv1.JobStarted{JobId: "v"}}},
		{"mail", `a "job" of 100 % größe`, []proto.Message{&jobsv1.JobStarted{JobId: "w"}, &jobsv1.JobFailed{JobId: "w", Error: &jobsv1.Error{ErrorCode: "CONTAINER_EXIT_NONZERO", Message: "<é>"}}}},
	} {
		var tail broker.Tail
		for i, data := range job.data {
			e, err := event.New(event.Key(job.id), event.SourceOfNamespace("default", "jobs"), job.id, i, at, data)
			mustDo(l.t, err)
			e.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
			tail, err = l.admin.Append(l.t.Context(), job.service, tail, e)
			mustDo(l.t, err)
			if job.service != "secret" {
				l.events = append(l.events, asCloudEvent(l.t, e))
			}
		}
	}
}

// asCloudEvent is the event as CloudEvents has it, not by way of its headers.
func asCloudEvent(t *testing.T, e event.Event) cloudevents.Event {
	t.Helper()
	data, err := event.DataJSON(e)
	mustDo(t, err)
	schema := "https://jobrelay.dev/schemas/" + string(e.Data.ProtoReflect().Descriptor().FullName())
	text, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": e.EventID(), "source": e.Source, "type": string(e.Type), "subject": e.ID, "time": e.Time, "datacontenttype": "application/json",
		"dataschema": schema, "partitionkey": event.IDKey(e.LogKey), "traceparent": e.Trace, "sequence": string(rune('0' + e.Sequence)), "data": json.RawMessage(data),
	})
	mustDo(t, err)
	var out cloudevents.Event
	mustDo(t, json.Unmarshal(text, &out))
	return out
}

// compare holds what a tap printed to what it must get. The data's white space and
// order of fields are its own.
func (l *log) compare(got []cloudevents.Event) {
	l.t.Helper()
	plain := func(events []cloudevents.Event) (out []any) {
		for _, e := range events {
			text, err := json.Marshal(e)
			mustDo(l.t, err)
			var v any
			mustDo(l.t, json.Unmarshal(text, &v))
			out = append(out, v)
		}
		return out
	}
	if diff := cmp.Diff(plain(l.events), plain(got)); diff != "" {
		l.t.Errorf("it printed other events:\n%s", diff)
	}
}

// acknowledged waits until the tap has acknowledged all.
func (l *log) acknowledged() {
	l.t.Helper()
	await.That(l.t, "every event is acknowledged", func() bool {
		taps, err := l.admin.Taps(l.t.Context())
		mustDo(l.t, err)
		return len(taps) == 1 && taps[0].Pending == 0 && taps[0].Unacknowledged == 0
	})
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
