package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// pipe is a connection whose client has sent all that it ever sends.
type pipe struct {
	in  *bytes.Reader
	out bytes.Buffer
	end chan struct{}
}

func newPipe(text []byte) *pipe { return &pipe{in: bytes.NewReader(text), end: make(chan struct{})} }

func (p *pipe) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *pipe) Close() error {
	select {
	case <-p.end:
	default:
		close(p.end)
	}
	return nil
}
func (*pipe) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (*pipe) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (*pipe) SetDeadline(time.Time) error      { return nil }
func (*pipe) SetReadDeadline(time.Time) error  { return nil }
func (*pipe) SetWriteDeadline(time.Time) error { return nil }

// understood is a request as a server understood it: method, target, and the body, or
// that it could not be read.
func understood(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "cut short"
	}
	return fmt.Sprintf("%s %s %q %q %q", r.Method, r.RequestURI, body, r.Header["X-Api-Key"], r.Header["Authorization"])
}

// byNetHTTP returns the requests in a text as net/http's server has them.
func byNetHTTP(text []byte) (requests []string) {
	listener := &handed{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	s := &http.Server{MaxHeaderBytes: 16 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, understood(r))
	}), ErrorLog: nil}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	p := newPipe(text)
	listener.conns <- p
	go s.Serve(listener)
	<-p.end
	s.Close()
	return requests
}

// byThis returns them as this package's server has them, Fast or not.
func byThis(text []byte, fast bool) (requests []string, out string) {
	s := &Server{MaxHeaderBytes: 16 << 10, Log: quiet(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 {
			requests = append(requests, understood(r))
		}
	})}
	for _, d := range []*time.Duration{&s.HeaderTimeout, &s.ReadTimeout, &s.WriteTimeout, &s.IdleTimeout} {
		*d = time.Minute
	}
	if fast {
		s.Fast = func(q *Request, w *Writer) bool {
			said := fmt.Sprintf("%s %s", q.Method(), q.Target())
			keys, auths := []string(nil), []string(nil)
			for v := range q.Fields("x-api-key") {
				keys = append(keys, string(v))
			}
			for v := range q.Fields("authorization") {
				auths = append(auths, string(v))
			}
			body, err := q.Body(1 << 30)
			if err != nil {
				requests = append(requests, "cut short")
				w.Begin(400)
			} else {
				requests = append(requests, fmt.Sprintf("%s %q %q %q", said, body, keys, auths))
				w.Begin(200)
			}
			w.Send()
			return true
		}
	}
	s.prepare()
	p := newPipe(text)
	s.take(p)
	s.Close()
	return requests, p.out.String()
}

// differ says in what this package reads a text otherwise than net/http does, which
// must not be: each request that is answered here is one there, and means the same.
func differ(text []byte) string {
	if bytes.HasPrefix(text, preface) {
		return "" // HTTP/2 is net/http's
	}
	there := byNetHTTP(text)
	for _, fast := range []bool{false, true} {
		here, out := byThis(text, fast)
		for i, r := range here {
			if i >= len(there) || r != there[i] {
				return fmt.Sprintf("fast %v: request %d is %s here, and there are %q", fast, i, r, there)
			}
		}
		if slices.ContainsFunc(here, func(r string) bool { return r == "cut short" || strings.HasPrefix(r, "HEAD ") }) {
			continue // whose answers cannot be told apart without the requests
		}
		// As many answers as requests, and at most one refusal, which is the last.
		answered, refused := 0, 0
		for r := bufio.NewReader(strings.NewReader(out)); ; {
			a, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			_, _ = io.Copy(io.Discard, a.Body)
			if a.StatusCode < 200 {
				continue
			}
			if answered++; a.StatusCode >= 400 {
				if refused++; !a.Close {
					return "connection goes on after a refusal"
				}
			} else if refused > 0 {
				return "an answer follows a refusal"
			}
		}
		if answered < len(here) || answered > len(here)+1 {
			return fmt.Sprintf("fast %v: %d requests, %d answers: %q", fast, len(here), answered, out)
		}
	}
	return ""
}

func FuzzAsNetHTTP(f *testing.F) {
	for _, text := range []string{
		"POST /rpc/a HTTP/1.1\r\nHost: a\r\nX-Api-Key: k\r\nContent-Length: 2\r\n\r\nok" + smuggled,
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n" + smuggled,
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok" + smuggled,
		"GET /a HTTP/1.1\nHost: a\n\n" + smuggled,
		"GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\nAuthorization: Bearer a\r\n\r\n",
		"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\r\n" + smuggled,
		"POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx" + smuggled,
		"POST /a HTTP/1.1\r\nHost: a\r\nx-api-key: a\r\nX-API-KEY:\t b \r\nContent-Length: 0\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if how := differ(text); how != "" {
			t.Error(how)
		}
	})
}

// The same for what an attacker would try: parts of requests, put together at random
// places by the fuzzer's little brother.
func TestAsNetHTTP(t *testing.T) {
	lines := []string{
		"Host: a\r\n", "Host: b\r\n", "Host:\r\n", "Content-Length: 5\r\n", "Content-Length: 0\r\n", "content-length: 5\r\n",
		"Content-Length : 5\r\n", "Content-Length: +5\r\n", "Content-Length: 5, 5\r\n", "Content-Length: \r\n", "Content-Length: 5\n",
		"Transfer-Encoding: chunked\r\n", "Transfer-Encoding: Chunked\r\n", "Transfer-Encoding: x\r\n", "Transfer-Encoding:\r\n",
		"Transfer-Encoding\t: chunked\r\n", " folded\r\n", "X: \x00\r\n", "X: \x80\r\n", "X\r\n", "Connection: close\r\n",
		"Connection: keep-alive\r\n", "Connection: Content-Length\r\n", "Upgrade: x\r\n", "Expect: 100-continue\r\n", "X-Api-Key: k\r\n",
	}
	starts := []string{"POST /a HTTP/1.1\r\n", "GET /a HTTP/1.1\r\n", "POST /a HTTP/1.0\r\n", "POST /a HTTP/1.1\n", "post /a HTTP/1.1\r\n", "GET //a/../b?c#d HTTP/1.1\r\n"}
	bodies := []string{"", "0\r\n\r\n", "12345", "5\r\n12345\r\n0\r\n\r\n", "0\n\n", "1;x=\ny\r\nz\r\n0\r\n\r\n"}
	for _, begin := range starts {
		for _, a := range lines {
			for _, b := range lines {
				for _, body := range bodies {
					text := begin + "Host: a\r\n" + a + b + "\r\n" + body + smuggled
					if how := differ([]byte(text)); how != "" {
						t.Fatalf("%q: %s", text, how)
					}
				}
			}
		}
	}
}
