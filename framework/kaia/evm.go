package kaia

import (
	"context"
	"encoding/json"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
)

// loadMethods joins the methods of every EVM chain with Kaia's own.
func loadMethods() (bsn.Methods, error) { return evm.LoadMethods(evm.Methods, methodTable) }

// Inspect decodes a transaction in Ethereum's form or in one of Kaia's own, of
// which the sender is not told.
func (*Kaia) Inspect(method string, params json.RawMessage) (bsn.Transaction, error) {
	return evm.Inspect(method, params)
}

// Verify checks that the version's contracts are on the chain.
func (*Kaia) Verify(ctx context.Context, e bsn.Endpoint, v bsn.Version) error {
	return evm.Verify(ctx, e, v)
}

// Query reads from a contract.
func (*Kaia) Query(ctx context.Context, e bsn.Endpoint, v bsn.Version, pkg []byte, contract, function string, args []json.RawMessage) (json.RawMessage, error) {
	return evm.Query(ctx, e, v, pkg, contract, function, args)
}

// Describe lists the contracts and functions of a version's artifact.
func (*Kaia) Describe(pkg []byte) ([]bsn.Interface, error) { return evm.Describe(pkg) }
