package gateway

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// client is a WebSocket to the gateway.
type client struct {
	t    testing.TB
	conn *websocket.Conn
}

func (n *twoCities) connect() *client {
	n.Helper()
	conn, _, err := websocket.Dial(n.Context(), strings.Replace(n.url, "http", "ws", 1)+"/rpc/lab/"+n.secret, nil)
	if err != nil {
		n.Fatal(err)
	}
	conn.SetReadLimit(1 << 20)
	n.Cleanup(func() { conn.CloseNow() })
	return &client{n.TB, conn}
}

func (c *client) write(text string) {
	c.t.Helper()
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read() string {
	c.t.Helper()
	text, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func (c *client) next() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, text, err := c.conn.Read(ctx)
	return string(text), err
}

// closed reads until the gateway closes, and returns the code.
func (c *client) closed() websocket.StatusCode {
	for {
		if _, err := c.next(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func (c *client) subscribe() (id string) {
	c.t.Helper()
	c.write(`{"jsonrpc":"2.0","id":"s","method":"eth_subscribe","params":["newHeads"]}`)
	var r struct{ ID, Result string }
	if text := c.read(); json.Unmarshal([]byte(text), &r) != nil || r.ID != "s" || r.Result == "" {
		c.t.Fatalf("subscribe: %s", text)
	}
	return r.Result
}

func TestSocket(t *testing.T) {
	n := startTwoCities(t, Config{MaxSubscriptions: 2, MaxRequestBytes: 4096})
	c := n.connect()
	c.write(`{"jsonrpc":"2.0","id":1e2,"method":"eth_chainId"}`)
	if got := c.read(); got != `{"jsonrpc":"2.0","id":1e2,"result":"0x7a69"}` {
		t.Errorf("call: %s", got)
	}
	c.write(`[{"jsonrpc":"2.0","id":1,"method":"eth_chainId"},{"jsonrpc":"2.0","id":2,"method":"admin_peers"}]`)
	if got := c.read(); !strings.HasPrefix(got, `[{"jsonrpc":"2.0","id":1,"result":"0x7a69"},{"jsonrpc":"2.0","id":2,"error":{"code":-32601`) {
		t.Errorf("batch: %s", got)
	}
	c.write(`nonsense`)
	if got := c.read(); !strings.Contains(got, `-32700`) {
		t.Errorf("nonsense: %s", got)
	}

	id := c.subscribe()
	n.paris.call("anvil_mine", `["0x2"]`)
	for range 2 {
		if got := c.read(); !strings.Contains(got, `"method":"eth_subscription"`) || !strings.Contains(got, id) {
			t.Errorf("notification: %s", got)
		}
	}
	second := c.subscribe()
	c.write(`{"jsonrpc":"2.0","id":3,"method":"eth_subscribe","params":["newHeads"]}`)
	if got := c.read(); !strings.Contains(got, `"id":3,"error":{"code":-32005`) {
		t.Errorf("third subscription: %s", got)
	}
	for _, id := range []string{id, second} {
		c.write(`{"jsonrpc":"2.0","id":4,"method":"eth_unsubscribe","params":["` + id + `"]}`)
		if got := c.read(); got != `{"jsonrpc":"2.0","id":4,"result":true}` {
			t.Errorf("unsubscribe: %s", got)
		}
	}
	n.paris.call("anvil_mine", `["0x1"]`)
	c.write(`{"jsonrpc":"2.0","id":5,"method":"eth_chainId"}`)
	if got := c.read(); !strings.Contains(got, `"id":5`) {
		t.Errorf("after unsubscribing came %s", got)
	}
	c.write(strings.Repeat("x", 5000))
	if code := c.closed(); code != websocket.StatusMessageTooBig {
		t.Errorf("too large a message closed with %v", code)
	}
}

func TestSocketUpstreamLost(t *testing.T) {
	n := startTwoCities(t, Config{})
	c := n.connect()
	c.subscribe()
	n.paris.kill()
	if code := c.closed(); code != websocket.StatusServiceRestart {
		t.Errorf("closed with %v", code)
	}
	c = n.connect()
	id := c.subscribe() // at the other city's node
	n.chongqing.call("anvil_mine", `["0x1"]`)
	if got := c.read(); !strings.Contains(got, id) {
		t.Errorf("notification: %s", got)
	}
}

func TestSocketKeyRevoked(t *testing.T) {
	n := startTwoCities(t, Config{})
	asking, listening := n.connect(), n.connect()
	listening.subscribe()
	n.project.Keys[0].Revoked = true
	n.ledger.put(n.project)
	n.follow()
	asking.write(`{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`)
	if code := asking.closed(); code != websocket.StatusPolicyViolation {
		t.Errorf("asking: closed with %v", code)
	}
	n.paris.call("anvil_mine", `["0x1"]`)
	if code := listening.closed(); code != websocket.StatusPolicyViolation {
		t.Errorf("listening: closed with %v", code)
	}
	if _, r, err := websocket.Dial(t.Context(), n.url+"/rpc/lab/"+n.secret, nil); err == nil || r == nil || r.StatusCode != 401 {
		t.Errorf("connecting anew: %v %v", r, err)
	}
}

func TestQueue(t *testing.T) {
	q := newQueue(3 * (10 + itemCost))
	item := make([]byte, 10)
	for range 3 {
		if err := q.push(item, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.push(item, false); err != errSlow {
		t.Errorf("fourth: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- q.push(item, true) }()
	for range 4 {
		if _, ok := q.pop(); !ok {
			t.Fatal("closed")
		}
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := q.push(make([]byte, 1000), false); err != nil {
		t.Errorf("a large message alone: %v", err)
	}
	go func() { waited <- q.push(item, true) }()
	q.close()
	if err := <-waited; err != errClosed {
		t.Errorf("after closing: %v", err)
	}
	if _, ok := q.pop(); ok {
		t.Error("a closed queue gives messages")
	}
}
