package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ethereum/go-ethereum/common"
)

// A transaction that was sent is followed to its end, and counted, whether its sender
// stays or not.
func TestLeaveAfterSending(t *testing.T) {
	w := mustScripted(t, Config{}, true, "paris")
	n := w.nodes["paris"]
	n.lines["eth_sendRawTransaction"], _ = parseLine([]string{"hang"})
	params, _ := newSigner(t).sign(&common.Address{}, nil)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = w.postUntil(ctx, "lab", "one", string(appendRequest(nil, 1, "eth_sendRawTransaction", []byte(params))))
	}()
	eventually(t, "the node is asked", func() bool { return n.count("eth_sendRawTransaction") == 1 })
	leave()
	<-left
	time.Sleep(time.Second) // in which it would be taken back
	n.let()
	eventually(t, "it is counted", func() bool {
		rows, err := w.gateway.meter.journal.Rows()
		return err == nil && len(rows) == 1 && rows[0].Calls == 1
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hungUp["eth_sendRawTransaction"] != 0 {
		t.Error("it is taken back")
	}
}

// A read that several wait for goes on when the first of them hangs up, and is taken
// back when a WebSocket ends on which it was asked.
func TestLeave(t *testing.T) {
	w := mustScripted(t, Config{Cache: Cache{MaxBytes: -1}}, true, "paris")
	n := w.nodes["paris"]
	n.lines["eth_call"], _ = parseLine([]string{"hang"})
	const body = `{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{},"latest"]}`
	hungUp := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.hungUp["eth_call"]
	}
	first, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = w.postUntil(first, "lab", "one", body)
	}()
	eventually(t, "the node is asked", func() bool { return n.count("eth_call") == 1 })
	joined := make(chan reply)
	go func() {
		r, _ := w.post("other", body)
		joined <- r
	}()
	p, _ := w.gateway.upstreams.get("lab")
	eventually(t, "another joins", func() bool {
		for i := range p.state.flights.shards {
			s := &p.state.flights.shards[i]
			s.mu.Lock()
			for _, f := range s.flights {
				if f.done != nil {
					s.mu.Unlock()
					return true
				}
			}
			s.mu.Unlock()
		}
		return false
	})
	leave()
	<-left
	time.Sleep(time.Second) // in which it would be taken back
	if hungUp() != 0 {
		t.Error("the call is taken back though another waits for it")
	}
	n.let()
	if r := <-joined; !strings.Contains(r.body, `"0xdead"`) {
		t.Errorf("who joined: %d %s", r.status, r.body)
	}

	// All calls that a WebSocket can have run, so that nothing is read from it.
	c, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(w.url, "http")+"/rpc/lab/"+w.keys["one"], nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range socketCalls + 1 {
		text := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"eth_call","params":[{"data":"0x%02x"},"latest"]}`, i, i)
		if err := c.Write(t.Context(), websocket.MessageText, text); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the node is asked", func() bool { return n.count("eth_call") == 1+socketCalls })
	_ = c.CloseNow()
	eventually(t, "the calls are taken back", func() bool { return hungUp() >= socketCalls })
	rows, err := w.gateway.meter.journal.Rows()
	if err != nil {
		t.Fatal(err)
	}
	calls := uint64(0)
	for _, r := range rows {
		calls += r.Calls
	}
	if calls != 2 {
		t.Errorf("%d calls are charged, of which two came to an answer: %+v", calls, rows)
	}
}
