package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/cosmos"
)

// startHub is a gateway that gives access to a public Cosmos chain with these providers.
func startHub(t testing.TB, cfg Config, providers ...Provider) *scriptedWorld {
	t.Helper()
	hub, err := cosmos.NewPublic()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Protocols = map[string]Protocol{cosmos.Name: hub}
	w := mustScripted(t, cfg, true, "paris")
	o := Outside{Chains: map[string]PublicChain{"hub": {Framework: cosmos.Name}}, Providers: map[string][]Provider{"hub": providers}}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	w.gateway.upstreams.reach(w.gateway.draining, o)
	return w
}

// get asks the gateway over REST.
func (w *scriptedWorld) get(t testing.TB, method, path, body string) reply {
	t.Helper()
	r, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", w.keys["one"])
	r.Header.Set("Traceparent", callersParent)
	r.Header.Set("X-Cosmos-Block-Height", "7")
	a, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{a.StatusCode, a.Header, string(text)}
}

// startCometBFT builds and runs a node of CometBFT, with its example application, and
// returns its address.
func startCometBFT(t testing.TB) (url string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "cometbft")
	for _, args := range [][]string{
		{"go", "build", "-o", binary, "github.com/cometbft/cometbft/cmd/cometbft"},
		{binary, "init", "--home", dir},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	at := free()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "node", "--home", dir, "--proxy_app", "kvstore", "--rpc.laddr", "tcp://"+at, "--p2p.laddr", "tcp://"+free())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			ended = true
		}
	}
	t.Cleanup(stop)
	return "http://" + at, stop
}

