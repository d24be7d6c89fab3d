package webhook_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

const (
	// floodBytes is how much an endless receiver would send.
	floodBytes = 256 << 20
	// mostSent is what such a one gets rid of before it is let go: what the
	// system buffers of a connection, and the little that is read.
	mostSent = 32 << 20
	// mostAllocated is for an attempt, with what the receiver itself needs.
	mostAllocated = 8 << 20
	// secret is in what receivers say.
	secret = "peers-own-words"
)

// said is what the standard logger has printed.
var said await.Text

func TestMain(m *testing.M) {
	log.SetOutput(&said)
	os.Exit(m.Run())
}

// short are the deadlines where the receiver lets one pass.
var short = webhook.Deadlines{Dial: 400 * time.Millisecond, TLS: 400 * time.Millisecond, Headers: 600 * time.Millisecond, Attempt: 1200 * time.Millisecond, Drain: 50 * time.Millisecond}

// hostile is a receiver and what an attempt at it must come to.
type hostile struct {
	name   string
	tls    *tls.Config // nil: plain
	scheme string      // default: as tls has it
	serve  func(c *conn)
	slow   bool // the attempt runs into a deadline, which is short

	class delivery.Class
	code  int
	cause string
	after time.Duration // Retry-After
	calls int           // that arrive; 0: not counted
}

// after is a receiver that reads the request first.
func after(serve func(c *conn)) func(c *conn) {
	return func(c *conn) {
		if c.request() {
			serve(c)
		}
	}
}

// saying is a receiver that says text and holds the connection.
func saying(text string) func(c *conn) {
	return after(func(c *conn) { c.say(text); c.hold() })
}

func run(t *testing.T, rows []hostile, roots *x509.CertPool) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			existing := goleak.IgnoreCurrent()
			p := listen(t, row.tls, row.serve)
			scheme := row.scheme
			if scheme == "" {
				scheme = map[bool]string{false: "http", true: "https"}[row.tls != nil]
			}
			deadlines := webhook.Deadlines{Drain: short.Drain}
			if row.slow {
				deadlines = short
			}
			c := webhook.New(webhook.Config{Allow: loopback(t), InFlight: 4, Version: "test", Roots: roots, Deadlines: deadlines})
			var before, behind runtime.MemStats
			runtime.ReadMemStats(&before)
			out := bounded(t, c, p.url(scheme)+"?token=hidden")
			runtime.ReadMemStats(&behind)
			if out.Class != row.class || out.Code != row.code || out.Cause != row.cause || out.RetryAfter != row.after {
				t.Errorf("%#v, want %s %d %q %s", out, row.class, row.code, row.cause, row.after)
			}
			if n := len(p.calls()); row.calls > 0 && n != row.calls {
				t.Errorf("%d calls arrived, want %d", n, row.calls)
			}
			if text := fmt.Sprintf("%v %#v %s", out, out, said.String()); strings.Contains(text, secret) || strings.Contains(text, "hidden") {
				t.Errorf("told: %s", text)
			}
			c.Close()
			p.stop()
			if n := p.sent.Load(); n > mostSent {
				t.Errorf("%d bytes were sent", n)
			}
			if n := behind.TotalAlloc - before.TotalAlloc; n > mostAllocated {
				t.Errorf("%d bytes were allocated", n)
			}
			goleak.VerifyNone(t, existing)
		})
	}
}

// bounded posts, and fails where the attempt does not end by itself.
func bounded(t *testing.T, c *webhook.Client, url string) webhook.Outcome {
	t.Helper()
	done := make(chan webhook.Outcome, 1)
	go func() { done <- post(t, c, url) }()
	var out webhook.Outcome
	await.That(t, "the end of the attempt", func() bool {
		select {
		case out = <-done:
			return true
		default:
			return false
		}
	})
	return out
}

