package writer

import (
	"context"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn/ledger/record"
)

// UseKey names the store of what writers wrote in the last hour, since protocol
// version 2. Under version 1 the counts lie beside the keys and stay for ever.
const UseKey = "bsn-use"

// sweep is how many counts that are over a write removes at most: more than it can
// add, so that they become fewer, and a bounded number.
const sweep = 4

// uses are the counts of what was written in an hour.
type uses struct {
	byID collections.Map[string, use] // by kind/name, or kind/name/address
	// ends has the counts in the order in which they are over; nil under version 1.
	ends *collections.KeySet[collections.Pair[int64, string]]
}

func newUses(sb *collections.SchemaBuilder, prefix int) *uses {
	return &uses{byID: collections.NewMap(sb, collections.NewPrefix(prefix), "used", collections.StringKey, record.JSON[use]())}
}

// SweepUse makes the keeper follow protocol version 2: counts lie in a store of their
// own and are removed once they are over.
func (k *Keeper) SweepUse(store corestore.KVStoreService) {
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.used = newUses(sb, 1)
		ends := collections.NewKeySet(sb, collections.NewPrefix(2), "ends", collections.PairKeyCodec(collections.Int64Key, collections.StringKey))
		k.used.ends = &ends
	})
}

// MigrateUse brings the counts from the store of version 1 to that of version 2, but
// for those that are over.
func (k *Keeper) MigrateUse(ctx sdk.Context, first corestore.KVStoreService) error {
	var old *uses
	record.Schema(first, func(sb *collections.SchemaBuilder) { old = newUses(sb, 2) })
	now := ctx.BlockTime().Unix()
	err := old.byID.Walk(ctx, nil, func(id string, u use) (bool, error) {
		if now-u.Window >= window {
			return false, nil
		}
		return false, k.used.set(ctx, id, u, now)
	})
	if err != nil {
		return fmt.Errorf("move counts of writes: %w", err)
	}
	return old.byID.Clear(ctx, nil)
}

func (s *uses) get(ctx context.Context, id string) (use, error) {
	u, err := s.byID.Get(ctx, id)
	if err != nil && !errors.Is(err, collections.ErrNotFound) {
		return u, fmt.Errorf("read use: %w", err)
	}
	return u, nil
}

// set stores a count and, under version 2, removes some that are over by now.
func (s *uses) set(ctx context.Context, id string, u use, now int64) error {
	if s.ends == nil {
		return s.byID.Set(ctx, id, u)
	}
	before, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	if before.Window != u.Window {
		if err := s.ends.Remove(ctx, collections.Join(before.Window+window, id)); err != nil {
			return fmt.Errorf("store use: %w", err)
		}
	}
	if err := s.ends.Set(ctx, collections.Join(u.Window+window, id)); err != nil {
		return fmt.Errorf("store use: %w", err)
	}
	if err := s.byID.Set(ctx, id, u); err != nil {
		return fmt.Errorf("store use: %w", err)
	}
	return s.sweep(ctx, now)
}

func (s *uses) sweep(ctx context.Context, now int64) error {
	var over []collections.Pair[int64, string]
	err := s.ends.Walk(ctx, nil, func(e collections.Pair[int64, string]) (bool, error) {
		if e.K1() > now {
			return true, nil
		}
		over = append(over, e)
		return len(over) == sweep, nil
	})
	if err != nil {
		return fmt.Errorf("sweep counts of writes: %w", err)
	}
	for _, e := range over {
		if err := errors.Join(s.ends.Remove(ctx, e), s.byID.Remove(ctx, e.K2())); err != nil {
			return fmt.Errorf("sweep counts of writes: %w", err)
		}
	}
	return nil
}
