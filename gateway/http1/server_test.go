package http1

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start serves s on a port of its own and returns the address.
func start(t testing.TB, s *Server) string {
	t.Helper()
	if s.Handler == nil {
		s.Handler = http.HandlerFunc(echo)
	}
	if s.MaxHeaderBytes == 0 {
		s.MaxHeaderBytes = 16 << 10
	}
	for _, d := range []*time.Duration{&s.HeaderTimeout, &s.ReadTimeout, &s.WriteTimeout, &s.IdleTimeout} {
		if *d == 0 {
			*d = time.Minute
		}
	}
	s.Log = quiet()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return l.Addr().String()
}

// echo says what it understood.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s %q", r.Method, r.RequestURI, body)
}

// fastEcho says the same.
func fastEcho(q *Request, w *Writer) bool {
	if string(q.Method()) != http.MethodPost {
		return false
	}
	said := fmt.Sprintf("%s %s ", q.Method(), q.Target())
	body, err := q.Body(1 << 20)
	if errors.Is(err, ErrTooLarge) {
		w.Begin(http.StatusRequestEntityTooLarge)
		w.Send()
		return true
	}
	if err != nil {
		w.Begin(http.StatusBadRequest)
		w.Send()
		return true
	}
	w.Begin(http.StatusOK)
	w.Set("Content-Type", "text/plain; charset=utf-8")
	w.Send([]byte(said), fmt.Appendf(nil, "%q", body))
	return true
}

// say sends text on one connection and returns all that comes back until it ends.
func say(t testing.TB, address, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		_, _ = io.WriteString(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	out, _ := io.ReadAll(c)
	return string(out)
}

// answers reads the answers in a text: the status of each, and the body.
func answers(text string) (out []string) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			return out
		}
		body, _ := io.ReadAll(a.Body)
		out = append(out, fmt.Sprint(a.StatusCode, " ", string(body)))
	}
}

const host = "Host: a\r\n"

