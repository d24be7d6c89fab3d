package notifier

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// callbackFiles is the flag of the folder's files for callbacks.
func (f folder) callbackFiles() string { return "--callback-files=" + filepath.Join(f.dir, "files") }

func newFiles(t *testing.T, policy string) folder {
	t.Helper()
	f := newFolder(t, policy)
	if err := os.Mkdir(filepath.Join(f.dir, "files"), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

// tokens is an https receiver that answers only who brings the token of the
// day, and what it got.
type tokens struct {
	*httptest.Server

	mu       sync.Mutex
	accepted string
	got      []http.Header
}

func newTokens(t *testing.T, accepted string) *tokens {
	t.Helper()
	s := &tokens{accepted: accepted}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, r.Header)
		if r.Header.Get("Authorization") != s.accepted {
			http.Error(w, "not "+r.Header.Get("Authorization"), http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *tokens) accept(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = header
}

// ca is the file of the receiver's CA.
func (s *tokens) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// newCA is the file of a CA that signed no receiver's certificate.
func newCA(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// secretPath is what receivers put into addresses, and nobody else may read.
const secretPath = "/secret-of-the-path?token=secret-of-the-query"

// TestAReceiverWithACAAndAToken: they change without a restart, a mistake
// leaves them as they were, and no value stands anywhere but in the callbacks.
func TestAReceiverWithACAAndAToken(t *testing.T) {
	b := newBench(t, nil)
	first, second, third := "Bearer secret-token-one", "Bearer secret-token-two", "Bearer secret-token-three"
	receiver := newTokens(t, first)
	f := newFiles(t, "services: {example: {webhookHosts: [127.0.0.1], callback: {caFile: ca.pem, headersFile: token}}}")
	f.write("files/ca.pem", receiver.ca())
	f.write("files/token", "Authorization: "+first)
	r := b.run(f.flags()[1], f.callbackFiles(), "--retry-schedule-refused=0s")
	const wrong = `jobrelay_configuration_wrong{configuration="callback-files"} `
	if !r.shows(wrong + "0") {
		t.Error("wrong from the start")
	}
	n := 0
	ends := func() string {
		t.Helper()
		id := fmt.Sprint("job ", n)
		n++
		b.accept(id, &jobsv1.Webhook{Url: receiver.URL + secretPath, Statuses: []int32{0}})
		b.history(id, &jobsv1.JobStarted{JobId: "u"})
		var end delivery.Done
		await.That(t, "the end of "+id, func() bool {
			l, err := b.b.Ledger(t.Context(), event.Key(id))
			end = l.Done[0]
			return err == nil && l.Next == 1
		})
		return end.Reason
	}
	delivered := func(when string) {
		t.Helper()
		if reason := ends(); reason != "" {
			t.Errorf("%s: %s", when, reason)
		}
	}
	delivered("at first")
	receiver.accept(second)
	if reason := ends(); reason == "" {
		t.Error("the receiver takes any token")
	}
	f.write("files/token", "Authorization: "+second)
	await.That(t, "the second token", func() bool { return ends() == "" })
	for _, bad := range []struct{ file, text, says string }{
		{"files/token", "Webhook-Id: secret-of-a-mistake", "token: line 1 has Webhook-Id, which is jobrelay's own"},
		{"files/ca.pem", "secret-of-a-mistake", "ca.pem: holds no certificate"},
		{"policy.yaml", "default: {callback: {caFile: nowhere}}", "nowhere: no such file"},
	} {
		before, err := os.ReadFile(filepath.Join(f.dir, bad.file))
		if err != nil {
			t.Fatal(err)
		}
		f.write(bad.file, bad.text)
		await.That(t, bad.says, func() bool {
			return r.shows(wrong+"1") && strings.Contains(r.page("/readyz"), bad.says) && strings.Contains(r.said.String(), bad.says)
		})
		if err := process.AwaitReady(t.Context(), r.address); err != nil {
			t.Errorf("it is not ready any more: %v", err)
		}
		delivered(bad.says)
		f.write(bad.file, string(before))
		await.That(t, "the mistake is mended", func() bool { return r.shows(wrong + "0") })
	}
	f.write("files/token", "Authorization: "+third)
	receiver.accept(third)
	await.That(t, "the third token", func() bool { return ends() == "" })
	// Another CA: the connections that the former verified are not used any more.
	f.write("files/ca.pem", newCA(t))
	await.That(t, "the receiver is refused", func() bool { return ends() != "" })

	said := map[string]string{"log": r.said.String(), "metrics": r.page("/metrics"), "readyz": r.page("/readyz"), "NATS": b.everything()}
	for where, text := range said {
		for _, secret := range []string{"secret-token", "secret-of-a-mistake"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %s in it: %s", where, secret, text)
			}
		}
		// The address stands in the request alone, which the notifier reads.
		if where != "NATS" && strings.Contains(text, "secret-of-the") {
			t.Errorf("%s has the address in it: %s", where, text)
		}
	}
	if !strings.Contains(said["log"], receiver.URL) || !strings.Contains(said["log"], "refused") {
		t.Errorf("the log does not tell the endpoint and what happened: %s", said["log"])
	}
}

// TestHeadersGoNowhereElse: not to hosts that the service's rules do not name,
// nor over plain HTTP, nor to another service's receiver.
func TestHeadersGoNowhereElse(t *testing.T) {
	b := newBench(t, nil)
	f := newFiles(t, `
services:
  elsewhere: {webhookHosts: [hooks.example.com], callback: {headersFile: token}}
  plain: {webhookHosts: [127.0.0.1], callback: {headersFile: token}}
  asked: {webhookHosts: [127.0.0.1], callback: {headersFile: token, headersOverHTTP: true}}
  none: {webhookHosts: [127.0.0.1]}
`)
	f.write("files/token", "X-Token: value")
	b.run(f.flags()[1], f.callbackFiles())
	for _, service := range []string{"elsewhere", "plain", "asked", "none", "example"} {
		b.accept(service, b.webhook(0))
		b.historyOf(service, service, &jobsv1.JobStarted{JobId: "u"})
	}
	b.reject("asked", "rejected")
	b.settled()
	got := map[string]string{}
	for _, c := range b.hooks.Calls() {
		got[idOf(t, c)] = c.Header.Get("X-Token")
	}
	if want := fmt.Sprint(map[string]string{"elsewhere": "", "plain": "", "asked": "value", "none": "", "example": "", "rejected": "value"}); fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// idOf is the id of a callback's job.
func idOf(t *testing.T, c hookd.Call) string {
	t.Helper()
	_, rest, _ := strings.Cut(string(c.Body), `"id":"`)
	id, _, found := strings.Cut(rest, `"`)
	if !found {
		t.Fatalf("%s", c.Body)
	}
	return id
}

// TestCallbackFilesThatAreRefused at the start: each mistake, with its file and
// what to do.
func TestCallbackFilesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		folder bool
		says   []string
	}{
		"good":           {"default: {webhookHosts: [x], callback: {headersFile: good}}", true, nil},
		"nothing named":  {"default: {}", true, nil},
		"no folder":      {"default: {callback: {caFile: ca.pem}}", false, []string{"the policy names files for callbacks (ca.pem)", "--callback-files"}},
		"every bad file": {"default: {webhookHosts: [x], callback: {caFile: good, headersFile: own}}\nservices: {a: {callback: {caFile: missing}}, b: {callback: {headersFile: empty}}}", true, []string{"--callback-files", "/missing: no such file", "/empty: holds no header; write", "/good: holds no certificate", "/own: line 2 has Content-Length"}},
		"a folder":       {"default: {callback: {caFile: folder}}", true, []string{"/folder: is a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t, c.policy)
			f.write("files/good", "X-A: secret")
			f.write("files/empty", "")
			f.write("files/own", "X-A: secret\nContent-Length: 5")
			if err := os.Mkdir(filepath.Join(f.dir, "files", "folder"), 0o700); err != nil {
				t.Fatal(err)
			}
			flags := []string{f.flags()[1], "--metrics-addr=127.0.0.1:0", "--nats-url=nats://127.0.0.1:1"}
			if c.folder {
				flags = append(flags, f.callbackFiles())
			}
			var cfg Config
			if err := process.Parse(&cfg, Vars(), flags...); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // what starts ends at once
			err := Run(ctx, cfg, zerolog.Nop())
			if started := errors.Is(err, context.Canceled); started != (c.says == nil) || strings.Contains(fmt.Sprint(err), "secret") {
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
