package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

func allowList(tb testing.TB, list string) Allow {
	tb.Helper()
	a, err := ParseAllow(list)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestAddresses(t *testing.T) {
	for _, row := range []struct {
		allow   string
		named   bool // the host's name is allowed
		refused []string
		allowed []string
	}{
		{
			refused: []string{
				"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
				"169.254.1.1", "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
				"192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
				"::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
				"fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1",
				"64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::a00:1",
				"2002:7f00:1::1", "2002:a00:1::1", // 6to4
				"2001:0:7f00:1::1", "2001::1", // Teredo
				"2606:4700::1111%eth0",
			},
			allowed: []string{"8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "::ffff:8.8.8.8", "2606:4700::1111", "2a00:1450::1"},
		},
		{
			allow:   "10.1.0.0/16,fd12::/16,127.0.0.1",
			refused: []string{"10.2.0.1", "127.0.0.2", "fd13::1", "::1", "64:ff9b::a01:1"},
			allowed: []string{"10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1", "fd12::1", "8.8.8.8"},
		},
		{ // a wide entry allows no metadata service
			allow:   "0.0.0.0/0,::/0",
			refused: []string{"169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe"},
			allowed: []string{"127.0.0.1", "10.0.0.1", "100.100.100.201", "fd00:ec2::255", "169.254.1.1"},
		},
		{ // nor does the name of a host
			named:   true,
			refused: []string{"169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"},
			allowed: []string{"127.0.0.1", "10.0.0.1", "fd00::1"},
		},
		{
			allow:   "169.254.169.254,[fd00:ec2::254]",
			refused: []string{"169.254.169.253", "169.254.170.2", "100.100.100.200"},
			allowed: []string{"169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"},
		},
		{ // a network behind NAT64: what it leads to counts
			allow:   "64:ff9b::/96",
			refused: []string{"64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "10.0.0.1"},
			allowed: []string{"64:ff9b::808:808"},
		},
		{
			allow:   "64:ff9b::/96,10.0.0.0/8",
			refused: []string{"64:ff9b::7f00:1"},
			allowed: []string{"64:ff9b::a00:1"},
		},
		{allow: "::ffff:10.0.0.1", allowed: []string{"10.0.0.1", "::ffff:10.0.0.1"}, refused: []string{"10.0.0.2"}},
	} {
		a := allowList(t, row.allow)
		internal := a.guardian()
		for _, ip := range row.refused {
			if err := a.check(internal, netip.MustParseAddr(ip), row.named); err == nil {
				t.Errorf("%s is not refused with %q", ip, row.allow)
			}
		}
		for _, ip := range row.allowed {
			if err := a.check(internal, netip.MustParseAddr(ip), row.named); err != nil {
				t.Errorf("%s is refused with %q: %v", ip, row.allow, err)
			}
		}
	}
}

func TestParseAllow(t *testing.T) {
	for _, bad := range []string{
		"http://x", "10.0.0.0/33", "a b", "*.example.com", "x:80", "2130706433", "0177.0.0.1", "0x7f.1", "fe80::1%eth0", "::ffff:10.0.0.0/104",
		strings.Repeat("10.0.0.1,", maxAllow+1),
	} {
		if _, err := ParseAllow(bad); err == nil {
			t.Errorf("%.40q was taken", bad)
		}
	}
}

// receiver listens on 127.0.0.1; it counts its calls and keeps no connection.
func receiver(t *testing.T) (port string, calls *atomic.Int32) {
	t.Helper()
	calls = &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Connection", "close")
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, calls
}

func ips(list ...string) reply {
	var r reply
	for _, s := range list {
		r.ips = append(r.ips, netip.MustParseAddr(s))
	}
	return r
}

const (
	public   = "127.0.0.1" // stands for a public address: the tests allow it
	internal = "127.0.0.2"
)

func TestNames(t *testing.T) {
	port, calls := receiver(t)
	free, err := net.Listen("tcp", public+":0")
	if err != nil {
		t.Fatal(err)
	}
	_, closed, _ := net.SplitHostPort(free.Addr().String())
	_ = free.Close()
	failing := reply{code: dnsmessage.RCodeServerFailure}
	none := reply{code: dnsmessage.RCodeNameError}
	for name, row := range map[string]struct {
		answer func(q question) reply
		port   string
		// of one attempt after the other
		outcomes []string
		class    delivery.Class // of the last
	}{
		"public":             {func(question) reply { return ips(public) }, port, []string{""}, delivery.Delivered},
		"internal":           {func(question) reply { return ips(internal) }, port, []string{CauseAddress}, delivery.Refused},
		"refused-first":      {func(question) reply { return ips(internal, "10.0.0.1", public) }, port, []string{""}, delivery.Delivered},
		"refused-last":       {func(question) reply { return ips(public, internal) }, port, []string{""}, delivery.Delivered},
		"refused-v6-first":   {func(question) reply { return ips("::1", "fd00:ec2::254", public) }, port, []string{""}, delivery.Delivered},
		"all-refused":        {func(question) reply { return ips(internal, "10.0.0.1", "::1", "169.254.169.254") }, port, []string{CauseAddress}, delivery.Refused},
		"allowed-is-down":    {func(question) reply { return ips(internal, public) }, closed, []string{CauseConnection}, delivery.Unwell},
		"allowed-down-first": {func(question) reply { return ips(public, internal) }, closed, []string{CauseConnection}, delivery.Unwell},
		"mapped":             {func(question) reply { return ips("::ffff:" + internal) }, port, []string{CauseAddress}, delivery.Refused},
		"nat64":              {func(question) reply { return ips("64:ff9b::7f00:2") }, port, []string{CauseAddress}, delivery.Refused},
		"sixtofour":          {func(question) reply { return ips("2002:7f00:2::1") }, port, []string{CauseAddress}, delivery.Refused},
		"rebinding": {func(q question) reply {
			if q.nth == 0 {
				return ips(public)
			}
			return ips(internal)
		}, port, []string{"", CauseAddress, CauseAddress}, delivery.Refused},
		"rebinding-back": {func(q question) reply {
			if q.nth == 0 {
				return ips(internal)
			}
			return ips(public)
		}, port, []string{CauseAddress, ""}, delivery.Delivered},
		"nobody":     {func(question) reply { return none }, port, []string{CauseNoHost}, delivery.Refused},
		"no-address": {func(question) reply { return reply{} }, port, []string{CauseNoHost}, delivery.Refused},
		"failing":    {func(question) reply { return failing }, port, []string{CauseLookup}, delivery.Unwell},
		"silent":     {func(question) reply { return reply{silent: true} }, port, []string{CauseTimeout}, delivery.Unwell},
		"v4-failing": {func(q question) reply {
			if q.v6 {
				return reply{}
			}
			return failing
		}, port, []string{CauseLookup}, delivery.Unwell},
		"v6-failing": {func(q question) reply {
			if q.v6 {
				return failing
			}
			return ips(public)
		}, port, []string{""}, delivery.Delivered},
		"metadata.google.internal": {func(question) reply { return ips("169.254.169.254") }, port, []string{CauseAddress}, delivery.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			server := startNames(t, row.answer)
			var d Deadlines
			if name == "silent" {
				d.Dial = 300 * time.Millisecond
			}
			c := New(Config{Allow: allowList(t, public+",metadata.google.internal"), InFlight: 1, Version: "test", Resolver: server.resolver(), Deadlines: d})
			defer c.Close()
			before, delivered := calls.Load(), int32(0)
			// The last dot makes the name whole, whatever this machine's search list.
			var last Outcome
			for i, want := range row.outcomes {
				last = c.Post(t.Context(), Callback{URL: "http://" + name + ".:" + row.port + "/"})
				if last.Cause != want {
					t.Errorf("attempt %d: %+v, want %q", i, last, want)
				}
				if last.Class == delivery.Delivered {
					delivered++
				}
			}
			if last.Class != row.class || calls.Load()-before != delivered {
				t.Errorf("%+v, %d calls arrived", last, calls.Load()-before)
			}
			// What was checked is what is dialled: no second look-up between.
			if n := server.lookups(name); row.class != delivery.Unwell && last.Cause != CauseNoHost && n != len(row.outcomes) {
				t.Errorf("%d look-ups for %d attempts", n, len(row.outcomes))
			}
		})
	}
}

// TestHostsInOddNotations: every name resolves to an address that is allowed,
// so that only the host as it is written can be what is refused.
func TestHostsInOddNotations(t *testing.T) {
	port, calls := receiver(t)
	server := startNames(t, func(question) reply { return ips(public) })
	c := New(Config{Allow: allowList(t, public), InFlight: 1, Version: "test", Resolver: server.resolver()})
	defer c.Close()
	for url, want := range map[string]string{
		"http://2130706433:PORT/":                           CauseAddress,
		"http://0177.0.0.1:PORT/":                           CauseAddress,
		"http://0x7f.1:PORT/":                               CauseAddress,
		"http://0x7F000001:PORT/":                           CauseAddress,
		"http://0x7f.0x0.0x0.0x1.:PORT/":                    CauseAddress,
		"http://127.1:PORT/":                                CauseAddress,
		"http://127.0.0.01:PORT/":                           CauseAddress,
		"http://127.0.0.2:PORT/":                            CauseAddress,
		"http://①②⑦.0.0.②:PORT/":                            CauseAddress,
		"http://127。0。0。2:PORT/":                            CauseAddress,
		"http://[::ffff:127.0.0.2]:PORT/":                   CauseAddress,
		"http://[::ffff:7f00:2]:PORT/":                      CauseAddress,
		"http://[::127.0.0.2]:PORT/":                        CauseAddress,
		"http://[::1]:PORT/":                                CauseAddress,
		"http://[::]:PORT/":                                 CauseAddress,
		"http://0.0.0.0:PORT/":                              CauseAddress,
		"http://0:PORT/":                                    CauseAddress,
		"http://[fe80::1%25lo]:PORT/":                       CauseAddress,
		"http://[64:ff9b::7f00:2]:PORT/":                    CauseAddress,
		"http://[2002:7f00:2::]:PORT/":                      CauseAddress,
		"http://169.254.169.254:PORT/latest/meta-data":      CauseAddress,
		"http://[fd00:ec2::254]:PORT/":                      CauseAddress,
		"http://100.100.100.200:PORT/":                      CauseAddress,
		"http://example.com@127.0.0.2:PORT/":                CauseAddress,
		"http://example.com:80@127.0.0.2:PORT/":             CauseAddress,
		"http://127.0.0.1:80\\@127.0.0.2:PORT/":             CauseURL,
		"http://127.0.0.2:PORT\\@127.0.0.1:PORT/":           CauseURL,
		"http://[::1":                                       CauseURL,
		"http://127.0.0.2:PORT#@127.0.0.1:PORT/":            CauseAddress,
		"http://127.0.0.2:PORT?@127.0.0.1:PORT/":            CauseAddress,
		"http://exa mple:PORT/":                             CauseURL,
		"http://a\x00b:PORT/":                               CauseURL,
		"ftp://example.com:PORT/":                           CauseURL,
		"http:///path":                                      CauseURL,
		"":                                                  CauseURL,
		"http://" + strings.Repeat("a.", 300) + "com:PORT/": CauseNoHost,
		"http://" + strings.Repeat("a", 64) + ".com.:PORT/": CauseNoHost,
		// What only looks odd is taken.
		"http://1e100.net.:PORT/":         "",
		"http://0x.example.:PORT/":        "",
		"http://[::ffff:127.0.0.1]:PORT/": "",
	} {
		before := calls.Load()
		out := c.Post(t.Context(), Callback{URL: strings.ReplaceAll(url, "PORT", port)})
		if out.Cause != want || (out.Class == delivery.Delivered) != (want == "") || (out.Class == delivery.Refused) != (want != "") {
			t.Errorf("%q: %+v, want %q", url, out, want)
		}
		if arrived := calls.Load() > before; arrived != (want == "") {
			t.Errorf("%q: arrived %t", url, arrived)
		}
	}
}

func TestAllowedHosts(t *testing.T) {
	port, _ := receiver(t)
	server := startNames(t, func(question) reply { return ips(public) })
	for _, allow := range []string{"hook.internal", "HOOK.internal.", "other, hook.internal"} {
		c := New(Config{Allow: allowList(t, allow), InFlight: 1, Version: "test", Resolver: server.resolver()})
		for host, want := range map[string]string{
			"hook.internal": "", "Hook.Internal.": "", "x.hook.internal": CauseAddress, "hook.internal.example": CauseAddress, public: CauseAddress,
		} {
			if out := c.Post(t.Context(), Callback{URL: "http://" + host + ":" + port}); out.Cause != want {
				t.Errorf("%s with %q: %+v", host, allow, out)
			}
		}
		c.Close()
	}
}

// TestNoProxyOfTheEnvironment asks net/http first, which reads the environment
// once a process, whether it would take this proxy.
func TestNoProxyOfTheEnvironment(t *testing.T) {
	var proxied atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
		t.Setenv(strings.ToLower(name), proxy.URL)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hook.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if through, err := http.ProxyFromEnvironment(request); err != nil || through == nil {
		t.Fatalf("the environment names no proxy: %v %v", through, err)
	}
	server := startNames(t, func(question) reply { return ips(internal) })
	c := New(Config{Allow: allowList(t, public), InFlight: 1, Version: "test", Resolver: server.resolver()})
	defer c.Close()
	for _, scheme := range []string{"http", "https"} {
		if out := c.Post(t.Context(), Callback{URL: scheme + "://hook.example./"}); out.Cause != CauseAddress {
			t.Errorf("%s: %+v", scheme, out)
		}
	}
	if n := proxied.Load(); n != 0 {
		t.Errorf("%d calls went through the proxy", n)
	}
}

var errWouldDial = errors.New("it would be dialled")

// FuzzHost posts to whatever host, whose name resolves to whatever address.
// Nothing is dialled but what Go's own words for addresses take for public.
func FuzzHost(f *testing.F) {
	for _, host := range []string{
		"example.com", "127.0.0.1", "[::1]:80", "[::ffff:127.0.0.1]", "2130706433", "0177.0.0.1", "0x7f.1", "a@127.0.0.1", "[fe80::1%25eth0]",
		"[64:ff9b::7f00:1]", "①②⑦.0.0.①", "localhost", "x:80\\@y", "a%2eb", "127.0.0.1.", "8.8.8.8", "[2606:4700::1111]:443", "xn--a", "",
	} {
		f.Add(host, []byte{127, 0, 0, 1})
		f.Add(host, netip.MustParseAddr("2606:4700::1111").AsSlice())
		f.Add(host, netip.MustParseAddr("64:ff9b::a9fe:a9fe").AsSlice())
	}
	var resolves atomic.Pointer[netip.Addr]
	server := startNames(f, func(question) reply { return reply{ips: []netip.Addr{*resolves.Load()}} })
	var dialled atomic.Pointer[string]
	plain := &net.Dialer{Timeout: 5 * time.Second, Resolver: server.resolver(), Control: func(_, address string, _ syscall.RawConn) error {
		dialled.Store(&address)
		return errWouldDial
	}}
	transport := &http.Transport{DialContext: Allow{}.dialer(plain), DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	f.Fuzz(func(t *testing.T, host string, resolved []byte) {
		ip, ok := netip.AddrFromSlice(resolved)
		if !ok {
			return
		}
		resolves.Store(&ip)
		dialled.Store(nil)
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+host+"/", nil)
		if err != nil {
			return
		}
		if answer, err := client.Do(request); err == nil {
			answer.Body.Close()
			t.Fatalf("%q was answered", host)
		}
		if address := dialled.Load(); address != nil {
			to := netip.MustParseAddrPort(*address).Addr().Unmap()
			if !to.IsGlobalUnicast() || to.IsPrivate() || to.Zone() != "" || to.Is6() && !netip.MustParsePrefix("2000::/3").Contains(to) || slices.Contains(metadata, to) {
				t.Errorf("%q resolved to %s: %s would be dialled", host, ip, *address)
			}
		}
	})
}
