package http1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// startBuffer is what a connection reads into at first; it grows up to the
	// largest header.
	startBuffer = 4 << 10
	// copied is the largest answer that is copied into one piece; a larger one goes
	// out from where its parts lie, unless it is encrypted.
	copied = 8 << 10
	// keepBuffer is the largest buffer for answers that a connection keeps, and so the
	// largest part of one that is copied so as to go out with the others at once.
	keepBuffer = 16 << 10
	// beside is the largest part that is copied behind the header of a large answer.
	beside = 1 << 10
	// joined is the largest text that is copied so as to go out with a header at once.
	joined = 32 << 10
	// firstBody is for how much of a body memory is taken before any of it has come.
	firstBody = 32 << 10
	// lingering and lingerBytes bound what is read of a client that is refused, so
	// that the refusal arrives: closing over unread bytes would destroy it.
	lingering   = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// preface begins a connection in HTTP/2.
var preface = []byte("PRI * HTTP/2.0\r\n\r\n")

// conn is one client's connection, served by one goroutine.
type conn struct {
	server *Server
	nc     net.Conn     // changed under server.mu
	tcp    *net.TCPConn // what nc comes to, if nothing is in between that changes bytes
	raw    net.Conn     // beneath nc
	peer   netip.AddrPort
	secure bool
	idle   atomic.Bool // waits for a request

	presence Presence

	in      []byte // what was read, from the beginning of the next request
	end     int
	request Request
	writer  Writer

	readBy, writeBy time.Time // the deadlines that are set
	began           time.Time // when the present request came
	now             time.Time // when the clock was looked at last
	later           bool      // this is not the first request
	broken          bool      // writing has failed
	taken           bool      // by a handler or by net/http
}

func (c *conn) serve() {
	defer func() {
		if r := recover(); r != nil && r != http.ErrAbortHandler {
			c.server.Log.Error("request failed", "panic", r, "stack", string(debug.Stack()))
		}
		c.leave()
		if !c.taken {
			c.nc.Close()
		}
	}()
	c.in = make([]byte, startBuffer)
	for c.next() {
		c.later = true
	}
}

// leave has the server forget the connection.
func (c *conn) leave() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	delete(c.server.open, c)
}

// readUntil sets the deadline of reading to at the earliest at. Slack says by how much
// it may be later: setting it costs more than many a request.
func (c *conn) readUntil(at time.Time, slack time.Duration) {
	if c.readBy.Before(at) || c.readBy.After(at.Add(slack)) {
		c.readBy = at.Add(slack)
		_ = c.nc.SetReadDeadline(c.readBy)
	}
}

// readMore reads on in a request. Shutdown, which ends idle connections, may have cut
// the deadline of one on which a request had just begun.
func (c *conn) readMore(b []byte) (int, error) {
	for {
		n, err := c.nc.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(c.readBy) {
			return n, err
		}
		_ = c.nc.SetReadDeadline(c.readBy)
	}
}

type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func (c *conn) writeUntil(at time.Time, slack time.Duration) {
	if c.writeBy.Before(at) || c.writeBy.After(at.Add(slack)) {
		c.writeBy = at.Add(slack)
		_ = c.nc.SetWriteDeadline(c.writeBy)
	}
}

// next answers one request and tells whether another one may follow.
func (c *conn) next() bool {
	s := c.server
	switch {
	case c.end > 0: // it came with the one before
		c.began = time.Now()
	case !c.wait():
		return false
	}
	if !c.later && !c.greet() {
		return false
	}
	size, ok := c.readHead()
	if !ok {
		return false
	}
	if !c.later && bytes.Equal(c.in[:size], preface) {
		c.hand(&prefixed{c.nc, bytes.Clone(c.in[:c.end])})
		return false
	}
	q := &c.request
	q.conn, q.used, q.read = c, size, false
	if why := q.head.read(c.in[:size]); why != nil {
		c.refuse(why)
		return false
	}
	w := &c.writer
	w.conn, w.sent = c, false
	if s.Fast == nil || q.length < 0 || q.upgrades || !s.Fast(q, w) {
		return c.serveHandler(size)
	}
	if !w.sent {
		w.Begin(http.StatusInternalServerError)
		w.Send()
	}
	if c.broken {
		return false
	}
	if w.ends {
		if !q.read {
			c.linger()
		}
		return false
	}
	c.end = copy(c.in, c.in[q.used:c.end])
	return true
}

