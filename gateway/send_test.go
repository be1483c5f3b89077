package gateway

import (
	"crypto/ecdsa"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/openbsn/bsn"
)

// signer is an account of the chain.
type signer struct {
	t     *testing.T
	key   *ecdsa.PrivateKey
	nonce uint64
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t: t, key: key}
}

func (s *signer) address() string {
	return strings.ToLower(crypto.PubkeyToAddress(s.key.PublicKey).Hex())
}

// sign makes the next transaction of the account; it creates a contract if to is nil.
func (s *signer) sign(to *common.Address, data []byte) (params, hash string) {
	s.t.Helper()
	tx, err := types.SignNewTx(s.key, types.LatestSignerForChainID(big.NewInt(anvilChainID)), &types.DynamicFeeTx{
		ChainID: big.NewInt(anvilChainID), Nonce: s.nonce, Gas: 200_000, GasFeeCap: new(big.Int), GasTipCap: new(big.Int), To: to, Data: data,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := tx.MarshalBinary()
	if err != nil {
		s.t.Fatal(err)
	}
	s.nonce++
	return fmt.Sprintf(`["%s"]`, hexutil.Encode(raw)), tx.Hash().Hex()
}

var somebody = common.HexToAddress("0x00000000000000000000000000000000000000bb")

// answers42 is a contract that returns 42 whatever it is called with.
var answers42 = hexutil.MustDecode("0x600a600c600039600a6000f3602a60005260206000f3")

func (n *twoCities) send(params string) reply {
	n.Helper()
	return n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":` + params + `}`)
}

func has(a *anvil, hash string) bool {
	return a.call("eth_getTransactionByHash", `["`+hash+`"]`) != "null"
}

func TestSend(t *testing.T) {
	n := startTwoCities(t, Config{})
	s := newSigner(t)
	accepted := func(r reply, hash string) {
		t.Helper()
		if want := `{"jsonrpc":"2.0","id":1,"result":"` + hash + `"}`; r.status != 200 || r.body != want {
			t.Fatalf("status %d: %s, want %s", r.status, r.body, want)
		}
	}
	params, hash := s.sign(&somebody, nil)
	accepted(n.send(params), hash)
	if !has(n.paris, hash) || !has(n.chongqing, hash) {
		t.Error("a node does not have an accepted transaction")
	}
	// Sent again, it is still the same transaction, though the nonce is used now.
	accepted(n.send(params), hash)

	// One node got it on another way and has mined it.
	params, hash = s.sign(&somebody, []byte{1})
	n.chongqing.call("eth_sendRawTransaction", params)
	accepted(n.send(params), hash)
	if !has(n.paris, hash) {
		t.Error("own node does not have the transaction")
	}

	// A node's refusal comes through as it is. Until it has mined, it is another one.
	for _, a := range []*anvil{n.paris, n.chongqing} {
		eventually(t, "transactions are mined", func() bool { return a.call("eth_getTransactionReceipt", `["`+hash+`"]`) != "null" })
	}
	s.nonce--
	params, _ = s.sign(&somebody, []byte{2})
	if r := n.send(params); !strings.Contains(r.body, `"error":{"code":-32003,"message":"nonce too low"`) {
		t.Errorf("used nonce: %s", r.body)
	}
	if r := n.send(`["0x1234"]`); !strings.Contains(r.body, `"code":-32602`) {
		t.Errorf("no transaction: %s", r.body)
	}

	// A batch keeps the order of transactions.
	first, hash1 := s.sign(&somebody, nil)
	second, hash2 := s.sign(&somebody, nil)
	r := n.rpc(`[{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":` + first + `},{"jsonrpc":"2.0","id":2,"method":"eth_sendRawTransaction","params":` + second + `}]`)
	if !strings.Contains(r.body, `"id":1,"result":"`+hash1) || !strings.Contains(r.body, `"id":2,"result":"`+hash2) {
		t.Errorf("batch: %s", r.body)
	}

	// With one node dead, the other one is enough.
	n.paris.pause()
	params, hash = s.sign(&somebody, nil)
	accepted(n.send(params), hash)
	n.paris.kill()
	params, hash = s.sign(&somebody, nil)
	accepted(n.send(params), hash)
	if !has(n.chongqing, hash) {
		t.Error("remaining node does not have an accepted transaction")
	}
}

func TestDeployPolicy(t *testing.T) {
	n := startTwoCities(t, Config{})
	owner, deployer, stranger := newSigner(t), newSigner(t), newSigner(t)
	n.project.Deployers = []string{deployer.address()}
	n.ledger.put(bsn.Account{Name: "alice", Identity: bsn.Identity{Signers: []bsn.Signer{{Ethereum: owner.address()}}}}, n.project)
	n.follow()
	create := func(s *signer) reply { params, _ := s.sign(nil, answers42); return n.send(params) }
	for name, s := range map[string]*signer{"owner": owner, "deployer": deployer} {
		if r := create(s); !strings.Contains(r.body, `"result":"0x`) {
			t.Errorf("%s: %s", name, r.body)
		}
	}
	r := create(stranger)
	if r.status != 200 || !strings.Contains(r.body, `"id":1,"error":{"code":-32003,`) {
		t.Errorf("stranger: %d %s", r.status, r.body)
	}
	for _, part := range []string{stranger.address(), owner.address(), deployer.address(), "deployers"} {
		if !strings.Contains(r.body, part) {
			t.Errorf("refusal does not name %s: %s", part, r.body)
		}
	}
	stranger.nonce = 0
	params, _ := stranger.sign(&somebody, nil)
	if r := n.send(params); !strings.Contains(r.body, `"result"`) {
		t.Errorf("a stranger's call: %s", r.body)
	}
	n.chain.Deploy = bsn.DeployAnyone
	n.ledger.put(n.chain)
	n.follow()
	eventually(t, "anyone may create", func() bool {
		stranger.nonce = 1
		return strings.Contains(create(stranger).body, `"result"`)
	})
}

// scripted is a pool of stand-ins for nodes in states that real ones cannot be
// brought into at will. Each answers a send with the given text, or not at all
// if that is empty, and says whether it knows the transaction.
func scripted(t *testing.T, answers []string, knows []bool) (*pool, *[]int) {
	t.Helper()
	asked := make([]int, len(answers))
	p := &pool{chain: bsn.Chain{Name: "lab"}, maxLag: 4, methods: bsn.Methods{Methods: map[string]bsn.Method{transactionMethod: {}}}}
	u := newUpstreams(&Config{}, nil, nil, newMemory(1<<20, nil, 0), quiet())
	for i, text := range answers {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var b strings.Builder
			buffer := make([]byte, 1<<10)
			for {
				k, err := r.Body.Read(buffer)
				b.Write(buffer[:k])
				if err != nil {
					break
				}
			}
			switch {
			case strings.Contains(b.String(), transactionMethod) && knows[i]:
				fmt.Fprint(w, `{"id":1,"result":{}}`)
			case strings.Contains(b.String(), transactionMethod):
				fmt.Fprint(w, `{"id":1,"result":null}`)
			case text == "":
				w.WriteHeader(http.StatusBadGateway)
			default:
				asked[i]++
				fmt.Fprint(w, text)
			}
		}))
		t.Cleanup(server.Close)
		n, err := newNode(u, &pool{}, fmt.Sprint("city", i), bsn.Endpoint{HTTP: server.URL}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.nodes = append(p.nodes, n)
	}
	return p, &asked
}

