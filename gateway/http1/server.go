// Package http1 carries HTTP/1.1 for a gateway: a server that takes only requests
// that cannot be read in two ways and answers the frequent ones without allocating
// for them, and a client that keeps connections to one node.
//
// All requests pass the same check of their header (head.go). Those that Fast knows
// are answered from the bytes as they came; all others are read by net/http and go to
// a Handler, on the same connection. Connections that begin in HTTP/2 are handed to
// net/http as they are.
package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Server answers HTTP on any number of listeners. The fields are set before Serve.
type Server struct {
	// Fast answers a request and tells whether it did; it must not have touched w if
	// not. It may be nil.
	Fast func(q *Request, w *Writer) bool
	// Handler answers what Fast does not, and all of HTTP/2.
	Handler http.Handler
	// TLS is served to whoever begins with it; nil for none. With it, plain HTTP is
	// answered on loopback addresses only.
	TLS *tls.Config

	MaxHeaderBytes int
	HeaderTimeout  time.Duration // for a header to arrive
	ReadTimeout    time.Duration // for a request to arrive in full
	WriteTimeout   time.Duration // for an answer to be made and to go out
	IdleTimeout    time.Duration // between two requests of a connection

	// MaxConns and MaxConnsPerIP bound the open connections, the second those of one
	// IPv4 address or IPv6 /64 network, unless Unbounded says that there is no bound
	// for it. Zero is no bound.
	MaxConns, MaxConnsPerIP int
	Unbounded               func(netip.Addr) bool

	// Room is where requests are read into, and answers of Handler wait; nil for no bound.
	Room Room

	Log *slog.Logger

	setup   sync.Once
	closing atomic.Bool
	retired atomic.Bool
	second  *http.Server // HTTP/2
	handed  *handed

	mu        sync.Mutex
	listeners map[net.Listener]bool
	open      map[*conn]bool // those that this server reads from
	sources   map[netip.Addr]int
	count     int
	refused   atomic.Uint64
}

func (s *Server) prepare() {
	s.setup.Do(func() {
		s.listeners, s.open, s.sources = map[net.Listener]bool{}, map[*conn]bool{}, map[netip.Addr]int{}
		s.handed = &handed{conns: make(chan net.Conn), closed: make(chan struct{})}
		s.second = &http.Server{
			Handler:           s.Handler,
			ReadHeaderTimeout: s.HeaderTimeout,
			IdleTimeout:       s.IdleTimeout,
			MaxHeaderBytes:    s.MaxHeaderBytes,
			Protocols:         new(http.Protocols),
			ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		}
		s.second.Protocols.SetHTTP2(true)
		s.second.Protocols.SetUnencryptedHTTP2(true)
		go s.second.Serve(s.handed)
		go s.watchClients()
	})
}

// Serve answers the connections of a listener until it fails or the server stops,
// when the error is [http.ErrServerClosed].
func (s *Server) Serve(l net.Listener) error {
	s.prepare()
	s.mu.Lock()
	s.listeners[l] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		switch {
		case s.closing.Load():
			if err == nil {
				c.Close()
			}
			return http.ErrServerClosed
		case err != nil:
			// As when files run out: what is open goes on, and may end.
			if temporary, ok := errors.AsType[interface {
				error
				Temporary() bool
			}](err); !ok || !temporary.Temporary() {
				return err
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.Log.Warn("connection is not accepted", "error", err)
			time.Sleep(pause)
			continue
		}
		pause = 0
		go s.take(c)
	}
}

// take serves a new connection if there is room for it.
func (s *Server) take(nc net.Conn) {
	peer := addrOf(nc.RemoteAddr())
	counted := &counted{Conn: nc, server: s}
	if why := s.enter(counted, peer.Addr()); why != nil {
		s.refused.Add(1)
		_ = nc.SetDeadline(time.Now().Add(time.Second))
		if s.TLS == nil {
			(&conn{server: s, nc: nc}).say(why)
		}
		nc.Close()
		return
	}
	c := &conn{server: s, nc: counted, raw: counted, peer: peer}
	c.tcp, _ = nc.(*net.TCPConn)
	s.mu.Lock()
	s.open[c] = true
	s.mu.Unlock()
	c.serve()
}

// enter counts a connection.
func (s *Server) enter(c *counted, from netip.Addr) *refusal {
	bounded := s.MaxConnsPerIP > 0 && (s.Unbounded == nil || !s.Unbounded(from))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.MaxConns > 0 && s.count >= s.MaxConns {
		return &refusal{503, "too many connections are open here: try again, and keep connections"}
	}
	if bounded {
		c.source = network(from)
		if s.sources[c.source] >= s.MaxConnsPerIP {
			return &refusal{429, "too many connections from this address: keep connections, or send batches"}
		}
		s.sources[c.source]++
	}
	s.count++
	return nil
}

// network is what connections are counted by.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.Prefix(64) // of an IPv6 address it is one
		return p.Addr()
	}
	return a
}

func addrOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// Conns returns how many connections are open, and how many were refused for want
// of room since the start.
func (s *Server) Conns() (open int, refused uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count, s.refused.Load()
}

// Retire has each connection end with its next answer, so that clients connect anew.
func (s *Server) Retire() { s.retired.Store(true) }

// Shutdown accepts nothing more, ends idle connections at once and waits for the
// others until their answers have gone out or ctx ends. It does not wait for
// connections that a handler has taken over.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	ended := make(chan error, 1)
	go func() { ended <- s.second.Shutdown(ctx) }()
	for {
		s.mu.Lock()
		left := len(s.open)
		for c := range s.open {
			if c.idle.Load() {
				_ = c.nc.SetReadDeadline(past)
			}
		}
		s.mu.Unlock()
		if left == 0 {
			return <-ended
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Close ends everything at once but the connections that a handler has taken over.
func (s *Server) Close() error {
	s.stop()
	var open []net.Conn
	s.mu.Lock()
	for c := range s.open {
		open = append(open, c.nc)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close() // which takes the mutex
	}
	return s.second.Close()
}

func (s *Server) stop() {
	s.prepare()
	s.closing.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		l.Close()
	}
}

// past is a deadline that ends what waits.
var past = time.Unix(1, 0)

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	server *Server
	source netip.Addr // if it is bounded
	once   sync.Once
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(func() {
		s := c.server
		s.mu.Lock()
		defer s.mu.Unlock()
		s.count--
		if c.source.IsValid() {
			if s.sources[c.source]--; s.sources[c.source] == 0 {
				delete(s.sources, c.source)
			}
		}
	})
	return c.Conn.Close()
}

// CloseWrite says that nothing more is sent.
func (c *counted) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// prefixed is a connection of which some bytes have been read already.
type prefixed struct {
	net.Conn
	before []byte
}

// Read implements net.Conn.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.before) > 0 {
		n := copy(b, p.before)
		if p.before = p.before[n:]; len(p.before) == 0 {
			p.before = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// handed is the listener through which net/http gets its connections.
type handed struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handed) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
	}
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handed) Addr() net.Addr { return &net.TCPAddr{} }
