package evm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rlp"
	"github.com/holiman/uint256"

	"github.com/openbsn/bsn"
)

func params(raw []byte) json.RawMessage {
	return json.RawMessage(fmt.Sprintf("[%q]", hexutil.Encode(raw)))
}

// samples are signed transactions of every Ethereum type.
func samples(t testing.TB) (from string, list map[string]*types.Transaction) {
	t.Helper()
	key, err := crypto.HexToECDSA(strings.Repeat("01", 32))
	if err != nil {
		t.Fatal(err)
	}
	to, id := common.Address{1}, big.NewInt(1001)
	list = make(map[string]*types.Transaction)
	add := func(name string, signer types.Signer, tx types.TxData) {
		if list[name], err = types.SignNewTx(key, signer, tx); err != nil {
			t.Fatal(err)
		}
	}
	latest := types.LatestSignerForChainID(id)
	add("legacy", latest, &types.LegacyTx{To: &to, GasPrice: new(big.Int)})
	add("legacy creation", latest, &types.LegacyTx{GasPrice: new(big.Int), Data: []byte{1}})
	add("without chain id", types.HomesteadSigner{}, &types.LegacyTx{To: &to, GasPrice: new(big.Int)})
	add("access list", latest, &types.AccessListTx{ChainID: id, To: &to, GasPrice: new(big.Int), AccessList: types.AccessList{{Address: to}}})
	add("access list creation", latest, &types.AccessListTx{ChainID: id, GasPrice: new(big.Int)})
	add("dynamic fee", latest, &types.DynamicFeeTx{ChainID: id, To: &to})
	add("dynamic fee creation", latest, &types.DynamicFeeTx{ChainID: id})
	add("blob", latest, &types.BlobTx{ChainID: uint256.NewInt(1001), To: to, BlobHashes: []common.Hash{{1}}})
	add("set code", latest, &types.SetCodeTx{ChainID: uint256.NewInt(1001), To: to, AuthList: []types.SetCodeAuthorization{{}}})
	return strings.ToLower(crypto.PubkeyToAddress(key.PublicKey).Hex()), list
}

func TestInspectEthereum(t *testing.T) {
	from, list := samples(t)
	for name, tx := range list {
		raw, err := tx.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		type handed struct {
			method string
			raw    []byte
		}
		ways := []handed{{"eth_sendRawTransaction", raw}}
		if tx.Type() == types.LegacyTxType {
			ways = append(ways, handed{"klay_sendRawTransaction", raw}, handed{"kaia_sendRawTransaction", raw})
		} else {
			ways = append(ways, handed{"kaia_sendRawTransaction", append([]byte{kaiaEthereum}, raw...)})
		}
		for _, way := range ways {
			got, err := Inspect(way.method, params(way.raw))
			if err != nil {
				t.Errorf("%s by %s: %v", name, way.method, err)
				continue
			}
			creates := strings.Contains(name, "creation")
			receiver := "0x01" + strings.Repeat("00", 19)
			if creates {
				receiver = ""
			}
			if got.To != receiver {
				t.Errorf("%s by %s: sent to %q", name, way.method, got.To)
			}
			if got.Hash != tx.Hash().Hex() || got.From != from || got.Creates != creates || string(got.Raw) != string(way.raw) {
				t.Errorf("%s by %s: %+v", name, way.method, got)
			}
		}
	}
}

func TestInspectKaia(t *testing.T) {
	content, err := rlp.EncodeToBytes([]any{uint64(1), "x", []any{[]byte{1}}})
	if err != nil {
		t.Fatal(err)
	}
	list := []any{uint64(1), uint64(2), uint64(3), bytes.Repeat([]byte{0xab}, 20), uint64(0), bytes.Repeat([]byte{0xcd}, 20), []any{}}
	sent, err := rlp.EncodeToBytes(list)
	if err != nil {
		t.Fatal(err)
	}
	list[3] = bytes.Repeat([]byte{0xab}, 19)
	short, err := rlp.EncodeToBytes(list)
	if err != nil {
		t.Fatal(err)
	}
	for kind := range 256 {
		raw := append([]byte{byte(kind)}, content...)
		got, err := Inspect("klay_sendRawTransaction", params(raw))
		group, payer := kind&^7, kind&7
		known := payer <= 2 && (group == 0x08 || group == 0x10 || group == 0x20 || group == 0x28 || group == 0x30 || group == 0x38 || group == 0x48)
		if known != (err == nil) {
			t.Errorf("type 0x%x: %v", kind, err)
			continue
		}
		if known && (got.From != "" || got.Creates != (group == 0x28) || got.Hash != crypto.Keccak256Hash(raw).Hex()) {
			t.Errorf("type 0x%x: %+v", kind, got)
		}
		if known && got.To != "" {
			t.Errorf("type 0x%x without a receiver: %+v", kind, got)
		}
		if known {
			raw := append([]byte{byte(kind)}, sent...)
			got, err := Inspect("kaia_sendRawTransaction", params(raw))
			if receives := group == 0x08 || group == 0x10 || group == 0x30; err != nil || (got.To == "0x"+strings.Repeat("ab", 20)) != receives || !receives && got.To != "" {
				t.Errorf("type 0x%x: %+v, %v", kind, got, err)
			}
			if _, err := Inspect("kaia_sendRawTransaction", params(append([]byte{byte(kind)}, short...))); (err == nil) != (group != 0x08 && group != 0x10 && group != 0x30) {
				t.Errorf("type 0x%x with a receiver of 19 bytes: %v", kind, err)
			}
		}
		if _, err := Inspect("eth_sendRawTransaction", params(raw)); err == nil {
			t.Errorf("type 0x%x passed as Ethereum's", kind)
		}
	}
}

