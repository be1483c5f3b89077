package gateway

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

// Another city's gateway has this city's node answer, if the link vouches for it.
func TestForwarded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "f.sock")
	w := mustScripted(t, Config{Forward: socket, Cache: Cache{MaxBytes: -1}}, true, "paris", "lyon")
	end, err := w.gateway.serveForward()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	w.nodes["paris"].lines["eth_gasPrice"], _ = parseLine([]string{"result", `"0x1"`})
	w.nodes["lyon"].lines["eth_gasPrice"], _ = parseLine([]string{"result", `"0x2"`})
	ask := func(preamble, chain, method string) (reply, error) {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err == nil {
				_, err = io.WriteString(c, preamble)
			}
			return c, err
		}}}
		r, err := client.Post("http://paris/forward/"+chain, "application/json", bytes.NewReader(appendRequest(nil, 1, method, nil)))
		if err != nil {
			return reply{}, err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		return reply{r.StatusCode, r.Header, string(text)}, err
	}
	for _, c := range []struct {
		name, preamble, chain, method string
		status                        int
		want                          string
	}{
		{"its own node", Preamble("lyon"), "lab", "eth_gasPrice", 200, `"result":"0x1"`},
		{"a city that there is not", Preamble("rome"), "lab", "eth_gasPrice", 403, "not part of the network"},
		{"a chain that there is not", Preamble("lyon"), "other", "eth_gasPrice", 404, "no chain"},
		{"a method without a row", Preamble("lyon"), "lab", "admin_peers", 200, "not forwarded"},
		{"a subscription", Preamble("lyon"), "lab", "eth_subscribe", 200, "not forwarded"},
	} {
		r, err := ask(c.preamble, c.chain, c.method)
		if err != nil || r.status != c.status || !strings.Contains(r.body, c.want) {
			t.Errorf("%s: %d %s (%v)", c.name, r.status, r.body, err)
		}
	}
	for _, preamble := range []string{"", "\n", "bsn-forward/1 \n", "bsn-forward/1 ../x\n", "bsn-forward/1 " + strings.Repeat("a", 100)} {
		if r, err := ask(preamble, "lab", "eth_gasPrice"); err == nil && r.status == 200 {
			t.Errorf("preamble %q is taken: %s", preamble, r.body)
		}
	}
	// Its node is asked and nobody else's: cities do not send calls in circles.
	w.nodes["paris"].mu.Lock()
	w.nodes["paris"].down = true
	w.nodes["paris"].mu.Unlock()
	if r, err := ask(Preamble("lyon"), "lab", "eth_gasPrice"); err != nil || r.status != http.StatusBadGateway || w.nodes["lyon"].count("eth_gasPrice") != 0 {
		t.Errorf("without its node: %d %s (%v)", r.status, r.body, err)
	}
}

// A node that cannot be reached at its address is asked through its city's gateway,
// which is told the project and never the key.
func TestThroughItsGateway(t *testing.T) {
	node := newScripted()
	t.Cleanup(node.close)
	node.head = 7
	node.lines["eth_gasPrice"], _ = parseLine([]string{"result", `"0x7"`})
	// It listens where the link would, for the second city of some net.
	var l net.Listener
	network, err := bsn.Net(200), error(nil)
	for ; network < 250; network++ {
		if l, err = net.Listen("tcp", forwardURL(network, "lab", 2).Host); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	there := &http.Server{Handler: node}
	go there.Serve(l)
	t.Cleanup(func() { there.Close() })
	w := mustScripted(t, Config{Net: network, Forward: filepath.Join(t.TempDir(), "f.sock"), Cache: Cache{MaxBytes: -1}}, true, "paris", "lyon")
	// Its own address goes, as if it were on another machine.
	w.nodes["lyon"].server.Close()
	p, _ := w.gateway.upstreams.get("lab")
	lyon := p.nodes[1]
	w.gateway.upstreams.cordon(Cordons{"lab": {"paris"}})
	eventually(t, "the way is found", func() bool { lyon.look(); return lyon.forwards.Load() && lyon.head.Load() == 7 })
	r, err := w.post("one", `{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice"}`)
	if err != nil || !strings.Contains(r.body, `"0x7"`) {
		t.Fatalf("%d %s (%v)", r.status, r.body, err)
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if h := node.headers; h.Get(projectHeader) != "alice/main" || h.Get("x-api-key") != "" || h.Get("Authorization") != "" {
		t.Errorf("headers %v", node.headers)
	}
}

// Whatever comes first on a connection, a name is a city's or there is none.
func FuzzPreamble(f *testing.F) {
	f.Add([]byte(Preamble("paris")))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		city, err := readPreamble(bufio.NewReader(bytes.NewReader(text)))
		if err == nil && (bsn.CheckName("city", city) != nil || !bytes.HasPrefix(text, []byte(Preamble(city)))) {
			t.Errorf("%q is taken for city %q", text, city)
		}
	})
}
