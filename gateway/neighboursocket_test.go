package gateway

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

// bridge stands for the link from a city to another one's gateway.
type bridge struct {
	listener net.Listener
	mu       sync.Mutex
	open     []net.Conn
}

// newBridge listens where the link would for the second city of some network, and
// carries what connects to a socket, which is told who calls.
func newBridge(t *testing.T, from, socket string) (*bridge, bsn.Net) {
	t.Helper()
	for network := bsn.Net(200); network < 250; network++ {
		l, err := net.Listen("tcp", forwardURL(network, "lab", 2).Host)
		if err != nil {
			continue
		}
		b := &bridge{listener: l}
		t.Cleanup(b.cut)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				to, err := net.Dial("unix", socket)
				if err != nil {
					c.Close()
					continue
				}
				b.mu.Lock()
				b.open = append(b.open, c, to)
				b.mu.Unlock()
				_, _ = io.WriteString(to, Preamble(from))
				carry := func(to, from net.Conn) {
					_, _ = io.Copy(to, from)
					to.Close()
					from.Close()
				}
				go carry(to, c)
				go carry(c, to)
			}
		}()
		return b, network
	}
	t.Fatal("no address is free")
	return nil, 0
}

// cut ends all that it carries, as when the other city dies.
func (b *bridge) cut() {
	b.listener.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.open {
		c.Close()
	}
}

// A city without a node of the chain subscribes at another city's, through that city's
// gateway. When that city is lost, the next node is asked for what came meanwhile.
func TestSubscriptionThroughAnotherCity(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "f.sock")
	there := mustScripted(t, Config{Forward: socket}, true, "lyon", "paris")
	end, err := there.gateway.serveForward()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	link, network := newBridge(t, "paris", socket)
	here := mustScripted(t, Config{Net: network, Forward: filepath.Join(t.TempDir(), "g.sock")}, true, "paris", "lyon")
	here.nodes["lyon"].server.Close() // as if it were on another machine
	here.gateway.upstreams.cordon(Cordons{"lab": {"paris"}})
	tell := func(w *scriptedWorld, city string, head int64) {
		n := w.nodes[city]
		n.mu.Lock()
		defer n.mu.Unlock()
		n.head, n.hash = head, ""
		n.tellHead()
	}
	tell(there, "lyon", 10)
	p, _ := here.gateway.upstreams.get("lab")
	lyon := p.nodes[1]
	eventually(t, "the way is found", func() bool { lyon.look(); return lyon.forwards.Load() && lyon.head.Load() == 10 })
	s := &scenario{world: here}
	defer func() { _ = s.socket.CloseNow() }()
	if r := s.subscribe([]string{"newHeads"}); r.err != nil {
		t.Fatal(r.err)
	}
	next := func(want int64) {
		t.Helper()
		select {
		case got := <-s.heads:
			if got != want {
				t.Fatalf("head %d, not %d", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no head %d", want)
		}
	}
	tell(there, "lyon", 11)
	next(11)
	tell(there, "lyon", 12)
	next(12)
	n := there.nodes["lyon"]
	n.mu.Lock()
	if n.asked["eth_subscribe"] != 1 || len(n.told) != 1 {
		t.Errorf("the node has %d subscriptions on %d connections", n.asked["eth_subscribe"], len(n.told))
	}
	n.mu.Unlock()
	if here.nodes["paris"].count("eth_subscribe") != 0 {
		t.Error("the cordoned node is asked")
	}

	// Another client shares it, and a read is not older than what it was told.
	// Then the other city is lost. Meanwhile the chain goes on.
	tell(here, "paris", 15)
	here.gateway.upstreams.cordon(nil)
	link.cut()
	next(13)
	next(14)
	next(15)
	tell(here, "paris", 16)
	next(16)
}

// A WebSocket between cities carries reads and subscriptions, and nothing else.
func TestWhatAnotherCityMayAskOnASocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "f.sock")
	w := mustScripted(t, Config{Forward: socket}, true, "paris", "lyon")
	end, err := w.gateway.serveForward()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	_, network := newBridge(t, "lyon", socket)
	c, _, err := websocket.Dial(t.Context(), "ws://"+forwardURL(network, "lab", 2).Host+"/forward/lab", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	n := w.nodes["paris"]
	for _, ask := range []struct{ text, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}`, `{"jsonrpc":"2.0","id":1,"result":"0x0"}`},
		{`{"jsonrpc":"2.0","id":2,"method":"eth_subscribe","params":["newHeads"]}`, `"id":2,"result":`},
		{`{"jsonrpc":"2.0","id":3,"method":"eth_sendRawTransaction","params":["0x00"]}`, `not forwarded`},
		{`{"jsonrpc":"2.0","id":4,"method":"admin_peers","params":[]}`, `not forwarded`},
		{`{"jsonrpc":"2.0","id":"x","method":"eth_blockNumber","params":[]}`, `"id":"x","error"`},
		{`[]`, `"error"`},
	} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(ask.text)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, text, err := c.Read(ctx)
		cancel()
		if err != nil || !strings.Contains(string(text), ask.want) {
			t.Errorf("%s: %s (%v)", ask.text, text, err)
		}
	}
	if n.count("eth_sendRawTransaction") != 0 || n.count("admin_peers") != 0 {
		t.Error("the node was asked")
	}
	// A city that is not part of the network any more is not told anything either.
	w.ledger.put(bsn.City{Name: "lyon", Index: 2, Status: bsn.CityEvicted})
	eventually(t, "the gateway knows", func() bool { return !w.gateway.isNeighbour("lyon") })
	n.mu.Lock()
	n.head = 1
	n.tellHead()
	n.head = 2
	n.tellHead()
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	told := 0
	for {
		if _, _, err := c.Read(ctx); err != nil {
			break
		}
		told++
	}
	if ctx.Err() != nil || told > 0 {
		t.Errorf("%d heads are told to a city that was evicted (%v)", told, ctx.Err())
	}
}