func loopback(t *testing.T) webhook.Allow {
	t.Helper()
	a, err := webhook.ParseAllow(webhook.Loopback)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

func TestHostileReceivers(t *testing.T) {
	const (
		delivered, unwell, refused = delivery.Delivered, delivery.Unwell, delivery.Refused
		endless                    = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	)
	long := strings.Repeat("x", 1<<10)
	run(t, []hostile{
		{name: "says nothing", serve: saying(""), slow: true, class: unwell, cause: webhook.CauseTimeout},
		{name: "reads nothing", serve: func(c *conn) { c.hold() }, slow: true, class: unwell, cause: webhook.CauseTimeout},
		{name: "slow headers", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\nX: "); c.trickle("x") }), slow: true, class: unwell, cause: webhook.CauseTimeout},
		{name: "slow status line", serve: after(func(c *conn) { c.trickle("HTTP/1.1 200 " + long) }), slow: true, class: unwell, cause: webhook.CauseTimeout},
		{name: "slow body", serve: after(func(c *conn) { c.say(endless); c.trickle("1\r\nx\r\n") }), class: delivered, code: 200, calls: 1},
		{name: "silent body", serve: saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), class: delivered, code: 200, calls: 1},
		{name: "slow body of an error", serve: after(func(c *conn) { c.say("HTTP/1.1 500 No\r\n\r\n"); c.trickle("x") }), class: unwell, code: 500, cause: webhook.CauseStatus},
		{name: "endless body", serve: after(func(c *conn) { c.say(endless); c.flood("400\r\n" + long + "\r\n") }), class: delivered, code: 200, calls: 1},
		{name: "endless body without a length", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\n\r\n"); c.flood(long) }), class: delivered, code: 200, calls: 1},
		{name: "endless body of a known length", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"); c.flood(long) }), class: delivered, code: 200, calls: 1},
		{name: "huge headers", serve: saying("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 33<<10) + "\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer, calls: 1},
		{name: "headers just small enough", serve: saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + strings.Repeat("x", 31<<10) + "\r\n\r\n"), class: delivered, code: 200},
		{name: "endless headers", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\n"); c.flood("X: " + long + "\r\n") }), class: unwell, cause: webhook.CauseAnswer},
		{name: "endless header", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\nX: "); c.flood(long) }), class: unwell, cause: webhook.CauseAnswer},
		{name: "endless status line", serve: after(func(c *conn) { c.flood(long) }), class: unwell, cause: webhook.CauseAnswer},
		{name: "Content-Length too long", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc") }), class: delivered, code: 200, calls: 1},
		{name: "Content-Length too short", serve: saying("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + secret), class: delivered, code: 200, calls: 1},
		{name: "a second answer unasked", serve: saying(ok + "HTTP/1.1 500 " + secret + "\r\n\r\n"), class: delivered, code: 200, calls: 1},
		{name: "two Content-Lengths", serve: saying("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), class: unwell, cause: webhook.CauseAnswer},
		{name: "Content-Length is no number", serve: saying("HTTP/1.1 200 OK\r\nContent-Length: " + secret + "\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer},
		{name: "chunk is no chunk", serve: saying(endless + secret + "\r\n"), class: delivered, code: 200, calls: 1},
		{name: "closed before the answer", serve: after(func(*conn) {}), class: unwell, cause: webhook.CauseConnection, calls: 1},
		{name: "closed before the request", serve: func(*conn) {}, class: unwell, cause: webhook.CauseConnection},
		{name: "reset before the headers", serve: after((*conn).reset), class: unwell, cause: webhook.CauseConnection, calls: 1},
		{name: "closed within the headers", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\nX: ") }), class: unwell, cause: webhook.CauseAnswer, calls: 1},
		{name: "reset after the headers", serve: after(func(c *conn) { c.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"); c.reset() }), class: delivered, code: 200, calls: 1},
		{name: "garbage", serve: saying("\x00\x01\x02 " + secret + "\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer, calls: 1},
		{name: "another protocol", serve: saying("220 " + secret + " ESMTP\r\n"), class: unwell, cause: webhook.CauseAnswer},
		{name: "status 99999", serve: saying("HTTP/1.1 99999 " + secret + "\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer},
		{name: "status without a number", serve: saying("HTTP/1.1 OK\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer},
		{name: "status 000", serve: saying("HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer},
		{name: "status 999", serve: saying("HTTP/1.1 999 " + secret + "\r\nContent-Length: 0\r\n\r\n"), class: unwell, code: 999, cause: webhook.CauseStatus},
		{name: "HTTP/1.0", serve: after(func(c *conn) { c.say("HTTP/1.0 200 OK\r\n\r\n") }), class: delivered, code: 200},
		{name: "another protocol, as asked", serve: saying("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), class: unwell, cause: webhook.CauseAnswer, calls: 1},
		{name: "a few 1xx", serve: saying(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", 3) + ok), class: delivered, code: 200, calls: 1},
		{name: "endless 103", serve: after(func(c *conn) { c.flood("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n") }), class: unwell, cause: webhook.CauseAnswer, calls: 1},
		{name: "endless 100", serve: after(func(c *conn) { c.flood("HTTP/1.1 100 Continue\r\n\r\n") }), class: unwell, cause: webhook.CauseAnswer, calls: 1},
		{name: "trailers", serve: saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\nx\r\n0\r\nX: y\r\n\r\n"), class: delivered, code: 200},
		{name: "endless trailers", serve: after(func(c *conn) { c.say(endless + "0\r\n"); c.flood("X: " + long + "\r\n") }), class: delivered, code: 200},
		{name: "gzip bomb", serve: saying("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + bomb(t)), class: delivered, code: 200, calls: 1},
		{name: "plain on a port for https", scheme: "https", serve: func(c *conn) { c.say("HTTP/1.1 400 " + secret + "\r\n\r\n"); c.hold() }, class: unwell, cause: webhook.CauseTLS},
		{name: "no TLS at all", scheme: "https", serve: func(c *conn) { c.hold() }, slow: true, class: unwell, cause: webhook.CauseTimeout},
		{name: "closed in the handshake", scheme: "https", serve: func(*conn) {}, class: unwell, cause: webhook.CauseTLS},
	}, nil)
	// A redirect is an answer like any other, wherever it leads.
	var rows []hostile
	for _, code := range []int{300, 301, 302, 303, 304, 305, 307, 308, 399} {
		rows = append(rows, hostile{
			name: fmt.Sprint("redirect ", code), class: refused, code: code, cause: webhook.CauseStatus, calls: 1,
			serve: func(c *conn) {
				for c.request() {
					c.say(fmt.Sprintf("HTTP/1.1 %d Elsewhere\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n", code))
				}
			},
		})
	}
	run(t, rows, nil)
}

// bomb is a chunked body that unpacks to 64 MiB.
func bomb(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := io.CopyN(z, zeros{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", out.Len(), out.String())
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestStatuses(t *testing.T) {
	var rows []hostile
	for class, codes := range map[delivery.Class][]int{
		delivery.Delivered: {200, 201, 202, 203, 204, 205, 206, 226, 299},
		delivery.Unwell:    {404, 408, 409, 425, 429, 500, 501, 502, 503, 504, 511, 599, 600, 999},
		delivery.Refused:   {400, 401, 402, 403, 405, 406, 407, 411, 412, 413, 414, 415, 418, 421, 422, 426, 428, 431, 451, 499},
		delivery.Gone:      {410},
	} {
		for _, code := range codes {
			row := hostile{name: fmt.Sprint(code), class: class, code: code, cause: webhook.CauseStatus, calls: 1}
			if class == delivery.Delivered {
				row.cause = ""
			}
			row.serve = saying(fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n", code, secret))
			rows = append(rows, row)
		}
	}
	run(t, rows, nil)
}

func TestRetryAfter(t *testing.T) {
	day := "HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: %s\r\n\r\n"
	var rows []hostile
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "3600": time.Hour, "3601": time.Hour, "99999999999999999999999999": time.Hour,
		"-5": 0, "+5": 0, "1.5": 0, "soon": 0, "": 0, "7, 8": 0, "0x10": 0,
		"Fri, 31 Dec 1999 23:59:59 GMT": 0, "Fri, 31 Dec 9999 23:59:59 GMT": time.Hour, "Friday, 31-Dec-99 23:59:59 GMT": 0,
	} {
		rows = append(rows, hostile{name: value, serve: saying(fmt.Sprintf(day, value)), class: delivery.Unwell, code: 503, cause: webhook.CauseStatus, after: want})
	}
	run(t, rows, nil)
	soon := time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat)
	p := listen(t, nil, saying(fmt.Sprintf(day, soon)))
	defer p.stop()
	if out := post(t, client(t, webhook.Loopback, nil), p.url("http")); out.RetryAfter <= 0 || out.RetryAfter > 10*time.Minute {
		t.Errorf("%s: %+v", soon, out)
	}
}

func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "ca")
	selfSigned := newAuthority(t, "self")
	answer := func(c *conn) { c.request(); c.say(ok); c.hold() }
	old := ca.server(nil)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	wantsOurs := ca.server(nil)
	wantsOurs.ClientAuth, wantsOurs.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
	refusedCertificate := func(name string, with *tls.Config) hostile {
		return hostile{name: name, tls: with, serve: answer, class: delivery.Refused, cause: webhook.CauseCertificate}
	}
	run(t, []hostile{
		{name: "good", tls: ca.server(nil), serve: answer, class: delivery.Delivered, code: 200, calls: 1},
		refusedCertificate("of another CA", other.server(nil)),
		refusedCertificate("self-signed", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{selfSigned.cert.Raw}, PrivateKey: selfSigned.key}}}),
		refusedCertificate("expired", ca.server(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		})),
		refusedCertificate("not yet valid", ca.server(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		})),
		refusedCertificate("of another host", ca.server(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"elsewhere.example"} })),
		refusedCertificate("of no host", ca.server(func(c *x509.Certificate) { c.IPAddresses = nil })),
		refusedCertificate("not for servers", ca.server(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })),
		{name: "TLS 1.1 at most", tls: old, serve: answer, class: delivery.Unwell, cause: webhook.CauseTLS},
		{name: "wants a certificate of ours", tls: wantsOurs, serve: answer, class: delivery.Unwell, cause: webhook.CauseTLS},
		{name: "TLS on a port for http", tls: ca.server(nil), scheme: "http", serve: answer, class: delivery.Unwell, cause: webhook.CauseConnection},
	}, ca.pool())
}

func TestHostileHTTP2(t *testing.T) {
	ca := newAuthority(t, "ca")
	const delivered, unwell = delivery.Delivered, delivery.Unwell
	row := func(name string, class delivery.Class, code int, cause string, serve func(c *conn, f *http2.Framer, stream uint32)) hostile {
		return hostile{name: name, tls: ca.server(nil, "h2"), class: class, code: code, cause: cause, serve: func(c *conn) {
			f := c.frames()
			for {
				stream := c.stream(f)
				if stream == 0 {
					return
				}
				serve(c, f, stream)
			}
		}}
	}
	answer := func(f *http2.Framer, stream uint32) { _ = f.WriteHeaders(headers(stream, true, ":status", "200")) }
	slow := func(h hostile) hostile { h.slow = true; return h }
	times := func(n int, h hostile) hostile { h.calls = n; return h }
	data := bytes.Repeat([]byte("x"), 16<<10)
	run(t, []hostile{
		times(1, row("good", delivered, 200, "", func(_ *conn, f *http2.Framer, stream uint32) { answer(f, stream) })),
		slow(row("silence", unwell, 0, webhook.CauseTimeout, func(*conn, *http2.Framer, uint32) {})),
		times(2, row("GOAWAY before the request was looked at", delivered, 200, "", func(c *conn, f *http2.Framer, stream uint32) {
			if c.nth == 0 {
				_ = f.WriteGoAway(0, http2.ErrCodeNo, []byte(secret))
				return
			}
			answer(f, stream)
		})),
		times(1, row("GOAWAY, and the answer after it", delivered, 200, "", func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
			answer(f, stream)
		})),
		times(1, row("GOAWAY within the request", unwell, 0, webhook.CauseConnection, func(c *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteGoAway(stream, http2.ErrCodeInternal, []byte(secret))
			_ = c.Close()
		})),
		row("GOAWAY for ever", unwell, 0, webhook.CauseConnection, func(_ *conn, f *http2.Framer, _ uint32) {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
		}),
		times(1, row("RST_STREAM", unwell, 0, webhook.CauseConnection, func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteRSTStream(stream, http2.ErrCodeInternal)
		})),
		times(2, row("RST_STREAM before the request was looked at", delivered, 200, "", func(_ *conn, f *http2.Framer, stream uint32) {
			if stream == 1 {
				_ = f.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
				return
			}
			answer(f, stream)
		})),
		slow(row("RST_STREAM for ever", unwell, 0, webhook.CauseTimeout, func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
		})),
		times(1, row("RST_STREAM after the headers", delivered, 200, "", func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteHeaders(headers(stream, false, ":status", "200"))
			_ = f.WriteRSTStream(stream, http2.ErrCodeInternal)
		})),
		times(1, row("closed before the answer", unwell, 0, webhook.CauseConnection, func(c *conn, _ *http2.Framer, _ uint32) { _ = c.Close() })),
		times(1, row("endless body, heedless of windows", delivered, 200, "", func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteHeaders(headers(stream, false, ":status", "200"))
			for range floodBytes / len(data) {
				if f.WriteData(stream, false, data) != nil {
					return
				}
			}
		})),
		times(1, row("silent body", delivered, 200, "", func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteHeaders(headers(stream, false, ":status", "200"))
		})),
		row("huge headers", unwell, 0, webhook.CauseConnection, func(_ *conn, f *http2.Framer, stream uint32) {
			h := headers(stream, false, ":status", "200")
			h.EndHeaders = false
			_ = f.WriteHeaders(h)
			more := block("x", string(data[:8<<10]))
			for range floodBytes / len(data) {
				if f.WriteContinuation(stream, false, more) != nil {
					return
				}
			}
		}),
		row("endless 103", unwell, 0, webhook.CauseAnswer, func(_ *conn, f *http2.Framer, stream uint32) {
			hint := headers(stream, false, ":status", "103", "link", strings.Repeat("x", 1<<10))
			for range floodBytes / len(data) {
				if f.WriteHeaders(hint) != nil {
					return
				}
			}
		}),
		slow(row("endless pings", unwell, 0, webhook.CauseTimeout, func(c *conn, f *http2.Framer, _ uint32) {
			go c.hold()
			for f.WritePing(false, [8]byte{}) == nil {
				time.Sleep(time.Millisecond)
			}
		})),
		row("frames that are none", unwell, 0, webhook.CauseConnection, func(c *conn, _ *http2.Framer, _ uint32) { c.say(strings.Repeat(secret, 100)); c.hold() }),
		row("status 101", unwell, 0, webhook.CauseAnswer, func(_ *conn, f *http2.Framer, stream uint32) {
			_ = f.WriteHeaders(headers(stream, true, ":status", "101"))
		}),
		{name: "no frame at all", tls: ca.server(nil, "h2"), serve: func(c *conn) { c.hold() }, slow: true, class: unwell, cause: webhook.CauseTimeout},
		{name: "HTTP/1 where HTTP/2 was agreed on", tls: ca.server(nil, "h2"), serve: func(c *conn) { c.say(ok); c.hold() }, class: unwell, cause: webhook.CauseConnection},
	}, ca.pool())
}

// TestHTTP2Windows: a receiver that heeds the windows can send no more than
// these, however long it has.
func TestHTTP2Windows(t *testing.T) {
	ca := newAuthority(t, "ca")
	settings := make(chan uint32, 1)
	p := listen(t, ca.server(nil, "h2"), func(c *conn) {
		f := c.frames()
		for f != nil {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if window, ok := frame.Value(http2.SettingInitialWindowSize); ok {
					settings <- window
				}
			case *http2.DataFrame:
				if frame.StreamEnded() {
					_ = f.WriteHeaders(headers(frame.StreamID, true, ":status", "200"))
				}
			}
		}
	})
	defer p.stop()
	if out := post(t, client(t, webhook.Loopback, ca.pool()), p.url("https")); out.Class != delivery.Delivered {
		t.Fatalf("%+v", out)
	}
	if window := <-settings; window > 64<<10 {
		t.Errorf("a stream may have %d bytes", window)
	}
}

// TestHTTP2PeerThatWent: a connection that answers no more is given up with the
// first attempt on it, and the next one is made on another.
func TestHTTP2PeerThatWent(t *testing.T) {
	ca := newAuthority(t, "ca")
	p := listen(t, ca.server(nil, "h2"), func(c *conn) {
		f := c.frames()
		stream := c.stream(f)
		_ = f.WriteHeaders(headers(stream, true, ":status", "200"))
		if c.nth == 0 {
			c.hold() // no word any more, to pings neither
		}
		for stream != 0 {
			if stream = c.stream(f); stream != 0 {
				_ = f.WriteHeaders(headers(stream, true, ":status", "200"))
			}
		}
	})
	defer p.stop()
	c := webhook.New(webhook.Config{Allow: loopback(t), InFlight: 4, Version: "test", Roots: ca.pool(), Deadlines: short})
	defer c.Close()
	if out := bounded(t, c, p.url("https")); out.Class != delivery.Delivered {
		t.Fatalf("%+v", out)
	}
	if out := bounded(t, c, p.url("https")); out.Class != delivery.Unwell {
		t.Fatalf("on the connection that went: %+v", out)
	}
	await.That(t, "a delivery on another connection", func() bool { return bounded(t, c, p.url("https")).Class == delivery.Delivered })
}

// TestKeptConnections: what becomes of a POST on a connection that its peer
// closes.
func TestKeptConnections(t *testing.T) {
	answering := func(c *conn, times int) {
		for range times {
			if !c.request() || !c.say(ok) {
				return
			}
		}
	}
	for name, row := range map[string]struct {
		serve    func(c *conn)
		outcomes []delivery.Class
		calls    int // that the peer read
	}{
		"kept": {func(c *conn) { answering(c, 9) }, []delivery.Class{delivery.Delivered, delivery.Delivered, delivery.Delivered}, 3},
		"closed behind each answer": {
			func(c *conn) { answering(c, 1) }, []delivery.Class{delivery.Delivered, delivery.Delivered, delivery.Delivered}, 3,
		},
		"told before that it closes": {
			func(c *conn) { c.request(); c.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") },
			[]delivery.Class{delivery.Delivered, delivery.Delivered}, 2,
		},
		// The peer has read the second POST: it comes again, with the same id.
		"closed on the second POST": {
			func(c *conn) { answering(c, 1); c.request() }, []delivery.Class{delivery.Delivered, delivery.Delivered}, 3,
		},
		"reset on the second POST": {
			func(c *conn) { answering(c, 1); c.request(); c.reset() }, []delivery.Class{delivery.Delivered, delivery.Delivered}, 3,
		},
		// A new connection that breaks is an attempt that failed.
		"every POST but the first is hung up on": {
			func(c *conn) {
				if c.nth == 0 {
					answering(c, 1)
				}
				c.request()
			}, []delivery.Class{delivery.Delivered, delivery.Unwell, delivery.Unwell}, 4,
		},
		// Nor is it sent again once an answer has begun.
		"closed within the second answer": {
			func(c *conn) { answering(c, 1); c.request(); c.say("HTTP/1.1 2") }, []delivery.Class{delivery.Delivered, delivery.Unwell}, 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := listen(t, nil, row.serve)
			defer p.stop()
			c := client(t, webhook.Loopback, nil)
			for i, want := range row.outcomes {
				if out := bounded(t, c, p.url("http")); out.Class != want {
					t.Errorf("attempt %d: %+v", i, out)
				}
			}
			calls := p.calls()
			if name == "closed behind each answer" { // a close may be seen late
				if len(calls) < len(row.outcomes) {
					t.Errorf("%d calls", len(calls))
				}
			} else if len(calls) != row.calls {
				t.Errorf("%d calls, want %d", len(calls), row.calls)
			}
			first := ""
			for _, r := range calls {
				body, _ := io.ReadAll(r.Body)
				all := r.Header.Get("Webhook-Id") + string(body)
				if first == "" {
					first = all
				}
				if all != first || r.Header["Idempotency-Key"] != nil || r.Header["Accept-Encoding"] != nil {
					t.Errorf("%s %v", all, r.Header)
				}
			}
		})
	}
}

func TestCookiesAreForgotten(t *testing.T) {
	p := listen(t, nil, func(c *conn) {
		for c.request() {
			c.say("HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 0\r\n\r\n")
		}
	})
	defer p.stop()
	c := client(t, webhook.Loopback, nil)
	for range 2 {
		post(t, c, p.url("http"))
	}
	for _, r := range p.calls() {
		if r.Header["Cookie"] != nil {
			t.Errorf("%v", r.Header)
		}
	}
}

// TestNobodyThere: what is refused, and what answers nothing, before any byte.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if out := post(t, client(t, webhook.Loopback, nil), "http://"+l.Addr().String()); out.Class != delivery.Unwell || out.Cause != webhook.CauseConnection {
		t.Errorf("%+v", out)
	}
}

func TestEndpoint(t *testing.T) {
	for url, want := range map[string]string{
		"https://user:pass@hooks.example.com:8443/secret/path?token=x#y": "https://hooks.example.com:8443",
		"http://[::1]:80/secret":          "http://[::1]",
		"http://[::1]:8080/secret":        "http://[::1]:8080",
		"HTTPS://Hooks.Example.com:443/a": "https://hooks.example.com",
		"https://hooks.example.com:80/a":  "https://hooks.example.com:80",
		"http://hooks.example.com:443/a":  "http://hooks.example.com:443",
		"http://hooks.example.com/a":      "http://hooks.example.com",
		"http://a b/secret":               "unreadable",
		"://secret":                       "unreadable",
	} {
		if got := webhook.Endpoint(url); got != want {
			t.Errorf("%s: %s", url, got)
		}
	}
}