// What follows a request that is refused must never be answered.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho})
	for name, text := range map[string]string{
		"two equal lengths":         "POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"two lengths":               "POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 5\r\n\r\nok",
		"a list of lengths":         "POST /a HTTP/1.1\r\n" + host + "Content-Length: 2, 2\r\n\r\nok",
		"signed length":             "POST /a HTTP/1.1\r\n" + host + "Content-Length: +2\r\n\r\nok",
		"negative length":           "POST /a HTTP/1.1\r\n" + host + "Content-Length: -2\r\n\r\nok",
		"hex length":                "POST /a HTTP/1.1\r\n" + host + "Content-Length: 0x2\r\n\r\nok",
		"empty length":              "POST /a HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\nok",
		"length with a space in it": "POST /a HTTP/1.1\r\n" + host + "Content-Length: 1 2\r\n\r\nok",
		"overflowing length":        "POST /a HTTP/1.1\r\n" + host + "Content-Length: 18446744073709551618\r\n\r\nok",
		"length and chunks":         "POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks and length":         "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
		"chunked twice":             "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked, chunked":          "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
		"unknown coding":            "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"gzip, chunked":             "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":                  "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n",
		"chunked in 1.0":            "POST /a HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked with VT":           "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"bare LF in the header":     "POST /a HTTP/1.1\r\n" + host + "X: y\nContent-Length: 0\r\n\r\n",
		"bare LF throughout":        "GET /a HTTP/1.1\nHost: a\n\n",
		"bare CR":                   "GET /a HTTP/1.1\r\n" + host + "X: y\rZ: z\r\n\r\n",
		"CR CR LF":                  "GET /a HTTP/1.1\r\n" + host + "X: y\r\r\n\r\n",
		"NUL in a value":            "GET /a HTTP/1.1\r\n" + host + "X: y\x00z\r\n\r\n",
		"DEL in a value":            "GET /a HTTP/1.1\r\n" + host + "X: y\x7fz\r\n\r\n",
		"control in a name":         "GET /a HTTP/1.1\r\n" + host + "X\x01: y\r\n\r\n",
		"folded line":               "GET /a HTTP/1.1\r\n" + host + "X: y\r\n z\r\n\r\n",
		"folded first line":         "GET /a HTTP/1.1\r\n X: y\r\n" + host + "\r\n",
		"space before the colon":    "POST /a HTTP/1.1\r\n" + host + "Content-Length : 0\r\n\r\n",
		"tab before the colon":      "POST /a HTTP/1.1\r\n" + host + "Content-Length\t: 0\r\n\r\n",
		"no colon":                  "GET /a HTTP/1.1\r\n" + host + "X\r\n\r\n",
		"no name":                   "GET /a HTTP/1.1\r\n" + host + ": x\r\n\r\n",
		"no Host":                   "GET /a HTTP/1.1\r\n\r\n",
		"two Hosts":                 "GET /a HTTP/1.1\r\n" + host + host + "\r\n",
		"two Hosts in 1.0":          "GET /a HTTP/1.0\r\n" + host + host + "\r\n",
		"Host with a space":         "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
		"Host with a path":          "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
		"absolute form":             "GET http://b/a HTTP/1.1\r\n" + host + "\r\n",
		"authority form":            "CONNECT b:80 HTTP/1.1\r\n" + host + "\r\n",
		"asterisk of another":       "GET * HTTP/1.1\r\n" + host + "\r\n",
		"no path":                   "GET  HTTP/1.1\r\n" + host + "\r\n",
		"two spaces":                "GET  /a HTTP/1.1\r\n" + host + "\r\n",
		"tab for a space":           "GET\t/a HTTP/1.1\r\n" + host + "\r\n",
		"space in the path":         "GET /a b HTTP/1.1\r\n" + host + "\r\n",
		"control in the path":       "GET /a\x01 HTTP/1.1\r\n" + host + "\r\n",
		"malformed method":          "G(T /a HTTP/1.1\r\n" + host + "\r\n",
		"space after the version":   "GET /a HTTP/1.1 \r\n" + host + "\r\n",
		"version 1.2":               "GET /a HTTP/1.2\r\n" + host + "\r\n",
		"version 2.0":               "GET /a HTTP/2.0\r\n" + host + "\r\n",
		"version 0.9":               "GET /a\r\n\r\n",
		"lower-case version":        "GET /a http/1.1\r\n" + host + "\r\n",
		"empty line first":          "\r\nGET /a HTTP/1.1\r\n" + host + "\r\n",
		"unknown expectation":       "POST /a HTTP/1.1\r\n" + host + "Expect: 200-ok\r\nContent-Length: 0\r\n\r\n",
		"bad escape":                "GET /%zz HTTP/1.1\r\n" + host + "\r\n",
		"many fields":               "GET /a HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 200) + "\r\n",
		"large header":              "GET /a HTTP/1.1\r\n" + host + "X: " + strings.Repeat("y", 20<<10) + "\r\n\r\n",
		"large request line":        "GET /" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\n" + host + "\r\n",
		"HTTP/2 too late":           "GET /ok HTTP/1.1\r\n" + host + "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := answers(say(t, address, text+smuggled))
			if name == "HTTP/2 too late" && len(got) > 0 {
				got = got[1:]
			}
			if len(got) != 1 || got[0] < "400" || got[0] >= "6" {
				t.Errorf("%q", got)
			}
		})
	}
}