// wait waits for the first bytes of a request.
func (c *conn) wait() bool {
	s := c.server
	timeout := s.IdleTimeout
	if !c.later {
		timeout, c.now = s.HeaderTimeout, time.Now()
	}
	c.readUntil(c.now.Add(timeout), timeout/8)
	c.idle.Store(true)
	if s.closing.Load() {
		return false
	}
	n, err := c.nc.Read(c.in)
	c.idle.Store(false)
	c.now = time.Now()
	c.end, c.began = n, c.now
	return n > 0 && err == nil
}

// greet looks at how a connection begins: TLS is taken off.
func (c *conn) greet() bool {
	s := c.server
	if s.TLS == nil || c.secure {
		return true
	}
	if c.in[0] != 0x16 { // a handshake record
		if !addrOf(c.nc.LocalAddr()).Addr().IsLoopback() {
			c.refuse(bad("this address speaks HTTPS: connect to https://"))
			return false
		}
		return true
	}
	t := tls.Server(&prefixed{c.nc, bytes.Clone(c.in[:c.end])}, s.TLS)
	_ = t.SetDeadline(time.Now().Add(s.HeaderTimeout))
	if err := t.Handshake(); err != nil {
		s.Log.Debug("TLS handshake", "peer", c.peer, "error", err)
		return false
	}
	_ = t.SetDeadline(time.Time{})
	s.mu.Lock()
	c.nc = t
	s.mu.Unlock()
	c.tcp = nil
	c.secure, c.readBy, c.writeBy, c.end = true, time.Time{}, time.Time{}, 0
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		c.hand(t)
		return false
	}
	return c.wait()
}

// hand gives the connection to net/http.
func (c *conn) hand(nc net.Conn) {
	_ = nc.SetDeadline(time.Time{})
	c.leave()
	c.taken = c.server.handed.give(nc)
}

// readHead reads until the header of the next request is there in full.
func (c *conn) readHead() (size int, ok bool) {
	s := c.server
	for seen := 0; ; {
		if size = headEnd(c.in[:c.end], seen); size > 0 {
			if size > s.MaxHeaderBytes {
				c.refuse(errLargeHead)
				return 0, false
			}
			return size, true
		}
		seen = c.end
		switch {
		case bareLine(c.in[:c.end]):
			c.refuse(bad("a line of the header does not end in CRLF"))
			return 0, false
		case c.end >= s.MaxHeaderBytes:
			c.refuse(errLargeHead)
			return 0, false
		case c.end == len(c.in):
			c.in = append(c.in, make([]byte, min(len(c.in), s.MaxHeaderBytes-len(c.in)))...)
		}
		c.readUntil(c.began.Add(s.HeaderTimeout), 0)
		n, err := c.readMore(c.in[c.end:])
		c.end += n
		if n == 0 && err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.refuse(&refusal{408, "the header did not arrive in time"})
			}
			return 0, false
		}
	}
}

// refuse answers a request that is not taken, after which the connection ends: what
// follows on it cannot be told from the rest of that request.
func (c *conn) refuse(why *refusal) {
	c.say(why)
	c.linger()
}

func (c *conn) say(why *refusal) {
	w := &Writer{conn: c}
	w.begin(why.status, true)
	w.Set("Content-Type", "application/json")
	w.Send([]byte(`{"error":`), strconv.AppendQuote(nil, why.text), []byte{'}'})
}

