package gateway

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
	"pgregory.net/rapid"
)

// A call passes exactly if no level would have given more than its limit, by the
// definition of the token bucket; and what is refused takes nothing anywhere.
func TestTake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type model struct{ requests, units float64 }
		limits := make([]bsn.Limits, rapid.IntRange(1, 3).Draw(t, "levels"))
		models := make([]model, len(limits))
		allowances := make([]*allowance, len(limits))
		for i := range limits {
			limits[i] = bsn.Limits{RequestsPerSecond: rapid.IntRange(0, 3).Draw(t, "rps"), UnitsPerSecond: rapid.IntRange(0, 20).Draw(t, "cups")}
			allowances[i] = &allowance{}
		}
		now, last := time.Duration(0), time.Duration(0)
		for range rapid.IntRange(1, 150).Draw(t, "calls") {
			now += time.Duration(rapid.IntRange(0, 900).Draw(t, "pause")) * time.Millisecond
			units := rapid.IntRange(1, 60).Draw(t, "units")
			var levels []level
			want, dear := true, false
			for i, l := range limits {
				m := &models[i]
				m.requests = max(0, m.requests-(now-last).Seconds()*float64(l.RequestsPerSecond))
				m.units = max(0, m.units-(now-last).Seconds()*float64(l.UnitsPerSecond))
				const nearly = 1e-6 // of rounding
				if l.RequestsPerSecond > 0 {
					over := m.requests + 1 - float64(10*l.RequestsPerSecond)
					want = want && over <= 0
					dear = dear || math.Abs(over) < nearly
				}
				if l.UnitsPerSecond > 0 {
					over := m.units + min(float64(units), float64(10*l.UnitsPerSecond)) - float64(10*l.UnitsPerSecond)
					want = want && over <= 0
					dear = dear || math.Abs(over) < nearly && over != 0
				}
				levels = append(levels, level{allowances[i], float64(l.RequestsPerSecond), float64(l.UnitsPerSecond), "key ", fmt.Sprint(i)})
			}
			last = now
			s, a, ok := take(now, units, levels)
			if ok != want && !dear {
				t.Fatalf("at %v, %d units of %+v: passed %v, want %v", now, units, models, ok, want)
			}
			if !ok && (a.retryAfter <= 0 || a.status != http.StatusTooManyRequests || a.limit == "") {
				t.Fatalf("refused with %+v", a)
			}
			if !ok {
				// Who waits as long as was said is let in, if nobody else calls.
				later := now + a.retryAfter + time.Microsecond
				again := take2(later, units, levels)
				if again != "" && again == a.limit {
					t.Fatalf("after waiting for %v the same limit %s", a.retryAfter, again)
				}
			}
			for i, l := range limits {
				if !ok {
					continue
				}
				if l.RequestsPerSecond > 0 {
					models[i].requests++
				}
				if l.UnitsPerSecond > 0 {
					models[i].units += float64(units)
				}
				if l.RequestsPerSecond > 0 && s.requests.rest > int64(float64(10*l.RequestsPerSecond)-models[i].requests+1e-6) {
					t.Fatalf("%d requests are left of %+v", s.requests.rest, models[i])
				}
			}
		}
	})
}

// take2 tells which limit a call would meet on copies of the levels.
func take2(now time.Duration, units int, levels []level) string {
	var copies []level
	for _, l := range levels {
		c := l
		c.allowance = &allowance{at: l.at, requests: l.requests, units: l.units, empty: l.empty}
		copies = append(copies, c)
	}
	_, a, _ := take(now, units, copies)
	// The first level that is short speaks; another one may be short for longer.
	for i := range copies[1:] {
		if r, u := copies[i+1].over(units); r > 0 || u > 0 {
			return ""
		}
	}
	return a.limit
}

