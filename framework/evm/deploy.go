package evm

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
)

// creationGas is the gas limit of every creation: the most that a transaction
// may have (EIP-7825), which any contract of legal size stays below. Being fixed,
// the creation of a contract is the very same transaction whoever makes it again.
const creationGas = 1 << 24

// Plan fixes the nonce and with it the address of every contract of a package,
// for the account that holds the key. The result belongs on the ledger before
// [Deploy] begins.
//
// Prior is the plan of an interrupted publication of the same version. What of it
// still holds is kept: a contract that is on the chain already, and one whose
// nonce no other transaction has taken. So a publisher that was cut off makes the
// same transactions again, and no second contract.
func Plan(ctx context.Context, c *Client, key *ecdsa.PrivateKey, pkg []byte, prior []bsn.Contract) ([]bsn.Contract, error) {
	contracts, err := Contracts(pkg)
	if err != nil {
		return nil, err
	}
	chainID, err := c.ChainID(ctx)
	if err != nil {
		return nil, fmt.Errorf("plan deployment: %w", err)
	}
	account := crypto.PubkeyToAddress(key.PublicKey)
	mined, err := c.nonce(ctx, account, "latest")
	if err != nil {
		return nil, fmt.Errorf("plan deployment: %w", err)
	}
	next, err := c.nonce(ctx, account, "pending")
	if err != nil {
		return nil, fmt.Errorf("plan deployment: %w", err)
	}
	next = max(next, mined)

	plan := make([]bsn.Contract, len(contracts))
	var unused []int // kept contracts whose nonce is still free, as indices
	for i, contract := range contracts {
		if i >= len(prior) || prior[i].Name != contract.Name || !strings.EqualFold(prior[i].Address, crypto.CreateAddress(account, prior[i].Nonce).Hex()) {
			continue
		}
		keep := prior[i].Nonce >= mined
		if !keep {
			d := deployment{client: c, key: key, chainID: chainID, contract: contract, nonce: prior[i].Nonce}
			code, err := d.done(ctx)
			if err != nil {
				return nil, fmt.Errorf("plan deployment: %w", err)
			}
			keep = code != nil
		}
		if keep {
			plan[i] = prior[i]
		}
		if keep && prior[i].Nonce >= next {
			unused = append(unused, i)
		}
	}
	// A nonce is good only if all below it get used too.
	slices.SortFunc(unused, func(a, b int) int { return cmp.Compare(plan[a].Nonce, plan[b].Nonce) })
	for _, i := range unused {
		if plan[i].Nonce != next {
			plan[i] = bsn.Contract{}
			continue
		}
		next++
	}
	for i, contract := range contracts {
		if plan[i].Name == "" {
			plan[i] = bsn.Contract{Name: contract.Name, Nonce: next, Address: crypto.CreateAddress(account, next).Hex()}
			next++
		}
	}
	return plan, nil
}

// Deploy creates the planned contracts that are not on the chain yet, one after
// the other, and returns the plan with the hash of each contract's code. It tells
// progress, if that is not nil, what it does. Called again after an interruption
// it goes on where it stopped.
//
// Transactions are legacy ones (type 0), which every chain of the family takes,
// with a gas price of 0 where the node asks for none.
func Deploy(ctx context.Context, c *Client, key *ecdsa.PrivateKey, chainID uint64, pkg []byte, plan []bsn.Contract, progress func(string)) ([]bsn.Contract, error) {
	contracts, err := Contracts(pkg)
	if err != nil {
		return nil, err
	}
	if len(contracts) != len(plan) {
		return nil, fmt.Errorf("the package has %d contracts, the plan %d", len(contracts), len(plan))
	}
	if progress == nil {
		progress = func(string) {}
	}
	account := crypto.PubkeyToAddress(key.PublicKey)
	deployed := slices.Clone(plan)
	order := make([]int, len(plan))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(plan[a].Nonce, plan[b].Nonce) })
	for _, i := range order {
		contract := contracts[i]
		if want := crypto.CreateAddress(account, plan[i].Nonce).Hex(); plan[i].Name != contract.Name || !strings.EqualFold(plan[i].Address, want) {
			return nil, fmt.Errorf("the plan has %s at %s where the package has %s and nonce %d leads to %s: plan again",
				plan[i].Name, plan[i].Address, contract.Name, plan[i].Nonce, want)
		}
		d := deployment{client: c, key: key, chainID: chainID, contract: contract, nonce: plan[i].Nonce}
		code, err := d.run(ctx, progress)
		if err != nil {
			return nil, fmt.Errorf("deploy %s: %w", contract.Name, err)
		}
		deployed[i].CodeHash = codeHash(code)
	}
	return deployed, nil
}

