package gateway

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// deliver sends a request as it is written.
func (n *twoCities) deliver(r *http.Request, transport *http.Transport) reply {
	n.Helper()
	if transport == nil {
		transport = &http.Transport{DisableCompression: true}
	}
	defer transport.CloseIdleConnections()
	a, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		n.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		n.Fatal(err)
	}
	return reply{a.StatusCode, a.Header, string(text)}
}

func (n *twoCities) request(method, path string, body io.Reader) *http.Request {
	n.Helper()
	r, err := http.NewRequest(method, n.url+path, body)
	if err != nil {
		n.Fatal(err)
	}
	return r
}

const (
	askID    = `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`
	answerID = `{"jsonrpc":"2.0","id":1,"result":"0x7a69"}`
)

// A request means the same however it comes: plainly, in chunks, in gzip, over HTTP/2.
func TestWaysOfARequest(t *testing.T) {
	n := startTwoCities(t, Config{CompressBytes: 1000})
	zipped := func(text string) *bytes.Buffer {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, text)
		w.Close()
		return &b
	}
	second := func() *http.Transport {
		p := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
		p.Protocols.SetUnencryptedHTTP2(true)
		return p
	}
	type way struct {
		name      string
		request   *http.Request
		transport *http.Transport
	}
	in := func(r *http.Request, coding string) *http.Request {
		r.Header.Set("Content-Encoding", coding)
		return r
	}
	ways := []way{
		{"plain", n.request("POST", "/rpc/lab", strings.NewReader(askID)), nil},
		{"chunks", n.request("POST", "/rpc/lab", io.MultiReader(strings.NewReader(askID))), nil},
		{"query", n.request("POST", "/rpc/lab?x=y", strings.NewReader(askID)), nil},
		{"escape", n.request("POST", "/rpc/l%61b", strings.NewReader(askID)), nil},
		{"gzip", in(n.request("POST", "/rpc/lab", zipped(askID)), "gzip"), nil},
		{"gzip in chunks", in(n.request("POST", "/rpc/lab", io.MultiReader(zipped(askID))), "gzip"), nil},
		{"HTTP/2", n.request("POST", "/rpc/lab", strings.NewReader(askID)), second()},
		{"BSN's form", n.request("POST", "/api/alice.main/lab/rpc", strings.NewReader(askID)), nil},
		{"BSN's form with a slash", n.request("POST", "/api/alice.main/lab/evmrpc/", strings.NewReader(askID)), nil},
		{"BSN's form in chunks", n.request("POST", "/api/alice.main/lab/rpc", io.MultiReader(strings.NewReader(askID))), nil},
		{"BSN's form over HTTP/2", n.request("POST", "/api/alice.main/lab/evmrpc/", strings.NewReader(askID)), second()},
	}
	for _, w := range ways {
		w.request.Header.Set("X-Api-Key", n.secret)
		r := n.deliver(w.request, w.transport)
		if r.status != 200 || r.body != answerID || r.header.Get("Bsn-Ledger-Height") != "1" || r.header.Get("Access-Control-Allow-Origin") != "*" ||
			r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v", w.name, r.status, r.body, r.header)
		}
	}
	// What is wrong is refused in the same words.
	large := strings.Repeat(" ", 2<<20)
	for _, c := range []struct {
		name, path, coding, key, want string
		body                          func() io.Reader
		status                        int
	}{
		{"inflates too far", "/rpc/lab", "gzip", n.secret, "larger than 1048576", func() io.Reader { return zipped(large) }, 413},
		{"not gzip", "/rpc/lab", "gzip", n.secret, "cannot be read", func() io.Reader { return strings.NewReader(askID) }, 400},
		{"other coding", "/rpc/lab", "br", n.secret, "in gzip", func() io.Reader { return strings.NewReader(askID) }, 415},
		{"no key", "/api/alice.main/lab/rpc", "", "", "key is missing", func() io.Reader { return strings.NewReader(askID) }, 401},
		{"other project", "/api/bob.shop/lab/rpc", "", n.secret, "does not belong", func() io.Reader { return strings.NewReader(askID) }, 403},
		{"no such form", "/api/4711/lab/rpc", "", n.secret, "/api/alice.main/lab/rpc", func() io.Reader { return strings.NewReader(askID) }, 404},
		{"no such protocol", "/api/alice.main/lab/soap", "", n.secret, "JSON-RPC", func() io.Reader { return strings.NewReader(askID) }, 404},
		{"below", "/api/alice.main/lab/rpc/status", "", n.secret, "nothing lies below", func() io.Reader { return strings.NewReader(askID) }, 404},
		{"BSN's REST", "/api/alice.main/lab/rest/blocks/1", "", n.secret, "has no REST", func() io.Reader { return nil }, 501},
		{"REST", "/rest/lab/blocks/1", "", n.secret, "has no REST", func() io.Reader { return nil }, 501},
		{"REST without a key", "/rest/lab/blocks/1", "", "", "key is missing", func() io.Reader { return nil }, 401},
	} {
		for _, chunked := range []bool{false, true} {
			body := c.body()
			if chunked && body != nil {
				body = io.MultiReader(body)
			}
			q := n.request("POST", c.path, body)
			if c.key != "" {
				q.Header.Set("X-Api-Key", c.key)
			}
			if c.coding != "" {
				q.Header.Set("Content-Encoding", c.coding)
			}
			if r := n.deliver(q, nil); r.status != c.status || !strings.Contains(r.body, c.want) {
				t.Errorf("%s, chunked %v: %d %s", c.name, chunked, r.status, r.body)
			}
		}
	}
	// Large answers are compressed for whoever takes that.
	many := "[" + strings.Repeat(askID+",", 49) + askID + "]"
	for _, p := range []*http.Transport{nil, second()} {
		q := n.request("POST", "/rpc/lab/"+n.secret, strings.NewReader(many))
		plain := n.deliver(q, p)
		q = n.request("POST", "/rpc/lab/"+n.secret, strings.NewReader(many))
		q.Header.Set("Accept-Encoding", "br, gzip;q=0.5")
		if p != nil {
			p = second()
		}
		packed := n.deliver(q, p)
		z, err := gzip.NewReader(strings.NewReader(packed.body))
		if err != nil || packed.header.Get("Content-Encoding") != "gzip" || plain.header.Get("Vary") != "Accept-Encoding" {
			t.Fatalf("%v, %v, %v", err, packed.header, plain.header)
		}
		if text, err := io.ReadAll(z); err != nil || string(text) != plain.body {
			t.Errorf("%v: %s", err, text)
		}
	}
}

