package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openbsn/bsn/framework/evm"
)

func TestOutsideFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outside.yaml")
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"good", "chains: {main: {framework: ethereum, chainId: 1}}\nproviders: {main: [{name: acme, url: 'https://acme.test/SECRET', headers: {x-key: a}}]}", 0o600, ""},
		{"empty", "", 0o600, ""},
		{"readable", "{}", 0o640, "chmod 600"},
		{"unknown member", "chain: {}", 0o600, "chain"},
		{"no providers", "chains: {main: {framework: ethereum, chainId: 1}}", 0o600, "needs providers.main"},
		{"no framework", "chains: {main: {chainId: 1}}", 0o600, "framework is missing"},
		{"no address", "providers: {lab: [{name: acme, url: 'ftp://SECRET'}]}", 0o600, "http:// or https://"},
		{"no name", "providers: {lab: [{url: 'http://SECRET'}]}", 0o600, "provider"},
		{"twice", "providers: {lab: [{name: acme, url: 'http://a'}, {name: acme, url: 'http://b'}]}", 0o600, "taken"},
		{"header that frames", "providers: {lab: [{name: acme, url: 'http://a', headers: {content-length: '1'}}]}", 0o600, "gateway's own"},
		{"header of two lines", "providers: {lab: [{name: acme, url: 'http://a', headers: {x: \"SECRET\\r\\ny: z\"}}]}", 0o600, "malformed header"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := readOutside(path)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A provider answers when no node of the network does, with its own headers and without
// the caller's key; a public chain needs no code and no record. Both come and go with
// the file.
func TestOutside(t *testing.T) {
	outside, redirecting := newScripted(), newScripted()
	t.Cleanup(outside.close)
	t.Cleanup(redirecting.close)
	outside.lines["eth_gasPrice"], _ = parseLine([]string{"result", `"0x9"`})
	path := filepath.Join(t.TempDir(), "outside.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("{}")
	public, err := evm.NewPublic()
	if err != nil {
		t.Fatal(err)
	}
	w := mustScripted(t, Config{Outside: path, Cache: Cache{MaxBytes: -1}, Protocols: map[string]Protocol{evm.PublicName: public}}, true, "paris")
	w.nodes["paris"].lines["eth_gasPrice"], _ = parseLine([]string{"result", `"0x1"`})
	ask := func(chain string) reply {
		t.Helper()
		r, err := w.postTo(chain, "one", `{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice"}`)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask("main"); r.status != http.StatusNotFound {
		t.Errorf("chain that is not there: %d %s", r.status, r.body)
	}
	write("chains: {main: {framework: ethereum, chainId: 1}}\nproviders: {main: [{name: acme, url: '" + outside.server.URL + "/v3/abc', headers: {x-secret: s3cret}}], lab: [{name: acme, url: '" + outside.server.URL + "'}]}")
	eventually(t, "public chain is served", func() bool { return strings.Contains(ask("main").body, `"0x9"`) })
	outside.mu.Lock()
	if h := outside.headers; h.Get("x-secret") != "s3cret" || h.Get("x-api-key") != "" || h.Get("Authorization") != "" {
		t.Errorf("headers to the provider: %v", h)
	}
	outside.mu.Unlock()
	if r := ask("lab"); !strings.Contains(r.body, `"0x1"`) {
		t.Errorf("with its own node: %s", r.body)
	}
	if r, _ := w.postTo("main", "one", `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`); !strings.Contains(r.body, `"0x1"`) {
		t.Errorf("chain id: %s", r.body)
	}
	w.nodes["paris"].mu.Lock()
	w.nodes["paris"].down = true
	w.nodes["paris"].mu.Unlock()
	if r := ask("lab"); !strings.Contains(r.body, `"0x9"`) {
		t.Errorf("without its own node: %d %s", r.status, r.body)
	}
	// What an upstream answers does not choose where the gateway calls.
	redirecting.lines["eth_gasPrice"] = line{status: http.StatusTemporaryRedirect, headers: map[string]string{"Location": outside.server.URL}}
	write("providers: {lab: [{name: acme, url: '" + redirecting.server.URL + "'}]}")
	eventually(t, "public chain is gone", func() bool { return ask("main").status == http.StatusNotFound })
	before := outside.count("eth_gasPrice")
	if r := ask("lab"); r.status != http.StatusServiceUnavailable || outside.count("eth_gasPrice") != before {
		t.Errorf("a redirect was followed: %d %s", r.status, r.body)
	}
}

func TestCordonsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordons.json")
	w := mustScripted(t, Config{Cordons: path, Cache: Cache{MaxBytes: -1}}, true, "paris", "lyon")
	for city, answer := range map[string]string{"paris": `"0x1"`, "lyon": `"0x2"`} {
		w.nodes[city].lines["eth_gasPrice"], _ = parseLine([]string{"result", answer})
	}
	says := func(answer string) func() bool {
		return func() bool {
			r, err := w.post("one", `{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice"}`)
			return err == nil && strings.Contains(r.body, answer)
		}
	}
	eventually(t, "own node answers", says(`"0x1"`))
	if err := os.WriteFile(path, []byte(`{"lab":["paris"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "own node is cordoned", says(`"0x2"`))
	if err := os.WriteFile(path, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stays so", says(`"0x2"`))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "own node is back", says(`"0x1"`))
}
