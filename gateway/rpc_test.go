package gateway

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/http1"
)

// testServer serves a gateway as Run does.
type testServer struct {
	URL   string
	front *http1.Server
}

func newServer(g *Gateway) testServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go g.front.Serve(l)
	return testServer{"http://" + l.Addr().String(), g.front}
}

func (s testServer) Close() { s.front.Close() }

func TestRPC(t *testing.T) {
	n := startTwoCities(t, Config{MaxRequestBytes: 4096, MaxResponseBytes: 64 << 10, MaxBatch: 4})
	chainID := `"0x7a69"`
	one := func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"eth_chainId"}` }
	answered := func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"result":` + chainID + `}` }
	for _, c := range []struct {
		name, body string
		status     int
		want       string // the whole body, or a part of it if it begins with …
	}{
		{"number id", one(`7`), 200, answered(`7`)},
		{"id that anvil would not take", one(`123456789012345678901234567890.50e1`), 200, answered(`123456789012345678901234567890.50e1`)},
		{"escaped id", one(`"\u0061\/"`), 200, answered(`"\u0061\/"`)},
		{"null id", one(`null`), 200, answered(`null`)},
		{"notification", `{"jsonrpc":"2.0","method":"eth_chainId"}`, 204, ""},
		{"batch", `[` + one(`3`) + `,` + one(`"3"`) + `,` + one(`3`) + `]`, 200, `[` + answered(`3`) + `,` + answered(`"3"`) + `,` + answered(`3`) + `]`},
		{"batch with a notification", `[` + one(`1`) + `,{"jsonrpc":"2.0","method":"eth_chainId"}]`, 200, `[` + answered(`1`) + `]`},
		{"batch of notifications", `[{"jsonrpc":"2.0","method":"eth_chainId"}]`, 204, ""},
		{
			"batch with bad entries", `[5,` + one(`2`) + `,{"jsonrpc":"2.0","id":9,"method":"admin_peers"}]`, 200,
			`[{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a request is a JSON object with jsonrpc, id, method and params"}},` +
				answered(`2`) + `,{"jsonrpc":"2.0","id":9,"error":{"code":-32601,"message":"the method admin_peers does not exist/is not available: chain lab does not offer it here"}}]`,
		},
		{"empty batch", `[]`, 400, `…"id":null,"error":{"code":-32600,`},
		{"large batch", `[1,2,3,4,5]`, 400, `…split it`},
		{"no JSON", `{"jsonrpc"`, 400, `…"code":-32700`},
		{"method not in the table", `{"jsonrpc":"2.0","id":1,"method":"anvil_mine"}`, 200, `…"id":1,"error":{"code":-32601,`},
		{"keys of the node", `{"jsonrpc":"2.0","id":1,"method":"eth_accounts"}`, 200, `…"code":-32601,`},
		{"second method in other case", `{"jsonrpc":"2.0","id":1,"method":"eth_chainId","Method":"anvil_nodeInfo"}`, 200, answered(`1`)},
		{"subscription", `{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}`, 200, `…connect to the same address with ws://`},
		{"too large", `{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":["` + strings.Repeat("x", 4096) + `"]}`, 413, `…larger than 4096 bytes`},
		{"node's own error", `{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[1]}`, 200, `…"error":{"code":-32602,`},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.TB = t
			r := n.rpc(c.body)
			part, partly := strings.CutPrefix(c.want, "…")
			if r.status != c.status || !partly && r.body != c.want || partly && !strings.Contains(r.body, part) {
				t.Errorf("status %d, body %s\nwant %d, %s", r.status, r.body, c.status, c.want)
			}
			if r.header.Get("bsn-ledger-height") != "1" || r.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("headers %v", r.header)
			}
		})
	}
	n.TB = t
	if r := n.do(http.MethodPost, "/rpc/lab/"+n.secret, "", one(`1`)); r.body != answered(`1`) {
		t.Errorf("key in the path: %d %s", r.status, r.body)
	}
	if r := n.do(http.MethodPost, "/rpc/other", n.secret, one(`1`)); r.status != 404 || !strings.Contains(r.body, "no chain") {
		t.Errorf("unknown chain: %d %s", r.status, r.body)
	}
	if r := n.do(http.MethodOptions, "/rpc/lab", "", ""); r.status != 204 || !strings.Contains(r.header.Get("Access-Control-Allow-Headers"), "x-api-key") {
		t.Errorf("preflight: %d %v", r.status, r.header)
	}
}

