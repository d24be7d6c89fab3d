package webhook_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peer is a receiver that speaks bytes, not HTTP: what it does on each
// connection is the test's. It ends with the test.
type peer struct {
	listener net.Listener
	serve    func(c *conn)
	sent     atomic.Int64 // bytes, of all connections

	mu       sync.Mutex
	requests []*http.Request
	open     map[net.Conn]struct{}
	serving  sync.WaitGroup
}

// conn is one connection to a peer.
type conn struct {
	net.Conn

	peer *peer
	nth  int // connection of the peer, from 0
	in   *bufio.Reader
}

// listen starts a peer; with a TLS configuration its connections come with the
// handshake done.
func listen(t *testing.T, over *tls.Config, serve func(c *conn)) *peer {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{listener: l, serve: serve, open: map[net.Conn]struct{}{}}
	p.serving.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.open[c] = struct{}{}
			p.mu.Unlock()
			p.serving.Go(func() { p.handle(c, n, over) })
		}
	})
	return p
}

func (p *peer) handle(c net.Conn, n int, over *tls.Config) {
	defer func() {
		_ = c.Close()
		p.mu.Lock()
		delete(p.open, c)
		p.mu.Unlock()
	}()
	if over != nil {
		s := tls.Server(c, over)
		if s.Handshake() != nil {
			return
		}
		c = s
	}
	p.serve(&conn{Conn: c, peer: p, nth: n, in: bufio.NewReader(c)})
}

// stop closes every connection and waits for their ends.
func (p *peer) stop() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.serving.Wait()
}

func (p *peer) url(scheme string) string {
	return scheme + "://" + p.listener.Addr().String() + "/hook"
}

// calls are the requests that arrived whole.
func (p *peer) calls() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// request reads one, with its body; false at the end of the connection.
func (c *conn) request() bool {
	r, err := http.ReadRequest(c.in)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.peer.mu.Lock()
	c.peer.requests = append(c.peer.requests, r)
	c.peer.mu.Unlock()
	return true
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.peer.sent.Add(int64(n))
	return n, err
}

// say writes text; false once nobody listens.
func (c *conn) say(text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

// hold keeps the connection open until the other side, or the test, ends it.
func (c *conn) hold() { _, _ = io.Copy(io.Discard, c.in) }

// flood says text again and again, far more often than anybody should read.
func (c *conn) flood(text string) {
	b := []byte(text)
	for range floodBytes/len(b) + 1 {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
	c.hold()
}

// trickle says text byte by byte until nobody listens.
func (c *conn) trickle(text string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; c.say(text[i%len(text) : i%len(text)+1]); i++ {
		<-tick.C
	}
}

// reset ends the connection without a word to the end.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// frames begins HTTP/2 on a connection whose handshake chose it.
func (c *conn) frames(settings ...http2.Setting) *http2.Framer {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return nil
	}
	f := http2.NewFramer(c, c.in)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if f.WriteSettings(settings...) != nil {
		return nil
	}
	return f
}

// stream answers what belongs to the connection until a request came whole;
// its stream, or 0 at the end of the connection.
func (c *conn) stream(f *http2.Framer) uint32 {
	for f != nil {
		frame, err := f.ReadFrame()
		if err != nil {
			return 0
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				c.peer.mu.Lock()
				c.peer.requests = append(c.peer.requests, &http.Request{})
				c.peer.mu.Unlock()
				return frame.StreamID
			}
		}
		if err != nil {
			return 0
		}
	}
	return 0
}

// block is the header block of pairs of names and values.
func block(pairs ...string) []byte {
	var out bytes.Buffer
	e := hpack.NewEncoder(&out)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return out.Bytes()
}

func headers(stream uint32, end bool, pairs ...string) http2.HeadersFrameParam {
	return http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, EndStream: end, BlockFragment: block(pairs...)}
}

// authority is a CA made for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &a.key.PublicKey)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template *x509.Certificate, public any) *x509.Certificate {
	a.t.Helper()
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

// server is the configuration of a server at 127.0.0.1, whose certificate the
// change may spoil.
func (a *authority) server(change func(*x509.Certificate), protocols ...string) *tls.Config {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "receiver"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	if change != nil {
		change(template)
	}
	cert := a.sign(template, &key.PublicKey)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}, NextProtos: protocols}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// pem is the file of the CA.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}
