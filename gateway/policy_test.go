package gateway

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
	"pgregory.net/rapid"
)

const (
	contractA = "0x00000000000000000000000000000000000000aa"
	contractB = "0x00000000000000000000000000000000000000bb"
)

// A restriction is what a person would read it as: of each kind that is given one
// entry fits, and of those that are denied none.
func TestPolicyIsWhatItSays(t *testing.T) {
	methods := []string{"eth_call", "eth_getLogs", "eth_getBalance", "net_version", "eth", "debug_traceCall"}
	patterns := append([]string{"*", "eth_*", "eth_get*", "net_*", "e*"}, methods...)
	contracts := []string{contractA, contractB, "lab:" + contractA, "lab:" + contractB, "other:" + contractB, "alice/shop"}
	ips := []string{"10.1.2.3", "10.200.0.1", "192.0.2.7", "2001:db8::7", "::1"}
	ranges := []string{"10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0", "::/0"}
	pages := []string{"", "https://app.example", "https://a.app.example", "https://a.b.app.example", "http://app.example", "https://app.example:8443", "https://evilapp.example", "https://evil.example/.app.example", "null"}
	allowed := []string{"https://app.example", "https://*.app.example", "http://app.example", "https://app.example:8443"}
	shop := &bsn.App{Account: "alice", Name: "shop", Versions: []bsn.Version{
		{Number: 1, Chain: "lab", Contracts: []bsn.Contract{{Address: contractA}}, Withdrawn: true},
		{Number: 2, Chain: "lab", Contracts: []bsn.Contract{{Address: strings.ToUpper(contractB[:2]) + strings.ToUpper(contractB[2:])}}},
	}}
	rapid.Check(t, func(t *rapid.T) {
		some := func(of []string, name string) []string {
			return rapid.SliceOfN(rapid.SampledFrom(of), 0, 3).Draw(t, name)
		}
		r := bsn.Restrictions{
			Methods: some(patterns, "methods"), DeniedMethods: some(patterns, "denied"),
			Contracts: some(contracts, "contracts"), IPs: some(ranges, "ips"), Origins: some(allowed, "origins"),
		}
		p := newPolicy(r, func(id string) *bsn.App {
			if id == shop.ID() {
				return shop
			}
			return nil
		})
		if (p == nil) != r.IsZero() {
			t.Fatalf("%+v: policy %v", r, p)
		}
		if p == nil {
			return
		}
		method := rapid.SampledFrom(methods).Draw(t, "method")
		glob := func(pattern string) bool { ok, _ := path.Match(pattern, method); return ok }
		want := (len(r.Methods) == 0 || slices.ContainsFunc(r.Methods, glob)) && !slices.ContainsFunc(r.DeniedMethods, glob)
		if p.mayCall(method) != want {
			t.Errorf("%v %v: method %s: %v", r.Methods, r.DeniedMethods, method, !want)
		}

		chain, address := rapid.SampledFrom([]string{"lab", "other"}).Draw(t, "chain"), rapid.SampledFrom([]string{contractA, contractB}).Draw(t, "address")
		want = len(r.Contracts) == 0 || slices.ContainsFunc(r.Contracts, func(c string) bool {
			return c == address || c == chain+":"+address || c == "alice/shop" && chain == "lab" && address == contractB
		})
		if p.mayTouch(chain, strings.Replace(strings.ToUpper(address), "0X", "0x", 1)) != want {
			t.Errorf("%v: %s on %s: %v", r.Contracts, address, chain, !want)
		}

		from := peer{ip: netip.MustParseAddr(rapid.SampledFrom(ips).Draw(t, "ip")), origin: rapid.SampledFrom(pages).Draw(t, "origin")}
		inRange := slices.ContainsFunc(r.IPs, func(s string) bool {
			prefix := netip.MustParsePrefix(s)
			a, b := from.ip.AsSlice(), prefix.Addr().AsSlice()
			for bit := range prefix.Bits() {
				if len(a) != len(b) || (a[bit/8]^b[bit/8])>>(7-bit%8)&1 != 0 {
					return false
				}
			}
			return len(a) == len(b)
		})
		ofPage := slices.ContainsFunc(r.Origins, func(s string) bool {
			form := "^" + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, `[a-z0-9.-]+`) + "$"
			return regexp.MustCompile(form).MatchString(from.origin)
		})
		want = (len(r.IPs) == 0 || inRange) && (len(r.Origins) == 0 || ofPage)
		if _, ok := p.mayShow(from); ok != want {
			t.Errorf("%v %v: from %+v: %v", r.IPs, r.Origins, from, ok)
		}
	})
}

