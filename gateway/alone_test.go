package gateway

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

const askChain = `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`

// passed lets the ledger stand still since a while ago.
func (n *twoCities) passed(since time.Duration) {
	n.Helper()
	n.ledger.at = time.Now().Add(-since)
	n.ledger.put()
	n.follow()
}

func TestAlone(t *testing.T) {
	cfg := Config{Alone: Alone{Reads: 10 * time.Minute, Writes: 2 * time.Minute}}
	n := startTwoCities(t, cfg)
	n.chain.Deploy = bsn.DeployAnyone
	n.ledger.put(n.chain)
	n.follow()
	s := newSigner(t)
	params, hash := s.sign(nil, answers42)
	if r := n.rpc(askChain); r.status != 200 || r.header.Get("Bsn-Ledger-Age") != "" || r.header.Get("Bsn-Alone") != "" {
		t.Errorf("with the ledger: %d %v", r.status, r.header)
	}

	// A gateway that starts with this state finds it as old as it is.
	restart := func(since time.Duration) {
		t.Helper()
		n.ledger = newMemoryLedger()
		n.ledger.at = time.Now().Add(-since)
		n.ledger.put(bsn.City{Name: "paris", Index: 1}, n.chain, n.project)
		n.serve(Config{Alone: cfg.Alone})
	}
	restart(time.Minute)
	r := n.send(params)
	if r.status != 200 || !strings.Contains(r.body, hash) || r.header.Get("Bsn-Alone") != "writes" || r.header.Get("Bsn-Ledger-Age") < "60" {
		t.Errorf("a minute alone: %d %s %v", r.status, r.body, r.header)
	}
	restart(5 * time.Minute)
	r = n.send(params)
	if r.status != 503 || !strings.Contains(r.body, `"code":-32011`) || !strings.Contains(r.body, "transactions are not taken for longer than 2m0s") ||
		r.header.Get("Bsn-Alone") != "reads" || r.header.Get("Retry-After") == "" {
		t.Errorf("transaction after five minutes: %d %s %v", r.status, r.body, r.header)
	}
	if r := n.rpc(askChain); r.status != 200 || r.header.Get("Bsn-Alone") != "reads" {
		t.Errorf("read after five minutes: %d %s", r.status, r.body)
	}
	if r := n.rpc(`[` + askChain + `,{"jsonrpc":"2.0","id":2,"method":"eth_sendRawTransaction","params":` + params + `}]`); r.status != 200 ||
		!strings.HasPrefix(r.body, `[{"jsonrpc":"2.0","id":1,"result":"0x7a69"},{"jsonrpc":"2.0","id":2,"error":{"code":-32011`) {
		t.Errorf("batch after five minutes: %d %s", r.status, r.body)
	}
	var h health
	if r := n.do(http.MethodGet, "/health", "", ""); json.Unmarshal([]byte(r.body), &h) != nil || r.status != 200 ||
		h.Status != "degraded" || h.Ledger.Alone != "reads" || h.Ledger.Age < 300 {
		t.Errorf("health: %d %s", r.status, r.body)
	}

	restart(time.Hour)
	for _, path := range []string{"/app/olga/answers", "/app/olga/answers/Answers/secret"} {
		if r := n.do(http.MethodGet, path, n.secret, ""); r.status != 503 || !strings.Contains(r.body, "nothing is answered for longer than 10m0s") {
			t.Errorf("%s after an hour: %d %s", path, r.status, r.body)
		}
	}
	if r := n.rpc(askChain); r.status != 503 || !strings.Contains(r.body, `"code":-32011`) || r.header.Get("Bsn-Alone") != "none" {
		t.Errorf("read after an hour: %d %s %v", r.status, r.body, r.header)
	}
	if r := n.do(http.MethodGet, "/health", "", ""); json.Unmarshal([]byte(r.body), &h) != nil || r.status != 503 || h.Status != "alone" {
		t.Errorf("health after an hour: %d %s", r.status, r.body)
	}
	// It goes on by itself.
	n.passed(0)
	if r := n.send(params); r.status != 200 || r.header.Get("Bsn-Alone") != "" {
		t.Errorf("with the ledger again: %d %s %v", r.status, r.body, r.header)
	}
}

// What is open is told, and ends when nothing is answered any more.
func TestAloneSocket(t *testing.T) {
	cfg := Config{Alone: Alone{Reads: 10 * time.Minute, Writes: time.Minute}}
	n := startTwoCities(t, cfg)
	n.ledger = newMemoryLedger()
	n.ledger.at = time.Now().Add(-cfg.Alone.Reads + 3*time.Second)
	n.ledger.put(bsn.City{Name: "paris", Index: 1}, n.chain, n.project)
	n.serve(cfg)
	c := n.connect()
	c.write(`{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x"]}`)
	if text := c.read(); !strings.Contains(text, `"code":-32011`) {
		t.Errorf("transaction: %s", text)
	}
	c.subscribe()
	if code := c.closed(); code != websocket.StatusTryAgainLater {
		t.Errorf("closed with %v", code)
	}
	n.passed(0)
	eventually(t, "sockets are taken again", func() bool { return n.gateway.hearing().Err() == nil })
	c = n.connect()
	c.write(askChain)
	if text := c.read(); !strings.Contains(text, "0x7a69") {
		t.Errorf("with the ledger again: %s", text)
	}
}

// The state file keeps the age, and a restart does not begin to count anew.
func TestAloneAcrossRestart(t *testing.T) {
	cfg := Config{Alone: Alone{Reads: 10 * time.Minute, Writes: time.Minute}}
	n := startTwoCities(t, cfg)
	n.ledger = newMemoryLedger()
	n.ledger.at = time.Now().Add(-5 * time.Minute)
	n.ledger.put(bsn.City{Name: "paris", Index: 1}, n.chain, n.project)
	cfg.State = filepath.Join(t.TempDir(), "state.json")
	n.serve(cfg)
	eventually(t, "state is saved", func() bool {
		r, old, err := loadState(cfg.State)
		return err == nil && r != nil && !old.Newest.IsZero()
	})
	n.ledger.set(true)
	n.serve(cfg)
	if r := n.rpc(askChain); r.status != 200 || r.header.Get("Bsn-Alone") != "reads" || r.header.Get("Bsn-Ledger-Age") < "300" {
		t.Errorf("after a restart without the ledger: %d %s %v", r.status, r.body, r.header)
	}
}

func TestAloneConfig(t *testing.T) {
	_, err := New(Config{City: "paris", Alone: Alone{Reads: time.Second, Writes: time.Minute}}, newMemoryLedger(), nil, nil, quiet())
	if err == nil || !strings.Contains(err.Error(), "alone.writes") {
		t.Errorf("writes longer than reads: %v", err)
	}
}
