// Package webhook makes jobrelay's outgoing HTTP calls, and is the only
// package that does.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"code.dny.dev/ssrf"

	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// Bounds of one attempt.
const (
	dialTimeout    = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	headersTimeout = 10 * time.Second
	attemptTimeout = 15 * time.Second
	idleTimeout    = 90 * time.Second
	maxHeaders     = 32 << 10 // bytes of an answer's headers
	maxDrain       = 16 << 10 // bytes of an answer's body that are read, to keep the connection
)

// Config of a Client.
type Config struct {
	// Allow are the internal addresses that may be dialled after all: CIDRs or
	// host names. Without it loopback, private, link-local, multicast and
	// metadata addresses are refused.
	Allow Allow
	// InFlight bounds the connections kept idle, in all and for one host.
	InFlight int
	// Version is what User-Agent says.
	Version string
	// Roots verify TLS peers; nil means the system's.
	Roots *x509.CertPool
}

// Client posts callbacks. It follows no redirect, uses no proxy of the
// environment, keeps no cookie and speaks TLS 1.2 or newer.
type Client struct {
	http  *http.Client
	agent string
}

// New makes a Client.
func New(cfg Config) *Client {
	transport := &http.Transport{
		DialContext:            cfg.Allow.dialer(&net.Dialer{Timeout: dialTimeout}),
		TLSHandshakeTimeout:    tlsTimeout,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
		ForceAttemptHTTP2:      true,
		ResponseHeaderTimeout:  headersTimeout,
		MaxResponseHeaderBytes: maxHeaders,
		MaxIdleConns:           cfg.InFlight,
		MaxIdleConnsPerHost:    cfg.InFlight,
		IdleConnTimeout:        idleTimeout,
	}
	return &Client{
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
		agent: "jobrelay/" + cfg.Version,
	}
}

// Close lets go of the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Callback is one POST.
type Callback struct {
	URL   string
	Body  []byte
	ID    string // webhook-id
	Trace string // traceparent; empty for none
	Keys  callback.Keys
}

// Outcome is what came of an attempt.
type Outcome struct {
	delivery.Attempt

	RetryAfter time.Duration // what the receiver asked for; 0 for nothing
	// Cause is a short class of the failure, never the peer's text: timeout,
	// connection, tls, address-refused, no-such-host, status.
	Cause string
}

// Post makes one attempt, at most 15 s long. A status decides when the headers
// arrive.
func (c *Client) Post(ctx context.Context, cb Callback) Outcome {
	start := time.Now()
	out := c.post(ctx, cb)
	out.At, out.Milliseconds = start.UTC(), time.Since(start).Milliseconds()
	return out
}

func (c *Client) post(ctx context.Context, cb Callback) Outcome {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cb.URL, bytes.NewReader(cb.Body))
	if err != nil {
		return failure(delivery.Refused, "url")
	}
	at := time.Now()
	req.Header = http.Header{
		"Content-Type":      {"application/json"},
		"User-Agent":        {c.agent},
		"Webhook-Id":        {cb.ID},
		"Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)},
	}
	if signature := cb.Keys.Sign(cb.ID, at, cb.Body); signature != "" {
		req.Header.Set("Webhook-Signature", signature)
	}
	if cb.Trace != "" {
		req.Header.Set("Traceparent", cb.Trace)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return outcomeOf(err)
	}
	defer res.Body.Close()
	out := Outcome{Attempt: delivery.Attempt{Class: delivery.ClassOfStatus(res.StatusCode), Code: res.StatusCode}}
	if out.Class == delivery.Unwell {
		out.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	if out.Class != delivery.Delivered {
		out.Cause = "status"
	}
	// What stays unread closes the connection, no more.
	_, _ = io.CopyN(io.Discard, res.Body, maxDrain)
	return out
}

func failure(class delivery.Class, cause string) Outcome {
	return Outcome{Attempt: delivery.Attempt{Class: class}, Cause: cause}
}

// outcomeOf classifies an attempt that got no answer.
func outcomeOf(err error) Outcome {
	var (
		certificate *tls.CertificateVerificationError
		dns         *net.DNSError
		timeout     net.Error
	)
	switch {
	case errors.As(err, &certificate):
		return failure(delivery.Refused, "tls")
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrInvalidHostPort):
		return failure(delivery.Refused, "address-refused")
	case errors.As(err, &dns) && dns.IsNotFound:
		return failure(delivery.Refused, "no-such-host")
	case errors.As(err, &timeout) && timeout.Timeout():
		return failure(delivery.Unwell, "timeout")
	default:
		return failure(delivery.Unwell, "connection")
	}
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3); 0 for anything else.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(0, min(s, int(delivery.MaxRetryAfter/time.Second)))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
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

// Endpoint is the scheme, host and port of a URL: the part that may be logged.
func Endpoint(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "unreadable"
	}
	return u.Scheme + "://" + u.Host
}
