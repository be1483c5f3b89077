package evm

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
)

// Receipt is what came of a call that is in a block.
type Receipt struct {
	Hash    string  `json:"hash"`
	Block   uint64  `json:"block"`
	Status  uint64  `json:"status"` // 1 succeeded, 0 failed
	GasUsed uint64  `json:"gasUsed"`
	Events  []Event `json:"events"`
}

// Event is a log entry of a call. Those of contracts that the app's package does
// not describe have Topics and Data instead of Name and Args.
type Event struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"`
	// Args by name, in the form of a query's result. An indexed value of variable
	// length is its Keccak-256 hash: the chain keeps nothing else.
	Args   json.RawMessage `json:"args,omitempty"`
	Topics []string        `json:"topics,omitempty"`
	Data   string          `json:"data,omitempty"`
}

// Invoke calls a function of a contract with a transaction from the account that
// holds the key, and waits until it is in a block. Arguments are as for [Encode].
// It is simulated first, so that what the contract refuses (a [Reverted] error)
// costs no transaction. If the transaction failed nevertheless, the receipt comes
// with an error.
func Invoke(ctx context.Context, c *Client, key *ecdsa.PrivateKey, chainID uint64, pkg []byte, contracts []bsn.Contract, contract, function string, args []json.RawMessage) (Receipt, error) {
	target, parsed, m, err := find(pkg, contract, function)
	if err != nil {
		return Receipt{}, err
	}
	data, err := encodeCall(m, args)
	if err != nil {
		return Receipt{}, err
	}
	address, err := addressOf(contracts, target.Name)
	if err != nil {
		return Receipt{}, err
	}
	account := crypto.PubkeyToAddress(key.PublicKey)
	msg := message{From: &account, To: &address, Data: data}
	if _, err := c.simulate(ctx, msg, "latest"); err != nil {
		return Receipt{}, fmt.Errorf("%s: %w", m.Sig, reason(parsed, err))
	}
	code, err := c.code(ctx, address)
	if err == nil && len(code) == 0 {
		err = fmt.Errorf("contract %s is not at %s", target.Name, address)
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("%s: %w", m.Sig, err)
	}
	r, err := c.transact(ctx, key, chainID, msg)
	if err != nil {
		return Receipt{}, fmt.Errorf("%s: %w", m.Sig, reason(parsed, err))
	}
	result := Receipt{Hash: r.Hash.Hex(), Block: uint64(r.Block), Status: uint64(r.Status), GasUsed: uint64(r.GasUsed)}
	if result.Events, err = decodeEvents(pkg, contracts, r.Logs); err != nil {
		return result, fmt.Errorf("%s: read events: %w", m.Sig, err)
	}
	if r.Status != 1 {
		// Between simulation and block something changed; the state after that block
		// most likely still says what.
		_, err := c.simulate(ctx, msg, r.Block.String())
		return result, fmt.Errorf("%s: transaction %s failed in block %d: %w", m.Sig, result.Hash, result.Block, failure(parsed, err))
	}
	return result, nil
}

func failure(a abi.ABI, err error) error {
	var refused *Reverted
	if err != nil && errors.As(reason(a, err), &refused) {
		return refused
	}
	return errors.New("the node gives no reason")
}

// transact sends a message in a transaction. Where another transaction of the
// account took the nonce first, it takes the next one.
func (c *Client) transact(ctx context.Context, key *ecdsa.PrivateKey, chainID uint64, msg message) (*receipt, error) {
	const attempts = 10
	price, err := c.gasPrice(ctx)
	if err != nil {
		return nil, err
	}
	var gas hexutil.Uint64
	if err := c.call(ctx, &gas, "eth_estimateGas", msg); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		nonce, err := c.nonce(ctx, *msg.From, "pending")
		if err != nil {
			return nil, err
		}
		// Half as much again, since the state may change before the block. The few
		// random units keep two equal calls that are made at once, by two programs
		// with one key, from being one and the same transaction.
		limit := uint64(gas) + uint64(gas)/2 + rand.Uint64N(1<<10)
		tx, err := sign(key, chainID, &types.LegacyTx{Nonce: nonce, GasPrice: price, Gas: limit, To: msg.To, Data: msg.Data})
		if err != nil {
			return nil, err
		}
		r, err := c.deliver(ctx, tx, true)
		if !errors.Is(err, errNonceTaken) || attempt == attempts {
			return r, err
		}
		if err := pause(ctx, poll); err != nil {
			return nil, err
		}
	}
}

// decodeEvents reads logs by the ABIs of the app's contracts at their addresses.
func decodeEvents(pkg []byte, contracts []bsn.Contract, logs []log) ([]Event, error) {
	described, err := Contracts(pkg)
	if err != nil {
		return nil, err
	}
	abis := make(map[common.Address]abi.ABI)
	for _, d := range described {
		address, err := addressOf(contracts, d.Name)
		if err != nil {
			continue // the version has other contracts than the package: not for events to judge
		}
		if abis[address], err = parseABI(d.ABI); err != nil {
			return nil, fmt.Errorf("contract %s: %w", d.Name, err)
		}
	}
	events := make([]Event, 0, len(logs))
	for _, l := range logs {
		e, ok := decodeEvent(abis[l.Address], l)
		if !ok {
			e = Event{Data: l.Data.String()}
			for _, t := range l.Topics {
				e.Topics = append(e.Topics, t.Hex())
			}
		}
		e.Address = l.Address.Hex()
		events = append(events, e)
	}
	return events, nil
}

// decodeEvent reads one log. Indexed values stand in the topics, each in a word
// of its own, and the others together in the data.
func decodeEvent(a abi.ABI, l log) (Event, bool) {
	for _, e := range a.Events {
		if e.Anonymous || len(l.Topics) == 0 || l.Topics[0] != e.ID {
			continue
		}
		var f formatter
		topics, at := l.Topics[1:], 0
		f.out.WriteByte('{')
		for i, in := range e.Inputs {
			if i > 0 {
				f.out.WriteByte(',')
			}
			f.text(label(in, i))
			f.out.WriteByte(':')
			if !in.Indexed {
				content, err := body(l.Data, at, in.Type)
				if err != nil || f.value(in.Type, content) != nil {
					return Event{}, false
				}
				at += headSize(in.Type)
				continue
			}
			if len(topics) == 0 {
				return Event{}, false
			}
			if hashed(in.Type) {
				f.text(topics[0].Hex())
			} else if f.value(in.Type, topics[0][:]) != nil {
				return Event{}, false
			}
			topics = topics[1:]
		}
		f.out.WriteByte('}')
		return Event{Name: e.RawName, Args: f.out.Bytes()}, len(topics) == 0
	}
	return Event{}, false
}

// hashed tells which indexed values are in a topic as their hash only.
func hashed(t abi.Type) bool {
	return isDynamic(t) || t.T == abi.ArrayTy || t.T == abi.TupleTy
}
