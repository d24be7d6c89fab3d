package webhook

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a DNS server on loopback that answers as the test says.
type names struct {
	conn   net.PacketConn
	answer func(question) reply

	mu    sync.Mutex
	asked map[question]int
}

// question for the IPv4 or the IPv6 addresses of a name; nth of its kind, from 0.
type question struct {
	name string
	v6   bool
	nth  int
}

// reply is what a name resolves to; silent: nothing comes at all.
type reply struct {
	ips    []netip.Addr
	code   dnsmessage.RCode
	silent bool
}

func startNames(tb testing.TB, answer func(question) reply) *names {
	tb.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(tb.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n := &names{conn: conn, answer: answer, asked: map[question]int{}}
	var serving sync.WaitGroup
	serving.Go(n.serve)
	tb.Cleanup(func() { _ = conn.Close(); serving.Wait() })
	return n
}

// resolver asks this server and no other.
func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

// lookups of a name so far.
func (n *names) lookups(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[question{name: name}]
}

func (n *names) serve() {
	buffer := make([]byte, 4096)
	for {
		size, from, err := n.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var query dnsmessage.Message
		if query.Unpack(buffer[:size]) != nil || len(query.Questions) != 1 {
			continue
		}
		if packed := n.reply(query); packed != nil {
			_, _ = n.conn.WriteTo(packed, from)
		}
	}
}

func (n *names) reply(query dnsmessage.Message) []byte {
	q := query.Questions[0]
	asked := question{name: strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")), v6: q.Type == dnsmessage.TypeAAAA}
	n.mu.Lock()
	nth := n.asked[asked]
	n.asked[asked]++
	n.mu.Unlock()
	asked.nth = nth
	r := n.answer(asked)
	if r.silent {
		return nil
	}
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: query.ID, Response: true, RCode: r.code, RecursionDesired: true, RecursionAvailable: true, Authoritative: true},
		Questions: query.Questions,
	}
	for _, ip := range r.ips {
		header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	packed, err := out.Pack()
	if err != nil {
		return nil
	}
	return packed
}
