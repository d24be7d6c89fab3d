// Package drain ends an HTTP server without a wait for those who say nothing.
// http.Server.Shutdown gives each connection on which nothing was sent yet 5 s to
// send something; browsers, probes and kept pools open such connections.
package drain

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// Server is an http.Server whose unused connections are known.
type Server struct {
	http *http.Server

	mu       sync.Mutex
	stopping bool
	unused   map[net.Conn]struct{} // as many as the listener takes
}

// New makes the server ready; it takes its ConnState.
func New(server *http.Server) *Server {
	s := &Server{http: server, unused: map[net.Conn]struct{}{}}
	server.ConnState = s.state
	return s
}

// Serve answers until Stop, and then returns nil once no connection is accepted any
// more; the listener's error where it fails before.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// Stop closes what is unused at once, lets the answers that are being written finish,
// and closes every connection. When ctx ends first it closes them anyway, and
// returns ctx's error.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for conn := range s.unused {
		_ = conn.Close()
	}
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close()
	}
	return err
}

func (s *Server) state(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.unused, conn)
	case s.stopping:
		_ = conn.Close()
	default:
		s.unused[conn] = struct{}{}
	}
}
