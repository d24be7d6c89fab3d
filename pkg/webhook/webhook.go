// Package webhook makes jobrelay's outgoing HTTP calls, and is the only
// package that does.
package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// Deadlines of one attempt; of what is 0 the default holds.
type Deadlines struct {
	Dial    time.Duration // to look the name up and to connect; 5 s
	TLS     time.Duration // for the handshake; 5 s
	Headers time.Duration // from the last byte of the request to the end of the answer's headers; 10 s
	Attempt time.Duration // for all of it; 15 s
	// Drain is how long what is left of the answer may take, to keep the
	// connection; 1 s.
	Drain time.Duration
}

// defaults of the deadlines.
var defaults = Deadlines{Dial: 5 * time.Second, TLS: 5 * time.Second, Headers: 10 * time.Second, Attempt: 15 * time.Second, Drain: time.Second}

// Bounds of a client's memory. A receiver decides how much it sends.
const (
	maxHeaders = 32 << 10 // bytes of an answer's headers
	maxDrain   = 16 << 10 // bytes of an answer's body that are read, to keep the connection
	// An HTTP/2 receiver may send so much before anybody reads it; Go's own
	// defaults are 4 MiB and 1 GiB.
	maxStreamBuffer = 64 << 10
	maxBuffer       = 1 << 20

	// maxConnections are of one attempt: net/http itself takes a new one for
	// ever from an HTTP/2 peer that always says GOAWAY.
	maxConnections = 10

	// maxIdle are the connections kept for each set of CAs, some 20 KB each: with
	// more endpoints than that in use, some are dialled anew each time.
	maxIdle     = 2048
	idleTimeout = 90 * time.Second
	// maxTransports bounds the sets of CAs whose connections are kept, beside
	// those of the system. The least recently used goes first.
	maxTransports = 64
)

// Config of a Client.
type Config struct {
	// Allow are the internal addresses that may be dialled after all: CIDRs or
	// host names. Without it loopback, private, link-local, multicast and
	// metadata addresses are refused.
	Allow Allow
	// InFlight is how many attempts are made at once, at most.
	InFlight int
	// Version is what User-Agent says.
	Version string
	// Roots verify TLS peers where a Callback brings none; nil means the
	// system's.
	Roots *x509.CertPool
	// Resolver looks names up; nil means the system's.
	Resolver *net.Resolver
	// Deadlines of an attempt.
	Deadlines Deadlines
}

// Client posts callbacks. It follows no redirect, uses no proxy of the
// environment, keeps no cookie, decompresses nothing and speaks TLS 1.2 or
// newer.
type Client struct {
	cfg  Config
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	usual *http.Client                                // with Config.Roots
	own   *lru.Cache[[sha256.Size]byte, *http.Client] // by the Roots of a Callback
}

// New makes a Client. From then on the standard logger drops what net/http
// says of bytes that a receiver sent unasked: it repeats them.
func New(cfg Config) *Client {
	hush()
	d := &cfg.Deadlines
	for own, usual := range map[*time.Duration]time.Duration{
		&d.Dial: defaults.Dial, &d.TLS: defaults.TLS, &d.Headers: defaults.Headers, &d.Attempt: defaults.Attempt, &d.Drain: defaults.Drain,
	} {
		if *own <= 0 {
			*own = usual
		}
	}
	c := &Client{cfg: cfg, dial: cfg.Allow.dialer(&net.Dialer{Timeout: d.Dial, Resolver: cfg.Resolver})}
	c.usual = c.client(cfg.Roots)
	own, err := lru.NewWithEvict(maxTransports, func(_ [sha256.Size]byte, gone *http.Client) { gone.CloseIdleConnections() })
	if err != nil {
		panic(err) // only for a size below 1
	}
	c.own = own
	return c
}

// client has connections of its own, to peers that roots verify.
func (c *Client) client(roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		DialContext:            c.dial,
		TLSHandshakeTimeout:    c.cfg.Deadlines.TLS,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		ResponseHeaderTimeout:  c.cfg.Deadlines.Headers,
		MaxResponseHeaderBytes: maxHeaders,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    min(c.cfg.InFlight, delivery.MaxLimit),
		IdleConnTimeout:        idleTimeout,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     maxStreamBuffer,
			MaxReceiveBufferPerConnection: maxBuffer,
			// A peer that went without a word is not asked for minutes: its
			// connection ends soon after the first attempt that it leaves
			// unanswered, and not before.
			SendPingTimeout: c.cfg.Deadlines.Headers / 4,
			PingTimeout:     c.cfg.Deadlines.Headers,
		},
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// over is the client whose peers are verified by roots.
func (c *Client) over(roots *Roots) *http.Client {
	if roots == nil {
		return c.usual
	}
	if have, ok := c.own.Get(roots.sum); ok {
		return have
	}
	made := c.client(roots.pool)
	if have, ok, _ := c.own.PeekOrAdd(roots.sum, made); ok {
		return have
	}
	return made
}

// Close lets go of the idle connections.
func (c *Client) Close() {
	c.usual.CloseIdleConnections()
	c.own.Purge()
}