// linger ends sending, and reads a little on before the connection is closed.
func (c *conn) linger() {
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok && !c.broken {
		_ = w.CloseWrite()
		_ = c.nc.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.CopyN(io.Discard, c.nc, lingerBytes)
	}
}

// Request is a request as Fast sees it. Its slices are good until Fast returns.
type Request struct {
	head
	conn *conn
	used int  // bytes of conn.in that belong to it
	read bool // the body has been read in full
}

// Method is as it came.
func (q *Request) Method() []byte { return q.method }

// Target is the path and query as they came; "*" is possible with OPTIONS.
func (q *Request) Target() []byte { return q.target }

// Field returns the value of the first header field of that name, which is given in
// lower case; nil if there is none.
func (q *Request) Field(name string) []byte { return q.field(name) }

// Fields calls yield with the value of each header field of that name, in order.
func (q *Request) Fields(name string) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for i := range q.fields {
			if equalFold(q.fields[i].name, name) && !yield(q.fields[i].value) {
				return
			}
		}
	}
}

// Began is when the request began to come.
func (q *Request) Began() time.Time { return q.conn.began }

// Context ends when the client has hung up.
func (q *Request) Context() *Presence { return &q.conn.presence }

// Peer is the other end of the connection.
func (q *Request) Peer() netip.AddrPort { return q.conn.peer }

// Errors of Body.
var (
	ErrTooLarge = errors.New("request is too large")
	ErrCutShort = errors.New("request did not arrive in full")
)

// Body reads the body of at most limit bytes, for which room is taken only while it is
// read: see [ErrNoRoom]. It is good until Fast returns, and may be called once.
func (q *Request) Body(limit int64) ([]byte, error) {
	if q.length > limit {
		return nil, ErrTooLarge
	}
	c := q.conn
	have := c.in[q.used:min(c.end, q.used+int(q.length))]
	q.used += len(have)
	if len(have) == int(q.length) {
		q.read = true
		return have[:len(have):len(have)], nil
	}
	// Memory is taken for what has come, not for what was promised.
	text := make([]byte, min(int(q.length), max(len(have), firstBody)))
	taken := int64(0)
	defer func() {
		if taken > 0 {
			c.server.Room.Give(taken)
		}
	}()
	for n := copy(text, have); n < int(q.length); {
		if q.expects {
			c.proceed()
			q.expects = false
		}
		if n == len(text) {
			more := int64(min(len(text), int(q.length)-n))
			if c.server.Room != nil {
				if !c.server.Room.Take(more) {
					return nil, ErrNoRoom
				}
				taken += more
			}
			text = append(text, make([]byte, more)...)
		}
		c.readUntil(c.began.Add(c.server.ReadTimeout), 0)
		more, err := io.ReadFull(readerFunc(c.readMore), text[n:])
		if err != nil {
			return nil, ErrCutShort
		}
		n += more
	}
	q.read = true
	return text, nil
}

// skip tells whether the whole body is there, and passes over it.
func (q *Request) skip() bool {
	if !q.read && int64(q.conn.end-q.used) >= q.length {
		q.used += int(q.length)
		q.read = true
	}
	return q.read
}

// proceed asks a client that waits for it to send the body.
func (c *conn) proceed() {
	c.writeUntil(time.Now().Add(c.server.WriteTimeout), c.server.WriteTimeout/8)
	if _, err := c.nc.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
		c.broken = true
	}
}

// Writer writes one answer: Begin, any number of fields, Send.
type Writer struct {
	conn   *conn
	out    []byte
	vector [][]byte // room for gather
	going  net.Buffers
	sent   bool
	ends   bool // the connection ends with this answer
	bare   bool // the status has no body
}

// Begin begins an answer.
func (w *Writer) Begin(status int) {
	c := w.conn
	s := c.server
	w.begin(status, c.request.close || s.retired.Load() || s.closing.Load() || !c.request.skip())
}

