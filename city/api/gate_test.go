package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

func TestGateBoundsCallers(t *testing.T) {
	alice, bob := Caller{Kind: bsn.KindAccount, Name: "alice", Parent: "demo"}, Caller{Kind: bsn.KindAccount, Name: "bob", Parent: "demo"}
	other := Caller{Kind: bsn.KindCity, Name: "paris", Parent: "france"}
	for name, c := range map[string]struct {
		most   int
		bytes  int64
		stream bool
	}{
		"at a time": {callerRunning, 0, false},
		"streams":   {callerStreams, 0, true},
		"bytes":     {callerBytes / maxBody, maxBody, false},
		"unknown":   {callerBytes / maxBody, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var g Gate
			var leave []func()
			for range c.most {
				l, err := g.enter(alice, c.bytes, c.stream)
				if err != nil {
					t.Fatal(err)
				}
				leave = append(leave, l)
			}
			if _, err := g.enter(alice, c.bytes, c.stream); !errors.Is(err, errTooMany) {
				t.Errorf("one more: %v", err)
			}
			for _, c2 := range []Caller{bob, other, {Gateway: true}} {
				if _, err := g.enter(c2, c.bytes, c.stream); err != nil {
					t.Errorf("another: %v", err)
				}
			}
			leave[0]()
			if _, err := g.enter(alice, c.bytes, c.stream); err != nil {
				t.Errorf("after one has left: %v", err)
			}
		})
	}
	// So are all of a portal together, and all that nobody signed.
	var g Gate
	for i := range groupFactor * callerStreams {
		if _, err := g.enter(Caller{Kind: bsn.KindAccount, Name: fmt.Sprint(i), Parent: "demo"}, 0, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.enter(alice, 0, true); !errors.Is(err, errTooMany) {
		t.Errorf("a portal's accounts: %v", err)
	}
	for range unsignedRunning {
		if _, err := g.enterUnsigned(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.enterUnsigned(); !errors.Is(err, errTooMany) {
		t.Errorf("unsigned: %v", err)
	}
}

func TestGateBoundsTheRate(t *testing.T) {
	var g Gate
	alice := Caller{Kind: bsn.KindAccount, Name: "alice", Parent: "demo"}
	for i := range 1_000_000 {
		leave, err := g.enter(alice, 0, false)
		if errors.Is(err, errTooMany) {
			if i < 10*callerPerSecond {
				t.Errorf("refused after %d", i)
			}
			return
		}
		leave()
	}
	t.Error("never refused")
}

// What has entered has left in the end, whatever came between.
func TestGateCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Gate
		var leave []func()
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			if len(leave) > 0 && rapid.Bool().Draw(t, "leave") {
				leave[0]()
				leave = leave[1:]
				continue
			}
			c := Caller{Kind: bsn.KindAccount, Name: fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "who")), Parent: "demo"}
			if l, err := g.enter(c, rapid.Int64Range(-1, maxBody).Draw(t, "bytes"), rapid.Bool().Draw(t, "stream")); err == nil {
				leave = append(leave, l)
			}
		}
		for _, l := range leave {
			l()
		}
		for id, u := range g.callers {
			if u.running != 0 || u.streams != 0 || u.bytes != 0 {
				t.Fatalf("%s still has %+v", id, u)
			}
		}
	})
}

// Connections on which nobody says who they are end those before them, not those
// of known callers.
func TestGateEndsStrangers(t *testing.T) {
	g := &Gate{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if name := r.Header.Get("Name"); name != "" {
			g.known(r.Context(), Caller{Kind: bsn.KindAccount, Name: name})
		}
	}))
	g.Guard(s.Config)
	s.Start()
	defer s.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ask := func(c net.Conn, name string) error {
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nName: %s\r\n\r\n", name); err != nil {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			r.Body.Close()
		}
		return err
	}
	alice := dial()
	if err := ask(alice, "alice"); err != nil {
		t.Fatal(err)
	}
	first := dial()
	for range 2 * maxStrangers {
		c := dial()
		if _, err := io.WriteString(c, "GET / HT"); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the oldest stranger is still there: %d %v", n, err)
	}
	if err := ask(alice, "alice"); err != nil {
		t.Errorf("a known caller was cut off: %v", err)
	}
	if err := ask(dial(), "bob"); err != nil {
		t.Errorf("a new caller does not get in: %v", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.strangers.Len() > maxStrangers || len(g.conns) > maxStrangers+3 {
		t.Errorf("%d strangers, %d connections", g.strangers.Len(), len(g.conns))
	}
}
