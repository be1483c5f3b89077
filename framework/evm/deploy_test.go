package evm

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/manifest"
)

// buildApp builds a folder of an app.
func buildApp(t *testing.T, dir string) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles")
	}
	m, err := manifest.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := Build(long(t), dir, m, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

const certificates = "../../examples/certificates"

// TestPublishAndCall goes the way of a publisher and of callers with the first
// example, on a node where nobody has any coin.
func TestPublishAndCall(t *testing.T) {
	ctx, url, pkg := long(t), node(t), buildApp(t, certificates)
	c, key, e := dial(t, url), newKey(t), bsn.Endpoint{HTTP: url}
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Plan(ctx, c, key, pkg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := crypto.CreateAddress(crypto.PubkeyToAddress(key.PublicKey), 0).Hex(); len(plan) != 1 || plan[0].Address != want || plan[0].CodeHash != "" {
		t.Fatalf("plan %+v, want one contract at %s", plan, want)
	}
	if err := Verify(ctx, e, bsn.Version{Contracts: plan}); err == nil || !strings.Contains(err.Error(), "no code") {
		t.Errorf("before deployment: %v", err)
	}
	var steps []string
	deployed, err := Deploy(ctx, c, key, id, pkg, plan, func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 2 {
		t.Errorf("steps %q", steps)
	}
	v := bsn.Version{Contracts: deployed}
	if err := Verify(ctx, e, v); err != nil {
		t.Error(err)
	}
	changed := []bsn.Contract{deployed[0]}
	changed[0].CodeHash = strings.Repeat("0", 64)
	if err := Verify(ctx, e, bsn.Version{Contracts: changed}); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("with another hash: %v", err)
	}

	holder := "0x00000000000000000000000000000000000000ab"
	r, err := Invoke(ctx, c, key, id, pkg, deployed, "", "issue", Text([]string{holder, "first prize"}))
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 1 || r.Block == 0 || r.GasUsed == 0 || len(r.Events) != 1 || r.Events[0].Name != "Issued" || r.Events[0].Address != deployed[0].Address {
		t.Fatalf("receipt %+v", r)
	}
	want := fmt.Sprintf(`{"id":"1","issuer":"%s","holder":"%s","title":"first prize"}`, crypto.PubkeyToAddress(key.PublicKey).Hex(), common.HexToAddress(holder).Hex())
	if string(r.Events[0].Args) != want {
		t.Errorf("event %s, want %s", r.Events[0].Args, want)
	}
	query := func(function string, args ...string) (json.RawMessage, error) {
		return Query(ctx, e, v, pkg, "Certificates", function, Text(args))
	}
	for _, q := range []struct{ function, arg, want string }{
		{"holder", "1", `"` + common.HexToAddress(holder).Hex() + `"`},
		{"title(uint256)", "0x1", `"first prize"`},
		{"get", "1", fmt.Sprintf(`{"issuer":"%s","holder":"%s","title":"first prize","revoked":false}`,
			crypto.PubkeyToAddress(key.PublicKey).Hex(), common.HexToAddress(holder).Hex())},
	} {
		if got, err := query(q.function, q.arg); err != nil || string(got) != q.want {
			t.Errorf("%s: %s, %v, want %s", q.function, got, err, q.want)
		}
	}
	for _, q := range []struct{ function, arg, want string }{
		{"holder", "7", `the contract refused: Unknown({"id":"7"})`},
		{"holder", "x", "argument 1 id (uint256): x is no whole number"},
		{"revoke", "1", "takes a signed call"},
		{"grant", "1", "count(), get(uint256), holder(uint256)"},
	} {
		if _, err := query(q.function, q.arg); err == nil || !strings.Contains(err.Error(), q.want) {
			t.Errorf("%s(%s): %v, want %q", q.function, q.arg, err, q.want)
		}
	}
	stranger := newKey(t)
	before, err := c.nonce(ctx, crypto.PubkeyToAddress(stranger.PublicKey), "pending")
	if err != nil {
		t.Fatal(err)
	}
	var refused *Reverted
	_, err = Invoke(ctx, c, stranger, id, pkg, deployed, "Certificates", "revoke", Text([]string{"1"}))
	if !errors.As(err, &refused) || !strings.HasPrefix(refused.Reason, `NotIssuer({"id":"1","issuer":"0x`) {
		t.Errorf("a stranger revokes: %v", err)
	}
	if after, err := c.nonce(ctx, crypto.PubkeyToAddress(stranger.PublicKey), "pending"); err != nil || after != before {
		t.Errorf("a refused call was sent: nonce %d, %v", after, err)
	}
	if _, err := Invoke(ctx, c, key, id, pkg, deployed, "Certificates", "revoke", Text([]string{"1"})); err != nil {
		t.Error(err)
	}
	if _, err := query("title", "1"); err == nil || !strings.Contains(err.Error(), "AlreadyRevoked") {
		t.Errorf("a revoked certificate has a title: %v", err)
	}
}

// TestEqualCallsAtOnce: equal calls of one account, made at the same time, all happen.
func TestEqualCallsAtOnce(t *testing.T) {
	const calls = 4
	ctx, url, pkg := long(t), node(t, "--block-time", "1"), buildApp(t, certificates)
	c, key := dial(t, url), newKey(t)
	id, deployed := deploy(ctx, t, c, key, pkg)
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if _, err := Invoke(ctx, c, key, id, pkg, deployed, "", "issue", Text([]string{"0x00000000000000000000000000000000000000ab", "prize"})); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := Query(ctx, bsn.Endpoint{HTTP: url}, bsn.Version{Contracts: deployed}, pkg, "", "count", nil)
	if err != nil || string(got) != fmt.Sprintf("%q", fmt.Sprint(calls)) {
		t.Errorf("%s certificates, %v, want %d", got, err, calls)
	}
}

func deploy(ctx context.Context, t *testing.T, c *Client, key *ecdsa.PrivateKey, pkg []byte) (uint64, []bsn.Contract) {
	t.Helper()
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Plan(ctx, c, key, pkg, nil)
	if err != nil {
		t.Fatal(err)
	}
	deployed, err := Deploy(ctx, c, key, id, pkg, plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id, deployed
}

// TestDeployResumes: a publisher that was cut off after handing in a creation, or
// between two of them, ends with the very contracts of its first plan.
func TestDeployResumes(t *testing.T) {
	url := anvil(t, "--no-mining")
	ctx, c, key := long(t), dial(t, url), newKey(t)
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	one := constant(t, "One", 1)
	two := constant(t, "Two", 2)
	pkg := pack(t, one, two)
	plan, err := Plan(ctx, c, key, pkg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if plan[0].Nonce != 0 || plan[1].Nonce != 1 {
		t.Fatalf("plan %+v", plan)
	}
	mine := func() {
		t.Helper()
		if err := c.call(ctx, new(json.RawMessage), "anvil_mine"); err != nil {
			t.Fatal(err)
		}
	}
	// Cut off while the first creation is in the pool.
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	account := crypto.PubkeyToAddress(key.PublicKey)
	go func() {
		for ctx.Err() == nil {
			if n, err := c.nonce(ctx, account, "pending"); err == nil && n == 1 {
				cancel()
				return
			}
		}
	}()
	_, err = Deploy(short, c, key, id, pkg, plan, nil)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cut off: %v", err)
	}
	again, err := Plan(ctx, c, key, pkg, plan)
	if err != nil || !reflect.DeepEqual(again, plan) {
		t.Fatalf("with one creation in the pool: %+v, %v", again, err)
	}
	mine()
	again, err = Plan(ctx, c, key, pkg, plan)
	if err != nil || !reflect.DeepEqual(again, plan) {
		t.Fatalf("with one contract on the chain: %+v, %v", again, err)
	}
	// Blocks come from now on.
	if err := c.call(ctx, new(json.RawMessage), "evm_setAutomine", true); err != nil {
		t.Fatal(err)
	}
	deployed, err := Deploy(ctx, c, key, id, pkg, plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	if deployed[0].Address != plan[0].Address || deployed[1].Address != plan[1].Address || deployed[0].CodeHash == deployed[1].CodeHash {
		t.Fatalf("deployed %+v", deployed)
	}
	if n, err := c.nonce(ctx, account, "latest"); err != nil || n != 2 {
		t.Fatalf("%d transactions, %v, want 2", n, err)
	}
	// Complete: the same again changes nothing.
	twice, err := Deploy(ctx, c, key, id, pkg, plan, nil)
	if err != nil || !reflect.DeepEqual(twice, deployed) {
		t.Fatalf("again: %+v, %v", twice, err)
	}
	if n, err := c.nonce(ctx, account, "latest"); err != nil || n != 2 {
		t.Fatalf("%d transactions, %v, want 2", n, err)
	}
	// Code of another app at the planned address is not taken for this app's.
	other := pack(t, constant(t, "One", 3), two)
	moved, err := Plan(ctx, c, key, other, deployed)
	if err != nil {
		t.Fatal(err)
	}
	if moved[0].Nonce != 2 || moved[0].CodeHash != "" || !reflect.DeepEqual(moved[1], deployed[1]) {
		t.Fatalf("for another app: %+v", moved)
	}
	// A plan of another account's key is not followed.
	foreign, err := Plan(ctx, c, newKey(t), pkg, deployed)
	if err != nil || foreign[0].Nonce != 0 || foreign[0].Address == plan[0].Address {
		t.Fatalf("with another key: %+v, %v", foreign, err)
	}
	if _, err := Deploy(ctx, c, newKey(t), id, pkg, plan, nil); err == nil || !strings.Contains(err.Error(), "plan again") {
		t.Fatalf("deployed with another key: %v", err)
	}
}

// TestDeployTwiceAtOnce: two publishers that follow one plan make one contract.
func TestDeployTwiceAtOnce(t *testing.T) {
	ctx, url, pkg := long(t), node(t, "--block-time", "1"), buildApp(t, certificates)
	c, key := dial(t, url), newKey(t)
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Plan(ctx, c, key, pkg, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if got, err := Deploy(ctx, c, key, id, pkg, plan, nil); err != nil || got[0].Address != plan[0].Address || got[0].CodeHash == "" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n, err := c.nonce(ctx, crypto.PubkeyToAddress(key.PublicKey), "latest"); err != nil || n != 1 {
		t.Errorf("%d transactions, %v, want 1", n, err)
	}
}

// TestPlanSkipsGaps: a nonce is not kept if one below it will not be used.
func TestPlanSkipsGaps(t *testing.T) {
	url := node(t)
	ctx, c, key := long(t), dial(t, url), newKey(t)
	account := crypto.PubkeyToAddress(key.PublicKey)
	at := func(name string, nonce uint64) bsn.Contract {
		return bsn.Contract{Name: name, Nonce: nonce, Address: crypto.CreateAddress(account, nonce).Hex()}
	}
	pkg := pack(t, constant(t, "One", 1), constant(t, "Two", 2))
	for _, c := range []struct {
		name        string
		prior, want []bsn.Contract
	}{
		{"gap before", []bsn.Contract{at("One", 3), at("Two", 4)}, []bsn.Contract{at("One", 0), at("Two", 1)}},
		{"gap between", []bsn.Contract{at("One", 0), at("Two", 2)}, []bsn.Contract{at("One", 0), at("Two", 1)}},
		{"other order", []bsn.Contract{at("One", 1), at("Two", 0)}, []bsn.Contract{at("One", 1), at("Two", 0)}},
		{"half a plan", []bsn.Contract{at("One", 0)}, []bsn.Contract{at("One", 0), at("Two", 1)}},
		{"another app's", []bsn.Contract{at("Uno", 0), at("Two", 1)}, []bsn.Contract{at("One", 0), at("Two", 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Plan(ctx, dial(t, url), key, pkg, c.prior)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
	// In the other order too both get created.
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Deploy(ctx, c, key, id, pkg, []bsn.Contract{at("One", 1), at("Two", 0)}, nil); err != nil {
		t.Error(err)
	}
}

// TestDeployFailure: a constructor's refusal is shown, and uses no nonce.
func TestDeployFailure(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "bsn.yaml", "name: picky\ncontracts: [{name: Picky, source: Picky.sol, args: [1]}]\n")
	write(t, dir, "Picky.sol", `// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;
contract Picky { constructor(uint8 n) { require(n > 1, "one is not enough"); } }`)
	url, pkg := node(t), buildApp(t, dir)
	ctx, c, key := long(t), dial(t, url), newKey(t)
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Plan(ctx, c, key, pkg, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Deploy(ctx, c, key, id, pkg, plan, nil)
	if err == nil || err.Error() != "deploy Picky: the contract refused: one is not enough" {
		t.Errorf("got %v", err)
	}
	if n, err := c.nonce(ctx, crypto.PubkeyToAddress(key.PublicKey), "pending"); err != nil || n != 0 {
		t.Errorf("nonce %d, %v", n, err)
	}
}

// TestDeployWithPrice: on a chain that asks for a price the node's own error shows
// what an empty account lacks.
func TestDeployWithPrice(t *testing.T) {
	url := anvil(t, "--gas-price", "1000000000", "--base-fee", "1000000000")
	ctx, c, key := long(t), dial(t, url), newKey(t)
	id, err := c.ChainID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pkg := pack(t, constant(t, "One", 1))
	plan, err := Plan(ctx, c, key, pkg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Deploy(ctx, c, key, id, pkg, plan, nil); err == nil || !strings.Contains(strings.ToLower(err.Error()), "insufficient funds") {
		t.Fatalf("without coin: %v", err)
	}
	account := crypto.PubkeyToAddress(key.PublicKey)
	if err := c.call(ctx, new(json.RawMessage), "anvil_setBalance", account, "0xde0b6b3a7640000"); err != nil {
		t.Fatal(err)
	}
	if _, err := Deploy(ctx, c, key, id, pkg, plan, nil); err != nil {
		t.Fatalf("with coin: %v", err)
	}
}

// TestToken builds the second example, with its npm package, and moves tokens.
func TestToken(t *testing.T) {
	url, pkg := node(t), buildApp(t, "../../examples/token")
	ctx, c, key := long(t), dial(t, url), newKey(t)
	id, deployed := deploy(ctx, t, c, key, pkg)
	to := "0x00000000000000000000000000000000000000ab"
	r, err := Invoke(ctx, c, key, id, pkg, deployed, "Token", "transfer", Text([]string{to, "5"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Events) != 1 || r.Events[0].Name != "Transfer" {
		t.Errorf("events %+v", r.Events)
	}
	for _, q := range []struct {
		function string
		args     []string
		want     string
	}{
		{"balanceOf", []string{to}, `"5"`},
		{"decimals", nil, "18"},
		{"name", nil, `"River Token"`},
		{"totalSupply", nil, `"1000000000000000000000000"`},
	} {
		got, err := Query(ctx, bsn.Endpoint{HTTP: url}, bsn.Version{Contracts: deployed}, pkg, "Token", q.function, Text(q.args))
		if err != nil || string(got) != q.want {
			t.Errorf("%s: %s, %v, want %s", q.function, got, err, q.want)
		}
	}
	_, err = Invoke(ctx, c, newKey(t), id, pkg, deployed, "Token", "transfer", Text([]string{to, "5"}))
	if err == nil || !strings.Contains(err.Error(), "ERC20InsufficientBalance") {
		t.Errorf("without tokens: %v", err)
	}
}
