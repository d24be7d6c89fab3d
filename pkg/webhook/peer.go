package webhook

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Bounds of the operator's files.
const (
	// maxCertificates are of one file: the system's own has about 150.
	maxCertificates = 500
	maxCAFile       = 1 << 20 // bytes
	// maxHeaderFile is what a receiver surely takes beside the headers that are
	// jobrelay's own: servers refuse more than 8 KiB together.
	maxHeaderFile = 4 << 10
	maxOwnHeaders = 16
)

// Roots are the CAs that verify a receiver's certificate.
type Roots struct {
	pool *x509.CertPool
	sum  [sha256.Size]byte // of the certificates: equal Roots share their connections
}

// ParseRoots reads PEM certificates, 1 to 500 of them.
func ParseRoots(text []byte) (*Roots, error) {
	if len(text) > maxCAFile {
		return nil, fmt.Errorf("has more than %d bytes; a CA file has the certificates of the CAs alone", maxCAFile)
	}
	r := &Roots{pool: x509.NewCertPool()}
	sum := sha256.New()
	n := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("block %d is not of the type CERTIFICATE; a CA file has certificates alone, as PEM", n)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", n, err)
		}
		r.pool.AddCert(certificate)
		sum.Write(certificate.Raw)
	}
	switch {
	case n == 0:
		return nil, errors.New("holds no certificate; a CA file has one or more, as PEM")
	case n > maxCertificates:
		return nil, fmt.Errorf("holds %d certificates, at most %d are taken", n, maxCertificates)
	case bytes.Contains(text, []byte("-----BEGIN ")):
		return nil, fmt.Errorf("has a block after certificate %d that is no PEM", n)
	}
	sum.Sum(r.sum[:0])
	return r, nil
}

// Equal tells whether both are the same certificates in the same order.
func (r *Roots) Equal(other *Roots) bool {
	return r == other || r != nil && other != nil && r.sum == other.sum
}

// Headers are sent with each callback of a service, an Authorization for
// example. Nothing prints their values. The zero Headers are none.
type Headers struct {
	all map[string]string // by canonical name
}

// ParseHeaders reads a headers file: 1 to 16 headers, each a line "name: value".
// Empty lines and lines that begin with # are left out. Names that are
// jobrelay's own or the connection's are refused. The error has the line's
// number, and of what stands there at most such a name.
func ParseHeaders(text []byte) (Headers, error) {
	if len(text) > maxHeaderFile {
		return Headers{}, fmt.Errorf("has more than %d bytes; a headers file has one header a line", maxHeaderFile)
	}
	h := Headers{all: map[string]string{}}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, value, err := parseHeader(string(line))
		if _, twice := h.all[name]; err == nil && twice {
			err = errors.New("has the header of an earlier line; remove one of them")
		}
		if err != nil {
			return Headers{}, fmt.Errorf("line %d %w", n, err)
		}
		h.all[name] = value
	}
	switch {
	case len(h.all) == 0:
		return Headers{}, errors.New("holds no header; write one a line: name: value")
	case len(h.all) > maxOwnHeaders:
		return Headers{}, fmt.Errorf("holds %d headers, at most %d are taken", len(h.all), maxOwnHeaders)
	}
	return h, nil
}

func parseHeader(line string) (name, value string, err error) {
	name, value, found := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	if !found || !httpguts.ValidHeaderFieldName(name) {
		return "", "", errors.New("is no header; write name: value") // it may be half of a secret
	}
	name = http.CanonicalHeaderKey(name)
	switch {
	case reserved(strings.ToLower(name)):
		return "", "", fmt.Errorf("has %s, which is jobrelay's own or the connection's; remove it", name)
	case value == "" || !httpguts.ValidHeaderFieldValue(value):
		return "", "", errors.New("has a value that is empty or has control characters")
	}
	return name, value, nil
}

// reserved tells of a header that says what the callback is, or how it is sent.
func reserved(name string) bool {
	for _, prefix := range []string{"content-", "webhook-", "ce-", "proxy-", "sec-", ":"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{
		"host", "user-agent", "traceparent", "tracestate", "idempotency-key", "x-idempotency-key",
		"accept-encoding", "connection", "date", "expect", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
	}, name)
}

// Len is how many headers there are.
func (h Headers) Len() int { return len(h.all) }

// Equal tells whether both have the same names and values.
func (h Headers) Equal(other Headers) bool { return maps.Equal(h.all, other.all) }

// String keeps the values out of whatever is printed.
func (h Headers) String() string { return fmt.Sprintf("%d headers", len(h.all)) }

// GoString is String.
func (h Headers) GoString() string { return h.String() }
