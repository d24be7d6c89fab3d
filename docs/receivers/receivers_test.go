// Package receivers_test runs the example receivers beside a real notifier.
package receivers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/webhook"
	"github.com/jobrelay/jobrelay/services/notifier"
)

const (
	oldKey   = "whsec_b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCA="
	newKey   = "whsec_bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyA="
	otherKey = "whsec_b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3Q="
)

func TestGo(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "receiver")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	try(t, binary)
}

// try runs a receiver that has another's key and the new one, and a notifier
// that signs with the old key and the new one.
func try(t *testing.T, command string, args ...string) {
	t.Helper()
	r := start(t, command, args...)
	p := r.behindProxy()
	notify(t, p.URL)
	await.That(t, "every callback arrives", func() bool { return strings.Count(r.printed(), "\n") == 9 })
	for _, job := range []string{"a", "b", "c"} {
		if got := r.statuses(job); !slices.Equal(got, []string{"0", "1", "2"}) {
			t.Errorf("job %s: %v", job, got)
		}
	}
	if t.Failed() {
		t.Fatal(r.printed())
	}
	r.takesOnce()
	r.refuses()
	r.setsNothingBack()
}

// receiver is a running example.
type receiver struct {
	t    *testing.T
	url  string
	log  string
	mu   sync.Mutex
	sent []sent // by the notifier
}

// sent is one request.
type sent struct {
	header http.Header
	body   []byte
}

