package evm

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openbsn/bsn"
)

// PublicName is what public chains that speak the Ethereum JSON-RPC are configured with.
const PublicName = "ethereum"

// Public is how a gateway speaks with an EVM chain that the network does not run. It
// keeps no state of its own and may be used by many goroutines at once.
type Public struct{ methods bsn.Methods }

// NewPublic returns it with the table of the standard methods.
func NewPublic() (*Public, error) {
	methods, err := LoadMethods(Methods)
	if err != nil {
		return nil, fmt.Errorf("load the standard method table: %w", err)
	}
	return &Public{methods}, nil
}

// Methods is the table of the methods that may pass a gateway.
func (p *Public) Methods() bsn.Methods { return p.methods }

// Inspect decodes a transaction in Ethereum's form.
func (*Public) Inspect(method string, params json.RawMessage) (bsn.Transaction, error) {
	return Inspect(method, params)
}

// Query reads from a contract.
func (*Public) Query(ctx context.Context, e bsn.Endpoint, v bsn.Version, pkg []byte, contract, function string, args []json.RawMessage) (json.RawMessage, error) {
	return Query(ctx, e, v, pkg, contract, function, args)
}

// Describe lists the contracts and functions of a version's artifact.
func (*Public) Describe(pkg []byte) ([]bsn.Interface, error) { return Describe(pkg) }
