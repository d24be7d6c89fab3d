package webhook_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

func TestParseRoots(t *testing.T) {
	ca := newAuthority(t, "ca").pem()
	der, _ := pem.Decode(ca)
	block := func(kind string, bytes []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes})
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, []byte("\n")) }
	for name, row := range map[string]struct {
		text []byte
		says string
	}{
		"one":             {ca, ""},
		"two":             {join(ca, newAuthority(t, "other").pem()), ""},
		"with words":      {join([]byte("# our CA"), ca, []byte("the end")), ""},
		"empty":           {nil, "holds no certificate"},
		"text":            {[]byte("secret"), "holds no certificate"},
		"DER":             {der.Bytes, "holds no certificate"},
		"a key":           {join(ca, block("EC PRIVATE KEY", []byte("secret"))), "block 2 is not of the type CERTIFICATE"},
		"no certificate":  {block("CERTIFICATE", []byte("secret")), "certificate 1 cannot be read"},
		"cut short":       {join(ca, ca[:len(ca)/2]), "after certificate 1"},
		"too many":        {bytes.Repeat(ca, 501), "holds 501 certificates"},
		"too large":       {bytes.Repeat([]byte("#"), 1<<20+1), "more than 1048576 bytes"},
		"the most of all": {bytes.Repeat(ca, 500), ""},
	} {
		_, err := webhook.ParseRoots(row.text)
		if (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseHeaders(t *testing.T) {
	for text, says := range map[string]string{
		"Authorization: Bearer secret":         "",
		"# ours\n\nX-A: 1\r\n x-b:2 ":          "",
		"X-A: a:b\nCookie: x=secret":           "",
		"":                                     "holds no header",
		"# nothing\n":                          "holds no header",
		"secret":                               "line 1 is no header",
		"X-A: 1\nsecret secret: x":             "line 2 is no header",
		": secret":                             "line 1 is no header",
		"X-A:":                                 "line 1 has a value that is empty",
		"X-A: sec\x00ret":                      "line 1 has a value that is empty or has control characters",
		"X-A: sec\rret":                        "line 1 has a value",
		"X-A: 1\nx-a: secret":                  "line 2 has the header of an earlier line",
		strings.Repeat("x", 4<<10) + ": 1":     "more than 4096 bytes",
		"A: " + strings.Repeat("secret", 1000): "more than 4096 bytes",
		numbered(17):                           "holds 17 headers",
		numbered(16):                           "",
		"X-A: 1\nSec-Fetch-Mode: cors":         "line 2 has Sec-Fetch-Mode, which is jobrelay's own or the connection's",
		"Content-Type: text/plain":             "has Content-Type",
		"content-length: 5":                    "has Content-Length",
		"CONTENT-ENCODING: gzip":               "has Content-Encoding",
		"Host: elsewhere":                      "has Host",
		"webhook-signature: v1,secret":         "has Webhook-Signature",
		"Webhook-Id: 1":                        "has Webhook-Id",
		"ce-id: 1":                             "has Ce-Id",
		"traceparent: 1":                       "has Traceparent",
		"tracestate: 1":                        "has Tracestate",
		"user-agent: 1":                        "has User-Agent",
		"connection: close":                    "has Connection",
		"keep-alive: 1":                        "has Keep-Alive",
		"proxy-authorization: secret":          "has Proxy-Authorization",
		"proxy-connection: 1":                  "has Proxy-Connection",
		"te: trailers":                         "has Te",
		"trailer: x":                           "has Trailer",
		"transfer-encoding: chunked":           "has Transfer-Encoding",
		"upgrade: x":                           "has Upgrade",
		"expect: 100-continue":                 "has Expect",
		"idempotency-key: 1":                   "has Idempotency-Key",
		"accept-encoding: gzip":                "has Accept-Encoding",
		"http2-settings: x":                    "has Http2-Settings",
		":authority: x":                        "is no header",
	} {
		h, err := webhook.ParseHeaders([]byte(text))
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: %v", text, err)
		}
		if printed := fmt.Sprintf("%v %+v %#v %s", h, h, webhook.Callback{Peer: webhook.Peer{Headers: h}}, fmt.Sprint(err)); strings.Contains(printed, "secret") || strings.Contains(printed, "sec\x00ret") {
			t.Errorf("%.60q: printed as %s", text, printed)
		}
	}
}

func numbered(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "X-%d: %d\n", i, i)
	}
	return out.String()
}

func TestHeadersOfAService(t *testing.T) {
	p := listen(t, nil, func(c *conn) {
		for c.request() {
			c.say(ok)
		}
	})
	defer p.stop()
	h, err := webhook.ParseHeaders([]byte("authorization: Bearer token\nX-Team: a, b"))
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, webhook.Loopback, nil)
	for _, peer := range []webhook.Peer{{Headers: h}, {}} {
		if out := c.Post(t.Context(), webhook.Callback{URL: p.url("http"), ID: "msg_1", Peer: peer}); out.Class != delivery.Delivered {
			t.Fatalf("%#v", out)
		}
	}
	with, without := p.calls()[0].Header, p.calls()[1].Header
	if with.Get("Authorization") != "Bearer token" || with.Get("X-Team") != "a, b" || with.Get("Webhook-Id") != "msg_1" || with.Get("Content-Type") != "application/json" {
		t.Errorf("%v", with)
	}
	if without["Authorization"] != nil || without["X-Team"] != nil {
		t.Errorf("the next callback, of another service, has them: %v", without)
	}
}

// TestCAsOfServices: each one's own CA verifies, alone; services with the same
// CAs share their connections, those with other CAs never.
func TestCAsOfServices(t *testing.T) {
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	roots := func(text []byte) *webhook.Roots {
		r, err := webhook.ParseRoots(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	connections := make(chan int, 100)
	p := listen(t, a.server(nil), func(c *conn) {
		connections <- c.nth
		for c.request() {
			c.say(ok)
		}
	})
	defer p.stop()
	c := client(t, webhook.Loopback, b.pool())
	for i, row := range []struct {
		roots       *webhook.Roots
		cause       string
		connections int // made until then
	}{
		{nil, webhook.CauseCertificate, 0},
		{roots(a.pem()), "", 1},
		{roots(a.pem()), "", 1},
		{roots(b.pem()), webhook.CauseCertificate, 1},
		{roots(append(b.pem(), a.pem()...)), "", 2},
		{nil, webhook.CauseCertificate, 2},
		{roots(a.pem()), "", 2},
	} {
		if out := c.Post(t.Context(), webhook.Callback{URL: p.url("https"), Peer: webhook.Peer{Roots: row.roots}}); out.Cause != row.cause {
			t.Errorf("attempt %d: %#v", i, out)
		}
		if n := len(connections); n != row.connections {
			t.Errorf("attempt %d: %d connections", i, n)
		}
	}
}
