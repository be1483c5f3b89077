package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/openbsn/bsn"
)

// forwardProtocol carries one TCP connection on one stream. The dialling side begins
// with a header of three bytes, service and port (big endian), and may go on at once;
// the other side begins with one byte, an answer.
const forwardProtocol = "/bsn/forward/1"

const headerSize = 3

// Answers to a header.
const (
	answerConnected byte = iota
	answerRefused        // this port is not open to this city
	answerNobody         // nothing listens there
)

const (
	bufferSize = 64 << 10
	// headerTimeout is how long a stream may take to say what it wants.
	headerTimeout = 10 * time.Second
	// connectTimeout bounds the connection to the own node.
	connectTimeout = 5 * time.Second
	// idleTime is how long a carried connection may carry nothing, halfIdleTime one of
	// which one side has ended.
	idleTime     = time.Hour
	halfIdleTime = 5 * time.Minute
)

func encodeHeader(p bsn.Port) [headerSize]byte {
	return [headerSize]byte{byte(p.Service), byte(p.Port >> 8), byte(p.Port)}
}

// decodeHeader reads what a stream is for. Error: no such port can exist.
func decodeHeader(h [headerSize]byte) (bsn.Port, error) {
	p := bsn.Port{Service: int(h[0]), Port: int(h[1])<<8 | int(h[2])}
	if p.Service == 0 || p.Service == 255 || p.Port == 0 {
		return p, fmt.Errorf("no such port: service %d, port %d", p.Service, p.Port)
	}
	return p, nil
}

// listen opens the ports at the virtual addresses of a city elsewhere. Ports that are
// taken, by another local city's daemon, are left for the next time.
func (p *neighbour) listen(n bsn.Neighbour) error {
	var errs []error
	wanted := map[bsn.Port]bool{}
	if !n.Local {
		for _, port := range n.Ports {
			wanted[port] = true
		}
	}
	for port, l := range p.listeners {
		if !wanted[port] {
			l.Close()
			delete(p.listeners, port)
		}
	}
	for port := range wanted {
		if p.listeners[port] != nil {
			continue
		}
		at := bsn.HostPort(p.l.cfg.Net.Addr(n.City.Index, port.Service), port.Port)
		l, err := net.Listen("tcp", at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.listeners[port] = l
		p.l.wg.Go(func() { p.accept(l, port) })
	}
	return errors.Join(errs...)
}

func (p *neighbour) accept(l net.Listener, port bsn.Port) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the caller has gone
			time.Sleep(10 * time.Millisecond)
			continue
		}
		p.l.wg.Go(func() {
			if err := p.send(c.(*net.TCPConn), port); err != nil {
				p.l.cfg.Log.Debug("connection not carried", "city", p.get().City.Name, "to", c.LocalAddr(), "error", err)
			}
		})
	}
}

// send carries a local connection to the city.
func (p *neighbour) send(c *net.TCPConn, port bsn.Port) error {
	s, err := p.open(forwardProtocol)
	if err != nil {
		abort(c)
		return err
	}
	header := encodeHeader(port)
	if _, err := s.Write(header[:]); err != nil {
		abort(c)
		s.Reset()
		return fmt.Errorf("say what the connection is for: %w", err)
	}
	return p.carry(c, s, port, true)
}

// open makes a stream to the city, and waits a little for the link to it.
func (p *neighbour) open(protocol string) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(p.ctx, connectTimeout)
	defer cancel()
	if err := p.await(ctx); err != nil {
		return nil, err
	}
	s, err := p.l.host.NewStream(network.WithNoDial(ctx, "the link dials by itself"), p.id, protocolID(protocol))
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return s, nil
}

// receive takes a connection of another city to this one's own node.
func (l *Link) receive(s network.Stream) {
	p, ok := l.known(s.Conn().RemotePeer())
	if !ok {
		s.Reset()
		return
	}
	l.wg.Go(func() {
		if err := l.connect(p, s); err != nil {
			l.cfg.Log.Debug("connection of another city not carried", "city", p.get().City.Name, "error", err)
		}
	})
}

