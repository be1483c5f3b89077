package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/openbsn/bsn"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"good", Config{City: "paris", Metrics: "127.66.1.1:9090"}, ""},
		{"no city", Config{}, "city"},
		{"negative", Config{City: "paris", MaxBatch: -1}, "maxBatch must not be negative"},
		{"metrics for all", Config{City: "paris", Metrics: "0.0.0.0:9090"}, "loopback"},
	} {
		_, err := New(c.cfg, newMemoryLedger(), nil, nil, quiet())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	g, err := New(Config{City: "paris"}, newMemoryLedger(), nil, nil, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("no address: %v", err)
	}
}

func TestStartsWithoutLedger(t *testing.T) {
	state := filepath.Join(t.TempDir(), "gateway", "state.json")
	n := startTwoCities(t, Config{State: state})
	eventually(t, "state is saved", func() bool { r, _, err := loadState(state); return err == nil && r != nil })
	n.ledger.set(true)
	n.serve(Config{State: state})
	r := n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`)
	if r.status != 200 || r.header.Get("bsn-ledger-height") != "1" {
		t.Errorf("status %d, %v, %s", r.status, r.header, r.body)
	}
	var h health
	if r := n.do(http.MethodGet, "/health", "", ""); json.Unmarshal([]byte(r.body), &h) != nil || r.status != 200 {
		t.Fatalf("health: %d %s", r.status, r.body)
	}
	if h.Status != "degraded" || h.Ledger.Height != 1 || !h.Ledger.Contact.IsZero() || len(h.Chains) != 1 || len(h.Chains[0].Nodes) != 2 {
		t.Errorf("health %+v", h)
	}
	// Back again, the ledger is followed.
	n.project.Revoked = true
	n.ledger.put(n.project)
	n.ledger.set(false)
	n.follow()
	if r := n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`); r.status != 401 {
		t.Errorf("status %d: %s", r.status, r.body)
	}
}

func TestBeforeTheLedgerIsRead(t *testing.T) {
	g, err := New(Config{City: "paris"}, newMemoryLedger(), nil, shelf{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(g)
	defer server.Close()
	secret, _ := bsn.NewKey("paris")
	for _, address := range []string{"/health", "/app/alice/answers"} {
		r, err := http.Get(server.URL + address)
		if err != nil || r.StatusCode != 503 {
			t.Errorf("%s: %v %v", address, r, err)
		}
	}
	if r, err := http.Post(server.URL+"/rpc/lab/"+secret, "", strings.NewReader("{}")); err != nil || r.StatusCode != 503 {
		t.Errorf("rpc: %v %v", r, err)
	}
	if r, err := http.Get(server.URL + "/"); err != nil || r.StatusCode != 200 {
		t.Errorf("root: %v %v", r, err)
	}
}

func TestChainNotInService(t *testing.T) {
	n := startTwoCities(t, Config{})
	young, foreign := n.chain, n.chain
	young.Name, young.Status = "young", bsn.ChainGenesis
	foreign.Name, foreign.Framework = "foreign", "unheard-of"
	n.ledger.put(young, foreign)
	n.follow()
	for chain, want := range map[string]string{"young": "not running yet (genesis)", "foreign": "framework unheard-of"} {
		eventually(t, chain+" is known", func() bool { _, ok := n.gateway.upstreams.get(chain); return ok })
		if r := n.do(http.MethodPost, "/rpc/"+chain, n.secret, "{}"); r.status != 503 || !strings.Contains(r.body, want) {
			t.Errorf("%s: %d %s", chain, r.status, r.body)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Run serves, counts, and drains when it is told to end.
func TestRun(t *testing.T) {
	n := startTwoCities(t, Config{})
	address, metrics := freeAddress(t), freeAddress(t)
	state := filepath.Join(t.TempDir(), "state.json")
	g, err := New(Config{City: "paris", Listen: []string{address}, Metrics: metrics, State: state},
		n.ledger, map[string]bsn.Framework{"lab": n.framework}, n.shelf, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	n.url = "http://" + address
	eventually(t, "gateway serves", func() bool {
		r, err := n.try(http.MethodGet, "/health", "", "")
		return err == nil && r.status == 200
	})
	n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`)
	n.rpc(`{"jsonrpc":"2.0","id":1,"method":"admin_peers"}`)
	get := func(path string) string {
		r, err := http.Get("http://" + metrics + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return string(text)
	}
	if got, want := get("/usage"), `{"usage":[{"project":"alice/main","key":"`+n.project.Keys[0].ID+`","chain":"lab","class":"read","calls":1,"units":2}]}`; got != want {
		t.Errorf("usage %s, want %s", got, want)
	}
	for _, want := range []string{
		`bsn_gateway_requests_total{chain="lab",class="read",outcome="ok"} 1`,
		`bsn_gateway_requests_total{chain="lab",class="none",outcome="refused"} 1`,
		`bsn_gateway_node_up{chain="lab",city="paris"} 1`,
		`bsn_gateway_ledger_height 1`,
		`bsn_gateway_connections `,
		`bsn_gateway_request_seconds_count{chain="lab",class="read"} 1`,
	} {
		if text := get("/metrics"); !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	c := n.connect()
	c.subscribe()
	cancel()
	if code := c.closed(); code != websocket.StatusGoingAway {
		t.Errorf("WebSocket closed with %v", code)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Run does not end")
	}
	if r, _, err := loadState(state); err != nil || r == nil || r.Height != 1 {
		t.Errorf("state after the end: %+v %v", r, err)
	}
}

// BenchmarkCall is one call after another on one connection, directly to the
// node and through the gateway; p50-us is the middle of their times.
func BenchmarkCall(b *testing.B) {
	n := startTwoCities(b, Config{})
	n.project.Limits.RequestsPerSecond = 1_000_000
	n.ledger.put(n.project)
	n.follow()
	for name, address := range map[string]string{"direct": n.paris.url(), "gateway": n.url + "/rpc/lab/" + n.secret} {
		b.Run(name, func(b *testing.B) {
			client := http.Client{Transport: &http.Transport{DisableCompression: true}}
			var times []time.Duration
			for b.Loop() {
				began := time.Now()
				r, err := client.Post(address, "application/json", strings.NewReader(askMark))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != 200 {
					b.Fatal(r.StatusCode, err)
				}
				r.Body.Close()
				times = append(times, time.Since(began))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-us")
		})
	}
}

// BenchmarkParse is what the gateway does with the text of a call.
func BenchmarkParse(b *testing.B) {
	text := []byte(`{"jsonrpc":"2.0","id":4711,"method":"eth_call","params":[{"to":"0x00000000000000000000000000000000000000aa","data":"0x` +
		strings.Repeat("ab", 68) + `"},"finalized"]}`)
	reply := []byte(`{"jsonrpc":"2.0","id":1,"result":"0x` + strings.Repeat("00", 32) + `"}`)
	b.ReportAllocs()
	for b.Loop() {
		m, _, ok := parseMessage(text)
		if !ok {
			b.Fatal("malformed")
		}
		appendRequest(nil, 1, m.method, rewriteTags(bsn.Method{Block: 2}, m.params))
		a, err := parseAnswer(reply)
		if err != nil {
			b.Fatal(err)
		}
		appendReply(nil, m.id, a)
	}
}
