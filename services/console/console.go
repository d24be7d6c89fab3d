// Package console shows people what happens to jobs, in a browser: pages made of the
// events, ledgers, dead letters and statuses that NATS keeps. It reads by direct gets
// alone, makes nothing on the server and keeps nothing but an index that may be
// dropped, so that any number of it runs, or none (docs/adr/0018, docs/console).
package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
)

// Config of the service; its tags are its flags.
type Config struct {
	Replica replica.Config `embed:""`

	Listen          string         `name:"listen" default:"127.0.0.1:8090" help:"Address of the pages. One that others reach needs --users-file, --user-header or --unauthenticated."`
	Hosts           []string       `name:"host" placeholder:"NAME,…" help:"Names by which browsers know the console, beside those of the loopback; asked of where nobody is asked for a password."`
	UsersFile       string         `name:"users-file" placeholder:"FILE" help:"File of who may look, a line NAME:BCRYPT each (htpasswd -B), read again when it changes."`
	UserHeader      string         `name:"user-header" placeholder:"HEADER" help:"Header in which a proxy says who asks, such as X-Forwarded-User; needs --trusted-proxies."`
	TrustedProxies  []netip.Prefix `name:"trusted-proxies" placeholder:"CIDR,…" help:"Where that proxy is. Requests from anywhere else are refused."`
	Unauthenticated bool           `name:"unauthenticated" help:"Ask nobody who they are, on an address that others reach: something else decides who reaches it."`
	AllowActions    bool           `name:"allow-actions" help:"Let people cancel jobs and replay dead letters; needs NATS's user console-actions instead of console."`
	CSRFKey         string         `name:"csrf-key" placeholder:"FILE" help:"File with at least 32 bytes that all replicas share, for --allow-actions behind one address; default: each makes its own."`
	Jobs            int            `name:"index-jobs" default:"100000" help:"Jobs that are held in memory, some 400 bytes each (1000 to 1000000); older ones are read from the log on demand."`

	// OnListen, where it is set, is told the bound address, once.
	OnListen func(address string) `kong:"-"`
}

// Validate says what is wrong with the flags; kong calls it.
func (c *Config) Validate() error {
	if c.Jobs < 1000 || c.Jobs > 1_000_000 {
		return errors.New("--index-jobs takes 1000 to 1000000")
	}
	if c.UsersFile != "" && c.UserHeader != "" {
		return errors.New("--users-file and --user-header are two ways to know who asks: take one")
	}
	if (c.UserHeader != "") != (len(c.TrustedProxies) > 0) {
		return errors.New("--user-header and --trusted-proxies go together: a header is worth what whoever can send it is")
	}
	if c.Unauthenticated && (c.UsersFile != "" || c.UserHeader != "") {
		return errors.New("--unauthenticated is instead of --users-file and --user-header: leave one of the two out")
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return errors.New("--listen takes HOST:PORT, such as 127.0.0.1:8090")
	}
	if !isLoopback(host) && c.UsersFile == "" && c.UserHeader == "" && !c.Unauthenticated {
		return fmt.Errorf("--listen %s lets everybody look who reaches it: add --users-file, or --user-header and --trusted-proxies, or say with --unauthenticated that something else lets nobody in", c.Listen)
	}
	return c.Replica.Validate()
}

// isLoopback reports whether only this machine reaches the host.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// Main is the command console; it returns the exit code.
func Main() int {
	var cfg Config
	return process.Service("console", "Shows people what happens to jobs, in a browser.", &cfg, nil, func(ctx context.Context, log zerolog.Logger) error {
		return Run(ctx, cfg, log)
	})
}

// role is the user of NATS: it settles what the console may do.
func (c *Config) role() string {
	if c.AllowActions {
		return broker.RoleActions
	}
	return broker.RoleConsole
}

// Run serves until ctx ends. It makes no stream and no consumer, whatever --topology
// says, and reads those streams alone that its role may.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) error {
	users, err := openUsers(cfg.UsersFile, log)
	if err != nil {
		return err
	}
	tokens, err := newTokens(cfg.CSRFKey)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("pages: %w; choose another with --listen", err)
	}
	defer listener.Close()
	cfg.Replica.Broker.Topology = broker.Verify
	r, err := replica.Start(ctx, cfg.role(), cfg.Replica, log)
	if err != nil {
		return err
	}
	defer r.Stop()
	if cfg.UsersFile != "" {
		r.AddFile("users", users)
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go users.Watch(watching)
	index, hub := NewIndex(cfg.Jobs), newHub()
	f := newFollower(r.Broker, index, hub, log)
	s := &server{
		cfg: cfg, index: index, hub: hub, progress: f.Progress, reads: r.Broker, tokens: tokens, log: log, now: time.Now,
		letters: newLetters(r.Broker), glance: newGlance(r.Broker), stopping: ctx, name: r.Name,
	}
	s.letters.reachable, s.glance.reachable = s.reachable, s.reachable
	s.metrics = newMetrics(r.Registry(), index, f.Progress, func() float64 { return float64(s.listening.Load()) })
	s.access = newAccess(cfg, users, s.metrics, log)
	// The pages are there before NATS is, and say so.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serve(ctx, listener) })
	group.Go(func() error {
		connected, err := r.Connect(ctx)
		if err != nil {
			return err
		}
		s.connected.Store(true)
		f.Run(connected)
		return context.Cause(connected)
	})
	address := listener.Addr().String()
	log.Info().Str("instance", r.Name).Str("pages", "http://"+address).Bool("actions", cfg.AllowActions).Msg("console is running")
	if cfg.OnListen != nil {
		cfg.OnListen(address)
	}
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// hostNames are the names by which a browser may call for the console.
func (c *Config) hostNames() []string {
	return slices.Concat([]string{"localhost", "127.0.0.1", "::1"}, c.Hosts)
}