func (l *Link) connect(p *neighbour, s network.Stream) error {
	s.SetReadDeadline(time.Now().Add(headerTimeout)) // on all that libp2p carries this works
	var header [headerSize]byte
	if _, err := io.ReadFull(s, header[:]); err != nil {
		s.Reset()
		return fmt.Errorf("read header: %w", err)
	}
	s.SetReadDeadline(time.Time{})
	port, err := decodeHeader(header)
	if err == nil && !p.allows(port) {
		err = fmt.Errorf("service %d, port %d is not open to city %q", port.Service, port.Port, p.get().City.Name)
	}
	if err != nil {
		refuse(s, answerRefused)
		return err
	}
	c, err := l.dialOwn(p, port)
	if err != nil {
		refuse(s, answerNobody)
		return err
	}
	if _, err := s.Write([]byte{answerConnected}); err != nil {
		abort(c)
		s.Reset()
		return fmt.Errorf("answer: %w", err)
	}
	return p.carry(c, s, port, false)
}

// dialOwn connects to what the city has at a port.
func (l *Link) dialOwn(p *neighbour, port bsn.Port) (conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, connectTimeout)
	defer cancel()
	if connect := l.cfg.Connect[port]; connect != nil {
		return connect(ctx, p.get().City.Name)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", bsn.HostPort(l.cfg.Net.Addr(l.cfg.Index, port.Service), port.Port))
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func refuse(s network.Stream, answer byte) {
	s.Write([]byte{answer}) // who does not hear it hears the end
	s.Close()
}

// abort ends a connection so that the other side notices.
func abort(c conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// conn is a connection of this machine, of which one direction can end first.
type conn interface {
	net.Conn
	CloseWrite() error
}

// carried is a connection that is being carried.
type carried struct {
	c      conn
	s      network.Stream
	port   bsn.Port
	active atomic.Int64 // Unix nanoseconds of the last bytes
	halves atomic.Int32 // directions that go on
	once   sync.Once

	mu   sync.Mutex
	idle *time.Timer
}

// abort ends it in both directions, as an error does.
func (x *carried) abort() {
	x.once.Do(func() {
		x.s.Reset()
		abort(x.c)
	})
}

// carry copies in both directions until both have ended. Where one side ends its
// direction the other is told, and may go on with its own. On the dialling side the
// stream begins with an answer.
func (p *neighbour) carry(c conn, s network.Stream, port bsn.Port, answer bool) error {
	x := &carried{c: c, s: s, port: port}
	x.active.Store(time.Now().UnixNano())
	x.halves.Store(2)
	if !p.keep(x) { // the city or the port was taken away in the meantime
		x.abort()
		return errors.New("no longer allowed")
	}
	defer p.drop(x)
	x.mu.Lock()
	x.idle = time.AfterFunc(halfIdleTime, x.watch)
	x.mu.Unlock()
	defer x.idle.Stop()
	var wg sync.WaitGroup
	var out, in error
	wg.Go(func() {
		if out = x.copy(s, c, &p.sent); out == nil {
			out = s.CloseWrite()
		}
		x.ended(out)
	})
	if answer {
		in = readAnswer(s)
	}
	if in == nil {
		if in = x.copy(c, s, &p.received); in == nil {
			in = c.CloseWrite()
		}
	}
	x.ended(in)
	wg.Wait()
	if in == nil && out == nil {
		return errors.Join(s.Close(), c.Close())
	}
	return errors.Join(in, out)
}

func readAnswer(s network.Stream) error {
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	switch b[0] {
	case answerConnected:
		return nil
	case answerRefused:
		return errors.New("the other city does not let this one in at this port")
	case answerNobody:
		return errors.New("nothing listens there")
	}
	return fmt.Errorf("unknown answer %d", b[0])
}

func (x *carried) ended(err error) {
	x.halves.Add(-1)
	if err != nil {
		x.abort()
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func (x *carried) copy(to io.Writer, from io.Reader, count *atomic.Uint64) error {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		n, err := from.Read(*b)
		if n > 0 {
			x.active.Store(time.Now().UnixNano())
			if _, err := to.Write((*b)[:n]); err != nil {
				return err
			}
			count.Add(uint64(n))
		}
		if err == io.EOF { // itself: a connection that broke wraps it
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// watch ends a connection that has been idle for too long.
func (x *carried) watch() {
	limit := idleTime
	if x.halves.Load() < 2 {
		limit = halfIdleTime
	}
	rest := limit - time.Since(time.Unix(0, x.active.Load()))
	if rest <= 0 {
		x.abort()
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.idle.Reset(min(rest, halfIdleTime))
}