func (w *Writer) begin(status int, ends bool) {
	w.ends, w.bare = ends, status == http.StatusNoContent
	if status == http.StatusOK {
		w.out = append(w.out[:0], "HTTP/1.1 200 OK\r\nDate: "...)
	} else {
		w.out = append(w.out[:0], "HTTP/1.1 "...)
		w.out = strconv.AppendInt(w.out, int64(status), 10)
		w.out = append(append(append(w.out, ' '), http.StatusText(status)...), "\r\nDate: "...)
	}
	w.conn.now = time.Now()
	w.out = append(w.out, date(w.conn.now)...)
	w.out = append(w.out, "\r\n"...)
	if ends {
		w.out = append(w.out, "Connection: close\r\n"...)
	}
}

// Began is when Begin was called.
func (w *Writer) Began() time.Time { return w.conn.now }

// Set adds a header field. Neither name nor value may hold a line break.
func (w *Writer) Set(name, value string) {
	w.out = append(append(append(append(w.out, name...), ": "...), value...), "\r\n"...)
}

// SetInt adds a header field with a number.
func (w *Writer) SetInt(name string, value int64) {
	w.out = strconv.AppendInt(append(append(w.out, name...), ": "...), value, 10)
	w.out = append(w.out, "\r\n"...)
}

// SetBytes is Set.
func (w *Writer) SetBytes(name string, value []byte) {
	w.out = append(append(append(append(w.out, name...), ": "...), value...), "\r\n"...)
}

// Raw adds header fields that are written out already, each with its CRLF.
func (w *Writer) Raw(fields []byte) { w.out = append(w.out, fields...) }

// Send ends the header and sends it with the body, which is the parts together.
func (w *Writer) Send(parts ...[]byte) {
	c := w.conn
	w.sent = true
	total := 0
	if !w.bare {
		for _, p := range parts {
			total += len(p)
		}
		w.SetInt("Content-Length", int64(total))
	}
	w.out = append(w.out, "\r\n"...)
	c.writeUntil(c.now.Add(c.server.WriteTimeout), c.server.WriteTimeout/8)
	if c.tcp != nil && !w.bare && len(w.out)+total > copied {
		w.gather(parts)
		return
	}
	for _, p := range parts {
		if len(w.out)+len(p) > keepBuffer {
			w.flush()
			if len(p) > keepBuffer {
				w.write(p)
				c.now = time.Now()
				continue
			}
		}
		w.out = append(w.out, p...)
	}
	w.flush()
	if cap(w.out) > keepBuffer {
		w.out = nil
	}
}

// gather sends the header and the parts from where they lie, with one system call.
func (w *Writer) gather(parts [][]byte) {
	for len(parts) > 0 && len(parts[0]) <= beside {
		w.out = append(w.out, parts[0]...)
		parts = parts[1:]
	}
	w.vector = append(append(w.vector[:0], w.out), parts...)
	w.going = w.vector
	if _, err := w.going.WriteTo(w.conn.tcp); err != nil {
		w.conn.broken = true
	}
	clear(w.vector) // the parts are not kept
	w.out = w.out[:0]
	w.conn.now = time.Now()
}

func (w *Writer) flush() {
	w.write(w.out)
	w.out = w.out[:0]
}

func (w *Writer) write(b []byte) {
	if len(b) == 0 || w.conn.broken {
		return
	}
	if _, err := w.conn.nc.Write(b); err != nil {
		w.conn.broken = true
	}
}

// date returns the time as the header field Date has it.
func date(now time.Time) []byte {
	second := now.Unix()
	if d := today.Load(); d != nil && d.second == second {
		return d.text
	}
	d := &stamp{second, now.UTC().AppendFormat(nil, http.TimeFormat)}
	today.Store(d)
	return d.text
}

type stamp struct {
	second int64
	text   []byte
}

var today atomic.Pointer[stamp]
