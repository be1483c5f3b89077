package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// serveSocket serves a WebSocket: subscriptions to heads, and the blocks of a chain
// without logs, each with its number for its hash.
func (n *scriptedNode) serveSocket(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	down := n.down
	n.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	n.mu.Lock()
	n.headers = r.Header
	n.told[c] = 0
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.told, c)
		n.mu.Unlock()
		_ = c.CloseNow()
	}()
	for {
		_, text, err := c.Read(context.Background())
		m, _, ok := parseMessage(text)
		if err != nil || !ok {
			return
		}
		n.mu.Lock()
		member := n.onSocket(c, m)
		err = c.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,%s}`, m.id, member))
		n.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// onSocket needs mu.
func (n *scriptedNode) onSocket(c *websocket.Conn, m message) string {
	n.asked[m.method]++
	params := string(m.params)
	switch m.method {
	case "eth_subscribe":
		n.told[c]++
		return fmt.Sprintf(`"result":"0x%x"`, n.told[c])
	case "eth_unsubscribe":
		return `"result":true`
	case "eth_getLogs":
		return `"result":[]`
	case headMethod:
		return fmt.Sprintf(`"result":"0x%x"`, n.head)
	case blockMethod, "eth_getBlockByHash":
		of, _, _ := strings.Cut(strings.TrimPrefix(params, `["`), `"`)
		number, err := strconv.ParseInt(strings.TrimPrefix(of, "0x"), 16, 64)
		switch {
		case of == "latest":
			return `"result":` + n.block(n.head)
		case err == nil && number <= n.head:
			return `"result":` + n.block(number)
		}
		return `"result":null`
	}
	if l, ok := n.lines[m.method]; ok {
		return l.member
	}
	return `"error":{"code":-32601,"message":"the method ` + m.method + ` does not exist/is not available"}`
}

// block needs mu.
func (n *scriptedNode) block(number int64) string {
	hash := fmt.Sprintf("0x%064x", number)
	if number == n.head && n.hash != "" {
		hash = n.hash
	}
	return fmt.Sprintf(`{"number":"0x%x","hash":"%s","parentHash":"0x%064x","transactions":[]}`, number, hash, max(number-1, 0))
}

// tellHead tells all who have subscribed; it needs mu.
func (n *scriptedNode) tellHead() {
	for c, subscriptions := range n.told {
		for i := range subscriptions {
			_ = c.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil,
				`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x%x","result":%s}}`, i+1, n.block(n.head)))
		}
	}
}

func (n *scriptedNode) dropSockets() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.told {
		_ = c.CloseNow()
	}
}

// subscribe opens the connection that stays.
func (s *scenario) subscribe(args []string) said {
	if len(args) != 1 || s.world == nil || s.socket != nil {
		return fails("usage: subscribe KIND, once, after chain")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	url := "ws" + strings.TrimPrefix(s.world.url, "http") + "/rpc/lab/" + s.world.keys["one"]
	c, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return said{err: err}
	}
	s.socket, s.heads = c, make(chan int64, 1000)
	if err := c.Write(ctx, websocket.MessageText, appendRequest(nil, 1, "eth_subscribe", []byte(`["`+args[0]+`"]`))); err != nil {
		return said{err: err}
	}
	_, text, err := c.Read(ctx)
	if err != nil {
		return said{err: err}
	}
	if a, err := parseAnswer(text); err != nil || a.failure != nil {
		return fails("subscribe: %s (%v)", text, err)
	}
	go func() {
		defer close(s.heads)
		for {
			_, text, err := c.Read(context.Background())
			if err != nil {
				return
			}
			_, after, _ := strings.Cut(string(text), `"number":"0x`)
			digits, _, _ := strings.Cut(after, `"`)
			if number, err := strconv.ParseInt(digits, 16, 64); err == nil {
				s.heads <- number
			}
		}
	}()
	return said{}
}

func (s *scenario) heard(args []string) said {
	if len(args) != 1 || s.heads == nil {
		return fails("usage: heard N, after subscribe")
	}
	timeout := time.After(30 * time.Second)
	for {
		select {
		case number, ok := <-s.heads:
			if !ok {
				return fails("the subscription has ended")
			}
			if strconv.FormatInt(number, 10) == args[0] {
				return said{}
			}
		case <-timeout:
			return fails("the subscriber is not told of head %s", args[0])
		}
	}
}

// leave hangs up on the pending call.
func (s *scenario) leave([]string) said {
	if s.pending == nil {
		return fails("nothing has begun")
	}
	s.hangUp()
	<-s.pending
	s.pending = nil
	return said{}
}

func (s *scenario) left(args []string) said {
	if len(args) != 3 || s.find(args[0]) == nil {
		return fails("usage: left CITY METHOD N")
	}
	n, got := s.find(args[0]), 0
	if !wait(func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		got = n.hungUp[args[1]]
		return strconv.Itoa(got) == args[2]
	}) {
		return fails("%d have hung up on the node of %s in %s", got, args[0], args[1])
	}
	return said{}
}
