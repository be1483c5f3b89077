package kaia

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rlp"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/software"
)

// TestPin fails when the node's module was changed and not pinned again.
func TestPin(t *testing.T) {
	version, sum, err := software.Pin("node", upstream)
	if err != nil {
		t.Fatal(err)
	}
	if version != Version || sum != nodeSum {
		t.Errorf("node/ changed: run go generate in this folder")
	}
}

// testChain makes a chain of n nodes, whose keys are the numbers from seed on.
func testChain(n int, seed int64) bsn.Chain {
	c := bsn.Chain{Name: "trial", Kind: bsn.ChainOpen, Framework: Name, Index: 3, NetworkID: 1901, GenesisTime: 1700000000}
	for i := range n {
		key, err := crypto.ToECDSA(common.BigToHash(big.NewInt(seed + int64(i))).Bytes())
		if err != nil {
			panic(err)
		}
		city := fmt.Sprintf("city-%02d", i)
		c.Committee = append(c.Committee, city)
		c.Nodes = append(c.Nodes, bsn.ChainNode{City: city, CityIndex: i + 1, Keys: publicKeys(&key.PublicKey)})
	}
	return c
}

func framework(t testing.TB) *Kaia {
	t.Helper()
	k, err := New(software.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGenesis(t *testing.T) {
	k := framework(t)
	rapid.Check(t, func(t *rapid.T) {
		chain := testChain(rapid.IntRange(1, committeeSize).Draw(t, "nodes"), rapid.Int64Range(1, 1<<40).Draw(t, "seed"))
		chain.NetworkID = rapid.Uint64Min(1).Draw(t, "network id")
		chain.GenesisTime = rapid.Int64Min(1).Draw(t, "time")
		first, err := k.Genesis(chain)
		if err != nil {
			t.Fatal(err)
		}
		// What does not belong to the genesis does not change it.
		other := chain
		other.Nodes = rapid.Permutation(chain.Nodes).Draw(t, "order")
		other.Committee = rapid.Permutation(chain.Committee).Draw(t, "committee")
		other.Status, other.Proposer, other.Name = bsn.ChainGenesis, "city-00", "other"
		second, err := k.Genesis(other)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Fatalf("two geneses of one record:\n%s\n%s", first, second)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, first); err != nil {
			t.Fatal(err)
		}
		if err := k.CheckGenesis(other, compact.Bytes()); err != nil {
			t.Fatal(err)
		}

		var g struct {
			Config    struct{ ChainID json.Number }
			Timestamp hexutil.Uint64
			ExtraData hexutil.Bytes
		}
		if err := json.Unmarshal(first, &g); err != nil {
			t.Fatal(err)
		}
		if g.Config.ChainID.String() != fmt.Sprint(chain.NetworkID) || uint64(g.Timestamp) != uint64(chain.GenesisTime) {
			t.Fatalf("chain id %s and time %d", g.Config.ChainID, g.Timestamp)
		}
		var extra struct {
			Validators []common.Address
			Seal       []byte
			Committed  [][]byte
		}
		if err := rlp.DecodeBytes(g.ExtraData[32:], &extra); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(extra.Validators, common.Address.Cmp) || len(extra.Validators) != len(chain.Nodes) {
			t.Fatalf("validators %v", extra.Validators)
		}
		for _, n := range chain.Nodes {
			if !slices.Contains(extra.Validators, common.HexToAddress(n.Keys[keyAddress])) {
				t.Fatalf("%s is missing", n.City)
			}
		}
		if len(extra.Seal) != 65 || len(extra.Committed) != 0 {
			t.Fatalf("seals %x %x", extra.Seal, extra.Committed)
		}
	})
}

// TestGenesisChanged changes one value of a genesis, any one, and expects to be
// told which.
func TestGenesisChanged(t *testing.T) {
	k := framework(t)
	chain := testChain(4, 7)
	own, err := k.Genesis(chain)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		tree, err := decodeStrict(own)
		if err != nil {
			t.Fatal(err)
		}
		object, path := tree.(map[string]any), "genesis"
		for {
			names := slices.Sorted(keysOf(object))
			if len(names) == 0 || rapid.IntRange(0, 9).Draw(t, "add") == 0 {
				path += ".added"
				object["added"] = true
				break
			}
			name := rapid.SampledFrom(names).Draw(t, "name")
			path += "." + name
			if inner, ok := object[name].(map[string]any); ok && rapid.IntRange(0, 9).Draw(t, "in") > 0 {
				object = inner
				continue
			}
			if rapid.Bool().Draw(t, "remove") {
				delete(object, name)
			} else {
				object[name] = "changed"
			}
			break
		}
		text, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.CheckGenesis(chain, text); err == nil || !strings.HasPrefix(err.Error(), path+" differs: own ") {
			t.Fatalf("%s is changed, but the error is: %v", path, err)
		}
	})
}

