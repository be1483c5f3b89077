// Package cosmos is what a gateway knows of public chains that are built with the Cosmos
// SDK: the methods of their nodes' JSON-RPC (CometBFT), REST and gRPC.
package cosmos

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/methods"
)

// Name is what such chains are configured with.
const Name = "cosmos"

//go:embed methods.yaml
var table []byte

// maxTransaction bounds a raw transaction; CometBFT's own default is as much.
const maxTransaction = 1 << 20

// Public is how a gateway speaks with a chain that the network does not run. It keeps
// no state and may be used by many goroutines at once.
type Public struct{ methods bsn.Methods }

var nameForm = regexp.MustCompile(`^[a-z][a-z_]*$`)

// NewPublic returns it with the table.
func NewPublic() (*Public, error) {
	m, err := methods.Load(func(name string) error {
		if !nameForm.MatchString(name) {
			return errors.New("a method of CometBFT is called like_this")
		}
		return nil
	}, table)
	if err != nil {
		return nil, fmt.Errorf("load the method table of Cosmos chains: %w", err)
	}
	return &Public{m}, nil
}

// Methods is the table of what may pass a gateway.
func (p *Public) Methods() bsn.Methods { return p.methods }

// Inspect reads the transaction of a broadcast method of CometBFT: its bytes and their
// hash. What is in it depends on the chain, so that sender and receiver are not told.
func (*Public) Inspect(_ string, params json.RawMessage) (tx bsn.Transaction, err error) {
	var named struct {
		Tx string `json:"tx"`
	}
	var listed []string
	if err := json.Unmarshal(params, &listed); err == nil && len(listed) == 1 {
		named.Tx = listed[0]
	} else if err := json.Unmarshal(params, &named); err != nil || named.Tx == "" {
		return tx, errors.New("params must be the transaction in base64: {\"tx\":\"…\"}")
	}
	if tx.Raw, err = base64.StdEncoding.DecodeString(named.Tx); err != nil {
		return tx, fmt.Errorf("tx is not in base64: %w", err)
	}
	if len(tx.Raw) == 0 || len(tx.Raw) > maxTransaction {
		return tx, fmt.Errorf("a transaction has 1 to %d bytes", maxTransaction)
	}
	tx.Hash = fmt.Sprintf("%X", sha256.Sum256(tx.Raw))
	return tx, nil
}

var errNoApps = errors.New("apps are not published on public Cosmos chains")

// Query fails: no app has contracts there.
func (*Public) Query(context.Context, bsn.Endpoint, bsn.Version, []byte, string, string, []json.RawMessage) (json.RawMessage, error) {
	return nil, errNoApps
}

// Describe fails likewise.
func (*Public) Describe([]byte) ([]bsn.Interface, error) { return nil, errNoApps }
