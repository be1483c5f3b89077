package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
)

func (s *signer) record(label string) bsn.Signer {
	return bsn.Signer{Address: "bsn1" + label, PublicKey: crypto.CompressPubkey(&s.key.PublicKey), Ethereum: s.address(), Label: label}
}

func (s *signer) token(label string, change func(*token.Claims)) string {
	s.t.Helper()
	now := time.Now()
	c := token.Claims{Account: "alice", City: "paris", Network: "net", Project: "main", Issued: now, Expires: now.Add(time.Minute)}
	if change != nil {
		change(&c)
	}
	text, err := token.Sign(s.key, "bsn1"+label, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func TestTokens(t *testing.T) {
	n := startTwoCities(t, Config{Network: "net"})
	one, two := newSigner(t), newSigner(t)
	alice := bsn.Account{Name: "alice", Identity: bsn.Identity{Signers: []bsn.Signer{one.record("one"), two.record("two")}, Threshold: 1}}
	n.ledger.put(alice, bsn.Account{Name: "bob", Identity: bsn.Identity{Signers: []bsn.Signer{newSigner(t).record("one")}, Threshold: 1}})
	n.follow()
	body := `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`
	check := func(text string, status int, part string) {
		t.Helper()
		if r := n.do(http.MethodPost, "/rpc/lab", text, body); r.status != status || !strings.Contains(r.body, part) {
			t.Errorf("status %d, body %s, want %d and %q", r.status, r.body, status, part)
		}
	}
	check(one.token("one", nil), 200, "0x7a69")
	check(two.token("two", nil), 200, "0x7a69")
	check(one.token("two", nil), 401, "none of the account's keys")
	check(one.token("one", func(c *token.Claims) { c.City = "chongqing" }), 401, "audience")
	check(one.token("one", func(c *token.Claims) { c.Network = "other" }), 401, "this network")
	check(one.token("one", func(c *token.Claims) { c.Account = "bob" }), 401, "none of the account's keys")
	check(one.token("one", func(c *token.Claims) { c.Account = "nobody" }), 401, "there is no account")
	check(one.token("one", func(c *token.Claims) { c.Project = "else" }), 401, "has no project")
	check(one.token("one", func(c *token.Claims) { c.Issued, c.Expires = c.Issued.Add(-time.Hour), c.Issued.Add(-time.Minute) }), 401, "good for up to")
	check(one.token("one", func(c *token.Claims) { c.Issued, c.Expires = c.Issued.Add(-10*time.Minute), c.Issued.Add(-time.Minute) }), 401, "has expired")
	check("a.b.c", 401, "token")

	// A removed key stops, on open connections too.
	text := two.token("two", nil)
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(n.url, "http", "ws", 1)+"/rpc/lab/"+text, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t, conn}
	c.write(body)
	if got := c.read(); !strings.Contains(got, "0x7a69") {
		t.Errorf("over a WebSocket: %s", got)
	}
	alice.Signers = []bsn.Signer{one.record("one")}
	n.ledger.put(alice)
	n.follow()
	check(text, 401, "none of the account's keys")
	c.write(body)
	if code := c.closed(); code != websocket.StatusPolicyViolation {
		t.Errorf("closed with %d", code)
	}
	// Where several keys have to agree, one may sign tokens only if the account says so.
	alice.Signers, alice.Threshold = []bsn.Signer{one.record("one"), two.record("two")}, 2
	n.ledger.put(alice)
	n.follow()
	check(one.token("one", nil), 401, "none may sign tokens by itself")
	alice.Signers = []bsn.Signer{one.record("one"), two.record("two")}
	alice.Signers[1].Tokens = true
	n.ledger.put(alice)
	n.follow()
	check(one.token("one", nil), 401, "none of the account's keys")
	check(two.token("two", nil), 200, "0x7a69")
	n.project.Revoked = true
	n.ledger.put(n.project)
	n.follow()
	check(two.token("two", nil), 401, "project alice/main has been revoked")
}
