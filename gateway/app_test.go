package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
)

// answersPackage is a published package around the contract answers42.
func answersPackage(t *testing.T) []byte {
	t.Helper()
	abi := `[{"type":"function","name":"answer","stateMutability":"view","inputs":[{"name":"to","type":"string"}],"outputs":[{"name":"","type":"uint32"}]},` +
		`{"type":"function","name":"secret","stateMutability":"view","inputs":[],"outputs":[{"name":"","type":"uint32"}]},` +
		`{"type":"function","name":"change","stateMutability":"nonpayable","inputs":[],"outputs":[]}]`
	text := fmt.Sprintf(`{"format":%q,"manifest":{"name":"answers","contracts":[{"name":"Answers","source":"Answers.sol"}]},`+
		`"contracts":[{"name":"Answers","abi":%s,"bytecode":%q}]}`, evm.Format, abi, hexutil.Encode(answers42))
	if _, err := evm.Describe([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

func TestApp(t *testing.T) {
	n := startTwoCities(t, Config{})
	n.chain.Deploy = bsn.DeployAnyone
	s := newSigner(t)
	n.ledger.put(n.chain)
	n.follow()
	params, hash := s.sign(nil, answers42)
	var sent string
	eventually(t, "anyone may create", func() bool { sent = n.send(params).body; return strings.Contains(sent, hash) })
	var receipt struct{ ContractAddress string }
	eventually(t, "the contract is in a block", func() bool {
		text := n.result("eth_getTransactionReceipt", `["`+hash+`"]`)
		return json.Unmarshal([]byte(text), &receipt) == nil && receipt.ContractAddress != ""
	})
	n.shelf["a1"] = answersPackage(t)
	version := bsn.Version{
		Number: 1, Artifact: "a1", Chain: "lab", Cities: []string{"paris", "chongqing"},
		Contracts: []bsn.Contract{{Name: "Answers", Address: receipt.ContractAddress}},
		Placements: map[string]bsn.Placement{
			"paris": {Status: bsn.PlacementServing}, "chongqing": {Status: bsn.PlacementRefused, Reason: "not here"},
		},
		Limits: bsn.Limits{RequestsPerSecond: 100_000},
	}
	restricted := version
	restricted.Number = 2
	restricted.Roles = map[string]bsn.Role{"readers": {Accounts: []string{"alice"}, Functions: []string{"answer"}}}
	withdrawn := version
	withdrawn.Number, withdrawn.Withdrawn = 3, true
	away := version
	away.Placements = map[string]bsn.Placement{"chongqing": {Status: bsn.PlacementServing}}
	limited := version
	limited.Limits.RequestsPerSecond = 1
	strangerSecret, strangerKey := bsn.NewKey("paris")
	ownerSecret, ownerKey := bsn.NewKey("paris")
	n.ledger.put(
		bsn.App{Account: "olga", Name: "answers", Versions: []bsn.Version{version, restricted, withdrawn}},
		bsn.App{Account: "olga", Name: "away", Versions: []bsn.Version{away}},
		bsn.App{Account: "olga", Name: "limited", Versions: []bsn.Version{limited}},
		bsn.Project{Account: "mallory", Name: "main", Keys: []bsn.Key{strangerKey}},
		bsn.Project{Account: "olga", Name: "main", Keys: []bsn.Key{ownerKey}},
	)
	n.follow()

	r := n.do(http.MethodGet, "/app/olga/answers", "", "")
	var d description
	if err := json.Unmarshal([]byte(r.body), &d); err != nil || r.status != 200 {
		t.Fatalf("describe: %d %s", r.status, r.body)
	}
	if d.App != "olga/answers" || d.Version != 2 || d.Chain != "lab" || d.NetworkID != anvilChainID || d.RPC != "/rpc/lab" ||
		d.Cities["chongqing"] != (appCity{bsn.PlacementRefused, "not here", "http://chongqing.test"}) ||
		len(d.Contracts) != 1 || d.Contracts[0].Address != receipt.ContractAddress || len(d.Contracts[0].Functions) != 3 || len(d.Contracts[0].ABI) == 0 {
		t.Errorf("description %+v", d)
	}

	for _, c := range []struct {
		name, method, path, key, body string
		status                        int
		want                          string
	}{
		{"arg", "GET", "/app/olga/answers/Answers/answer?arg=x", n.secret, "", 200, `{"result":42}`},
		{"args", "GET", "/app/olga/answers/Answers/answer?args=%5B%22x%22%5D", n.secret, "", 200, `{"result":42}`},
		{"post", "POST", "/app/olga/answers/Answers/answer", n.secret, `{"args":["x"]}`, 200, `{"result":42}`},
		{"by signature", "GET", "/app/olga/answers/Answers/answer(string)?arg=x", n.secret, "", 200, `{"result":42}`},
		{"too few arguments", "GET", "/app/olga/answers/Answers/answer", n.secret, "", 422, "0 arguments given, 1 wanted"},
		{"args is no array", "GET", "/app/olga/answers/Answers/answer?args=7", n.secret, "", 400, "must be a JSON array"},
		{"body is no JSON", "POST", "/app/olga/answers/Answers/answer", n.secret, `{"args":`, 400, "not valid JSON"},
		{"older version", "GET", "/app/olga/answers@1/Answers/secret", n.secret, "", 200, `{"result":42}`},
		{"function outside the role", "GET", "/app/olga/answers/Answers/secret", n.secret, "", 403, "no role"},
		{"account without a role", "GET", "/app/olga/answers/Answers/answer?arg=x", strangerSecret, "", 403, "no role"},
		{"owner without a role", "GET", "/app/olga/answers/Answers/secret", ownerSecret, "", 200, `{"result":42}`},
		{"withdrawn version", "GET", "/app/olga/answers@3/Answers/secret", n.secret, "", 404, "not served in city paris"},
		{"version is no number", "GET", "/app/olga/answers@x/Answers/secret", n.secret, "", 400, "not a number"},
		{"served elsewhere", "GET", "/app/olga/away/Answers/secret", n.secret, "", 404, "it is in chongqing"},
		{"writes", "GET", "/app/olga/answers@1/Answers/change", n.secret, "", 400, "signed by the caller; sign one to " + receipt.ContractAddress},
		{"no such function", "GET", "/app/olga/answers@1/Answers/nothing", n.secret, "", 404, "no function nothing"},
		{"no such contract", "GET", "/app/olga/answers@1/Nothing/answer", n.secret, "", 404, "it has Answers"},
		{"no such app", "GET", "/app/olga/nothing/Answers/answer", n.secret, "", 404, "no app olga/nothing"},
		{"no key", "GET", "/app/olga/answers@1/Answers/secret", "", "", 401, "key is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.TB = t
			if r := n.do(c.method, c.path, c.key, c.body); r.status != c.status || !strings.Contains(r.body, c.want) {
				t.Errorf("status %d: %s, want %d and %s", r.status, r.body, c.status, c.want)
			}
		})
	}
	n.TB = t

	for calls := 0; ; calls++ {
		r := n.do(http.MethodGet, "/app/olga/limited/Answers/secret", n.secret, "")
		if r.status == 429 && strings.Contains(r.body, "app olga/limited") && r.header.Get("Retry-After") != "" {
			break
		}
		if r.status != 200 || calls > 1000 {
			t.Fatalf("call %d: %d %s", calls, r.status, r.body)
		}
	}

	n.paris.kill()
	if r := n.do(http.MethodGet, "/app/olga/answers@1/Answers/secret", n.secret, ""); r.body != `{"result":42}` {
		t.Errorf("own node is dead: %d %s", r.status, r.body)
	}
}