// A public Cosmos chain is a configuration entry: JSON-RPC and REST of a real node.
func TestCosmos(t *testing.T) {
	url, stop := startCometBFT(t)
	w := startHub(t, Config{}, Provider{Name: "acme", URL: url, REST: url})
	node := func() *node { p, _ := w.gateway.upstreams.get("hub"); return p.nodes[0] }
	eventually(t, "the node makes blocks, and the gateway knows", func() bool { node().look(); return node().head.Load() > 1 })
	rpc := func(method, params string) string {
		t.Helper()
		r, err := w.postTo("hub", "one", `{"jsonrpc":"2.0","id":"x","method":"`+method+`","params":`+params+`}`)
		if err != nil {
			t.Fatal(err)
		}
		return r.body
	}
	if text := rpc("block", `{"height":"1"}`); !strings.HasPrefix(text, `{"jsonrpc":"2.0","id":"x","result":{"block_id"`) {
		t.Error(text)
	}
	tx := []byte("colour=blue")
	if text := rpc("broadcast_tx_sync", `{"tx":"`+base64.StdEncoding.EncodeToString(tx)+`"}`); !strings.Contains(text, fmt.Sprintf(`"hash":"%X"`, sha256.Sum256(tx))) {
		t.Error(text)
	}
	if text := rpc("unsafe_flush_mempool", `{}`); !strings.Contains(text, "-32601") {
		t.Error(text)
	}
	blue := base64.StdEncoding.EncodeToString([]byte("blue"))
	eventually(t, "the transaction is in a block", func() bool {
		return strings.Contains(w.get(t, "GET", `/rest/hub/abci_query?data="colour"`, "").body, blue)
	})
	if r := w.get(t, "GET", "/rest/hub/block?height=1", ""); r.status != 200 || !strings.Contains(r.body, `"height":"1"`) || r.header.Get("Bsn-Units") != "10" ||
		!strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
		t.Errorf("%d %s %v", r.status, r.body, r.header)
	}
	if r := w.get(t, "GET", "/api/alice.main/hub/rest/commit?height=1", ""); r.status != 200 || !strings.Contains(r.body, `"signed_header"`) {
		t.Errorf("BSN's form: %d %s", r.status, r.body)
	}
	if r := w.get(t, "GET", "/rest/hub/block?height=1000000", ""); r.status != 500 || !strings.Contains(r.body, "must be less than or equal") {
		t.Errorf("a node's own error: %d %s", r.status, r.body)
	}
	for path, status := range map[string]int{
		"/rest/hub/broadcast_tx_commit?tx=0x61": 404, "/rest/hub/unsafe_flush_mempool": 404, "/rest/hub/b%6cock/%2e%2e/status": 400, "/rest/hub/a%5cb": 400,
	} {
		if r := w.get(t, "GET", path, ""); r.status != status {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	if r := w.get(t, "DELETE", "/rest/hub/block", ""); r.status != 404 {
		t.Errorf("DELETE: %d %s", r.status, r.body)
	}
	rows, err := w.gateway.meter.journal.Rows()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[bsn.MethodClass]uint64{}
	for _, r := range rows {
		counted[r.Class] += r.Calls
	}
	if counted[bsn.MethodSend] != 1 || counted[bsn.MethodRead] < 4 || counted[classNone] != 0 {
		t.Errorf("counted %v", counted)
	}
	w.project.Keys[0].Restrictions = bsn.Restrictions{Methods: []string{"GET/block*"}}
	if err := w.record(); err != nil {
		t.Fatal(err)
	}
	if r := w.get(t, "GET", "/rest/hub/st%61tus", ""); r.status != 403 || !strings.Contains(r.body, `"limit":"method"`) {
		t.Errorf("a method that the key is not for: %d %s", r.status, r.body)
	}
	if r := w.get(t, "GET", "/rest/hub/bl%6Fck?height=1", ""); r.status != 200 {
		t.Errorf("one that it is for: %d %s", r.status, r.body)
	}
	stop()
	if r := w.get(t, "GET", "/rest/hub/block?height=1", ""); r.status != 503 {
		t.Errorf("without a node: %d %s", r.status, r.body)
	}
}

// What goes to a node, what comes back, and who is asked next.
func TestREST(t *testing.T) {
	var asked []string
	var header http.Header
	node := func(status int, more map[string]string, body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			asked, header = append(asked, r.Method+" "+r.RequestURI+" "+string(text)), r.Header
			for name, value := range more {
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return s
	}
	good := node(200, map[string]string{"Content-Type": "application/json", "Grpc-Metadata-X-Cosmos-Block-Height": "7", "Set-Cookie": "a=b", "Server": "x"}, `{"balances":[]}`)
	busy := node(503, nil, "")
	w := startHub(t, Config{MaxResponseBytes: 1000}, Provider{Name: "busy", REST: busy.URL}, Provider{Name: "good", REST: good.URL + "/v1/", Headers: map[string]string{"x-secret": "s3cret"}})
	r := w.get(t, "GET", "/rest/hub/cosmos/bank/v1beta1/balances/osmo1a%2Fb?pagination.limit=1", "")
	if r.status != 200 || r.body != `{"balances":[]}` || r.header.Get("Grpc-Metadata-X-Cosmos-Block-Height") != "7" || r.header.Get("Set-Cookie") != "" ||
		r.header.Get("Bsn-Units") != "10" {
		t.Errorf("%d %s %v", r.status, r.body, r.header)
	}
	if strings.Join(asked, "; ") != "GET /cosmos/bank/v1beta1/balances/osmo1a%2Fb?pagination.limit=1 ; GET /v1/cosmos/bank/v1beta1/balances/osmo1a%2Fb?pagination.limit=1 " {
		t.Errorf("%q", asked)
	}
	if header.Get("X-Secret") != "s3cret" || header.Get("X-Cosmos-Block-Height") != "7" || header.Get("X-Api-Key") != "" || header.Get("Traceparent") != "" {
		t.Errorf("header: %v", header)
	}
	// What sends is not handed to a second node once the first may have it.
	asked = nil
	if r := w.get(t, "POST", "/rest/hub/cosmos/tx/v1beta1/txs", `{"tx_bytes":""}`); r.status != 502 || len(asked) != 1 || !strings.Contains(r.body, "it may have") {
		t.Errorf("%d %s %q", r.status, r.body, asked)
	}
	asked = nil
	w = startHub(t, Config{MaxResponseBytes: 1000}, Provider{Name: "moved", REST: node(307, map[string]string{"Location": good.URL}, "").URL})
	if r := w.get(t, "GET", "/rest/hub/cosmos/x", ""); r.status != 503 || len(asked) != 1 || r.header.Get("Location") != "" {
		t.Errorf("redirect: %d %s %q", r.status, r.body, asked)
	}
	w = startHub(t, Config{MaxResponseBytes: 1000}, Provider{Name: "large", REST: node(200, nil, strings.Repeat("x", 1001)).URL})
	if r := w.get(t, "GET", "/rest/hub/cosmos/x", ""); r.status != 422 || !strings.Contains(r.body, `"limit":"size"`) {
		t.Errorf("large: %d %s", r.status, r.body)
	}
}