// Chunked bodies whose chunks are not plain end the connection with an error.
func TestMalformedChunks(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho})
	head := "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n"
	if got := answers(say(t, address, head+"2\r\nok\r\n0\r\n\r\n"+smuggled)); len(got) != 2 || got[0] != `200 POST /a "ok"` {
		t.Errorf("good chunks: %q", got)
	}
	for name, chunks := range map[string]string{
		"sign":      "+2\r\nok\r\n0\r\n\r\n",
		"no size":   "\r\nok\r\n0\r\n\r\n",
		"bare LF":   "2\nok\n0\n\n",
		"too long":  "2\r\nokay\r\n0\r\n\r\n",
		"huge":      "ffffffffffffffff1\r\nok\r\n0\r\n\r\n",
		"0x":        "0x2\r\nok\r\n0\r\n\r\n",
		"cut short": "5\r\nok",
	} {
		got := answers(say(t, address, head+chunks+smuggled))
		for _, a := range got {
			if !strings.HasPrefix(a, "400") || len(got) > 1 {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

func TestRequests(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho})
	large := strings.Repeat("x", 100_000)
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"kept":              {"POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nokGET /b HTTP/1.1\r\n" + host + "\r\nPOST /c HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", []string{`200 POST /a "ok"`, `200 GET /b ""`, `200 POST /c ""`}},
		"mixed and chunked": {"GET /b HTTP/1.1\r\n" + host + "\r\nPOST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nPOST /c HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\n!", []string{`200 GET /b ""`, `200 POST /a "ok"`, `200 POST /c "!"`}},
		"closed":            {"POST /a HTTP/1.1\r\n" + host + "Connection: x, Close\r\nContent-Length: 2\r\n\r\nok" + smuggled, []string{`200 POST /a "ok"`}},
		"1.0":               {"POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nok" + smuggled, []string{`200 POST /a "ok"`}},
		"large body":        {"POST /a HTTP/1.1\r\n" + host + "Content-Length: 100000\r\n\r\n" + large + smuggled, []string{`200 POST /a "` + large + `"`, `200 GET /smuggled ""`}},
		"large by handler":  {"PUT /a HTTP/1.1\r\n" + host + "Content-Length: 100000\r\n\r\n" + large + smuggled, []string{`200 PUT /a "` + large + `"`, `200 GET /smuggled ""`}},
		"HEAD":              {"HEAD /a HTTP/1.1\r\n" + host + "\r\n", []string{"200 "}},
		"odd spaces":        {"POST /a HTTP/1.1\r\n" + host + "Content-Length:\t 2 \t\r\nX:\r\n\r\nok", []string{`200 POST /a "ok"`}},
		"obs-text":          {"POST /a HTTP/1.1\r\n" + host + "X: \xe9\r\nContent-Length: 0\r\n\r\n", []string{`200 POST /a ""`}},
		"too large":         {"POST /a HTTP/1.1\r\n" + host + "Content-Length: 9999999\r\n\r\n" + smuggled, []string{"413 "}},
		"OPTIONS *":         {"OPTIONS * HTTP/1.1\r\n" + host + "\r\n", []string{`200 OPTIONS * ""`}},
	} {
		t.Run(name, func(t *testing.T) {
			got := say(t, address, c.text)
			if name == "HEAD" {
				if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\n") || !strings.Contains(got, "Content-Length: 10\r\n") {
					t.Errorf("%q", got)
				}
				return
			}
			if list := answers(got); fmt.Sprint(list) != fmt.Sprint(c.want) {
				t.Errorf("%.300q\nwant %.300q", list, c.want)
			}
		})
	}
}

// Byte by byte a request is the same.
func TestSlowRequest(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, b := range []byte("POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nok") {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || r.StatusCode != 200 {
		t.Fatal(r, err)
	}
}

func TestTimeouts(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho, HeaderTimeout: 100 * time.Millisecond, ReadTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond})
	for name, c := range map[string]struct{ text, want string }{
		"nothing":         {"", ""},
		"half a header":   {"POST /a HTTP/1.1\r\n", "HTTP/1.1 408 "},
		"half a body":     {"POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\no", "HTTP/1.1 400 "},
		"half by handler": {"PUT /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\no", "HTTP/1.1 400 "},
		"idle":            {"POST /a HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", "HTTP/1.1 200 "},
	} {
		c0, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c0.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c0, c.text)
		got, err := io.ReadAll(c0) // it ends
		c0.Close()
		if err != nil || !strings.HasPrefix(string(got), c.want) || c.want == "" && len(got) > 0 {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho})
	for _, method := range []string{"POST", "PUT"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(c, "%s /a HTTP/1.1\r\n%sExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", method, host)
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%s: %q %v", method, line, err)
		}
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(c, "ok")
		if a, err := http.ReadResponse(r, nil); err != nil || a.StatusCode != 200 {
			t.Errorf("%s: %v %v", method, a, err)
		}
	}
}

func TestHTTP2(t *testing.T) {
	address := start(t, &Server{Fast: fastEcho, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	})})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	r, err := (&http.Client{Transport: transport}).Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if text, _ := io.ReadAll(r.Body); string(text) != "HTTP/2.0" {
		t.Errorf("%s", text)
	}
}

