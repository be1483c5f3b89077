// Package upgrade is the ledger's module of protocol versions: which rules hold,
// and from which block on others will. What the versions are the application
// knows.
package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/record"
)

// StoreKey names the module's store.
const StoreKey = "bsn-upgrade"

const (
	// minAhead is how many blocks there must be between a decision and its upgrade.
	minAhead = 5
	// maxAhead bounds it: some years of blocks.
	maxAhead = 1 << 30
	maxName  = 64
	maxURL   = 256
)

// Keeper holds the protocol's record.
type Keeper struct {
	authority string
	Records   record.Table[bsn.Protocol]
}

// NewKeeper opens the module's store. Only authority plans upgrades.
func NewKeeper(store corestore.KVStoreService, authority string) *Keeper {
	k := &Keeper{authority: authority}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Records = record.NewTable[bsn.Protocol](sb, 1, bsn.KindProtocol)
	})
	return k
}

// Get returns the protocol as the state has it. A state without a record is of
// version 1.
func (k *Keeper) Get(ctx context.Context) (bsn.Protocol, error) {
	p, err := k.Records.Get(ctx, bsn.ProtocolID)
	if errors.Is(err, bsn.ErrNoRecord) {
		return bsn.Protocol{Version: 1}, nil
	}
	return p, err
}

// Plan sets the next upgrade, in place of one that was planned before. Whether the
// binaries know the version is not looked at: each would answer differently.
func (k *Keeper) Plan(ctx context.Context, u bsn.Upgrade, height int64) error {
	p, err := k.Get(ctx)
	if err != nil {
		return err
	}
	switch {
	case u.Version <= p.Version:
		return fmt.Errorf("the ledger follows protocol version %d already", p.Version)
	case u.Height < height+minAhead || u.Height > height+maxAhead:
		return fmt.Errorf("the ledger is at block %d: upgrade at block %d or later", height, height+minAhead)
	case p.Next != nil && p.Next.Height <= height+1:
		return fmt.Errorf("the upgrade to protocol version %d takes place with the next block", p.Next.Version)
	case len(u.Name) > maxName || len(u.URL) > maxURL:
		return fmt.Errorf("name and URL of an upgrade may have %d and %d bytes", maxName, maxURL)
	}
	p.Next = &u
	return k.Records.Set(ctx, bsn.ProtocolID, p)
}

// Cancel drops the planned upgrade to a version.
func (k *Keeper) Cancel(ctx context.Context, version uint64, height int64) error {
	p, err := k.Get(ctx)
	if err != nil {
		return err
	}
	if p.Next == nil || p.Next.Version != version {
		return fmt.Errorf("no upgrade to protocol version %d is planned", version)
	}
	if p.Next.Height <= height+1 {
		return fmt.Errorf("the upgrade to protocol version %d takes place with the next block", version)
	}
	p.Next = nil
	return k.Records.Set(ctx, bsn.ProtocolID, p)
}

// Done records that the planned upgrade has taken place.
func (k *Keeper) Done(ctx context.Context) error {
	p, err := k.Get(ctx)
	if err != nil {
		return err
	}
	if p.Next == nil {
		return errors.New("no upgrade is planned")
	}
	p.Version, p.Upgrades, p.Next = p.Next.Version, append(p.Upgrades, *p.Next), nil
	return k.Records.Set(ctx, bsn.ProtocolID, p)
}

// State is the module's genesis.
type State struct {
	Version uint64 `json:"version"`
}

// Genesis is the module's genesis at a version.
func Genesis(version uint64) json.RawMessage {
	b, err := json.Marshal(State{version})
	if err != nil {
		panic(err) // a number always has a JSON form
	}
	return b
}

// init begins at the genesis's version. What was planned under another chain id
// named its heights.
func (k *Keeper) init(ctx context.Context, s State) error {
	p := bsn.Protocol{Version: max(1, s.Version)}
	if p.Version > 1 {
		p.Upgrades = []bsn.Upgrade{{Version: p.Version}}
	}
	return k.Records.Set(ctx, bsn.ProtocolID, p)
}