func TestInspectRefuses(t *testing.T) {
	_, list := samples(t)
	legacy, err := list["legacy creation"].MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	typed, err := list["dynamic fee creation"].MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, legacy...)
	for i := len(flipped) - 32; i < len(flipped); i++ {
		flipped[i] = 0xff // an S beyond the curve's order
	}
	unchained, err := rlp.EncodeToBytes([]any{uint(0), uint(0), uint(21000), []byte{}, uint(0), []byte{}, uint(35), uint(1), uint(1)})
	if err != nil {
		t.Fatal(err)
	}
	join := func(prefix string, raw []byte) json.RawMessage {
		return params(append(common.FromHex(prefix), raw...))
	}
	const eth, kaia = "eth_sendRawTransaction", "kaia_sendRawTransaction"
	for _, c := range []struct {
		name, method string
		params       json.RawMessage
	}{
		{"another method", "eth_call", params(legacy)},
		{"another namespace", "debug_sendRawTransaction", params(legacy)},
		{"no params", eth, nil},
		{"null", eth, json.RawMessage("null")},
		{"none", eth, json.RawMessage("[]")},
		{"two", eth, json.RawMessage(`["0x01","0x02"]`)},
		{"object", eth, json.RawMessage(`[{}]`)},
		{"no hex", eth, json.RawMessage(`["hello"]`)},
		{"empty", eth, json.RawMessage(`["0x"]`)},
		{"empty for Kaia", kaia, json.RawMessage(`["0x"]`)},
		{"cut", eth, params(legacy[:len(legacy)-1])},
		{"trailing", eth, params(append(append([]byte{}, legacy...), 0))},
		{"trailing typed", kaia, join("0x78", append(append([]byte{}, typed...), 0))},
		{"signature", eth, params(flipped)},
		{"large", eth, params(make([]byte, MaxTransaction+1))},
		{"very large", eth, json.RawMessage(`["` + strings.Repeat("a", 3*MaxTransaction) + `"]`)},
		// Readings that Kaia's decoder has and its specification has not.
		{"type as an empty string", kaia, join("0x80", legacy)},
		{"type of two bytes", kaia, join("0x827802", typed[1:])},
		{"type of two bytes as Ethereum's", eth, join("0x827802", typed[1:])},
		{"second type of two bytes", kaia, join("0x78827802", typed[1:])},
		{"envelope around a legacy one", kaia, join("0x78", legacy)},
		{"envelope twice", kaia, join("0x7878", typed)},
		{"envelope as Ethereum's", eth, join("0x78", typed)},
		{"chain id 0", eth, params(unchained)},
		{"no envelope", kaia, params(typed)},
		{"empty envelope", kaia, params([]byte{kaiaEthereum})},
	} {
		if got, err := Inspect(c.method, c.params); err == nil {
			t.Errorf("%s passed: %+v", c.name, got)
		}
	}
}

func FuzzInspect(f *testing.F) {
	_, list := samples(f)
	for _, tx := range list {
		raw, err := tx.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(append([]byte{kaiaEthereum}, raw...))
	}
	f.Add([]byte{kaiaDeploy, 0xc2, 1, 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, method := range []string{"eth_sendRawTransaction", "kaia_sendRawTransaction"} {
			got, err := Inspect(method, params(raw))
			if err != nil {
				if got.Hash != "" || got.Raw != nil {
					t.Fatalf("an error and a result: %+v", got)
				}
				continue
			}
			if string(got.Raw) != string(raw) || len(got.Hash) != 66 {
				t.Fatalf("%+v", got)
			}
			if method == "eth_sendRawTransaction" && got.From == "" {
				t.Fatal("an Ethereum transaction of nobody")
			}
		}
		_, _ = Inspect("eth_sendRawTransaction", raw)
	})
}