// Callback is one POST.
type Callback struct {
	URL   string
	Body  []byte
	ID    string // webhook-id
	Trace string // traceparent; empty for none
	Keys  callback.Keys
	Peer  Peer
}

// Peer is what the operator has set for the receivers of a service.
type Peer struct {
	Roots   *Roots  // verify its TLS certificate, alone; nil: the Config's
	Headers Headers // sent with each call
}

// Outcome is what came of an attempt.
type Outcome struct {
	delivery.Attempt

	RetryAfter time.Duration // what the receiver asked for, at most delivery.MaxRetryAfter; 0 for nothing
	Cause      string        // why it is not delivered, one of the causes; never the peer's text
}

// Post makes one attempt, at most 15 s long. A status decides when the headers
// arrive.
//
// The POST goes out once, but for a kept connection that breaks before a byte
// of the answer: its peer may have closed it a moment before. The POST is then
// sent anew, on another connection, with the same webhook-id and bytes, as
// after any answer that is lost. Each such repeat uses up a connection that an
// answered POST has left, so there are never more of them than of those. What
// an HTTP/2 peer says it has not looked at is sent anew, too. All in all an
// attempt takes 10 connections at most.
func (c *Client) Post(ctx context.Context, cb Callback) Outcome {
	start := time.Now()
	out := c.post(ctx, cb)
	out.At, out.Milliseconds = start.UTC(), time.Since(start).Milliseconds()
	return out
}

func (c *Client) post(ctx context.Context, cb Callback) Outcome {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Deadlines.Attempt)
	defer cancel()
	p := progress{cancel: cancel}
	req, err := http.NewRequestWithContext(p.follow(ctx), http.MethodPost, cb.URL, bytes.NewReader(cb.Body))
	if err != nil || req.URL.Scheme != "http" && req.URL.Scheme != "https" || req.URL.Hostname() == "" {
		return failure(delivery.Refused, CauseURL)
	}
	c.setHeaders(req, cb)
	res, err := c.over(cb.Peer.Roots).Do(req)
	if err != nil {
		return p.outcomeOf(err)
	}
	defer res.Body.Close()
	if res.StatusCode < http.StatusOK { // 101, and numbers that are no status
		return failure(delivery.Unwell, CauseAnswer)
	}
	out := Outcome{Attempt: delivery.Attempt{Class: delivery.ClassOfStatus(res.StatusCode), Code: res.StatusCode}}
	if out.Class == delivery.Unwell {
		out.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	if out.Class != delivery.Delivered {
		out.Cause = CauseStatus
	}
	// What stays unread closes the connection, no more.
	if res.ContentLength <= maxDrain {
		defer time.AfterFunc(c.cfg.Deadlines.Drain, cancel).Stop()
		_, _ = io.CopyN(io.Discard, res.Body, maxDrain)
	}
	return out
}

func (c *Client) setHeaders(req *http.Request, cb Callback) {
	for name, value := range cb.Peer.Headers.all {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "jobrelay/"+c.cfg.Version)
	req.Header.Set("Webhook-Id", cb.ID)
	at := time.Now()
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	if signature := cb.Keys.Sign(cb.ID, at, cb.Body); signature != "" {
		req.Header.Set("Webhook-Signature", signature)
	}
	if cb.Trace != "" {
		req.Header.Set("Traceparent", cb.Trace)
	}
	// Is not sent: it tells net/http that this POST may be sent anew.
	req.Header["Idempotency-Key"] = nil
}

// The causes of an attempt that is not delivered (docs/callbacks.md).
const (
	CauseStatus      = "status"          // an answer, but no 2xx
	CauseURL         = "url"             // it cannot be read
	CauseAddress     = "address-refused" // no address of the host may be dialled
	CauseNoHost      = "no-such-host"
	CauseLookup      = "lookup" // the host's name could not be looked up
	CauseTimeout     = "timeout"
	CauseCertificate = "certificate" // it cannot be verified
	CauseTLS         = "tls"         // no handshake came about
	CauseConnection  = "connection"  // it broke, or never was, before a byte of an answer
	CauseAnswer      = "answer"      // what came is not to be read as an answer
)

func failure(class delivery.Class, cause string) Outcome {
	return Outcome{Attempt: delivery.Attempt{Class: class}, Cause: cause}
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3); 0 for anything else.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(s, uint64(delivery.MaxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, min(at.Sub(now), delivery.MaxRetryAfter))
	}
	return 0
}

// String of an outcome, for one line in a log.
func (o Outcome) String() string {
	if o.Code != 0 {
		return fmt.Sprintf("%s (%d)", o.Class, o.Code)
	}
	return fmt.Sprintf("%s (%s)", o.Class, o.Cause)
}

// Endpoint is the scheme, host and port of a URL: the part that may be logged, and
// what is one receiver. Two ways to write it are one.
func Endpoint(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "unreadable"
	}
	host := strings.ToLower(u.Host)
	if port := u.Port(); port != "" && port == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}