func TestTLS(t *testing.T) {
	other := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer other.Close()
	s := &Server{Fast: fastEcho, TLS: &tls.Config{Certificates: other.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}}
	address := start(t, s)
	for _, second := range []bool{false, true} {
		transport := other.Client().Transport.(*http.Transport).Clone()
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(!second)
		transport.Protocols.SetHTTP2(second)
		client := &http.Client{Transport: transport}
		for range 2 {
			r, err := client.Post("https://"+address+"/a", "", strings.NewReader("ok"))
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(r.Body)
			r.Body.Close()
			if string(text) != `POST /a "ok"` || (r.ProtoMajor == 2) != second {
				t.Errorf("%s: %s", r.Proto, text)
			}
		}
		transport.CloseIdleConnections()
	}
	// On loopback plain HTTP is taken too.
	if got := answers(say(t, address, "POST /a HTTP/1.1\r\n"+host+"Content-Length: 0\r\n\r\n")); len(got) != 1 {
		t.Errorf("plain: %q", got)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := &Server{Fast: fastEcho, MaxConns: 3, MaxConnsPerIP: 2}
	address := start(t, s)
	get := func(c net.Conn) string {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, "POST /a HTTP/1.1\r\n"+host+"Content-Length: 0\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.TrimSpace(line)
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := dial(), dial()
	for _, c := range []net.Conn{first, second} {
		if got := get(c); got != "HTTP/1.1 200 OK" {
			t.Fatal(got)
		}
	}
	if got := get(dial()); got != "HTTP/1.1 429 Too Many Requests" {
		t.Errorf("third: %s", got)
	}
	first.Close()
	for deadline := time.Now().Add(30 * time.Second); get(dial()) != "HTTP/1.1 200 OK"; {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection counts on")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n, refused := s.Conns(); n > 3 || refused == 0 {
		t.Errorf("%d open, %d refused", n, refused)
	}
}

func TestUnbounded(t *testing.T) {
	s := &Server{Fast: fastEcho, MaxConnsPerIP: 1, Unbounded: func(a netip.Addr) bool { return a.IsLoopback() }}
	address := start(t, s)
	for range 3 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "POST /a HTTP/1.1\r\n"+host+"Content-Length: 0\r\n\r\n")
		if line, _ := bufio.NewReader(c).ReadString('\n'); line != "HTTP/1.1 200 OK\r\n" {
			t.Errorf("%q", line)
		}
	}
}

// Shutdown ends idle connections, lets what is in progress finish and says that the
// connection ends.
func TestShutdown(t *testing.T) {
	entered, release := make(chan bool), make(chan bool)
	s := &Server{Fast: func(q *Request, w *Writer) bool {
		entered <- true
		<-release
		return fastEcho(q, w)
	}}
	address := start(t, s)
	idle, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	busy := make(chan string)
	go func() {
		busy <- say(t, address, "POST /a HTTP/1.1\r\n"+host+"Content-Length: 0\r\n\r\n"+smuggled)
	}()
	<-entered
	ended := make(chan error)
	go func() { ended <- s.Shutdown(t.Context()) }()
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("idle: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended before the answer: %v", err)
	default:
	}
	release <- true
	if got := <-busy; len(answers(got)) != 1 || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("%q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestShutdownInTime(t *testing.T) {
	entered, release := make(chan bool), make(chan bool)
	s := &Server{Fast: func(q *Request, w *Writer) bool { entered <- true; <-release; return fastEcho(q, w) }}
	address := start(t, s)
	go http.Post("http://"+address+"/a", "", nil)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	release <- true
}

func TestHijack(t *testing.T) {
	address := start(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Upgrade", "shout")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		text, _ := io.ReadAll(rw)
		_, _ = c.Write(bytes.ToUpper(text))
	})})
	long := strings.Repeat("y", 10_000)
	got := say(t, address, "GET /a HTTP/1.1\r\n"+host+"Connection: Upgrade\r\nUpgrade: shout\r\n\r\nhello "+long)
	if !strings.HasPrefix(got, "HTTP/1.1 101 Switching Protocols\r\n") || !strings.HasSuffix(got, "\r\n\r\nHELLO "+strings.ToUpper(long)) ||
		!strings.Contains(got, "Upgrade: shout\r\n") {
		t.Errorf("%.300q", got)
	}
}