func TestLoadMethods(t *testing.T) {
	standard, err := LoadMethods(Methods)
	if err != nil {
		t.Fatal(err)
	}
	if standard.Final {
		t.Error("finality is for each chain to claim")
	}
	for name, want := range map[string]bsn.Method{
		"eth_call":               {Class: bsn.MethodRead, Contract: 1, Block: 2, Units: 20, Cache: bsn.CacheBlock},
		"eth_getLogs":            {Class: bsn.MethodRead, Contract: 1, Filter: 1, Units: 50, Cache: bsn.CacheBlock},
		"eth_chainId":            {Class: bsn.MethodLocal, Units: 1, Cache: bsn.CacheStatic, Answer: bsn.AnswerChainID},
		"eth_getBlockByHash":     {Class: bsn.MethodRead, Units: 10, Cache: bsn.CacheHash, Shows: bsn.ShowsNumber},
		"eth_simulateV1":         {Class: bsn.MethodRead, Block: 2, Units: 100, Cache: bsn.CacheBlock, Restricted: true},
		"eth_sendRawTransaction": {Class: bsn.MethodSend, Units: 50},
		"eth_subscribe":          {Class: bsn.MethodSubscribe, Contract: 2, Filter: 2, Units: 10, Notify: 2},
	} {
		if got := standard.Methods[name]; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for _, name := range []string{"eth_accounts", "eth_sign", "eth_sendTransaction", "txpool_content", "admin_peers"} {
		if _, ok := standard.Methods[name]; ok {
			t.Errorf("%s has a row", name)
		}
	}
	merged, err := LoadMethods(Methods, []byte("final: true\nmethods: {kaia_blockNumber: {class: read, units: 2}}"), nil)
	if err != nil || !merged.Final || len(merged.Methods) != len(standard.Methods)+1 {
		t.Errorf("merged %d rows, final %v, %v", len(merged.Methods), merged.Final, err)
	}
	for _, c := range []struct{ table, want string }{
		{"methods: {eth_call: {class: read, units: 1}}", "eth_call has a row already"},
		{"methods: {a_b: {class: read, units: 1}, a_b: {class: read, units: 1}}", "already defined"},
		{"methods: {a_b: {class: read, units: 1, cost: 2}}", "cost"},
		{"rows: {}", "rows"},
		{"methods: {a_b: {class: write, units: 1}}", `class "write"`},
		{"methods: {a_b: {class: read}}", "units"},
		{"methods: {a_b: {class: send, contract: 1, units: 1}}", "contract is the position"},
		{"methods: {a_b: {class: read, block: -1, units: 1}}", "positions"},
		{"methods: {ab: {class: read, units: 1}}", "namespace_name"},
		{"methods: {personal_unlockAccount: {class: read, units: 1}}", "may not pass"},
		{"methods: {eth_sendTransaction: {class: send, units: 1}}", "may not pass"},
		{"methods: {klay_sign: {class: read, units: 1}}", "may not pass"},
		{"methods: {a_b: {class: read, units: 1, cache: always}}", `cache "always" is none of`},
		{"methods: {a_b: {class: read, units: 1, cache: block}}", "needs the position"},
		{"methods: {a_b: {class: read, units: 1, block: 1, cache: static}}", "that is cache: block"},
		{"methods: {a_b: {class: read, units: 1, block: 1, cache: hash}}", "that is cache: block"},
		{"methods: {a_b: {class: read, units: 1, block: 1, filter: 2}}", "in one way only"},
		{"methods: {a_b: {class: send, units: 1, cache: static}}", "class send is not cached"},
		{"methods: {a_b: {class: read, units: 1, shows: hash}}", `shows "hash" is none of`},
		{"methods: {a_b: {class: read, units: 1, block: 1, shows: result}}", "which no param names"},
		{"methods: {a_b: {class: local, units: 1}}", "class local needs it"},
		{"methods: {a_b: {class: read, units: 1, answer: chainId}}", "belongs to class local"},
		{"methods: {a_b: {class: local, units: 1, answer: name}}", `answer "name" is not known`},
	} {
		if _, err := LoadMethods(Methods, []byte(c.table)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.table, err, c.want)
		}
	}
}