func keysOf(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestCheckGenesisRefuses(t *testing.T) {
	k := framework(t)
	chain := testChain(4, 7)
	own, err := k.Genesis(chain)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(string(own), old) {
			t.Fatalf("the genesis has no %s", old)
		}
		return strings.Replace(string(own), old, new, 1)
	}
	for name, test := range map[string]struct{ proposed, want string }{
		"another epoch":        {replace(`"epoch": 604800`, `"epoch": 30`), `genesis.config.istanbul.epoch differs: own 604800, proposed 30`},
		"another mode":         {replace(`"ballot"`, `"none"`), `genesis.config.governance.governanceMode differs: own "ballot", proposed "none"`},
		"coins for somebody":   {replace(`"alloc": {}`, `"alloc": {"0x01": {"balance": "0x1"}}`), `genesis.alloc.0x01 differs: own none, proposed {"balance":"0x1"}`},
		"a fork more":          {replace(`"chainId"`, `"randaoCompatibleBlock": 0, "chainId"`), `genesis.config.randaoCompatibleBlock differs: own none, proposed 0`},
		"another case":         {replace(`"chainId"`, `"chainID"`), `genesis.config.chainID differs: own none, proposed 1901`},
		"a field twice":        {replace(`"chainId"`, `"chainId": 5, "chainId"`), `genesis.config.chainId is there twice`},
		"a field twice, coded": {replace(`"chainId"`, `"\u0063hainId": 5, "chainId"`), `genesis.config.chainId is there twice`},
		"another number form":  {replace(`1901`, `1901.0`), `genesis.config.chainId differs: own 1901, proposed 1901.0`},
		"a list":               {`[]`, `genesis differs`},
		"something after it":   {string(own) + "}", `something after its end`},
		"a second genesis":     {string(own) + string(own), `something after its end`},
		"half of it":           {string(own[:len(own)/2]), `decode proposed genesis`},
		"nothing":              {``, `decode proposed genesis`},
		"too deep":             {strings.Repeat("[", 100), `nested too deeply`},
		"too long":             {strings.Repeat(" ", maxGenesis) + string(own), `more than 65536`},
	} {
		if err := k.CheckGenesis(chain, []byte(test.proposed)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func FuzzCheckGenesis(f *testing.F) {
	k := framework(f)
	chain := testChain(4, 7)
	own, err := k.Genesis(chain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte(`{"config":{"chainId":1}}`))
	f.Fuzz(func(t *testing.T, proposed []byte) {
		if k.CheckGenesis(chain, proposed) != nil {
			return
		}
		var a, b any
		if json.Unmarshal(own, &a) != nil || json.Unmarshal(proposed, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("accepted: %s", proposed)
		}
	})
}

func TestGenesisRefuses(t *testing.T) {
	k := framework(t)
	for name, test := range map[string]struct {
		change func(*bsn.Chain)
		want   string
	}{
		"keys are missing":  {func(c *bsn.Chain) { c.Nodes = c.Nodes[1:] }, "city-00 has not posted its keys"},
		"no committee":      {func(c *bsn.Chain) { c.Committee, c.Nodes = nil, nil }, "1 to 22 validators, not 0"},
		"a stranger's node": {func(c *bsn.Chain) { c.Committee = c.Committee[1:] }, "city-00 posted keys but is not of the committee"},
		"one key twice":     {func(c *bsn.Chain) { c.Nodes[1].Keys = c.Nodes[0].Keys }, "city-01: another city posted the same keys"},
		"another's address": {func(c *bsn.Chain) { c.Nodes[1].Keys[keyAddress] = c.Nodes[0].Keys[keyAddress] }, `city-01: key "address" must be 0x`},
		"an address in capitals": {func(c *bsn.Chain) {
			c.Nodes[1].Keys[keyAddress] = "0x" + strings.ToUpper(c.Nodes[1].Keys[keyAddress][2:])
		}, `city-01: key "address" must be 0x`},
		"no point":        {func(c *bsn.Chain) { c.Nodes[1].Keys[keyNode] = strings.Repeat("00", 64) }, "city-01"},
		"not hex":         {func(c *bsn.Chain) { c.Nodes[1].Keys[keyNode] = "@127.0.0.1" }, "city-01"},
		"no network id":   {func(c *bsn.Chain) { c.NetworkID = 0 }, "no network id"},
		"no genesis time": {func(c *bsn.Chain) { c.GenesisTime = 0 }, "no genesis time"},
		"too many":        {func(c *bsn.Chain) { *c = testChain(23, 9) }, "not 23"},
	} {
		chain := testChain(4, 7)
		test.change(&chain)
		if _, err := k.Genesis(chain); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func TestKeys(t *testing.T) {
	k := framework(t)
	site := bsn.Site{Dir: filepath.Join(t.TempDir(), "node")}
	first, err := k.Keys(site)
	if err != nil {
		t.Fatal(err)
	}
	second, err := k.Keys(site)
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Errorf("the folder gave %v, then %v, %v", first, second, err)
	}
	name := filepath.Join(site.Dir, nodeKeyFile)
	for path, want := range map[string]fs.FileMode{site.Dir: fs.ModeDir | 0o700, name: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	if _, err := addressOf(bsn.ChainNode{City: "here", Keys: first}); err != nil {
		t.Error(err)
	}
	secret, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	broken := string(secret[:60]) + "zzzz"
	if err := os.WriteFile(name, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := k.Keys(site); err == nil {
		t.Errorf("a broken key was replaced or read: %v", keys)
	} else if strings.Contains(err.Error(), string(secret[:16])) {
		t.Errorf("the error shows the key: %v", err)
	}
}

func TestPlan(t *testing.T) {
	k := framework(t)
	chain := testChain(4, 7)
	genesis, err := k.Genesis(chain)
	if err != nil {
		t.Fatal(err)
	}
	site := bsn.Site{Net: 66, City: bsn.City{Name: "city-01", Index: 2}, Chain: chain, Dir: t.TempDir()}
	spec, err := k.Plan(site, "/opt/kaia-node", genesis)
	if err != nil {
		t.Fatal(err)
	}
	if spec.ID != "kaia-trial" || spec.Binary != "/opt/kaia-node" || spec.Address != "127.66.2.13" {
		t.Errorf("id %s, binary %s, address %s", spec.ID, spec.Binary, spec.Address)
	}
	if e := k.Endpoint(66, chain, 2); e.HTTP != "http://127.66.2.13:8551" || e.WS != "ws://127.66.2.13:8552" {
		t.Errorf("endpoint %v", e)
	}
	for _, arg := range append(spec.Args, spec.Prepare...) {
		if strings.Contains(arg, "/") && arg != "./"+socketName {
			t.Errorf("argument %s depends on the place of the folder", arg)
		}
		for _, api := range []string{"governance", "istanbul", "admin", "personal", "debug"} {
			if slices.Contains(strings.Split(arg, ","), api) {
				t.Errorf("argument %s opens %s to clients", arg, api)
			}
		}
	}
	peers := func() string {
		text, err := os.ReadFile(filepath.Join(site.Dir, peersName))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if want := "kni://" + chain.Nodes[3].Keys[keyNode] + "@127.66.4.13:32323?discport=0&ntype=cn\n"; !strings.Contains(peers(), want) {
		t.Errorf("peers are\n%s without %s", peers(), want)
	}
	if strings.Contains(peers(), chain.Nodes[1].Keys[keyNode]) {
		t.Error("the node is its own peer")
	}

	// A change of the committee shows in the peers and restarts no one.
	for name, changed := range map[string]bsn.Chain{"joins": testChain(5, 7), "leaves": testChain(3, 7)} {
		site.Chain = changed
		after, err := k.Plan(site, "/opt/kaia-node", genesis)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(spec, after) {
			t.Errorf("a city %s, and the specification becomes %v", name, after)
		}
		if got := strings.Count(peers(), "\n"); got != len(changed.Nodes)-1 {
			t.Errorf("a city %s: %d peers", name, got)
		}
	}

	site.Chain = chain
	site.Chain.Genesis = hex.EncodeToString(make([]byte, 32))
	if _, err := k.Plan(site, "/opt/kaia-node", genesis); err == nil {
		t.Error("a genesis that was not approved is taken")
	}
	site.Chain.Genesis, site.City.Name = "", "elsewhere"
	if _, err := k.Plan(site, "/opt/kaia-node", genesis); err == nil {
		t.Error("a city without keys gets a node")
	}
}

func TestDifferences(t *testing.T) {
	a := func(n ...int64) (list []common.Address) {
		for _, i := range n {
			list = append(list, common.BigToAddress(big.NewInt(i)))
		}
		return list
	}
	for name, test := range map[string]struct {
		current, wanted []common.Address
		want            []difference
	}{
		"nothing":                 {a(1, 2, 3), a(3, 2, 1), nil},
		"one joins":               {a(1, 2), a(1, 2, 3), []difference{{addValidator, a(3)[0]}}},
		"several join, in order":  {a(1), a(1, 9, 4, 5), []difference{{addValidator, a(4)[0]}}},
		"several leave, in order": {a(1, 8, 7), a(1), []difference{{removeValidator, a(7)[0]}}},
		"one for another":         {a(1, 2), a(1, 3), []difference{{addValidator, a(3)[0]}, {removeValidator, a(2)[0]}}},
		"not on itself":           {a(1, 2, 3), a(3), []difference{{removeValidator, a(2)[0]}}},
	} {
		if got := differences(test.current, test.wanted, a(1)[0]); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestGovernKeepsStill: nothing is asked of a node, which is not there, unless
// the chain runs and the city has a node of it.
func TestGovernKeepsStill(t *testing.T) {
	k := framework(t)
	site := bsn.Site{Net: 66, City: bsn.City{Name: "city-01", Index: 2}, Chain: testChain(4, 7), Dir: t.TempDir()}
	for _, status := range []bsn.ChainStatus{bsn.ChainKeys, bsn.ChainGenesis} {
		site.Chain.Status = status
		if did, err := k.Govern(t.Context(), site); did != "" || err != nil {
			t.Errorf("%s: %q, %v", status, did, err)
		}
	}
	site.Chain.Status = bsn.ChainRunning
	if did, err := k.Govern(t.Context(), site); did != "" || err == nil {
		t.Errorf("without a node: %q, %v", did, err)
	}
	site.Chain.Committee = nil
	if _, err := k.Govern(t.Context(), site); err == nil || !strings.Contains(err.Error(), "at least one") {
		t.Errorf("a committee of nobody: %v", err)
	}
	site.City.Name = "elsewhere"
	if did, err := k.Govern(t.Context(), site); did != "" || err != nil {
		t.Errorf("a city without a node: %q, %v", did, err)
	}
}

func TestMethods(t *testing.T) {
	m := framework(t).Methods()
	if !m.Final {
		t.Error("Kaia's blocks are final")
	}
	for name, class := range map[string]bsn.MethodClass{
		"eth_call": bsn.MethodRead, "kaia_call": bsn.MethodRead, "klay_getBalance": bsn.MethodRead,
		"eth_sendRawTransaction": bsn.MethodSend, "kaia_sendRawTransaction": bsn.MethodSend, "klay_sendRawTransaction": bsn.MethodSend,
		"klay_subscribe": bsn.MethodSubscribe,
	} {
		if m.Methods[name].Class != class {
			t.Errorf("%s is %q, want %q", name, m.Methods[name].Class, class)
		}
	}
	for name := range m.Methods {
		namespace, rest, _ := strings.Cut(name, "_")
		if !slices.Contains([]string{"eth", "net", "web3", "kaia", "klay"}, namespace) {
			t.Errorf("%s passes", name)
		}
		if other, ok := map[string]string{"kaia": "klay", "klay": "kaia"}[namespace]; ok && m.Methods[other+"_"+rest] != m.Methods[name] {
			t.Errorf("%s and %s_%s differ", name, other, rest)
		}
	}
	for _, name := range []string{"governance_vote", "istanbul_propose", "admin_addPeer", "kaia_sendTransaction", "klay_sign", "personal_unlockAccount"} {
		if _, ok := m.Methods[name]; ok {
			t.Errorf("%s passes", name)
		}
	}
}

// TestInspect: a creation is seen as one, in Ethereum's form and in Kaia's own.
func TestInspect(t *testing.T) {
	k := framework(t)
	key, err := crypto.ToECDSA(common.BigToHash(big.NewInt(1)).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	tx := types.MustSignNewTx(key, types.LatestSignerForChainID(big.NewInt(1901)), &types.DynamicFeeTx{ChainID: big.NewInt(1901), Gas: 100000, Data: []byte{0}})
	raw, err := tx.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	// Types of Kaia: an Ethereum transaction within, and SmartContractDeploy.
	const ethereum, deploy = 0x78, 0x28
	for _, test := range []struct {
		method string
		raw    []byte
		from   string
	}{
		{"eth_sendRawTransaction", raw, lower(crypto.PubkeyToAddress(key.PublicKey))},
		{"kaia_sendRawTransaction", append([]byte{ethereum}, raw...), lower(crypto.PubkeyToAddress(key.PublicKey))},
		{"klay_sendRawTransaction", append([]byte{deploy}, raw[1:]...), ""},
	} {
		params, err := json.Marshal([]string{hexutil.Encode(test.raw)})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Inspect(test.method, params); err != nil || !got.Creates || got.From != test.from {
			t.Errorf("%s of type %#x: %+v, %v", test.method, test.raw[0], got, err)
		}
	}
}