// On a chain with finality the tags mean the newest block, which anvil itself
// understands otherwise.
func TestFinalizedMeansLatest(t *testing.T) {
	n := startTwoCities(t, Config{})
	for _, a := range []*anvil{n.paris, n.chongqing} {
		a.call("anvil_mine", `["0x3"]`)
		if got := a.call("eth_getBlockByNumber", `["finalized",false]`); strings.Contains(got, `"number":"0x3"`) {
			t.Fatal("anvil's finalized block is its newest one: the test shows nothing")
		}
	}
	for _, tag := range []string{"finalized", "safe"} {
		if got := n.result("eth_getBlockByNumber", `["`+tag+`",false]`); !strings.Contains(got, `"number":"0x3"`) {
			t.Errorf("%s: %s", tag, got)
		}
	}
}

func TestKeys(t *testing.T) {
	n := startTwoCities(t, Config{})
	parisSecret, parisKey := bsn.NewKey("paris")
	elsewhereSecret, elsewhereKey := bsn.NewKey("chongqing")
	unknown, _ := bsn.NewKey("paris")
	other := bsn.Project{Account: "bob", Name: "shop", Keys: []bsn.Key{parisKey, elsewhereKey}}
	n.ledger.put(other)
	n.follow()
	body := `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`
	check := func(secret string, status int, part string) {
		t.Helper()
		if r := n.do(http.MethodPost, "/rpc/lab", secret, body); r.status != status || !strings.Contains(r.body, part) {
			t.Errorf("status %d, body %s, want %d and %q", r.status, r.body, status, part)
		}
	}
	check(parisSecret, 200, "0x7a69")
	check("", 401, "key is missing")
	check("bsn_123", 401, "malformed key")
	check(unknown, 401, "not known in city paris")
	check(elsewhereSecret, 401, "belongs to city chongqing")

	request, _ := http.NewRequest(http.MethodPost, n.url+"/rpc/lab", strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+parisSecret)
	if r, err := http.DefaultClient.Do(request); err != nil || r.StatusCode != 200 {
		t.Errorf("bearer: %v %v", r, err)
	}

	other.Keys = []bsn.Key{parisKey, elsewhereKey}
	other.Keys[0].Revoked = true
	n.ledger.put(other)
	n.follow()
	check(parisSecret, 401, "has been revoked")
	n.project.Revoked = true
	n.ledger.put(n.project)
	n.follow()
	check(n.secret, 401, "project alice/main has been revoked")
}

