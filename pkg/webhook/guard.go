package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"code.dny.dev/ssrf"
)

// Loopback is the allow list of a development stack.
const Loopback = "127.0.0.0/8,::1/128"

// metadata are addresses of cloud metadata services outside the ranges that
// the guard refuses anyway (link-local 169.254.169.254 is among those).
var metadata = []netip.Prefix{
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's platform address
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud
}

// Allow is the operator's list of internal addresses that may be dialled.
type Allow struct {
	prefixes []netip.Prefix
	hosts    []string
}

// errNoAnswer means that an allowed address was dialled, and did not answer.
var errNoAnswer = errors.New("no allowed address answered")

// maxAllow bounds the entries of an allow list.
const maxAllow = 1000

// ParseAllow reads a list of CIDRs, addresses and host names with commas
// between. An empty one allows nothing internal.
func ParseAllow(list string) (Allow, error) {
	var a Allow
	var wrong []error
	for _, entry := range strings.Split(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if entry == "" {
			continue
		}
		if p, err := netip.ParsePrefix(entry); err == nil {
			a.prefixes = append(a.prefixes, p.Masked())
		} else if ip, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
			a.prefixes = append(a.prefixes, netip.PrefixFrom(ip, ip.BitLen()))
		} else if strings.ContainsAny(entry, "/:@ *") {
			wrong = append(wrong, fmt.Errorf("%q is neither a CIDR like 10.1.0.0/16 nor a host name", entry))
		} else {
			a.hosts = append(a.hosts, entry)
		}
	}
	if n := len(a.prefixes) + len(a.hosts); n > maxAllow {
		wrong = append(wrong, fmt.Errorf("%d entries, at most %d are taken", n, maxAllow))
	}
	return a, errors.Join(wrong...)
}

// UnmarshalText makes an Allow a flag.
func (a *Allow) UnmarshalText(text []byte) error {
	parsed, err := ParseAllow(string(text))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}

// dialer checks each resolved address when it is dialled, so that a name that
// resolves differently the second time gains nothing. A refused address is
// skipped; the dial fails as refused only where no allowed one remains.
func (a Allow) dialer(plain *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	var v4, v6 []netip.Prefix
	for _, p := range a.prefixes {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	safe := ssrf.New(ssrf.WithAnyPort(),
		ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...), ssrf.WithDeniedV4Prefixes(metadata...)).Safe
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, err := net.SplitHostPort(address); err == nil && slices.Contains(a.hosts, strings.ToLower(host)) {
			return plain.DialContext(ctx, network, address)
		}
		var passed atomic.Bool
		guarded := *plain
		guarded.Control = func(network, address string, c syscall.RawConn) error {
			err := safe(network, address, c)
			if err == nil {
				passed.Store(true)
			}
			return err
		}
		conn, err := guarded.DialContext(ctx, network, address)
		if err != nil && passed.Load() && errors.Is(err, ssrf.ErrProhibitedIP) {
			// Of several addresses Go reports the first one's error.
			err = errNoAnswer
		}
		return conn, err
	}
}
