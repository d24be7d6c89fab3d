package webhook_test

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

func client(t *testing.T, allow string, roots *x509.CertPool) *webhook.Client {
	t.Helper()
	list, err := webhook.ParseAllow(allow)
	if err != nil {
		t.Fatal(err)
	}
	c := webhook.New(webhook.Config{Allow: list, InFlight: 4, Version: "test", Roots: roots})
	t.Cleanup(c.Close)
	return c
}

func post(t *testing.T, c *webhook.Client, url string) webhook.Outcome {
	t.Helper()
	return c.Post(context.Background(), webhook.Callback{URL: url, Body: []byte(`{"id":"x"}`), ID: "msg_1", Trace: "00-a-b-01"})
}

func TestRequestOnTheWire(t *testing.T) {
	var got *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer s.Close()
	out := post(t, client(t, webhook.Loopback, nil), s.URL+"/hook?x=1")
	if out.Class != delivery.Delivered || out.Code != 200 {
		t.Fatalf("%+v", out)
	}
	if got.Method != http.MethodPost || got.URL.RequestURI() != "/hook?x=1" || string(body) != `{"id":"x"}` {
		t.Errorf("%s %s %s", got.Method, got.URL, body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "jobrelay/test", "Webhook-Id": "msg_1", "Traceparent": "00-a-b-01",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if got.Header.Get("Webhook-Timestamp") == "" {
		t.Error("no webhook-timestamp")
	}
	if signature, there := got.Header["Webhook-Signature"]; there {
		t.Errorf("signed without a key: %s", signature)
	}
}

// TestSignatureIsOfWhatIsSent: of the id, the timestamp and the body on the wire.
func TestSignatureIsOfWhatIsSent(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	keys, err := callback.ParseKeys([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	verified := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		verified <- receiver.Verify(body, r.Header)
	}))
	defer s.Close()
	out := client(t, webhook.Loopback, nil).Post(t.Context(), webhook.Callback{URL: s.URL, Body: []byte(`{"id":"ü"}`), ID: "msg_1", Keys: keys})
	if err := <-verified; err != nil || out.Class != delivery.Delivered {
		t.Errorf("%+v %v", out, err)
	}
}

func TestOutcomes(t *testing.T) {
	var followed atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/followed", http.StatusFound)
		case "/followed":
			followed.Store(true)
		case "/busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/huge-headers":
			w.Header().Set("X", strings.Repeat("x", 64<<10))
		case "/endless":
			for range 1 << 10 { // 16 MiB at most: more than is ever drained
				if _, err := w.Write(make([]byte, 16<<10)); err != nil {
					return
				}
			}
		case "/hangup":
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		}
	}))
	defer s.Close()
	c := client(t, webhook.Loopback, nil)
	for path, want := range map[string]struct {
		class delivery.Class
		code  int
		after time.Duration
	}{
		"/redirect":     {delivery.Refused, 302, 0},
		"/busy":         {delivery.Unwell, 503, 7 * time.Second},
		"/gone":         {delivery.Gone, 410, 0},
		"/huge-headers": {delivery.Unwell, 0, 0},
		"/endless":      {delivery.Delivered, 200, 0},
		"/hangup":       {delivery.Unwell, 0, 0},
	} {
		if out := post(t, c, s.URL+path); out.Class != want.class || out.Code != want.code || out.RetryAfter != want.after {
			t.Errorf("%s: %+v, want %+v", path, out, want)
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

func TestTLSThatCannotBeVerifiedIsRefused(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = nil
	defer s.Close()
	if out := post(t, client(t, webhook.Loopback, nil), s.URL); out.Class != delivery.Refused || out.Cause != "certificate" {
		t.Errorf("%+v", out)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	if out := post(t, client(t, webhook.Loopback, roots), s.URL); out.Class != delivery.Delivered {
		t.Errorf("with the right roots: %+v", out)
	}
}

func TestInternalAddressesAreRefusedUnlessAllowed(t *testing.T) {
	var reached atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::1]", "169.254.169.254", "10.0.0.1", "192.168.1.1", "168.63.129.16", "[fd00:ec2::254]", "[64:ff9b::7f00:1]"} {
		if out := post(t, client(t, "", nil), "http://"+host+":"+port); out.Class != delivery.Refused || out.Cause != "address-refused" {
			t.Errorf("%s: %+v", host, out)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Fatalf("%d calls reached a refused address", n)
	}
	for _, allow := range []string{webhook.Loopback, "127.0.0.1", "localhost"} {
		if out := post(t, client(t, allow, nil), "http://localhost:"+port); out.Class != delivery.Delivered {
			t.Errorf("allowed by %s: %+v", allow, out)
		}
	}
}

// TestCausesPage: docs/callbacks.md tells what each cause means.
func TestCausesPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "callbacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for cause, class := range map[string]delivery.Class{
		webhook.CauseURL: delivery.Refused, webhook.CauseAddress: delivery.Refused, webhook.CauseNoHost: delivery.Refused, webhook.CauseCertificate: delivery.Refused,
		webhook.CauseTimeout: delivery.Unwell, webhook.CauseConnection: delivery.Unwell, webhook.CauseAnswer: delivery.Unwell, webhook.CauseTLS: delivery.Unwell, webhook.CauseLookup: delivery.Unwell,
	} {
		if !strings.Contains(string(page), "\n| `"+cause+"` | "+string(class)+" |") {
			t.Errorf("%s (%s) is not told", cause, class)
		}
	}
}
