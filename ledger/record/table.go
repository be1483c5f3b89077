// Package record stores the network's records on the ledger. A record is kept as
// the JSON of its type in the root package, so that what is stored, what a
// listing prints and what a follower receives are the same bytes, readable in
// any language. Every write emits the new state as an event: followers never
// have to ask what a block changed.
package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	"cosmossdk.io/core/appmodule"
	corestore "cosmossdk.io/core/store"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
)

// EventType is the type of the event that a write emits, with the attributes
// kind, id and record.
const EventType = "bsn.record"

// MaxRecord is the most bytes of a record in JSON: every change of a record
// stores and emits the whole of it.
const MaxRecord = 256 << 10

// maxPage is the most bytes of a page, but for its last record.
const maxPage = 4 << 20

// Table holds the records of one kind by id.
type Table[T any] struct {
	kind bsn.Kind
	m    collections.Map[string, T]
}

// NewTable declares the table of a kind in a module's store.
func NewTable[T any](sb *collections.SchemaBuilder, prefix byte, kind bsn.Kind) Table[T] {
	return Table[T]{kind, collections.NewMap(sb, collections.NewPrefix([]byte{prefix}), string(kind), collections.StringKey, JSON[T]())}
}

// Get returns a record. Error: bsn.ErrNoRecord.
func (t Table[T]) Get(ctx context.Context, id string) (T, error) {
	v, err := t.m.Get(ctx, id)
	if errors.Is(err, collections.ErrNotFound) {
		return v, fmt.Errorf("%s %q: %w", t.kind, id, bsn.ErrNoRecord)
	}
	return v, err
}

// Has tells whether there is a record of this id.
func (t Table[T]) Has(ctx context.Context, id string) (bool, error) { return t.m.Has(ctx, id) }

// Set stores a record of at most [MaxRecord] bytes and emits it.
func (t Table[T]) Set(ctx context.Context, id string, v T) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", t.kind, id, err)
	}
	if len(b) > MaxRecord {
		return fmt.Errorf("%s %q would have %d bytes: the most is %d", t.kind, id, len(b), MaxRecord)
	}
	if err := t.m.Set(ctx, id, v); err != nil {
		return fmt.Errorf("store %s %q: %w", t.kind, id, err)
	}
	sdk.UnwrapSDKContext(ctx).EventManager().EmitEvent(sdk.NewEvent(EventType,
		sdk.NewAttribute("kind", string(t.kind)), sdk.NewAttribute("id", id), sdk.NewAttribute("record", string(b))))
	return nil
}

// Remove forgets a record. Followers are not told: what they know of it stays true.
func (t Table[T]) Remove(ctx context.Context, id string) error {
	if err := t.m.Remove(ctx, id); err != nil {
		return fmt.Errorf("remove %s %q: %w", t.kind, id, err)
	}
	return nil
}

// Each calls f for all records with ids after the given one, in order of id,
// until f returns false.
func (t Table[T]) Each(ctx context.Context, after string, f func(id string, v T) (more bool, err error)) error {
	r := new(collections.Range[string])
	if after != "" {
		r = r.StartExclusive(after)
	}
	it, err := t.m.Iterate(ctx, r)
	if err != nil {
		return fmt.Errorf("read %ss: %w", t.kind, err)
	}
	defer it.Close()
	for ; it.Valid(); it.Next() {
		kv, err := it.KeyValue()
		if err != nil {
			return fmt.Errorf("read %s: %w", t.kind, err)
		}
		if more, err := f(kv.Key, kv.Value); err != nil || !more {
			return err
		}
	}
	return nil
}

// Kind is the kind of the table's records.
func (t Table[T]) Kind() bsn.Kind { return t.kind }

// Read returns a record in JSON.
func (t Table[T]) Read(ctx context.Context, id string) (json.RawMessage, error) {
	v, err := t.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// Page returns up to limit records with ids after the given one, and fewer where
// they are large: it has come to the end only when it returns none.
func (t Table[T]) Page(ctx context.Context, after string, limit int) ([]bsn.Change, error) {
	var out []bsn.Change
	size := 0
	err := t.Each(ctx, after, func(id string, v T) (bool, error) {
		b, err := json.Marshal(v)
		out = append(out, bsn.Change{Kind: t.kind, ID: id, Record: b})
		size += len(b)
		return len(out) < limit && size < maxPage, err
	})
	return out, err
}

// Export returns all records, for a genesis.
func (t Table[T]) Export(ctx context.Context) (map[string]T, error) {
	out := map[string]T{}
	return out, t.Each(ctx, "", func(id string, v T) (bool, error) {
		out[id] = v
		return true, nil
	})
}

// Import stores what Export returned.
func (t Table[T]) Import(ctx context.Context, in map[string]T) error {
	// The shape of the state tree depends on the order of insertion: keep it fixed.
	for _, id := range SortedKeys(in) {
		if err := t.Set(ctx, id, in[id]); err != nil {
			return err
		}
	}
	return nil
}

// Count adds one to the number of what an owner has, of which there may be max.
func Count(ctx context.Context, counts collections.Map[string, uint64], owner string, max uint64) error {
	n, err := counts.Get(ctx, owner)
	if err != nil && !errors.Is(err, collections.ErrNotFound) {
		return fmt.Errorf("count: %w", err)
	}
	if n >= max {
		return fmt.Errorf("there are %d: the most is %d", n, max)
	}
	return counts.Set(ctx, owner, n+1)
}

// Reader is a table without its type, for queries.
type Reader interface {
	Kind() bsn.Kind
	Read(ctx context.Context, id string) (json.RawMessage, error)
	Page(ctx context.Context, after string, limit int) ([]bsn.Change, error)
}

// None is the table of a kind of which there is nothing yet.
type None bsn.Kind

// Kind implements Reader.
func (n None) Kind() bsn.Kind { return bsn.Kind(n) }

// Read implements Reader.
func (n None) Read(_ context.Context, id string) (json.RawMessage, error) {
	return nil, fmt.Errorf("%s %q: %w", string(n), id, bsn.ErrNoRecord)
}

// Page implements Reader.
func (None) Page(context.Context, string, int) ([]bsn.Change, error) { return nil, nil }

// Schema builds a module's collections with build and checks them.
func Schema(store corestore.KVStoreService, build func(*collections.SchemaBuilder)) {
	sb := collections.NewSchemaBuilder(store)
	build(sb)
	if _, err := sb.Build(); err != nil {
		panic(err) // two collections of a module share a prefix or a name
	}
}

var _ appmodule.AppModule = Module{}
