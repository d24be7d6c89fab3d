// Package natsd runs a NATS server with JetStream inside the process: the
// broker of tests and of the development stack. It is the server that
// production runs, not a simulation; only its size is set for one machine.
package natsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
)

// maxPayload bounds one message, headers included. An SQS body may be 1 MiB,
// which with our headers is over the server's default of 1 MiB.
const maxPayload = 2 << 20

// Config says where the server listens and keeps its streams.
type Config struct {
	// Dir holds the JetStream file store. It is created when missing, and a
	// later Start on the same folder finds the same streams. Required. Only
	// one server may use a folder at a time.
	Dir string

	// Addr is host:port; port 0 takes a free one. Default "127.0.0.1:0".
	Addr string

	// SyncAlways makes each write reach the disk before it is acknowledged.
	// Off, the server syncs every two minutes: that survives a killed
	// process, not a power loss.
	SyncAlways bool

	// File is a configuration of NATS that is read first, such as one with
	// accounts; what is said here wins over it. Default: none.
	File string
}

// Server is a running NATS server.
type Server struct {
	nats *server.Server
	addr string
	stop sync.Once
	done chan struct{}
}

// Start returns when clients can connect and JetStream has recovered its
// streams. When ctx ends before that, the server is stopped again and the error
// is the context's; afterwards ctx has no effect, and Stop ends the server. A
// port that is taken, a folder that cannot be written and a server that refuses
// its store are errors, and then nothing stays running.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("natsd: the server refuses its options: %w", err)
	}
	fatal := make(fatalLog, 1)
	ns.SetLoggerV2(fatal, false, false, false)

	s := &Server{nats: ns, done: make(chan struct{})}
	started := make(chan struct{})
	go func() {
		ns.Start()
		close(started)
	}()
	go func() {
		ns.WaitForShutdown()
		close(s.done)
	}()

	select {
	case <-started:
	case <-ctx.Done():
		<-started // a shutdown in the middle of a start could leave its listener open
		s.Stop()
		return nil, fmt.Errorf("natsd: the start on %s was given up: %w", net.JoinHostPort(opts.Host, strconv.Itoa(max(opts.Port, 0))), ctx.Err())
	}

	// Start logs what went wrong and returns; the log is the only way to learn of it.
	select {
	case msg := <-fatal:
		s.Stop()
		return nil, startError(cfg, msg)
	default:
	}
	addr := ns.Addr()
	if addr == nil {
		s.Stop()
		return nil, startError(cfg, "the server has no listener")
	}
	s.addr = addr.String()
	return s, nil
}

func options(cfg Config) (*server.Options, error) {
	if cfg.Dir == "" {
		return nil, errors.New("natsd: Config.Dir is empty: set the folder that holds the streams")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("natsd: make the folder of the streams: %w", err)
	}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	host, service, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("natsd: address %q: want host:port: %w", cfg.Addr, err)
	}
	number, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("natsd: address %q: want a port from 0 to 65535: %w", cfg.Addr, err)
	}
	port := int(number)
	if port == 0 {
		port = server.RANDOM_PORT // 0 means 4222 to the server
	}
	opts := &server.Options{}
	if cfg.File != "" {
		if opts, err = server.ProcessConfigFile(cfg.File); err != nil {
			return nil, fmt.Errorf("natsd: %w", err)
		}
	}
	opts.ServerName, opts.Host, opts.Port = "natsd", host, port
	opts.MaxPayload, opts.JetStream, opts.StoreDir, opts.SyncAlways = maxPayload, true, cfg.Dir, cfg.SyncAlways
	opts.NoSigs = true
	return opts, nil
}

// startError names the address, since a taken port is the usual cause.
func startError(cfg Config, msg string) error {
	return fmt.Errorf("natsd: start on %s with the folder %s: %s; is another server running there?", cfg.Addr, cfg.Dir, msg)
}

// Addr is the host:port that clients reach.
func (s *Server) Addr() string { return s.addr }

// URL is what a NATS client connects to, such as nats://127.0.0.1:4222.
func (s *Server) URL() string { return "nats://" + s.addr }

// Done is closed when the server has shut down.
func (s *Server) Done() <-chan struct{} { return s.done }

// Trail makes the server answer direct gets by subject from the stream as a replica of
// it that lacks every message would: not found. Its leader, who answers all else, is
// not affected. It returns what ends that.
func (s *Server) Trail(stream string) (end func(), err error) {
	account, get := s.nats.GlobalAccount(), "$JS.API.DIRECT.GET."+stream
	if err := account.AddMapping(get+".>", get+".nothing.>"); err != nil {
		return nil, fmt.Errorf("natsd: %w", err)
	}
	return func() { account.RemoveMapping(get + ".>") }, nil
}

// Stop closes all connections, writes the streams' state and returns when the
// server has shut down. Every call waits; only the first does something.
func (s *Server) Stop() {
	s.stop.Do(s.nats.Shutdown)
	<-s.done
}

// fatalLog keeps the first fatal line of the server and drops the rest: what
// goes wrong later reaches the clients as errors.
type fatalLog chan string

func (l fatalLog) Fatalf(format string, v ...any) {
	select {
	case l <- fmt.Sprintf(format, v...):
	default:
	}
}

func (fatalLog) Noticef(string, ...any) {}
func (fatalLog) Warnf(string, ...any)   {}
func (fatalLog) Errorf(string, ...any)  {}
func (fatalLog) Debugf(string, ...any)  {}
func (fatalLog) Tracef(string, ...any)  {}
