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

// metadata are the addresses of cloud metadata services. A wider entry of an
// allow list does not allow one: it must be named as it stands here.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"),    // nearly every cloud
	netip.MustParseAddr("169.254.170.2"),      // AWS ECS, credentials of a task
	netip.MustParseAddr("169.254.170.23"),     // AWS EKS, credentials of a Pod
	netip.MustParseAddr("169.254.42.42"),      // Scaleway
	netip.MustParseAddr("169.254.0.23"),       // Tencent Cloud
	netip.MustParseAddr("168.63.129.16"),      // Azure's platform address
	netip.MustParseAddr("100.100.100.200"),    // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"),        // Oracle Cloud
	netip.MustParseAddr("fd00:ec2::254"),      // AWS
	netip.MustParseAddr("fd00:ec2::23"),       // AWS EKS, credentials of a Pod
	netip.MustParseAddr("fd20:ce::254"),       // Google Cloud
	netip.MustParseAddr("fd00:42::42"),        // Scaleway
	netip.MustParseAddr("fe80::a9fe:a9fe"),    // OpenStack
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"), // Oracle Cloud
}

// Allow is the operator's list of internal addresses that may be dialled.
type Allow struct {
	prefixes []netip.Prefix
	hosts    []string
}

// maxAllow bounds the entries of an allow list.
const maxAllow = 1000

// ParseAllow reads a list of CIDRs, addresses and host names with commas
// between. An empty one allows nothing internal. A host name allows whatever it
// resolves to but a metadata service; that only its own address allows.
func ParseAllow(list string) (Allow, error) {
	var a Allow
	var wrong []error
	for _, entry := range strings.Split(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if entry == "" {
			continue
		}
		if p, err := netip.ParsePrefix(entry); err == nil && !p.Addr().Is4In6() {
			a.prefixes = append(a.prefixes, p.Masked())
		} else if ip, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil && ip.Zone() == "" {
			ip = ip.Unmap()
			a.prefixes = append(a.prefixes, netip.PrefixFrom(ip, ip.BitLen()))
		} else if strings.ContainsAny(entry, "/:@%[] *") || endsInNumber(entry) {
			wrong = append(wrong, fmt.Errorf("%q is neither a CIDR like 10.1.0.0/16 nor a host name", entry))
		} else {
			a.hosts = append(a.hosts, strings.TrimSuffix(entry, "."))
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

var (
	// errRefused means that an address is none that may be dialled.
	errRefused = errors.New("the address is refused")
	// errNoAnswer means that an allowed address was dialled, and did not answer.
	errNoAnswer = errors.New("no allowed address answered")
)

// dialer checks each resolved address when it is dialled, so that a name that
// resolves differently the second time gains nothing. A refused address is
// skipped; the dial fails as refused only where no allowed one remains.
func (a Allow) dialer(plain *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	internal := a.guardian()
	strict := strictly(plain.Resolver)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		name, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errRefused, err)
		}
		host := strings.ToLower(strings.TrimSuffix(name, "."))
		if _, err := netip.ParseAddr(host); err != nil && endsInNumber(host) {
			return nil, fmt.Errorf("%w: it is a number that not everybody reads as the same address", errRefused)
		}
		named := slices.Contains(a.hosts, host)
		var passed atomic.Bool
		guarded := *plain
		guarded.Control = func(network, address string, c syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err == nil {
				err = a.check(internal, to.Addr(), named)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			passed.Store(true)
			if plain.Control != nil {
				return plain.Control(network, address, c)
			}
			return nil
		}
		conn, err := guarded.DialContext(ctx, network, address)
		if err != nil && passed.Load() && errors.Is(err, errRefused) {
			// Of several addresses Go reports the first one's error.
			err = errNoAnswer
		}
		var unknown *net.DNSError
		if errors.As(err, &unknown) && unknown.IsNotFound {
			ctx, cancel := context.WithTimeout(ctx, plain.Timeout)
			defer cancel()
			err = confirm(ctx, strict, name, err)
		}
		return conn, err
	}
}

// strictly asks the same servers, but does not make do with half an answer.
func strictly(r *net.Resolver) *net.Resolver {
	out := &net.Resolver{PreferGo: true, StrictErrors: true}
	if r != nil {
		out.Dial = r.Dial
	}
	return out
}

// confirm asks once more for a host that is said not to exist: Go says so, too,
// where a host has no IPv6 addresses and its IPv4 addresses cannot be looked up
// just now. Then the error is that.
func confirm(ctx context.Context, r *net.Resolver, host string, notFound error) error {
	for _, network := range []string{"ip4", "ip6"} {
		var failed *net.DNSError
		if _, err := r.LookupNetIP(ctx, network, host); errors.As(err, &failed) && !failed.IsNotFound {
			return err
		}
	}
	return notFound
}

// guardian knows the special addresses of the IANA's registries, and which of
// them the operator allows.
func (a Allow) guardian() *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, p := range a.prefixes {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
}

// check is the error of an address that may not be dialled; named tells that
// the operator allows its name.
func (a Allow) check(internal *ssrf.Guardian, ip netip.Addr, named bool) error {
	ip = ip.Unmap()
	if plain := ip.WithZone(""); slices.Contains(metadata, plain) && !slices.Contains(a.prefixes, netip.PrefixFrom(plain, plain.BitLen())) {
		return errors.New("it is a metadata service")
	}
	if ssrf.IPv6NAT64Prefix.Contains(ip) { // where it is allowed, what it leads to counts
		b := ip.As16()
		if err := a.check(internal, netip.AddrFrom4([4]byte(b[12:])), named); err != nil {
			return err
		}
	}
	if named {
		return nil
	}
	return internal.SafeAddr(ip)
}

// endsInNumber tells of a host that is an IPv4 address to browsers and to the C
// library, in whatever notation (https://url.spec.whatwg.org/#ends-in-a-number-checker).
// No public name ends so.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}
