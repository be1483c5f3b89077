package http1

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// serveHandler has the request, whose header of the given size has been checked,
// read by net/http and answered by the Handler. It tells whether another one may follow.
func (c *conn) serveHandler(size int) bool {
	from := &remaining{conn: c}
	reader := bufio.NewReaderSize(from, startBuffer)
	r, err := http.ReadRequest(reader)
	if err != nil {
		c.refuse(bad("malformed request"))
		return false
	}
	r = r.WithContext(&c.presence)
	delete(r.Header, "Host") // as net/http's server does
	r.RemoteAddr = c.peer.String()
	if t, ok := c.nc.(*tls.Conn); ok {
		state := t.ConnectionState()
		r.TLS = &state
	}
	body := &requestBody{ReadCloser: r.Body, conn: c, waits: c.request.expects && c.end == size}
	r.Body = body
	c.readUntil(c.began.Add(c.server.ReadTimeout), 0)
	w := &response{conn: c, from: from, reader: reader, header: http.Header{}, head: r.Method == http.MethodHead}
	c.server.Handler.ServeHTTP(w, r)
	if w.hijacked {
		return false
	}
	s := c.server
	ends := c.request.close || s.retired.Load() || s.closing.Load() || w.header.Get("Connection") == "close" || !body.drain()
	if s.Room != nil && len(w.text) > roomy {
		s.Room.Hold(int64(len(w.text)))
		defer s.Room.Give(int64(len(w.text)))
	}
	w.send(ends)
	if c.broken {
		return false
	}
	if ends {
		if !body.ended {
			c.linger()
		}
		return false
	}
	c.keep(reader, from)
	return true
}

// keep takes back what was read beyond the request.
func (c *conn) keep(reader *bufio.Reader, from *remaining) {
	rest, _ := reader.Peek(reader.Buffered())
	rest = append(bytes.Clone(rest), c.in[from.next:c.end]...)
	if len(rest) > len(c.in) {
		c.in = append(c.in, make([]byte, len(rest)-len(c.in))...)
	}
	c.end = copy(c.in, rest)
}

// remaining reads what the connection has read already, and then from it.
type remaining struct {
	conn *conn
	next int
}

func (r *remaining) Read(b []byte) (int, error) {
	c := r.conn
	if r.next < c.end {
		n := copy(b, c.in[r.next:c.end])
		r.next += n
		return n, nil
	}
	return c.readMore(b)
}

// requestBody is a body that asks for itself where the client waits for that.
type requestBody struct {
	io.ReadCloser
	conn  *conn
	waits bool
	ended bool
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.waits {
		b.waits = false
		b.conn.proceed()
	}
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || errors.Is(err, io.EOF)
	return n, err
}

// Close implements io.Closer. The rest of the body is passed over later.
func (b *requestBody) Close() error { return nil }

// drain passes over a rest that is not large, and tells whether that was all.
func (b *requestBody) drain() bool {
	if b.ReadCloser == http.NoBody {
		b.ended = true
	}
	if !b.ended && !b.waits {
		_, _ = io.CopyN(io.Discard, b, lingerBytes)
	}
	return b.ended
}

// response is an answer in the making: it goes out when the handler has returned.
type response struct {
	conn     *conn
	from     *remaining
	reader   *bufio.Reader
	header   http.Header
	status   int
	text     []byte
	head     bool // the method is HEAD
	hijacked bool
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *response) Write(b []byte) (int, error) {
	if w.hijacked {
		return 0, http.ErrHijacked
	}
	w.WriteHeader(http.StatusOK)
	w.text = append(w.text, b...)
	return len(b), nil
}

func (w *response) send(ends bool) {
	c := w.conn
	w.WriteHeader(http.StatusOK)
	h := w.header
	h.Del("Transfer-Encoding")
	h.Del("Connection")
	bare := w.status == http.StatusNoContent || w.status == http.StatusNotModified || w.status == http.StatusSwitchingProtocols
	switch {
	case bare:
		h.Del("Content-Length")
	case !w.head || h.Get("Content-Length") == "":
		h.Set("Content-Length", strconv.Itoa(len(w.text)))
	}
	if len(w.text) > 0 && h.Get("Content-Type") == "" {
		h.Set("Content-Type", http.DetectContentType(w.text))
	}
	c.writer.out = w.appendHead(c.writer.out[:0], ends)
	c.now = time.Now()
	c.writeUntil(c.now.Add(c.server.WriteTimeout), c.server.WriteTimeout/8)
	if !bare && !w.head {
		if len(w.text) > joined {
			c.writer.flush()
			c.writer.write(w.text)
			return
		}
		c.writer.out = append(c.writer.out, w.text...)
	}
	c.writer.flush()
}

func (w *response) appendHead(out []byte, ends bool) []byte {
	b := bytes.NewBuffer(out)
	b.WriteString("HTTP/1.1 " + strconv.Itoa(w.status) + " " + http.StatusText(w.status) + "\r\nDate: ")
	b.Write(date(time.Now()))
	b.WriteString("\r\n")
	if ends {
		b.WriteString("Connection: close\r\n")
	}
	_ = w.header.Write(b) // to memory
	b.WriteString("\r\n")
	return b.Bytes()
}

// Hijack implements http.Hijacker. A status that was set goes out first, with the
// header as it is then.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.hijacked {
		return nil, nil, http.ErrHijacked
	}
	c := w.conn
	if w.status != 0 {
		c.writeUntil(time.Now().Add(c.server.WriteTimeout), 0)
		c.writer.out = c.writer.out[:0]
		if _, err := c.nc.Write(w.appendHead(nil, false)); err != nil {
			c.broken = true
			return nil, nil, err
		}
	}
	w.hijacked, c.taken = true, true
	c.leave()
	_ = c.nc.SetDeadline(time.Time{})
	// What is kept of the connection for the time that the handler has it is little.
	reader := w.reader
	rest, _ := reader.Peek(reader.Buffered())
	rest = append(bytes.Clone(rest), c.in[w.from.next:c.end]...)
	reader = bufio.NewReaderSize(&prefixed{c.nc, rest}, max(hijackedBuffer, len(rest)))
	_, _ = reader.Peek(len(rest)) // so that it counts as buffered
	c.in, c.writer.out, c.end = nil, nil, 0
	w.reader, w.from, w.text = nil, nil, nil
	return c.nc, bufio.NewReadWriter(reader, bufio.NewWriterSize(c.nc, hijackedBuffer)), nil
}

// hijackedBuffer is that of a connection that a handler has taken over: most of
// those are idle, and many.
const hijackedBuffer = 1 << 10