func TestLimit(t *testing.T) {
	n := startTwoCities(t, Config{})
	n.project.Limits.RequestsPerSecond = 1
	n.ledger.put(n.project)
	n.follow()
	served := 0
	for {
		r := n.rpc(`{"jsonrpc":"2.0","id":"a","method":"eth_chainId"}`)
		if r.status == 200 {
			if served++; served > 1000 {
				t.Fatal("1000 calls passed a limit of one in a second")
			}
			continue
		}
		if r.status != 429 || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, `"id":"a","error":{"code":-32005,`) {
			t.Errorf("status %d, %v, %s", r.status, r.header, r.body)
		}
		break
	}
	if served < limitWindow {
		t.Errorf("only %d calls passed", served)
	}
	n.project.Limits.RequestsPerSecond = 100_000
	n.ledger.put(n.project)
	n.follow()
	eventually(t, "new limit holds", func() bool { return n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`).status == 200 })
}

// mark makes the node that answers visible: each has another balance here.
func (n *twoCities) mark() {
	n.paris.call("anvil_setBalance", `["0x00000000000000000000000000000000000000aa","0x1"]`)
	n.chongqing.call("anvil_setBalance", `["0x00000000000000000000000000000000000000aa","0x2"]`)
}

const askMark = `{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["0x00000000000000000000000000000000000000aa","latest"]}`

func (n *twoCities) answering() string {
	n.Helper()
	r := n.rpc(askMark)
	switch {
	case strings.Contains(r.body, `"0x1"`):
		return "paris"
	case strings.Contains(r.body, `"0x2"`):
		return "chongqing"
	}
	n.Fatalf("status %d: %s", r.status, r.body)
	return ""
}

// Reads go on without an error while the city's own node is killed, paused and
// brought back.
func TestFailover(t *testing.T) {
	n := startTwoCities(t, Config{})
	n.mark()
	if got := n.answering(); got != "paris" {
		t.Fatalf("%s answers first", got)
	}
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var mu sync.Mutex
	var calls int
	failures := map[string]int{}
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := n.try(http.MethodPost, "/rpc/lab", n.secret, askMark)
				mu.Lock()
				calls++
				if err != nil || r.status != 200 || !strings.Contains(r.body, "result") {
					failures[fmt.Sprint(r.status, r.body, err)]++
				}
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	n.paris.kill()
	if got := n.answering(); got != "chongqing" {
		t.Errorf("%s answers", got)
	}
	n.paris.start()
	n.mark()
	eventually(t, "own node answers again", func() bool { return n.answering() == "paris" })
	n.paris.pause()
	if got := n.answering(); got != "chongqing" {
		t.Errorf("%s answers", got)
	}
	n.paris.resume()
	eventually(t, "own node answers again", func() bool { return n.answering() == "paris" })
	close(stop)
	callers.Wait()
	if len(failures) > 0 {
		t.Errorf("of %d calls failed: %v", calls, failures)
	}
	t.Logf("%d calls", calls)
	n.paris.kill()
	n.chongqing.kill()
	if r := n.rpc(`{"jsonrpc":"2.0","id":5,"method":"eth_blockNumber"}`); r.status != 503 || !strings.Contains(r.body, `"id":5,"error":{"code":-32002,`) {
		t.Errorf("no node: %d %s", r.status, r.body)
	}
}

func TestLaggingNodeIsNotAsked(t *testing.T) {
	n := startTwoCities(t, Config{})
	n.mark()
	n.chongqing.call("anvil_mine", `["0x20"]`)
	// An answer of chongqing's alone may have come from a hedged read.
	eventually(t, "lag is seen", func() bool {
		for _, h := range n.gateway.health().Chains[0].Nodes {
			if h.City == "paris" && !h.Level {
				return n.answering() == "chongqing"
			}
		}
		return false
	})
	n.chongqing.kill()
	// The node that is behind must not answer for the one that is dead.
	if r := n.rpc(askMark); r.status != 503 {
		t.Errorf("status %d: %s", r.status, r.body)
	}
	n.paris.call("anvil_mine", `["0x20"]`)
	eventually(t, "node has caught up", func() bool { return strings.Contains(n.rpc(askMark).body, `"0x1"`) })
}

func TestFloor(t *testing.T) {
	for _, c := range []struct {
		heads []int64
		want  int64
	}{
		{nil, -4},
		{[]int64{100}, 96},
		{[]int64{100, 90}, 96},
		{[]int64{100, 99, 1 << 40}, 96}, // one that lies
		{[]int64{100, 100, 80, 99}, 96},
	} {
		p := &pool{maxLag: 4}
		for _, head := range c.heads {
			n := &node{}
			n.head.Store(head)
			n.headAt.Store(time.Now().UnixNano())
			p.nodes = append(p.nodes, n)
		}
		if got := p.floor(time.Now()); got != c.want {
			t.Errorf("%v: floor %d, want %d", c.heads, got, c.want)
		}
	}
}