func TestSendToScriptedNodes(t *testing.T) {
	const (
		good  = `{"jsonrpc":"2.0","id":1,"result":"0xabc"}`
		known = `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"known transaction: 0xabc"}}`
		low   = `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"nonce too low"}}`
		funds = `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"insufficient funds"}}`
		dead  = ""
	)
	for _, c := range []struct {
		name    string
		answers []string
		knows   []bool
		result  string
		failure string
		asked   []int
	}{
		{"two accept", []string{good, good, good}, []bool{false, false, false}, `"0xabc"`, "", []int{1, 1, 0}},
		{"both had it", []string{known, known}, []bool{false, false}, `"0xabc"`, "", []int{1, 1}},
		{"second has it mined", []string{good, low, good}, []bool{true, true, false}, `"0xabc"`, "", []int{1, 1, 0}},
		{"second truly refuses", []string{good, low, good}, []bool{true, false, false}, `"0xabc"`, "", []int{1, 1, 1}},
		{"all refuse", []string{funds, funds, funds}, []bool{false, false, false}, "", `"insufficient funds"`, []int{1, 1, 0}},
		{"first is dead", []string{dead, good, good}, []bool{false, false, false}, `"0xabc"`, "", []int{0, 1, 1}},
		{"only one is left", []string{dead, dead, good}, []bool{false, false, false}, `"0xabc"`, "", []int{0, 0, 1}},
		{"all are dead", []string{dead, dead}, []bool{false, false}, "", `-32002`, []int{0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, asked := scripted(t, c.answers, c.knows)
			a := p.send(t.Context(), bsn.Transaction{Hash: "0xabc"}, []byte(`{}`), 1<<20)
			if string(a.result) != c.result || !strings.Contains(string(a.failure), c.failure) || c.failure == "" && a.failure != nil {
				t.Errorf("result %s, error %s", a.result, a.failure)
			}
			for i, want := range c.asked {
				if (*asked)[i] != want {
					t.Errorf("node %d was sent it %d times, want %d", i, (*asked)[i], want)
				}
			}
		})
	}
}