// deployment is the creation of one contract.
type deployment struct {
	client   *Client
	key      *ecdsa.PrivateKey
	chainID  uint64
	contract Contract
	nonce    uint64
}

func (d deployment) account() common.Address { return crypto.PubkeyToAddress(d.key.PublicKey) }

func (d deployment) address() common.Address { return crypto.CreateAddress(d.account(), d.nonce) }

// transaction signs the creation. The signature is deterministic (RFC 6979), so
// that the same price gives the same bytes.
func (d deployment) transaction(price *big.Int) (*types.Transaction, error) {
	return sign(d.key, d.chainID, &types.LegacyTx{Nonce: d.nonce, GasPrice: price, Gas: creationGas, Data: d.contract.Bytecode})
}

// done returns the contract's code if this deployment has happened, and nil if
// not. The account may have used the nonce for something else, even for another
// contract, so that code at the address alone says nothing.
func (d deployment) done(ctx context.Context) ([]byte, error) {
	code, err := d.client.code(ctx, d.address())
	if err != nil || len(code) == 0 {
		return nil, err
	}
	if d.matches(code) {
		return code, nil
	}
	tx, err := d.transaction(new(big.Int))
	if err != nil {
		return nil, err
	}
	r, err := d.client.receipt(ctx, tx.Hash())
	if err != nil || r == nil || r.Status != 1 {
		return nil, err
	}
	return code, nil
}

// matches compares code on the chain with what the compiler expected there. Where
// the compiler left zeros the creation may have filled in immutable values.
func (d deployment) matches(code []byte) bool {
	if len(d.contract.Runtime) == 0 || len(code) != len(d.contract.Runtime) {
		return false
	}
	for i, b := range d.contract.Runtime {
		if b != 0 && b != code[i] {
			return false
		}
	}
	return true
}

// run makes the creation happen and returns the contract's code.
func (d deployment) run(ctx context.Context, progress func(string)) ([]byte, error) {
	if code, err := d.done(ctx); err != nil {
		return nil, err
	} else if code != nil {
		progress(fmt.Sprintf("%s is at %s already", d.contract.Name, d.address()))
		return code, nil
	}
	// A creation that would fail is not sent: it would use up the nonce, and a
	// simulation alone says why.
	account := d.account()
	parsed, err := parseABI(d.contract.ABI)
	if err != nil {
		return nil, err
	}
	if _, err := d.client.simulate(ctx, message{From: &account, Gas: creationGas, Data: d.contract.Bytecode}, "latest"); err != nil {
		return nil, reason(parsed, err)
	}
	price, err := d.client.gasPrice(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := d.transaction(price)
	if err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("creating %s at %s with transaction %s", d.contract.Name, d.address(), tx.Hash()))
	r, err := d.client.deliver(ctx, tx, false)
	switch {
	case errors.Is(err, errDisplaced):
		// On a chain with a price an earlier attempt may have offered another one.
		code, doneErr := d.done(ctx)
		if doneErr != nil || code == nil {
			return nil, errors.Join(err, doneErr)
		}
		return code, nil
	case err != nil:
		return nil, err
	case r.Status != 1:
		return nil, fmt.Errorf("the creation failed in block %d after %d gas (transaction %s)", r.Block, r.GasUsed, tx.Hash())
	}
	progress(fmt.Sprintf("%s is in block %d", d.contract.Name, r.Block))
	return d.client.awaitCode(ctx, d.address())
}

// sign signs a transaction for a chain (EIP-155).
func sign(key *ecdsa.PrivateKey, chainID uint64, tx types.TxData) (*types.Transaction, error) {
	signed, err := types.SignNewTx(key, types.LatestSignerForChainID(new(big.Int).SetUint64(chainID)), tx)
	if err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	return signed, nil
}

// awaitCode waits for a node that knows the code: behind a gateway the next
// answer may come from one that is a block behind.
func (c *Client) awaitCode(ctx context.Context, address common.Address) ([]byte, error) {
	for deadline := time.Now().Add(patience); ; {
		code, err := c.code(ctx, address)
		if err == nil && len(code) > 0 {
			return code, nil
		}
		if time.Now().After(deadline) {
			if err == nil {
				err = fmt.Errorf("the creation succeeded, but there is no code at %s", address)
			}
			return nil, err
		}
		if err := pause(ctx, poll); err != nil {
			return nil, err
		}
	}
}
