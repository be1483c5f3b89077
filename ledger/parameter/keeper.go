// Package parameter is the ledger's module of the network's parameters, which
// the operators change by vote.
package parameter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corestore "cosmossdk.io/core/store"

	"cosmossdk.io/collections"
	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/parameterpb"
	"github.com/openbsn/bsn/ledger/record"
)

// StoreKey names the module's store.
const StoreKey = "bsn-parameter"

// Keeper holds the parameters.
type Keeper struct {
	authority string
	version   uint64
	Records   record.Table[bsn.Parameters]
}

// NewKeeper opens the module's store under a protocol version. Only authority changes
// parameters.
func NewKeeper(store corestore.KVStoreService, authority string, version uint64) *Keeper {
	k := &Keeper{authority: authority, version: version}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Records = record.NewTable[bsn.Parameters](sb, 1, bsn.KindParameters)
	})
	return k
}

// Get returns the parameters as they are now.
func (k *Keeper) Get(ctx context.Context) (bsn.Parameters, error) {
	p, err := k.Records.Get(ctx, bsn.ParametersID)
	if err != nil && !errors.Is(err, bsn.ErrNoRecord) {
		return p, err
	}
	return p.Complete(), nil // a parameter that is newer than the network has its default
}

// Change sets one parameter.
func (k *Keeper) Change(ctx context.Context, m *pb.MsgSetParameter) error {
	if m.Authority != k.authority {
		return errors.New("parameters are changed by the operators' vote")
	}
	p, err := k.Get(ctx)
	if err != nil {
		return err
	}
	if p, err = p.With(k.version, m.Name, m.Value); err != nil {
		return err
	}
	return k.Records.Set(ctx, bsn.ParametersID, p.At(k.version))
}

// Genesis is the module's genesis with these parameters; what is zero has its
// default. The error names the one that is out of bounds.
func Genesis(p bsn.Parameters) (json.RawMessage, error) {
	if err := p.Complete().Check(); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	return json.Marshal(p)
}