func TestAllowancesAreForgotten(t *testing.T) {
	a := newAllowances()
	now := time.Since(epoch)
	for i := range 100_000 {
		one := a.get(strconv.Itoa(i))
		// All but each thousandth were full long ago.
		one.empty = now - time.Second
		if i%1000 == 0 {
			one.empty = now + time.Hour
		}
	}
	held := 0
	for i := range a.shards {
		held += len(a.shards[i].m)
	}
	if held > 2*16*sweepLeast+200 {
		t.Errorf("%d allowances are held", held)
	}
	for i := 0; i < 100_000; i += 1000 {
		if one := a.get(strconv.Itoa(i)); one.empty <= now {
			t.Fatalf("allowance %d was forgotten while in use", i)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	g := &Gateway{allowances: newAllowances()}
	c := caller{
		project: &bsn.Project{Limits: bsn.Limits{RequestsPerSecond: 1e6, UnitsPerSecond: 1e9}}, id: "alice/main",
		key: bsn.Key{ID: "0123456789ab"}, own: strings.Repeat("ab", 32), limits: bsn.Limits{RequestsPerSecond: 1e6, UnitsPerSecond: 1e9},
		at: time.Now(),
	}
	var room [128]byte
	b.ReportAllocs()
	for b.Loop() {
		a, _ := g.limit(&c, 20)
		a.spent.appendPolicy(room[:0])
		a.spent.appendLeft(room[:0])
	}
}

func TestLimitsOfAKey(t *testing.T) {
	n := startTwoCities(t, Config{})
	set := func(key, project bsn.Limits) {
		t.Helper()
		n.secret, n.project.Keys[0] = bsn.NewKey("paris")
		n.project.Name = n.project.Keys[0].ID
		n.project.Keys[0].Limits, n.project.Limits = key, project
		n.ledger.put(n.project)
		n.follow()
	}
	until := func(body string) (served int, last reply) {
		t.Helper()
		for served = range 200 {
			if last = n.rpc(body); last.status != 200 {
				return served, last
			}
		}
		t.Fatal("200 calls passed")
		return
	}
	chainID, balance := `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`, askMark // of 1 and 10 units
	many := bsn.Limits{RequestsPerSecond: 1000, UnitsPerSecond: 100_000}
	for _, c := range []struct {
		name         string
		key, project bsn.Limits
		body         string
		least, most  int
		limit, whose string
		code         string
	}{
		{"requests of the key", bsn.Limits{RequestsPerSecond: 1}, many, chainID, 10, 100, "requests-per-second", "key", "-32005"},
		{"units of the key", bsn.Limits{UnitsPerSecond: 5}, many, balance, 5, 50, "units-per-second", "key", "-32020"},
		{"requests of the project", many, bsn.Limits{RequestsPerSecond: 1}, chainID, 10, 100, "requests-per-second", "project", "-32005"},
		{"units of the project", bsn.Limits{}, bsn.Limits{RequestsPerSecond: 1000, UnitsPerSecond: 5}, balance, 5, 50, "units-per-second", "project", "-32020"},
	} {
		set(c.key, c.project)
		served, last := until(c.body)
		if served < c.least || served > c.most || last.status != 429 || last.header.Get("Retry-After") == "" ||
			!strings.Contains(last.body, `"code":`+c.code) || !strings.Contains(last.body, `"limit":"`+c.limit+`","retryAfter":`) || !strings.Contains(last.body, c.whose+" ") {
			t.Errorf("%s: after %d calls: %d %s %v", c.name, served, last.status, last.body, last.header)
		}
		if last.header.Get("Bsn-Units") != "0" || !strings.Contains(last.header.Get("RateLimit"), ";r=0;") {
			t.Errorf("%s: headers %v", c.name, last.header)
		}
	}
	set(bsn.Limits{RequestsPerSecond: 100}, bsn.Limits{RequestsPerSecond: 500, UnitsPerSecond: 400})
	r := n.rpc(askMark)
	for name, want := range map[string]string{
		"Bsn-Units": "10", "RateLimit-Policy": `"requests";q=1000;w=10, "units";q=4000;w=10`, "RateLimit": `"requests";r=999;t=1, "units";r=3990;t=1`,
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	r = n.rpc(`[` + askMark + `,` + chainID + `]`)
	if got := r.header.Get("Bsn-Units"); got != "11" {
		t.Errorf("units of a batch: %s", got)
	}
	if r = n.do(http.MethodPost, "/rpc/lab", "bsn_", chainID); r.header.Get("Bsn-Units") != "0" || r.header.Get("RateLimit") != "" {
		t.Errorf("without a key: %v", r.header)
	}
}

func TestNarrowTokens(t *testing.T) {
	n := startTwoCities(t, Config{Network: "net"})
	one := newSigner(t)
	n.ledger.put(bsn.Account{Name: "alice", Identity: bsn.Identity{Signers: []bsn.Signer{one.record("one")}, Threshold: 1}})
	n.follow()
	call := func(text, method string) reply {
		return n.do(http.MethodPost, "/rpc/lab", text, `{"jsonrpc":"2.0","id":1,"method":"`+method+`"}`)
	}
	narrow := one.token("one", func(c *token.Claims) { c.Methods, c.RequestsPerSecond = []string{"eth_*"}, 1 })
	if r := call(narrow, "net_version"); r.status != 403 || !strings.Contains(r.body, `"limit":"method"`) {
		t.Errorf("method: %d %s", r.status, r.body)
	}
	served := 0
	var last reply
	for last = call(narrow, "eth_chainId"); last.status == 200 && served < 100; last = call(narrow, "eth_chainId") {
		served++
	}
	if served < 10 || last.status != 429 || !strings.Contains(last.body, "this token has used up its 1 calls") {
		t.Errorf("after %d calls: %d %s", served, last.status, last.body)
	}
	if r := call(one.token("one", nil), "eth_chainId"); r.status != 200 {
		t.Errorf("another token: %d %s", r.status, r.body)
	}
	// The project's limits hold for all its tokens.
	n.project.Limits.RequestsPerSecond = 1
	n.ledger.put(n.project)
	n.follow()
	served = 0
	for last = call(one.token("one", nil), "eth_chainId"); last.status == 200 && served < 100; last = call(one.token("one", nil), "eth_chainId") {
		served++
	}
	if last.status != 429 || !strings.Contains(last.body, "project alice/main") {
		t.Errorf("after %d calls: %d %s", served, last.status, last.body)
	}
	for _, bad := range []func(*token.Claims){
		func(c *token.Claims) { c.Methods = []string{"eth_*Call"} },
		func(c *token.Claims) { c.UnitsPerSecond = -1 },
	} {
		if r := call(one.token("one", bad), "eth_chainId"); r.status != 401 {
			t.Errorf("malformed claims: %d %s", r.status, r.body)
		}
	}
}

// What is revoked ends connections on which nothing happens, and the rest of a batch.
func TestRevokedMeanwhile(t *testing.T) {
	n := startTwoCities(t, Config{})
	n.project.Limits.RequestsPerSecond = 20 // so that what was taken is seen for a while
	n.ledger.put(n.project)
	n.follow()
	c := n.connect()
	c.write(`{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`)
	c.read()
	n.paris.pause() // so that what is asked waits
	n.chongqing.pause()
	entries := strings.Repeat(`,{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["`+contractA+`","latest"]}`, 40)
	done := make(chan reply)
	go func() { done <- n.rpc("[" + entries[1:] + "]") }()
	eventually(t, "the batch has begun", func() bool {
		one := n.gateway.allowances.get("alice/main")
		one.mu.Lock()
		defer one.mu.Unlock()
		return one.requests > 10
	})
	n.project.Keys[0].Revoked = true
	n.ledger.put(n.project)
	n.follow()
	if code := c.closed(); code != websocket.StatusPolicyViolation {
		t.Errorf("closed with %v", code)
	}
	n.paris.resume()
	n.chongqing.resume()
	r := <-done
	if !strings.Contains(r.body, `has been revoked`) || strings.Count(r.body, "has been revoked") < 40-batchParallel {
		t.Errorf("batch: %d %s", r.status, r.body)
	}
}
