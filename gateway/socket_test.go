package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
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

// A filter is kept by one node, and the connection ends with it.
func TestSocketFilterLost(t *testing.T) {
	n := startTwoCities(t, Config{})
	c := n.connect()
	c.write(`{"jsonrpc":"2.0","id":1,"method":"eth_newBlockFilter"}`)
	if got := c.read(); !strings.Contains(got, `"result":"0x`) {
		t.Fatal(got)
	}
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
	c.write(`{"jsonrpc":"2.0","id":2,"method":"eth_unsubscribe","params":["0x1"]}`)
	if got := c.read(); !strings.Contains(got, "subscription not found") {
		t.Errorf("unknown subscription: %s", got)
	}
}

// emitter is the code of a contract that writes an empty log when it is called.
const emitter = "0x60006000a0"

// Logs and reorganisations of a real node.
func TestSocketReorganised(t *testing.T) {
	n := startTwoCities(t, Config{})
	n.chongqing.kill()
	n.paris.call("anvil_setCode", `["0x00000000000000000000000000000000000000ee","`+emitter+`"]`)
	n.paris.call("anvil_mine", `["0x3"]`)
	l := n.listen()
	logs := l.on(`["logs",{"address":"0x00000000000000000000000000000000000000ee"}]`)
	heads := l.on(`["newHeads"]`)
	account := strings.SplitN(n.paris.call("eth_accounts", `[]`), `"`, 3)[1]
	for range 2 {
		n.paris.call("eth_sendTransaction", `[{"from":"`+account+`","to":"0x00000000000000000000000000000000000000ee","gas":"0x30000"}]`)
	}
	l.until(4)
	had := l.names(logs)
	n.paris.call("anvil_reorg", `[2,[]]`)
	n.paris.call("anvil_mine", `["0x1"]`)
	for len(l.names(logs)) < 4 || !strings.HasPrefix(l.events[len(l.events)-1].name, "0x6 ") {
		l.until(len(l.events) + 1)
	}
	same(t, "logs", l.names(logs), append(had, "-"+had[1], "-"+had[0]))
	var numbers []string
	for _, name := range l.names(heads) {
		number, _, _ := strings.Cut(name, " ")
		numbers = append(numbers, number)
	}
	same(t, "heads", numbers, []string{"0x4", "0x5", "0x4", "0x5", "0x6"})
}

// A message may come in parts, with control frames between them; what the protocol
// forbids ends the connection with the proper code.
func TestFrames(t *testing.T) {
	frame := func(op ws.OpCode, fin bool, text string) []byte {
		return ws.MustCompileFrame(ws.MaskFrameInPlaceWith(ws.NewFrame(op, fin, []byte(text)), [4]byte{1, 2, 3, 4}))
	}
	unmasked := ws.MustCompileFrame(ws.NewTextFrame([]byte("x")))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		name     string
		text     []byte
		want     string
		code     websocket.StatusCode
		controls string
	}{
		{"whole", frame(ws.OpText, true, "abc"), "abc", 0, ""},
		{"empty", frame(ws.OpText, true, ""), "", 0, ""},
		{
			"in parts", join(frame(ws.OpText, false, "ab"), frame(ws.OpPing, true, "?"), frame(ws.OpContinuation, false, ""), frame(ws.OpContinuation, true, "cd")),
			"abcd", 0, "?",
		},
		{"cut in a letter", join(frame(ws.OpText, false, "\xc3"), frame(ws.OpContinuation, true, "\xa9")), "é", 0, ""},
		{"not masked", unmasked, "", websocket.StatusProtocolError, ""},
		{"continues nothing", frame(ws.OpContinuation, true, "x"), "", websocket.StatusProtocolError, ""},
		{"two at once", join(frame(ws.OpText, false, "x"), frame(ws.OpText, true, "x")), "", websocket.StatusProtocolError, ""},
		{"ping in parts", frame(ws.OpPing, false, "x"), "", websocket.StatusProtocolError, ""},
		{"no text", frame(ws.OpText, true, "\xff"), "", websocket.StatusInvalidFramePayloadData, ""},
		{"too large", frame(ws.OpText, true, strings.Repeat("x", 101)), "", websocket.StatusMessageTooBig, ""},
		{"too large in parts", join(frame(ws.OpText, false, strings.Repeat("x", 60)), frame(ws.OpContinuation, true, strings.Repeat("x", 60))), "", websocket.StatusMessageTooBig, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := frames{r: bufio.NewReader(bytes.NewReader(c.text)), limit: 100, room: newMemory(1<<20, nil, 0)}
			var controls string
			got, err := f.next(func(_ ws.OpCode, payload []byte) error { controls += string(payload); return nil })
			var bad *closing
			if errors.As(err, &bad) != (c.code != 0) || bad != nil && bad.code != c.code || string(got) != c.want || controls != c.controls {
				t.Errorf("%q, %q, %v", got, controls, err)
			}
		})
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(ws.MustCompileFrame(ws.MaskFrameInPlaceWith(ws.NewTextFrame([]byte("abc")), [4]byte{1, 2, 3, 4})))
	f.Fuzz(func(t *testing.T, text []byte) {
		in := frames{r: bufio.NewReader(bytes.NewReader(text)), limit: 1000, room: newMemory(1<<20, nil, 0)}
		for {
			m, err := in.next(func(ws.OpCode, []byte) error { return nil })
			if err != nil {
				return
			}
			if len(m) > 1000 {
				t.Fatalf("message of %d bytes", len(m))
			}
		}
	})
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

// What goes out is what was put in, in frames, and notifications with their id.
func TestQueue(t *testing.T) {
	var q queue
	q.init(3*(10+itemCost), newMemory(1<<20, nil, 0))
	item := outgoing{op: ws.OpText, text: make([]byte, 10)}
	for i := range 3 {
		if start, err := q.push(item, false); err != nil || start != (i == 0) {
			t.Fatal(start, err)
		}
	}
	if _, err := q.push(item, false); err != errSlow {
		t.Errorf("fourth: %v", err)
	}
	waited := make(chan error, 1)
	wait := func() { _, err := q.push(item, true); waited <- err }
	go wait()
	if text, _, _, ok := q.take(nil); !ok || len(text) < 3*12 {
		t.Fatal("closed")
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	q.take(nil)
	if _, _, _, ok := q.take(nil); ok {
		t.Error("an empty queue gives messages")
	}
	large := outgoing{op: ws.OpText, text: make([]byte, 100_000), sub: &subscription{prefix: []byte("ab")}}
	if start, err := q.push(large, false); err != nil || !start {
		t.Errorf("a large message alone: %v %v", start, err)
	}
	text, rest, last, ok := q.take(nil)
	if h, err := ws.ReadHeader(bytes.NewReader(text)); err != nil || h.Length != 100_002 || len(rest) != 100_000 || !strings.HasSuffix(string(text), "ab") || last || !ok {
		t.Errorf("large message: %+v %v %d", h, err, len(rest))
	}
	if _, err := q.push(large, false); err != nil {
		t.Error(err)
	}
	go wait()
	q.finish(websocket.StatusGoingAway, "bye", nil)
	if err := <-waited; err != errClosed {
		t.Errorf("after the end: %v", err)
	}
	if text, _, last, ok := q.take(nil); string(text) != "\x88\x05\x03\xe9bye" || !last || !ok {
		t.Errorf("last frame: %q", text)
	}
	q.close()
	if _, _, _, ok := q.take(nil); ok {
		t.Error("a closed queue gives messages")
	}
}
