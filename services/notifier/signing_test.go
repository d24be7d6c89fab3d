package notifier

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// key makes one of 33 bytes that can be told from any other text.
func key(name string) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%-33.33s", "secret of "+name))
}

// folder is an operator's: keys below keys, and policy.yaml.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T, policy string) folder {
	t.Helper()
	f := folder{t, t.TempDir()}
	if err := os.Mkdir(filepath.Join(f.dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.write("policy.yaml", policy)
	return f
}

// write replaces a file at once, as a mounted Secret does.
func (f folder) write(name string, lines ...string) {
	f.t.Helper()
	name = filepath.Join(f.dir, name)
	if err := errors.Join(os.WriteFile(name+".new", []byte(strings.Join(lines, "\n")), 0o600), os.Rename(name+".new", name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) flags() []string {
	return []string{"--signing-keys=" + filepath.Join(f.dir, "keys"), "--policy-file=" + filepath.Join(f.dir, "policy.yaml")}
}

// running is the whole service.
type running struct {
	t       *testing.T
	address string
	said    await.Text
}

// page is what it answers.
func (r *running) page(path string) string {
	r.t.Helper()
	res, err := http.Get("http://" + r.address + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func (r *running) shows(metric string) bool {
	return strings.Contains(r.page("/metrics"), "\n"+metric+"\n")
}

// run starts the service as its main does, and waits until it is ready.
func (b *bench) run(flags ...string) *running {
	b.t.Helper()
	ports, err := child.FreePorts(1)
	if err != nil {
		b.t.Fatal(err)
	}
	r := &running{t: b.t, address: "127.0.0.1:" + strconv.Itoa(ports[0])}
	var cfg Config
	flags = append(flags, "--nats-url="+b.nats.URL(), "--metrics-addr="+r.address, "--webhook-allow="+webhook.Loopback, "--breaker-open=200ms", "--breaker-most=1s")
	if err := process.Parse(&cfg, Vars(), flags...); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, zerolog.New(&r.said)) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			b.t.Error(err)
		}
	})
	if err := process.AwaitReady(b.t.Context(), r.address); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// fits verifies as a receiver with this key does.
func fits(t *testing.T, key string, c hookd.Call) bool {
	t.Helper()
	receiver, err := standardwebhooks.NewWebhook(key)
	if err != nil {
		t.Fatal(err)
	}
	return receiver.Verify(c.Body, c.Header) == nil
}

// TestKeysOfServices: its own, else the default's; a rejected message has that
// of the service that can be read. A retry has the same id and a signature of its
// own.
func TestKeysOfServices(t *testing.T) {
	var failed sync.Map
	b := newBench(t, func(c hookd.Call) hookd.Answer {
		if _, again := failed.LoadOrStore(c.Header.Get("Webhook-Id"), true); !again {
			return hookd.Answer{Status: http.StatusServiceUnavailable}
		}
		return hookd.Answer{}
	})
	f := newFolder(t, "default: {signingKey: everybody}\nservices: {billing: {signingKey: billing}, other: {}}")
	f.write("keys/everybody", "# the default", key("everybody"))
	f.write("keys/billing", key("billing"), key("billing's next"))
	b.run(append(f.flags(), "--retry-schedule=0s,1s")...)
	want := map[string][]string{}
	for service, keys := range map[string][]string{
		"billing": {key("billing"), key("billing's next")}, "other": {key("everybody")}, "without-an-entry": {key("everybody")}, "": {key("everybody")},
	} {
		id := "job of " + service
		if want[id] = keys; service != "" {
			b.accept(id, b.webhook(0))
			b.historyOf(service, id, &jobsv1.JobStarted{JobId: "u"})
		}
		id = "rejected of " + service
		want[id] = keys
		b.reject(service, id)
	}
	delete(want, "job of ")
	b.settled()
	for id, statuses := range b.received() {
		if len(statuses) != 1 {
			t.Errorf("%s received %v", id, statuses)
		}
	}
	calls := map[string]int{}
	ids := map[string]string{}
	for _, c := range b.hooks.Calls() {
		id := regexp.MustCompile(`"id":"([^"]*)"`).FindStringSubmatch(string(c.Body))[1]
		calls[id]++
		if have, again := ids[id]; again && have != c.Header.Get("Webhook-Id") {
			t.Errorf("%s has two webhook-ids", id)
		}
		ids[id] = c.Header.Get("Webhook-Id")
		if n := len(strings.Fields(c.Header.Get("Webhook-Signature"))); n != len(want[id]) {
			t.Errorf("%s has %d signatures", id, n)
		}
		for _, key := range want[id] {
			if !fits(t, key, c) {
				t.Errorf("%s is not signed with its key: %v", id, c.Header)
			}
		}
	}
	for id := range want {
		if calls[id] != 2 {
			t.Errorf("%s: %d calls", id, calls[id])
		}
	}
}

// reject records a message as ingest does.
func (b *bench) reject(service, id string) {
	b.t.Helper()
	body := []byte(service + id)
	r := broker.Rejection{LogKey: event.RejectedLogKey(id, body), Body: body, ID: id, Service: service, Webhook: b.webhook(99)}
	if err := b.b.Reject(b.t.Context(), r); err != nil {
		b.t.Fatal(err)
	}
	e, err := event.New(r.LogKey, "s", id, 0, time.Now(), &jobsv1.RequestRejected{Id: id, Service: service, Callback: true, Error: &jobsv1.Error{ErrorCode: "MESSAGE_INVALID", Message: "m"}})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.b.Append(b.t.Context(), service, broker.Tail{}, e); err != nil {
		b.t.Fatal(err)
	}
}

// TestAKeyIsReplacedWithoutLoss: two replicas, and jobs all along. The key file
// has the new key beside the old one, the receiver changes over, and the old key
// goes: every callback verifies and arrives once.
func TestAKeyIsReplacedWithoutLoss(t *testing.T) {
	var accepted atomic.Pointer[[]string] // the receiver's keys
	var refused, once, twice atomic.Int32
	b := newBench(t, func(c hookd.Call) hookd.Answer {
		if strings.Contains(c.Header.Get("Webhook-Signature"), " ") {
			twice.Add(1)
		} else {
			once.Add(1)
		}
		for _, key := range *accepted.Load() {
			if fits(t, key, c) {
				return hookd.Answer{}
			}
		}
		refused.Add(1)
		return hookd.Answer{Status: http.StatusUnauthorized}
	})
	f := newFolder(t, "services: {example: {signingKey: example}}")
	former, next := key("old"), key("new")
	f.write("keys/example", former)
	accepted.Store(&[]string{former})
	replicas := []*running{b.run(f.flags()...), b.run(f.flags()...)}

	stop, jobs := make(chan struct{}), 0
	var sending sync.WaitGroup
	sending.Go(func() {
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		for ; ; jobs++ {
			select {
			case <-pace.C:
			case <-stop:
				return
			}
			id := fmt.Sprint(jobs)
			b.accept(id, b.webhook(0, 1, 2))
			b.history(id, success()...)
		}
	})
	more := func() {
		t.Helper()
		want := len(b.hooks.Calls()) + 50
		if err := b.hooks.Wait(t.Context(), func(calls []hookd.Call) bool { return len(calls) >= want }); err != nil {
			t.Fatal(err)
		}
	}
	inForce := func(keys int) {
		t.Helper()
		for _, r := range replicas {
			await.That(t, fmt.Sprint(keys, " keys in force"), func() bool {
				return r.shows(fmt.Sprintf(`jobrelay_notifier_signing_keys{file="example"} %d`, keys))
			})
		}
	}
	more()
	f.write("keys/example", former, next)
	inForce(2)
	more()
	accepted.Store(&[]string{former, next})
	more()
	accepted.Store(&[]string{next})
	more()
	f.write("keys/example", next)
	inForce(1)
	more()
	close(stop)
	sending.Wait()
	b.settled()

	if refused.Load() > 0 || once.Load() == 0 || twice.Load() == 0 {
		t.Errorf("%d refused, %d signed once, %d twice", refused.Load(), once.Load(), twice.Load())
	}
	if calls := len(b.hooks.Calls()); calls != 3*jobs {
		t.Errorf("%d calls for %d jobs", calls, jobs)
	}
	for i := range jobs {
		b.expect(fmt.Sprint(i), 0, 1, 2)
	}
	t.Logf("%d jobs, %d callbacks with one signature, %d with two", jobs, once.Load(), twice.Load())
}

// TestABadChangeLeavesTheKeysAsTheyWere, and says so; nothing that is said
// anywhere has a key in it.
func TestABadChangeLeavesTheKeysAsTheyWere(t *testing.T) {
	b := newBench(t, nil)
	f := newFolder(t, "services: {example: {signingKey: example}, second: {signingKey: second}}")
	good, second, short, odd := key("good"), key("second"), "whsec_"+base64.StdEncoding.EncodeToString([]byte("short secret")), "secret-without-prefix"
	f.write("keys/example", good)
	f.write("keys/second", second)
	r := b.run(append(f.flags(), "--instance=n")...)
	const wrong = `jobrelay_configuration_wrong{configuration="signing"} `
	if !r.shows(wrong + "0") {
		t.Error("wrong from the start")
	}
	n := 0
	signedWith := func(key string) {
		t.Helper()
		id := fmt.Sprint("job ", n)
		n++
		b.accept(id, b.webhook(0))
		b.history(id, &jobsv1.JobStarted{JobId: "u"})
		b.settled()
		calls := b.hooks.Calls()
		if last := calls[len(calls)-1]; !fits(t, key, last) || len(calls) != n {
			t.Errorf("%s is not signed as it should be: %v", id, last.Header)
		}
	}
	signedWith(good)
	for _, bad := range []map[string]struct{ text, says string }{
		{"keys/example": {short, "example: line 1 is a key of 12 bytes"}, "keys/second": {odd, "second: line 1 does not begin with whsec_"}},
		{"policy.yaml": {"default: {signingKey: nowhere}", "nowhere: no such file"}},
	} {
		before := map[string]string{}
		for name, change := range bad {
			text, err := os.ReadFile(filepath.Join(f.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			before[name] = string(text)
			f.write(name, change.text)
		}
		for _, change := range bad {
			await.That(t, change.says, func() bool {
				return r.shows(wrong+"1") && strings.Contains(r.page("/readyz"), change.says) && strings.Contains(r.said.String(), change.says)
			})
		}
		if !strings.Contains(r.page("/readyz"), "stays in force") {
			t.Errorf("%s", r.page("/readyz"))
		}
		if err := process.AwaitReady(t.Context(), r.address); err != nil {
			t.Errorf("it is not ready any more: %v", err)
		}
		signedWith(good)
		for name, text := range before {
			f.write(name, text)
		}
		await.That(t, "the mistake is mended", func() bool { return r.shows(wrong + "0") })
	}
	f.write("keys/example", key("better"))
	await.That(t, "the new key signs", func() bool {
		b.accept(fmt.Sprint("job ", n), b.webhook(0))
		b.history(fmt.Sprint("job ", n), &jobsv1.JobStarted{JobId: "u"})
		n++
		b.settled()
		calls := b.hooks.Calls()
		return fits(t, key("better"), calls[len(calls)-1])
	})

	said := map[string]string{"log": r.said.String(), "metrics": r.page("/metrics"), "readyz": r.page("/readyz"), "NATS": b.everything()}
	for _, want := range []string{`"n"`, event.Key("job 0")} {
		if !strings.Contains(said["NATS"], want) {
			t.Errorf("%s is not among what NATS holds", want)
		}
	}
	for _, bad := range []string{short, odd, good + "\n" + good} {
		f.write("keys/example", bad)
		policy, err := request.ParsePolicy([]byte("default: {signingKey: example}"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = readKeys(filepath.Join(f.dir, "keys"), policy)
		said["error of "+bad] = fmt.Sprint(err)
	}
	for _, secret := range []string{good, second, short, odd, key("better")} {
		encoded := strings.TrimPrefix(secret, "whsec_")
		raw, _ := base64.StdEncoding.DecodeString(encoded) // one is none
		for _, form := range []string{encoded[:12], fmt.Sprintf("%x", raw), string(raw), fmt.Sprintf("%d", raw)} {
			for where, text := range said {
				if len(form) > 8 && strings.Contains(text, form) {
					t.Errorf("%s has a key in it: %s", where, text)
				}
			}
		}
	}
}

// everything is what NATS holds.
func (b *bench) everything() string {
	b.t.Helper()
	var out strings.Builder
	names := b.b.JetStream().StreamNames(b.t.Context())
	for name := range names.Name() {
		stream, err := b.b.JetStream().Stream(b.t.Context(), name)
		if err != nil {
			b.t.Fatal(err)
		}
		state := stream.CachedInfo().State
		for sequence := max(1, state.FirstSeq); sequence <= state.LastSeq; sequence++ {
			m, err := stream.GetMsg(b.t.Context(), sequence)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				b.t.Fatal(err)
			}
			fmt.Fprintf(&out, "%s %v %s\n", m.Subject, m.Header, m.Data)
		}
	}
	if err := names.Err(); err != nil {
		b.t.Fatal(err)
	}
	return out.String()
}

// TestStartsThatAreRefused: each mistake, with its file and what to do.
func TestStartsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		flags  []string // nil: both
		says   []string
	}{
		"good":            {"default: {signingKey: good}", nil, nil},
		"no keys at all":  {"default: {}", []string{}, nil},
		"every bad file":  {"default: {signingKey: missing}\nservices: {a: {signingKey: empty}, b: {signingKey: good}, c: {signingKey: short}}", nil, []string{"/missing: no such file", "/empty: holds no key; write", "/short: line 1 is a key of 12 bytes; a key is whsec_"}},
		"a folder":        {"default: {signingKey: folder}", nil, []string{"/folder: is a directory"}},
		"no policy":       {"", []string{"keys"}, []string{"the policy names no key", "--policy-file"}},
		"no signing keys": {"default: {signingKey: good}", []string{"policy"}, []string{"the policy names signing keys (good)", "--signing-keys"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, c.policy)
			f.write("keys/good", key("good"))
			f.write("keys/empty", "# nothing yet")
			f.write("keys/short", "whsec_"+base64.StdEncoding.EncodeToString([]byte("short secret")))
			if err := os.Mkdir(filepath.Join(f.dir, "keys", "folder"), 0o700); err != nil {
				t.Fatal(err)
			}
			flags := f.flags()
			switch {
			case c.flags == nil:
			case len(c.flags) == 0:
				flags = nil
			case c.flags[0] == "keys":
				flags = flags[:1]
			default:
				flags = flags[1:]
			}
			var cfg Config
			if err := process.Parse(&cfg, Vars(), append(flags, "--metrics-addr=127.0.0.1:0", "--nats-url=nats://127.0.0.1:1")...); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // what starts ends at once
			err := Run(ctx, cfg, zerolog.Nop())
			if started := errors.Is(err, context.Canceled); started != (c.says == nil) {
				t.Fatalf("%v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not told: %v", want, err)
				}
			}
		})
	}
}