// What a gateway does not understand restricts everything.
func TestPolicyOfAnotherTime(t *testing.T) {
	for _, r := range []bsn.Restrictions{{IPs: []string{"country:fr"}}, {Contracts: []string{"a b c"}}} {
		if _, ok := newPolicy(r, nil).mayShow(peer{ip: netip.MustParseAddr("192.0.2.1")}); ok {
			t.Errorf("%+v is passed over", r)
		}
	}
}

var rows = map[string]bsn.Method{
	"call": {Class: bsn.MethodRead, Contract: 1}, "code": {Class: bsn.MethodRead, Contract: 1},
	"logs":      {Class: bsn.MethodRead, Contract: 1, Filter: 1},
	"subscribe": {Class: bsn.MethodSubscribe, Contract: 2, Filter: 2},
}

func TestAddressed(t *testing.T) {
	a, b := `"`+contractA+`"`, `"`+contractB+`"`
	for _, c := range []struct{ row, params, want string }{
		{"call", `[{"to":` + a + `},"latest"]`, contractA},
		{"call", `[ { "data" : "0x" , "t\u006f" : ` + a + ` } ]`, contractA},
		{"call", `[{"data":"0x"}]`, "!must name"},
		{"call", `[{"to":null}]`, "!must name"},
		{"call", `[{"to":[` + a + `]}]`, "!must name"},
		{"call", `[{"to":` + a + `,"to":` + b + `}]`, "!named once"},
		{"call", `[{"to":` + a + `,"TO":` + b + `}]`, "!named once"},
		{"call", `[{"TO":` + a + `}]`, "!named once"},
		{"call", `[]`, "!must name"},
		{"call", ``, "!must name"},
		{"call", `{"to":` + a + `}`, "!must name"},
		{"call", `[null]`, "!must name"},
		{"code", `[` + a + `,"latest"]`, contractA},
		{"logs", `[{"address":` + a + `}]`, contractA},
		{"logs", `[{"address":[` + a + `,` + b + `]}]`, contractA + " " + contractB},
		{"logs", `[{"address":[]}]`, "!must name"},
		{"logs", `[{"address":[[` + a + `]]}]`, "!must name"},
		{"logs", `[{"addreſs":` + a + `,"address":` + b + `}]`, "!named once"},
		{"logs", `[{"fromBlock":"0x1"}]`, "!must name"},
		{"subscribe", `["newHeads"]`, ""},
		{"subscribe", `["logs"]`, "!must name"},
		{"subscribe", `["logs",{"address":` + a + `}]`, contractA},
		{"subscribe", `["logs",{}]`, "!must name"},
		{"subscribe", `["Logs"]`, "!must name"},
	} {
		var got []string
		err := addressed([]byte(c.params), rows[c.row], func(s string) error { got = append(got, s); return nil })
		part, fails := strings.CutPrefix(c.want, "!")
		if (err != nil) != fails || fails && !strings.Contains(err.Error(), part) || !fails && strings.Join(got, " ") != c.want {
			t.Errorf("%s %s: %q, %v, want %q", c.row, c.params, got, err, c.want)
		}
	}
}

