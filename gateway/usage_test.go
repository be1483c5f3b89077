package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

const askUsage = `{"jsonrpc":"2.0","id":"u","method":"bsn_usage"}`

func readUsage(t *testing.T, text string) (u usageAnswer) {
	t.Helper()
	var r struct{ Result *usageAnswer }
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Result == nil {
		t.Fatalf("usage: %s (%v)", text, err)
	}
	return *r.Result
}

// What the headers tell over HTTP, and the answer that opens a WebSocket, the gateway's
// own method tells there, and the same over HTTP.
func TestUsageOverSocket(t *testing.T) {
	n := startTwoCities(t, Config{Journal: filepath.Join(t.TempDir(), "journal")})
	n.project.Limits.UnitsPerSecond = 100
	n.project.Quota = bsn.Quota{Daily: 10, Monthly: 1000}
	n.ledger.put(n.project)
	n.follow()
	_, r, err := websocket.Dial(t.Context(), strings.Replace(n.url, "http", "ws", 1)+"/rpc/lab/"+n.secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h := r.Header; h.Get("bsn-units") != "0" || !strings.Contains(h.Get("ratelimit-policy"), `"units";q=1000;w=10`) || !strings.Contains(h.Get("ratelimit"), `"units";r=1000`) {
		t.Errorf("headers of the answer that opens: %v", h)
	}
	c := n.connect()
	for range 5 { // 2 units each: all of the day's
		c.write(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`)
		if got := c.read(); !strings.Contains(got, `"result"`) {
			t.Fatal(got)
		}
	}
	c.write(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`)
	if got := c.read(); !strings.Contains(got, "daily-quota") {
		t.Fatal(got)
	}
	c.write(askUsage)
	u := readUsage(t, c.read())
	if u.Project != "alice/main" || u.Key != n.project.Keys[0].ID || u.Requests == nil || u.Units == nil ||
		u.Units.Limit != 1000 || u.Units.Left > 1000 || u.Units.Window != 10 {
		t.Errorf("usage: %+v", u)
	}
	if d := u.Daily; d == nil || d.Limit != 10 || d.Used != 10 || d.Left != 0 || !d.Ends.After(time.Now()) {
		t.Errorf("daily: %+v", u.Daily)
	}
	if m := u.Monthly; m == nil || m.Limit != 1000 || m.Used != 10 || m.Left != 990 {
		t.Errorf("monthly: %+v", u.Monthly)
	}
	over := n.rpc(askUsage)
	if got := readUsage(t, over.body); over.status != http.StatusOK || over.header.Get("bsn-units") != "0" || got.Daily == nil || *got.Daily != *u.Daily {
		t.Errorf("over HTTP: %d %v %s", over.status, over.header, over.body)
	}
	// It is a method as any other to the restrictions of keys.
	n.project.Keys[0].Restrictions.Methods = []string{"eth_*"}
	n.ledger.put(n.project)
	n.follow()
	if r := n.rpc(askUsage); r.status != http.StatusForbidden || !strings.Contains(r.body, `"limit":"method"`) {
		t.Errorf("with a key for other methods: %d %s", r.status, r.body)
	}
}

// ended reads until the gateway closes: the error that came before, and how it closed.
func (l *listener) ended(t *testing.T) (failure string, last websocket.CloseError) {
	t.Helper()
	for {
		text, err := l.next()
		if err != nil {
			if !errors.As(err, &last) {
				t.Fatal(err)
			}
			return failure, last
		}
		if strings.Contains(text, `"error"`) {
			failure = text
		} else {
			l.take(text)
		}
	}
}

// What subscriptions bring is paid for; once the quota is used up they end, and the
// connection with them, and what was paid for has come before.
func TestNotificationsEndAtTheQuota(t *testing.T) {
	for _, c := range []struct {
		quota bsn.Quota
		code  websocket.StatusCode
		kind  kind
	}{
		{bsn.Quota{Daily: 50}, 4021, kindDaily},
		{bsn.Quota{Daily: 1000, Monthly: 50}, 4022, kindMonthly},
	} {
		t.Run(c.kind.name, func(t *testing.T) {
			n := startTwoCities(t, Config{Journal: filepath.Join(t.TempDir(), "journal")})
			other := n.project
			var key bsn.Key
			var secret string
			secret, key = bsn.NewKey("paris")
			other.Name, other.Keys = "free", []bsn.Key{key}
			n.project.Quota = c.quota
			n.ledger.put(n.project, other)
			n.follow()
			l := n.listen()
			l.on(`["newHeads"]`)
			paid := n.secret
			n.secret = secret
			free := n.listen()
			free.on(`["newHeads"]`)
			n.secret = paid
			n.paris.call("anvil_mine", `["0x20"]`)
			failure, last := l.ended(t)
			if last.Code != c.code || !strings.HasPrefix(last.Reason, c.kind.name+": ") {
				t.Errorf("closed with %+v", last)
			}
			if !strings.Contains(failure, fmt.Sprintf(`"id":null,"error":{"code":%d`, c.kind.code)) || !strings.Contains(failure, `"limit":"`+c.kind.name+`"`) || !strings.Contains(failure, `"retryAfter":`) {
				t.Errorf("the error before: %s", failure)
			}
			rows, err := n.gateway.meter.journal.Rows()
			if err != nil {
				t.Fatal(err)
			}
			var notified, units uint64
			for _, r := range rows {
				if r.Project == n.project.ID() {
					units += r.Units
					if r.Class == classNotify {
						notified = r.Calls
					}
				}
			}
			if units > 50 || len(l.events) == 0 {
				t.Errorf("%d units were charged of 50, for %d notifications", units, len(l.events))
			}
			t.Logf("%d rows of notifications, %d came, %d units", notified, len(l.events), units)
			free.until(32) // who shares the subscription at the node is not concerned
			again := n.listen()
			if _, failure := again.try(`["newHeads"]`); !strings.Contains(failure, c.kind.name) {
				t.Errorf("subscribing anew: %s", failure)
			}
		})
	}
}

// Each way of losing the right to call ends what is open, and says which it was.
func TestSocketsEndWithTheirRight(t *testing.T) {
	n := startTwoCities(t, Config{})
	key := n.project.Keys[0]
	for _, c := range []struct {
		change func(p *bsn.Project)
		want   string
	}{
		{func(p *bsn.Project) { p.Keys[0].Restrictions.Origins = []string{"https://app.example"} }, "origin"},
		{func(p *bsn.Project) { p.Keys[0].Restrictions.Methods = []string{"eth_*"} }, closeChanged},
		{func(p *bsn.Project) { p.Keys[0].Expires = 1 }, "key " + key.ID + " has expired"},
		{func(p *bsn.Project) { p.Keys[0].Revoked = true }, "key " + key.ID + " has been revoked"},
		{func(p *bsn.Project) { p.Revoked = true }, "project alice/main has been revoked"},
	} {
		n.project.Keys, n.project.Revoked = []bsn.Key{key}, false
		n.ledger.put(n.project)
		n.follow()
		l := n.listen()
		l.on(`["newHeads"]`)
		n.project.Keys = []bsn.Key{key}
		c.change(&n.project)
		n.ledger.put(n.project)
		_, last := l.ended(t)
		if last.Code != websocket.StatusPolicyViolation || !strings.Contains(last.Reason, c.want) {
			t.Errorf("want %q: closed with %+v", c.want, last)
		}
	}
}
