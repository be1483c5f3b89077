package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/kaia"
	"github.com/openbsn/bsn/software"
)

// realChain is the chain of the rig's real node, which the gateway knows from the
// beginning.
func realChain() bsn.Chain {
	return bsn.Chain{
		Name: "kaia", Kind: bsn.ChainOpen, Framework: kaia.Name, Index: 2, NetworkID: 1001, Status: bsn.ChainRunning,
		Committee: []string{rigCity}, Nodes: []bsn.ChainNode{{City: rigCity, CityIndex: 1}},
	}
}

// realNode is a Kaia node that is a chain's only validator, asked directly and
// through the gateway.
type realNode struct {
	rig             *rig
	direct, through target
	transactions    int  // of the block that is asked for
	block, call     call // at a final height
}

// startKaia starts a node as a city's daemon would, and fills a block.
func (r *rig) startKaia(ctx context.Context) (*realNode, error) {
	k, err := kaia.New(software.Config{})
	if err != nil {
		return nil, err
	}
	binary, err := k.Software(ctx, func(done, total int) {
		if done%100 == 0 || done == total {
			say("build Kaia's node: %d of %d", done, total)
		}
	})
	if err != nil {
		return nil, err
	}
	say("start a Kaia node")
	c := realChain()
	c.GenesisTime = time.Now().Unix()
	site := bsn.Site{Net: r.net, City: bsn.City{Name: rigCity, Index: 1}, Dir: filepath.Join(r.folder, "kaia")}
	if c.Nodes[0].Keys, err = k.Keys(site); err != nil {
		return nil, err
	}
	genesis, err := k.Genesis(c)
	if err != nil {
		return nil, err
	}
	site.Chain = c
	spec, err := k.Plan(site, binary, genesis)
	if err != nil {
		return nil, err
	}
	for _, f := range spec.Files {
		if err := os.WriteFile(filepath.Join(site.Dir, f.Path), f.Content, f.Mode); err != nil {
			return nil, fmt.Errorf("write the node's files: %w", err)
		}
	}
	env := append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + site.Dir, fmt.Sprintf("GOMEMLIMIT=%dMiB", spec.MemoryMiB)}, spec.Env...)
	prepare := exec.CommandContext(ctx, spec.Binary, spec.Prepare...)
	prepare.Dir, prepare.Env = site.Dir, env
	if out, err := prepare.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("prepare the Kaia node: %w\n%s", err, out)
	}
	if _, err := r.startIn(site.Dir, env, "kaia", spec.Binary, spec.Args...); err != nil {
		return nil, err
	}
	url := k.Endpoint(r.net, c, 1).HTTP
	n := &realNode{
		rig:     r,
		direct:  target{"Kaia node", strings.TrimPrefix(url, "http://"), "/", ""},
		through: target{"gateway before a Kaia node", r.ours.address, "/rpc/" + c.Name, r.ours.key},
	}
	if err := n.fill(ctx, newEndpoint(url, ""), new(big.Int).SetUint64(c.NetworkID)); err != nil {
		return nil, err
	}
	for _, t := range []target{n.direct, n.through} {
		if err := r.awaitCall(ctx, t, n.block); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// wordContract is code that makes a contract which answers each call with the word 42.
var wordContract = common.FromHex("69602a60005260206000f3600052600a6016f3")

// fill makes a contract, and a block with as many transactions as the stand-in's.
func (n *realNode) fill(ctx context.Context, node endpoint, chainID *big.Int) error {
	key, err := crypto.GenerateKey()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	from := crypto.PubkeyToAddress(key.PublicKey)
	contract := crypto.CreateAddress(from, 0)
	nonce := uint64(0)
	send := func(to *common.Address, data []byte) (hash common.Hash, err error) {
		tx, err := types.SignNewTx(key, types.NewEIP155Signer(chainID), &types.LegacyTx{
			Nonce: nonce, GasPrice: new(big.Int), Gas: 1_000_000, To: to, Value: new(big.Int), Data: data,
		})
		if err != nil {
			return hash, fmt.Errorf("sign a transaction: %w", err)
		}
		nonce++
		raw, err := tx.MarshalBinary()
		if err != nil {
			return hash, fmt.Errorf("encode a transaction: %w", err)
		}
		return hash, node.ask(ctx, &hash, "eth_sendRawTransaction", hexutil.Bytes(raw))
	}
	var hash common.Hash
	for range 300 { // the node is just starting
		if hash, err = send(nil, wordContract); err == nil {
			break
		}
		nonce = 0
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if _, err := node.mined(ctx, hash); err != nil {
		return err
	}
	// A block has just been made: what comes now is in the next one.
	for range blockTransactions {
		if hash, err = send(&contract, make([]byte, 68)); err != nil {
			return err
		}
	}
	height, err := node.mined(ctx, hash)
	if err != nil {
		return err
	}
	var count hexutil.Uint64
	if err := node.ask(ctx, &count, "eth_getBlockTransactionCountByNumber", height); err != nil {
		return err
	}
	n.transactions = int(count)
	n.block = call{method: "eth_getBlockByNumber", before: fmt.Sprintf(`["%s",true]`, height)}
	n.call = call{method: "eth_call", before: fmt.Sprintf(`[{"to":"%s","data":"0x"},"%s"]`, contract, height)}
	return nil
}

// mined waits until a block holds a transaction, and returns its number.
func (e endpoint) mined(ctx context.Context, hash common.Hash) (height hexutil.Uint64, err error) {
	for range 300 {
		var receipt *struct {
			BlockNumber hexutil.Uint64 `json:"blockNumber"`
		}
		if err := e.ask(ctx, &receipt, "eth_getTransactionReceipt", hash); err != nil {
			return 0, err
		}
		if receipt != nil {
			return receipt.BlockNumber, nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("transaction %s is in no block after 15 s", hash)
}

// ask calls a method and decodes its result.
func (e endpoint) ask(ctx context.Context, result any, method string, params ...any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	q.Header.Set("Content-Type", "application/json")
	res, err := e.client.Do(q)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	var a struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Error != nil {
		return fmt.Errorf("%s: %s: %s", method, res.Status, text)
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("%s: result: %w", method, err)
	}
	return nil
}

// sides measures a call through the gateway and at the node.
func (n *realNode) sides(ctx context.Context, c call) (through, direct *side, err error) {
	through, direct = &side{target: n.through, process: n.rig.gateway}, &side{target: n.direct}
	return through, direct, sides(ctx, c, 32, through, direct)
}
