package evm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/openbsn/bsn"
)

// Verify checks on a node that every contract of a version is on the chain with
// the code that the version's record says.
func Verify(ctx context.Context, e bsn.Endpoint, v bsn.Version) error {
	if len(v.Contracts) == 0 {
		return errors.New("the version has no contracts")
	}
	c := newClient(e.HTTP, nil)
	for _, contract := range v.Contracts {
		if !common.IsHexAddress(contract.Address) {
			return fmt.Errorf("contract %s: %q is no address", contract.Name, contract.Address)
		}
		code, err := c.code(ctx, common.HexToAddress(contract.Address))
		if err != nil {
			return fmt.Errorf("contract %s: %w", contract.Name, err)
		}
		if len(code) == 0 {
			return fmt.Errorf("contract %s: no code at %s", contract.Name, contract.Address)
		}
		if contract.CodeHash == "" {
			return fmt.Errorf("contract %s: its publisher has not recorded its code yet", contract.Name)
		}
		if got := codeHash(code); got != contract.CodeHash {
			return fmt.Errorf("contract %s: the code at %s has SHA-256 %s, the record says %s", contract.Name, contract.Address, got, contract.CodeHash)
		}
	}
	return nil
}

func codeHash(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// Query calls a function that changes nothing, on the newest block. Arguments
// are as for [Encode]. The result is the function's value in JSON: integers of
// up to 48 bits as numbers and wider ones as decimal strings, whatever their
// value; addresses with their checksum, bytes as 0x hex, tuples as objects;
// several results as an object if all are named, and else as an array; null for
// none. A revert is an error with its reason.
func Query(ctx context.Context, e bsn.Endpoint, v bsn.Version, pkg []byte, contract, function string, args []json.RawMessage) (json.RawMessage, error) {
	target, parsed, m, err := find(pkg, contract, function)
	if err != nil {
		return nil, err
	}
	if !m.IsConstant() {
		return nil, fmt.Errorf("%s changes the contract: it takes a signed call, not a query", m.Sig)
	}
	data, err := encodeCall(m, args)
	if err != nil {
		return nil, err
	}
	address, err := addressOf(v.Contracts, target.Name)
	if err != nil {
		return nil, err
	}
	c := newClient(e.HTTP, nil)
	result, err := c.simulate(ctx, message{To: &address, Data: data}, "latest")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Sig, reason(parsed, err))
	}
	if len(result) == 0 && len(m.Outputs) > 0 {
		return nil, fmt.Errorf("%s: contract %s is not at %s", m.Sig, target.Name, address)
	}
	value, err := formatResult(m.Outputs, result)
	if err != nil {
		return nil, fmt.Errorf("%s: read result: %w", m.Sig, err)
	}
	return value, nil
}

func addressOf(contracts []bsn.Contract, name string) (common.Address, error) {
	for _, c := range contracts {
		if c.Name == name {
			if !common.IsHexAddress(c.Address) {
				return common.Address{}, fmt.Errorf("contract %s: %q is no address", name, c.Address)
			}
			return common.HexToAddress(c.Address), nil
		}
	}
	return common.Address{}, fmt.Errorf("this version has no contract %s", name)
}

// Reverted is a call that the contract itself refused.
type Reverted struct {
	// Reason is the text of a require or revert, the name and arguments of the
	// contract's own error as in Unknown({"id":"7"}), or what a panic means; empty
	// if the contract gave none.
	Reason string
}

func (e *Reverted) Error() string {
	if e.Reason == "" {
		return "the contract refused without a reason"
	}
	return "the contract refused: " + e.Reason
}

// reason turns a node's error about a revert into a [Reverted].
func reason(a abi.ABI, err error) error {
	var answer *rpcError
	if !errors.As(err, &answer) {
		return err
	}
	data, ok := answer.reverted()
	if !ok {
		return err
	}
	return &Reverted{Reason: revertText(a, data)}
}

func revertText(a abi.ABI, data []byte) string {
	if text, err := abi.UnpackRevert(data); err == nil {
		return text
	}
	if len(data) < 4 {
		return ""
	}
	for _, e := range a.Errors {
		if [4]byte(e.ID[:4]) != [4]byte(data) {
			continue
		}
		if len(e.Inputs) == 0 {
			return e.Name
		}
		if args, err := formatArguments(e.Inputs, data[4:]); err == nil {
			return fmt.Sprintf("%s(%s)", e.Name, args)
		}
	}
	return fmt.Sprintf("error 0x%x, which its interface does not name", data[:min(len(data), 36)])
}