// FuzzAddressed: whatever the spelling, a node that reads the params as lenient as
// Go's own decoder does (names in any case, the last of doubles) finds no other
// contract than those that were allowed.
func FuzzAddressed(f *testing.F) {
	for _, s := range []string{
		`[{"to":"` + contractA + `"}]`, `[{"to":"` + contractA + `","To":"` + contractB + `"}]`, `["` + contractB + `"]`,
		`[{"address":["` + contractA + `"]}]`, `["logs",{"addre\u017fs":"` + contractB + `","address":"` + contractA + `"}]`,
	} {
		for row := range byte(4) {
			f.Add(row, []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, row byte, params []byte) {
		if scanText(params, maxRequestDepth) != nil || params[0] != '[' && params[0] != '{' {
			return // is refused before
		}
		name := []string{"call", "code", "logs", "subscribe"}[row%4]
		method := rows[name]
		allowed := func(s string) error {
			if bsn.NormalAddress(s) != contractA {
				return errNoContract
			}
			return nil
		}
		if addressed(params, method, allowed) != nil {
			return
		}
		var list []json.RawMessage
		if json.Unmarshal(params, &list) != nil {
			return
		}
		if name == "subscribe" {
			var topic string
			if json.Unmarshal(list[0], &topic) == nil && topic != "logs" && silent(topic) {
				return
			}
		}
		value := list[method.Contract-1]
		var text string
		if json.Unmarshal(value, &text) == nil {
			if bsn.NormalAddress(text) != contractA {
				t.Fatalf("%s: %s reaches %q", name, params, text)
			}
			return
		}
		var object struct {
			To      any `json:"to"`
			Address any `json:"address"`
		}
		if err := json.Unmarshal(value, &object); err != nil {
			t.Fatalf("%s: %s: %v", name, params, err)
		}
		found := object.To
		if method.Filter > 0 {
			found = object.Address
		}
		many, several := found.([]any)
		if !several {
			many = []any{found}
		}
		if len(many) == 0 {
			t.Fatalf("%s: %s reaches everything", name, params)
		}
		for _, one := range many {
			if s, ok := one.(string); !ok || bsn.NormalAddress(s) != contractA {
				t.Fatalf("%s: %s reaches %v", name, params, one)
			}
		}
	})
}

// One key with all kinds of restrictions, over HTTP, in batches and over a WebSocket.
func TestKeyRestrictions(t *testing.T) {
	n := startTwoCities(t, Config{})
	call := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`
	}
	set := func(change func(*bsn.Key)) {
		t.Helper()
		key := bsn.Key{ID: n.project.Keys[0].ID, City: "paris", Hash: n.project.Keys[0].Hash}
		change(&key)
		n.project.Keys = []bsn.Key{key}
		n.ledger.put(n.project)
		n.follow()
	}
	check := func(body string, status, code int, limit string) {
		t.Helper()
		r := n.rpc(body)
		var got struct {
			Error struct {
				Code int
				Data struct{ Limit string }
			}
		}
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != status || got.Error.Code != code || got.Error.Data.Limit != limit {
			t.Errorf("%s: %d %s, want %d, %d, %q", body, r.status, r.body, status, code, limit)
		}
		if r.header.Get("Bsn-Units") == "" || status != 200 && r.header.Get("Bsn-Units") != "0" {
			t.Errorf("%s: headers %v", body, r.header)
		}
	}
	set(func(k *bsn.Key) {
		k.Restrictions = bsn.Restrictions{Methods: []string{"eth_*"}, DeniedMethods: []string{"eth_getLogs"}}
	})
	check(call("eth_chainId", `[]`), 200, 0, "")
	check(call("net_version", `[]`), 403, codeMethodDenied, "method")
	check(call("eth_getLogs", `[{}]`), 403, codeMethodDenied, "method")
	check(call("admin_peers", `[]`), 200, codeMethod, "")
	if r := n.rpc(`[` + call("eth_chainId", `[]`) + `,` + call("net_version", `[]`) + `]`); !strings.Contains(r.body, "0x7a69") || !strings.Contains(r.body, `"data":{"limit":"method"}`) || r.header.Get("Bsn-Units") != "1" {
		t.Errorf("batch: %s %v", r.body, r.header)
	}

	set(func(k *bsn.Key) { k.Restrictions = bsn.Restrictions{Contracts: []string{"lab:" + contractA}} })
	check(call("eth_chainId", `[]`), 200, 0, "")
	check(call("eth_call", `[{"to":"`+contractA+`"},"latest"]`), 200, 0, "")
	check(call("eth_call", `[{"to":"`+contractB+`"},"latest"]`), 403, codeContract, "contract")
	check(call("eth_call", `[{"to":"`+contractA+`","TO":"`+contractB+`"},"latest"]`), 403, codeContract, "contract")
	check(call("eth_estimateGas", `[{"data":"0x6001"}]`), 403, codeContract, "contract")
	check(call("eth_getLogs", `[{"address":["`+contractA+`"]}]`), 200, 0, "")
	check(call("eth_getLogs", `[{}]`), 403, codeContract, "contract")
	check(call("eth_getBalance", `["`+contractB+`","latest"]`), 200, 0, "")
	c := n.connect()
	c.write(call("eth_getCode", `["`+contractB+`","latest"]`))
	if got := c.read(); !strings.Contains(got, `"data":{"limit":"contract"}`) {
		t.Errorf("over a WebSocket: %s", got)
	}

	set(func(k *bsn.Key) { k.Restrictions = bsn.Restrictions{IPs: []string{"10.0.0.0/8"}} })
	check(call("eth_chainId", `[]`), 403, codeIP, "ip")
	set(func(k *bsn.Key) { k.Restrictions = bsn.Restrictions{IPs: []string{"10.0.0.0/8", "127.0.0.0/8"}} })
	check(call("eth_chainId", `[]`), 200, 0, "")

	set(func(k *bsn.Key) { k.Restrictions = bsn.Restrictions{Origins: []string{"https://app.example"}} })
	check(call("eth_chainId", `[]`), 403, codeOrigin, "origin")
	for origin, status := range map[string]int{"https://app.example": 200, "https://other.example": 403, "null": 403} {
		request, _ := http.NewRequest(http.MethodPost, n.url+"/rpc/lab", strings.NewReader(call("eth_chainId", `[]`)))
		request.Header.Set("x-api-key", n.secret)
		request.Header.Set("origin", origin)
		r, err := http.DefaultClient.Do(request)
		if err != nil || r.StatusCode != status {
			t.Errorf("origin %s: %v %v", origin, r, err)
		}
		if exposed := r.Header.Get("Access-Control-Expose-Headers"); !strings.Contains(exposed, "bsn-units") || !strings.Contains(exposed, "ratelimit") {
			t.Errorf("exposed to pages: %s", exposed)
		}
	}

	// The one that is about to expire by ledger time, which goes on.
	set(func(k *bsn.Key) { k.Expires = n.gateway.directory.now().Unix() + 3600 })
	check(call("eth_chainId", `[]`), 200, 0, "")
	set(func(k *bsn.Key) { k.Expires = n.gateway.directory.now().Unix() })
	check(call("eth_chainId", `[]`), 401, codeKey, "")
}

// A key that names an app follows what the app's owner publishes.
func TestKeyOfAnApp(t *testing.T) {
	r := newRecords()
	secret, key := bsn.NewKey("paris")
	key.Restrictions.Contracts = []string{"alice/shop"}
	put := func(kind bsn.Kind, id string, v any) {
		t.Helper()
		text, _ := json.Marshal(v)
		if err := r.apply(bsn.Change{Kind: kind, ID: id, Record: text}); err != nil {
			t.Fatal(err)
		}
	}
	may := func(address string) bool { return r.keys[bsn.HashKey(secret)].policy.mayTouch("lab", address) }
	p := bsn.Project{Account: "bob", Name: "main", Keys: []bsn.Key{key}}
	put(bsn.KindProject, p.ID(), p)
	if may(contractA) {
		t.Error("an app that is not there allows all")
	}
	shop := bsn.App{Account: "alice", Name: "shop", Versions: []bsn.Version{{Number: 1, Chain: "lab", Contracts: []bsn.Contract{{Address: contractA}}}}}
	put(bsn.KindApp, shop.ID(), shop)
	if !may(contractA) || may(contractB) {
		t.Error("the app's contract is not taken in")
	}
	shop.Versions = append(shop.Versions, bsn.Version{Number: 2, Chain: "lab", Contracts: []bsn.Contract{{Address: contractB}}})
	shop.Versions[0].Withdrawn = true
	put(bsn.KindApp, shop.ID(), shop)
	if may(contractA) || !may(contractB) {
		t.Error("the app's next version is not taken in")
	}
	p.Keys[0].Restrictions.Contracts = nil
	put(bsn.KindProject, p.ID(), p)
	if len(r.naming) != 0 || r.keys[key.Hash].policy != nil {
		t.Errorf("restrictions that were lifted: %v", r.naming)
	}
	put(bsn.KindApp, shop.ID(), shop)
}

// A method that the table restricts is for keys that name it, with no other contracts in sight.
func TestRestricted(t *testing.T) {
	p := func(methods ...string) *policy { return &policy{methods: newPatterns(methods)} }
	narrow := p("eth_simulateV1")
	narrow.contracts = map[contract]struct{}{{"", "0xaa"}: {}}
	for _, c := range []struct {
		policy *policy
		want   bool
	}{{nil, false}, {&policy{}, false}, {p("eth_*"), false}, {p("eth_call"), false}, {p("eth_simulateV1"), true}, {narrow, false}} {
		g := &Gateway{}
		if _, ok := g.allow(&caller{policy: c.policy}, &pool{}, message{method: "eth_simulateV1"}, bsn.Method{Restricted: true}); ok != c.want {
			t.Errorf("%+v: %v, want %v", c.policy, ok, c.want)
		}
	}
}
