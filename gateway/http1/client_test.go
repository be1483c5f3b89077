package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// node answers each connection's requests with what script returns; an empty text
// closes the connection.
func node(t testing.TB, script func(connection, request int) string) (*Client, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var connections atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			number := int(connections.Add(1))
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for i := 1; ; i++ {
					q, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, q.Body)
					text := script(number, i)
					if text == "" {
						return
					}
					_, _ = io.WriteString(c, text)
				}
			}()
		}
	}()
	client := NewClient(l.Addr().String(), "node", "/path?x=y", "Content-Type: application/json\r\n")
	t.Cleanup(client.Close)
	return client, &connections
}

func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func TestClientAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string // the status and body; else a part of the error
		kept bool
	}{
		"length":        {ok("yes"), "200 yes", true},
		"empty":         {ok(""), "200 ", true},
		"chunked":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nye\r\n1\r\ns\r\n0\r\n\r\n", "200 yes", true},
		"trailer":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nX: y\r\n\r\n", "200 yes", false},
		"closing":       {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nyes", "200 yes", false},
		"hints first":   {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok("yes"), "200 yes", true},
		"no reason":     {"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nyes", "200 yes", true},
		"same lengths":  {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nyes", "200 yes", true},
		"busy":          {"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno", "429 7", true},
		"redirect":      {"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "302 ", true},
		"two answers":   {ok("yes") + ok("more"), "200 yes", false},
		"too large":     {ok(strings.Repeat("x", 101)), "answer is too large", false},
		"large chunks":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n70\r\n" + strings.Repeat("x", 0x70) + "\r\n0\r\n\r\n", "answer is too large", false},
		"both framings": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "not HTTP", false},
		"two lengths":   {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nyes", "not HTTP", false},
		"bad length":    {"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nyes", "not HTTP", false},
		"no HTTP":       {"SSH-2.0-x\r\n\r\n", "not HTTP", false},
		"upgrade":       {"HTTP/1.1 101 Switching\r\n\r\n", "101 ", false},
		"long line":     {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 5000) + "\r\n\r\n", "more than 4096 bytes", false},
		"long header":   {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 80) + "\r\n", "more than 65536 bytes", false},
	} {
		t.Run(name, func(t *testing.T) {
			client, connections := node(t, func(int, int) string { return c.text })
			for range 2 {
				a, err := client.Post(t.Context(), []byte("ask"), 100, true)
				got := fmt.Sprintf("%d %s%s", a.Status, a.Body, a.RetryAfter)
				if err != nil {
					got = err.Error()
				}
				if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
			if n := connections.Load(); (n == 1) != c.kept {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestClientAsksAsHTTP(t *testing.T) {
	large := strings.Repeat("x", 100_000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %d", r.Method, r.RequestURI, r.Host, r.Header.Get("X"), len(body))
	}))
	defer s.Close()
	client := NewClient(s.Listener.Addr().String(), "node:1", "/a?b=c", "X: y\r\n")
	defer client.Close()
	for _, body := range []string{"", "ok", large} {
		a, err := client.Post(t.Context(), []byte(body), 100, false)
		if want := fmt.Sprintf("POST /a?b=c node:1 y %d", len(body)); err != nil || string(a.Body) != want {
			t.Errorf("%s %v, want %s", a.Body, err, want)
		}
	}
}

// A connection that the node closed while it was idle is no failure; a node that
// closes every connection is one.
func TestClientRepeats(t *testing.T) {
	client, connections := node(t, func(_, request int) string {
		if request > 1 {
			return "" // as if it had been closed before
		}
		return ok("yes")
	})
	for i := range 3 {
		a, err := client.Post(t.Context(), nil, 100, true)
		if err != nil || string(a.Body) != "yes" {
			t.Errorf("%d: %v %v", i, a, err)
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	client, connections = node(t, func(int, int) string { return "" })
	if _, err := client.Post(t.Context(), nil, 100, true); err == nil || connections.Load() != 1 {
		t.Errorf("%v after %d connections", err, connections.Load())
	}
	// Once something of the answer has come, the request is not sent again.
	client, connections = node(t, func(_, request int) string {
		if request > 1 {
			return "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
		}
		return ok("yes")
	})
	_, _ = client.Post(t.Context(), nil, 100, true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Post(ctx, nil, 100, true); !errors.Is(err, context.DeadlineExceeded) || connections.Load() != 1 {
		t.Errorf("%v after %d connections", err, connections.Load())
	}
}

func TestClientEnds(t *testing.T) {
	asked := make(chan bool, 10)
	hold := make(chan bool)
	defer close(hold)
	client, _ := node(t, func(int, int) string {
		asked <- true
		<-hold
		return ""
	})
	post := func(ctx context.Context, mortal bool) chan error {
		out := make(chan error, 1)
		go func() {
			_, err := client.Post(ctx, nil, 100, mortal)
			out <- err
		}()
		<-asked
		return out
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancelled, mortal, other := post(ctx, true), post(t.Context(), true), post(t.Context(), false)
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	client.Abort()
	if err := <-mortal; !errors.Is(err, errAborted) {
		t.Error(err)
	}
	if _, err := client.Post(t.Context(), nil, 100, true); !errors.Is(err, errAborted) {
		t.Errorf("after the end: %v", err)
	}
	select {
	case err := <-other:
		t.Errorf("ended too: %v", err)
	default:
	}
	client.Revive()
	late, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	if err := <-post(late, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(ok("yes")))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nye\r\n1\r\ns\r\n0\r\nX: y\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nto the end"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := newPipe(text)
		l := &link{nc: p, reader: bufio.NewReaderSize(p, 4<<10)}
		a, reusable, err := l.exchange(t.Context(), &Client{head: []byte("POST / HTTP/1.1\r\nContent-Length: ")}, nil, 1<<10)
		if len(a.Body) > 1<<10+1 && err == nil {
			t.Errorf("%d bytes", len(a.Body))
		}
		if err != nil || !reusable {
			return
		}
		// What is reused has been read to the byte, as net/http would have.
		r := bufio.NewReader(strings.NewReader(string(text)))
		for {
			want, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("net/http does not read it: %v", err)
			}
			if want.StatusCode < 200 && want.StatusCode != 101 {
				continue
			}
			body, err := io.ReadAll(want.Body)
			if err != nil || want.StatusCode != a.Status || a.Status == 200 && string(body) != string(a.Body) {
				t.Errorf("%d %q here, %d %q there (%v)", a.Status, a.Body, want.StatusCode, body, err)
			}
			return
		}
	})
}
