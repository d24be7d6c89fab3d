package console

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/process"
)

// maxUserName bounds the name that a proxy says, in bytes.
const maxUserName = 256

// access decides who may look.
type access struct {
	cfg       Config
	passwords *passwords // nil: no file
	metrics   *metrics
	log       zerolog.Logger
	hosts     []string // nil: any
}

func newAccess(cfg Config, f *process.File[users], m *metrics, log zerolog.Logger) *access {
	a := &access{cfg: cfg, metrics: m, log: log}
	if cfg.UsersFile != "" {
		a.passwords = newPasswords(f)
	}
	// A page of elsewhere whose name is made to lead here has no password and passes
	// no proxy: only where nobody is asked does the name matter.
	host, _, _ := net.SplitHostPort(cfg.Listen) // validated
	if a.passwords == nil && cfg.UserHeader == "" && (isLoopback(host) || len(cfg.Hosts) > 0) {
		a.hosts = cfg.hostNames()
	}
	return a
}

type userKey struct{}

// userOf is who asks; "local" where nobody is asked.
func userOf(r *http.Request) string {
	name, _ := r.Context().Value(userKey{}).(string)
	return name
}

// guard lets those through who may look.
func (a *access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.calledRight(r) {
			http.Error(w, "The console is not known by this name here: use localhost or 127.0.0.1, or start it with --host.", http.StatusMisdirectedRequest)
			return
		}
		name, ok := a.user(w, r)
		if !ok {
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, name)))
	})
}

// calledRight reports whether the browser called for the console by a name of its own.
func (a *access) calledRight(r *http.Request) bool {
	if a.hosts == nil {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	return slices.ContainsFunc(a.hosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// user is who asks. Where that is false the answer is given.
func (a *access) user(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	switch {
	case a.passwords != nil:
		return a.byPassword(w, r)
	case a.cfg.UserHeader != "":
		return a.byProxy(w, r)
	default:
		return "local", true
	}
}

func (a *access) byPassword(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	name, password, ok := r.BasicAuth()
	if ok {
		outcome := a.passwords.check(name, password)
		a.metrics.logins.WithLabelValues(outcome).Inc()
		switch outcome {
		case loginTaken:
			return name, true
		case loginSlowed:
			w.Header().Set("Retry-After", "2")
			http.Error(w, "Too many tries of this name: wait a moment.", http.StatusTooManyRequests)
			return "", false
		}
		a.log.Warn().Str("from", r.RemoteAddr).Msg("a login was refused") // not the name: it may be a password
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="jobrelay console", charset="UTF-8"`)
	http.Error(w, "The console asks for a name and a password.", http.StatusUnauthorized)
	return "", false
}

func (a *access) byProxy(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	trusted := err == nil && slices.ContainsFunc(a.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap()) })
	if !trusted {
		http.Error(w, "The console is reached through its proxy alone.", http.StatusForbidden)
		return "", false
	}
	said := r.Header.Values(a.cfg.UserHeader)
	if len(said) != 1 || said[0] == "" || len(said[0]) > maxUserName || strings.ContainsFunc(said[0], unicode.IsControl) {
		http.Error(w, "The proxy does not say who asks.", http.StatusForbidden)
		return "", false
	}
	return said[0], true
}