func start(t *testing.T, command string, args ...string) *receiver {
	t.Helper()
	ports, err := child.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(ports[0])
	r := &receiver{t: t, url: "http://" + address + "/hook", log: filepath.Join(t.TempDir(), "log")}
	p := &child.Process{
		Name: "receiver", Binary: command, Args: args, Log: r.log,
		Env: append(os.Environ(), "LISTEN="+address, "WEBHOOK_SECRETS="+otherKey+" "+newKey),
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	await.That(t, "the receiver listens", func() bool {
		if !p.Running() {
			t.Fatalf("the receiver ended: %s", r.printed())
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return r
}

// behindProxy keeps what the notifier sends on its way to the receiver.
func (r *receiver) behindProxy() *httptest.Server {
	to, err := url.Parse(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	to.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(to)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.sent = append(r.sent, sent{req.Header.Clone(), body})
		r.mu.Unlock()
		req.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, req)
	}))
	r.t.Cleanup(s.Close)
	return s
}

// notify has a real notifier send three jobs' callbacks to the address.
func notify(t *testing.T, address string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"keys/receiver": "# in rotation\n" + oldKey + "\n" + newKey + "\n",
		"policy.yaml":   "default: {signingKey: receiver}",
	} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	nats, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	var cfg notifier.Config
	if err := process.Parse(&cfg, notifier.Vars(), "--nats-url="+nats.URL(), "--metrics-addr=127.0.0.1:0", "--webhook-allow="+webhook.Loopback,
		"--signing-keys="+filepath.Join(dir, "keys"), "--policy-file="+filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- notifier.Run(ctx, cfg, zerolog.Nop()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	b, err := broker.Open(t.Context(), broker.Config{URL: nats.URL(), Role: "test"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	for _, id := range []string{"a", "b", "c"} {
		made := func(data proto.Message) event.Event {
			e, err := event.New(event.Key(id), "s", id, 0, time.Now(), data)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		if err := b.Accept(t.Context(), made(&jobsv1.JobRequested{
			Id: id, Service: "example", Webhook: &jobsv1.Webhook{Url: address + "/hook", Statuses: []int32{0, 1, 2}},
		})); err != nil {
			t.Fatal(err)
		}
		var tail broker.Tail
		for _, data := range []proto.Message{&jobsv1.JobStarted{JobId: "u"}, &jobsv1.PodStarted{JobId: "u"}, &jobsv1.JobCompleted{JobId: "u"}} {
			if tail, err = b.Append(t.Context(), "example", tail, made(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (r *receiver) captured() []sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

// takesOnce: what the notifier sent is answered well again, and not taken.
func (r *receiver) takesOnce() {
	before := r.printed()
	for _, s := range r.captured() {
		if status := r.post(http.MethodPost, s); status != http.StatusNoContent {
			r.t.Errorf("a repeat is answered %d", status)
		}
	}
	if r.printed() != before {
		r.t.Errorf("a repeat was taken: %s", r.printed())
	}
}

// refuses tries what a receiver must not take.
func (r *receiver) refuses() {
	now, body := time.Now(), []byte(`{"id":"forged","status":2,"detail":{"duration":1}}`)
	genuine := r.captured()[0]
	changed := func(change func(s *sent)) sent {
		s := sent{genuine.header.Clone(), bytes.Clone(genuine.body)}
		change(&s)
		return s
	}
	before := r.printed()
	for name, s := range map[string]sent{
		"another body":      changed(func(s *sent) { s.body = body }),
		"another id":        changed(func(s *sent) { s.header.Set("webhook-id", "msg_forged") }),
		"a later timestamp": changed(func(s *sent) { s.header.Set("webhook-timestamp", strconv.FormatInt(now.Unix()+60, 10)) }),
		"an odd timestamp":  changed(func(s *sent) { s.header.Set("webhook-timestamp", "now") }),
		"no signature":      changed(func(s *sent) { s.header.Del("webhook-signature") }),
		"no id":             changed(func(s *sent) { s.header.Del("webhook-id") }),
		"no timestamp":      changed(func(s *sent) { s.header.Del("webhook-timestamp") }),
		"an odd signature":  changed(func(s *sent) { s.header.Set("webhook-signature", "v1 v1, v1,%%% ,") }),
		"an unknown version": changed(func(s *sent) {
			s.header.Set("webhook-signature", strings.ReplaceAll(s.header.Get("webhook-signature"), "v1,", "v2,"))
		}),
		"too old":        signed(r.t, newKey, "msg_old", now.Add(-6*time.Minute), body),
		"too new":        signed(r.t, newKey, "msg_new", now.Add(6*time.Minute), body),
		"an unknown key": signed(r.t, oldKey, "msg_key", now, body),
		"no key at all":  {http.Header{}, body},
	} {
		if status := r.post(http.MethodPost, s); status != http.StatusUnauthorized {
			r.t.Errorf("%s: answered %d", name, status)
		}
	}
	if status := r.post(http.MethodPost, signed(r.t, newKey, "msg_json", now, []byte("no JSON"))); status != http.StatusBadRequest {
		r.t.Errorf("no JSON: answered %d", status)
	}
	if status := r.post(http.MethodGet, sent{http.Header{}, nil}); status != http.StatusMethodNotAllowed {
		r.t.Errorf("GET: answered %d", status)
	}
	if r.printed() != before {
		r.t.Errorf("what was refused is taken: %s", r.printed())
	}
}

// setsNothingBack: a callback that comes late leaves the job as it is.
func (r *receiver) setsNothingBack() {
	for i, status := range []int{0, 3} {
		body := fmt.Appendf(nil, `{"id":"a","status":%d,"detail":{}}`, status)
		if answer := r.post(http.MethodPost, signed(r.t, otherKey, fmt.Sprint("msg_late", i), time.Now(), body)); answer != http.StatusNoContent {
			r.t.Errorf("answered %d", answer)
		}
	}
	if got := r.statuses("a"); !slices.Equal(got, []string{"0", "1", "2", "0 late", "3 late"}) {
		r.t.Errorf("job a: %v", got)
	}
}

// signed is a request as jobrelay signs it.
func signed(t *testing.T, key, id string, at time.Time, body []byte) sent {
	t.Helper()
	keys, err := callback.ParseKeys([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return sent{http.Header{
		"Webhook-Id": {id}, "Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)}, "Webhook-Signature": {keys.Sign(id, at, body)},
	}, body}
}

func (r *receiver) post(method string, s sent) int {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url, bytes.NewReader(s.body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header = s.header.Clone()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode
}

// printed is what the receiver took so far.
func (r *receiver) printed() string {
	text, err := os.ReadFile(r.log)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// statuses are those that the receiver printed of a job, in order.
func (r *receiver) statuses(job string) (out []string) {
	for line := range strings.Lines(r.printed()) {
		if status, ok := strings.CutPrefix(strings.TrimSpace(line), job+" "); ok {
			out = append(out, status)
		}
	}
	return out
}