func TestBSNWebSockets(t *testing.T) {
	n := startTwoCities(t, Config{})
	for path, good := range map[string]bool{
		"/api/alice.main/lab/ws":                          true,
		"/api/alice.main/lab/evmws/":                      true,
		"/api/alice.main/" + n.secret + "/lab":            true,
		"/api/alice.main/" + n.secret + "/lab/":           true,
		"/api/alice.main/" + n.secret + "/lab/evmws":      true,
		"/api/bob.shop/" + n.secret + "/lab/ws":           false,
		"/api/alice.main/lab/rpc":                         false,
		"/api/alice.main/" + n.secret + "/lab/ws/further": false,
	} {
		options := &websocket.DialOptions{HTTPHeader: http.Header{}}
		if !strings.Contains(path, n.secret) {
			options.HTTPHeader.Set("X-Api-Key", n.secret)
		}
		c, _, err := websocket.Dial(t.Context(), n.url+path, options)
		if (err == nil) != good {
			t.Errorf("%s: %v", path, err)
		}
		if err != nil {
			continue
		}
		if err := c.Write(t.Context(), websocket.MessageText, []byte(askID)); err != nil {
			t.Error(err)
		}
		if _, text, err := c.Read(t.Context()); err != nil || string(text) != answerID {
			t.Errorf("%s: %s %v", path, text, err)
		}
		c.CloseNow()
	}
}

// A chain that speaks no gRPC says so, to who holds a key.
func TestGRPCIsAnswered(t *testing.T) {
	n := startTwoCities(t, Config{})
	for _, c := range []struct{ key, chain, status, text string }{
		{"", "lab", "16", "key is missing"},
		{n.secret, "lab", "12", "chain lab (lab) does not speak gRPC"},
		{n.secret, "", "3", "x-bsn-chain"},
		{n.secret, "other", "5", "there is no chain"},
	} {
		p := &http.Transport{Protocols: new(http.Protocols)}
		p.Protocols.SetUnencryptedHTTP2(true)
		q := n.request("POST", "/cosmos.base.tendermint.v1beta1.Service/GetNodeInfo", bytes.NewReader(make([]byte, 5)))
		q.Header.Set("Content-Type", "application/grpc+proto")
		q.Header.Set("X-Api-Key", c.key)
		q.Header.Set("X-Bsn-Chain", c.chain)
		r := n.deliver(q, p)
		if r.status != 200 || r.header.Get("Grpc-Status") != c.status || !strings.Contains(r.header.Get("Grpc-Message"), c.text) {
			t.Errorf("%+v: %d %v", c, r.status, r.header)
		}
	}
}

func TestReadTarget(t *testing.T) {
	for target, want := range map[string]address{
		"/rpc/lab":                    {chain: "lab"},
		"/rpc/lab/bsn_12":             {chain: "lab", key: "bsn_12"},
		"/rpc/lab/a.b-c_d.e":          {chain: "lab", key: "a.b-c_d.e"},
		"/api/alice.main/lab/rpc":     {chain: "lab", project: "alice/main"},
		"/api/alice.main/lab/evmrpc/": {chain: "lab", project: "alice/main"},
		"/api/4711/lab/rpc":           {chain: "lab", project: "4711/", foreign: true},
		"/rpc/":                       {}, "/rpc/lab/": {}, "/rpc/lab/a/b": {}, "/rpc//lab": {}, "/rpc/..": {}, "/rpc/lab/..": {}, "/rpc/l%61b": {},
		"/rpc/lab?a": {}, "/rpc/lab;a": {}, "/RPC/lab": {}, "/": {}, "/app/a/b": {}, "/api/a.b/lab/ws": {}, "/api/a.b/lab/rpc//": {}, "/api/a.b/../rpc": {},
		"/rpc/" + strings.Repeat("a", 5000): {},
	} {
		got, ok := readTarget([]byte(target))
		if ok != (want != address{}) || ok && got != want {
			t.Errorf("%.100s: %+v %v", target, got, ok)
		}
	}
}

func TestClientBehindProxies(t *testing.T) {
	for _, c := range []struct{ networks, header, peer, values, want string }{
		{"", "", "10.0.0.1", "1.1.1.1", "10.0.0.1"},
		{"10.0.0.0/8", "", "192.0.2.7", "1.1.1.1", "192.0.2.7"},
		{"10.0.0.0/8", "", "10.0.0.1", "1.1.1.1", "1.1.1.1"},
		{"10.0.0.1", "", "10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"},
		{"10.0.0.0/8", "", "10.0.0.1", "6.6.6.6,1.1.1.1|10.0.0.2", "1.1.1.1"},
		{"10.0.0.0/8", "", "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{"10.0.0.0/8", "", "10.0.0.1", "6.6.6.6, unknown", "10.0.0.1"},
		{"10.0.0.0/8", "", "10.0.0.1", "", "10.0.0.1"},
		{"10.0.0.0/8", "", "10.0.0.1", "1.1.1.1:4711", "1.1.1.1"},
		{"fd00::/8", "", "fd00::1", "2001:db8::1", "2001:db8::1"},
		{"10.0.0.0/8", "", "10.0.0.1", "::ffff:1.1.1.1", "1.1.1.1"},
		{"10.0.0.0/8", "forwarded", "10.0.0.1", `for=6.6.6.6, For="1.1.1.1:80";proto=https;by=10.0.0.1`, "1.1.1.1"},
		{"10.0.0.0/8", "Forwarded", "10.0.0.1", `for="[2001:db8::1]:80"`, "2001:db8::1"},
		{"10.0.0.0/8", "forwarded", "10.0.0.1", `for=_hidden`, "10.0.0.1"},
	} {
		p, err := newProxies(strings.Fields(c.networks), c.header)
		if err != nil {
			t.Fatal(err)
		}
		values := func(yield func([]byte) bool) {
			for v := range strings.SplitSeq(c.values, "|") {
				if !yield([]byte(v)) {
					return
				}
			}
		}
		if got := p.client(netip.MustParseAddr(c.peer), values); got.String() != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	for _, networks := range []string{"10.0.0.0/40", "x"} {
		if _, err := newProxies([]string{networks}, ""); err == nil {
			t.Errorf("%s is taken", networks)
		}
	}
	if _, err := newProxies(nil, "via"); err == nil {
		t.Error("via is taken")
	}
}

func TestTakesGzip(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "gzip": true, "br, GZIP": true, "gzip;q=0": false, "gzip; q=0.001": true, "*": true, "gzip;q=0, *": false, "*;q=0": false, "identity": false, "gzip;q=x": false,
	} {
		if got := takesGzip([]byte(accept)); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// writeCertificate writes a certificate of that name for localhost.
func writeCertificate(t *testing.T, files TLS, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{files.Certificate: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A certificate that is replaced is served to new connections; those that are open
// go on. One that cannot be read changes nothing.
func TestCertificateIsReadAnew(t *testing.T) {
	dir := t.TempDir()
	files := TLS{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	writeCertificate(t, files, "first")
	n := startTwoCities(t, Config{TLS: files})
	n.url = strings.Replace(n.url, "http://", "https://", 1)
	call := func(p *http.Transport) string {
		t.Helper()
		q := n.request("POST", "/rpc/lab/"+n.secret, strings.NewReader(askID))
		r, err := (&http.Client{Transport: p}).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if text, _ := io.ReadAll(r.Body); string(text) != answerID {
			t.Errorf("%s", text)
		}
		return r.TLS.PeerCertificates[0].Subject.CommonName
	}
	fresh := func() *http.Transport {
		p := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		t.Cleanup(p.CloseIdleConnections)
		return p
	}
	kept := fresh()
	if got := call(kept); got != "first" {
		t.Fatal(got)
	}
	if err := os.WriteFile(files.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(certificatePause)
	if got := call(fresh()); got != "first" {
		t.Errorf("while the key cannot be read: %s", got)
	}
	writeCertificate(t, files, "second")
	eventually(t, "new certificate is served", func() bool { return call(fresh()) == "second" })
	if got := call(kept); got != "first" {
		t.Errorf("the open connection has changed to %s", got)
	}
	for _, bad := range []TLS{{Certificate: files.Certificate}, {Certificate: "/nowhere", Key: "/nowhere"}} {
		if _, err := New(Config{City: "paris", TLS: bad}, newMemoryLedger(), nil, nil, quiet()); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
