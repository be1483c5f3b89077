// Package writer knows whose keys may write to the ledger, and how much: there
// are no fees, so an allowance per hour keeps anyone from filling it.
package writer

import (
	"context"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	"github.com/cosmos/cosmos-sdk/crypto/keys/secp256k1"
	sdk "github.com/cosmos/cosmos-sdk/types"
	authkeeper "github.com/cosmos/cosmos-sdk/x/auth/keeper"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/parameter"
	"github.com/openbsn/bsn/ledger/record"
)

// StoreKey names the module's store.
const StoreKey = "bsn-writer"

// window is the span, in seconds of ledger time, over which writes are counted.
const window = 3600

// burst and burstBytes are how many writes of one writer a block takes, and how
// many bytes of them: a quarter of a block, so that nobody fills the blocks; nor
// what waits for one, since that counts as if it were in the next. The accounts of
// a portal together may have portalFactor times as much.
const (
	burst        = 600
	burstBytes   = 256 << 10
	portalFactor = 2
)

// ErrStranger is wrapped where a signer's address is not registered, or not as
// what the message asks for.
var ErrStranger = errors.New("signer may not do this")

// ErrAllowance is wrapped where a writer has used up its writes for the hour.
var ErrAllowance = errors.New("write allowance used up")

// Writer is what an address may act as.
type Writer struct {
	Kind bsn.Kind `json:"kind"` // operator, city, portal or account
	Name string   `json:"name"`
	// Parent is the operator of a city and the portal of an account; what an
	// account writes counts for its portal too.
	Parent string `json:"parent,omitempty"`
	// Threshold is how many keys of an account or operator have to agree. With more
	// than one, a key by itself has no rights but to act with the others.
	Threshold int `json:"threshold,omitempty"`
	// All: the address is that of all keys together, which acts write as.
	All bool `json:"all,omitempty"`
}

// allowance is the number of writes per hour for one writer of a kind. A message
// is one write, or several if it is large or changes much.
func allowance(p bsn.Parameters, kind bsn.Kind) int64 {
	switch kind {
	case bsn.KindOperator:
		return p.OperatorWrites
	case bsn.KindCity:
		return p.CityWrites
	case bsn.KindPortal:
		return p.PortalWrites
	}
	return p.AccountWrites
}

type use struct {
	Window int64 `json:"window"` // since which second
	Count  int64 `json:"count"`
	// Burst and Bytes are what is written in the block of this height.
	Block int64 `json:"block,omitempty"`
	Burst int64 `json:"burst,omitempty"`
	Bytes int64 `json:"bytes,omitempty"`
}

// Keeper holds the registered keys.
type Keeper struct {
	auth       authkeeper.AccountKeeper
	parameters *parameter.Keeper
	writers    collections.Map[string, Writer] // by address
	used       *uses
	ended      collections.Map[string, string] // why a writer is none any more, by kind/name
}

// NewKeeper opens the module's store.
func NewKeeper(store corestore.KVStoreService, auth authkeeper.AccountKeeper, parameters *parameter.Keeper) *Keeper {
	k := &Keeper{auth: auth, parameters: parameters}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.writers = collections.NewMap(sb, collections.NewPrefix(1), "writers", collections.StringKey, record.JSON[Writer]())
		k.used = newUses(sb, 2)
		k.ended = collections.NewMap(sb, collections.NewPrefix(4), "ended", collections.StringKey, collections.StringValue)
	})
	return k
}

// Register makes a compressed secp256k1 public key a writer and returns its
// ledger address. One key is one writer.
func (k *Keeper) Register(ctx context.Context, key []byte, w Writer) (address string, err error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	pub := &secp256k1.PubKey{Key: key}
	acc := sdk.AccAddress(pub.Address())
	address = acc.String()
	if old, err := k.writers.Get(ctx, address); err == nil {
		return "", taken(old)
	} else if !errors.Is(err, collections.ErrNotFound) {
		return "", fmt.Errorf("read writer: %w", err)
	}
	if k.auth.GetAccount(ctx, acc) == nil {
		a := k.auth.NewAccountWithAddress(ctx, acc)
		if err := a.SetPubKey(pub); err != nil {
			return "", fmt.Errorf("set key: %w", err)
		}
		k.auth.SetAccount(ctx, a)
	}
	return address, k.writers.Set(ctx, address, w)
}

// Replace makes another key that of a writer with a single one, in place of the one
// that the old address belongs to, which stops at once, and returns its address.
func (k *Keeper) Replace(ctx context.Context, w Writer, old string, key, proof []byte) (address string, err error) {
	if err := Proven(ctx, w, key, proof); err != nil {
		return "", err
	}
	s, err := public(Offer{PublicKey: key})
	if err != nil || s.Address == old {
		return s.Address, err
	}
	if address, err = k.Register(ctx, key, w); err != nil {
		return "", err
	}
	return address, k.writers.Remove(ctx, old)
}

// Lookup returns what an address may act as. Error: ErrStranger.
func (k *Keeper) Lookup(ctx context.Context, address string) (Writer, error) {
	w, err := k.writers.Get(ctx, address)
	if errors.Is(err, collections.ErrNotFound) {
		return w, fmt.Errorf("%w: address %s is not registered on this network", ErrStranger, address)
	}
	if err != nil {
		return w, fmt.Errorf("read writer: %w", err)
	}
	reason, err := k.ended.Get(ctx, w.id())
	if err == nil {
		return w, fmt.Errorf("%w: %s %q %s", ErrStranger, w.Kind, w.Name, reason)
	}
	if !errors.Is(err, collections.ErrNotFound) {
		return w, fmt.Errorf("read writer: %w", err)
	}
	return w, nil
}

func (w Writer) id() string { return string(w.Kind) + "/" + w.Name }

// End takes a writer's rights away for good, whatever keys it has. The reason
// follows its name in refusals, such as "was evicted".
func (k *Keeper) End(ctx context.Context, kind bsn.Kind, name, reason string) error {
	return k.ended.Set(ctx, Writer{Kind: kind, Name: name}.id(), reason)
}

// As returns the writer behind an address if it is of one of the kinds and may
// write by itself.
func (k *Keeper) As(ctx context.Context, address string, kinds ...bsn.Kind) (Writer, error) {
	w, err := k.Lookup(ctx, address)
	if err != nil {
		return w, err
	}
	for _, kind := range kinds {
		if w.Kind != kind {
			continue
		}
		if w.Threshold > 1 {
			return w, fmt.Errorf("%w: %d keys of %s %q have to agree, this is one: propose an act", ErrStranger, w.Threshold, w.Kind, w.Name)
		}
		return w, nil
	}
	return w, fmt.Errorf("%w: it takes the key of a%s, and %s is the %s %q", ErrStranger, anyOf(kinds), address, w.Kind, w.Name)
}

// Spend counts writes by an address against the allowance of the writer that it is,
// of the hour and of the block, and that of its portal. Where several keys have to
// agree, each has the allowance to itself: one that fell into wrong hands does not
// silence the others. Error: ErrAllowance.
func (k *Keeper) Spend(ctx context.Context, w Writer, address string, writes, bytes int) error {
	p, err := k.parameters.Get(ctx)
	if err != nil {
		return fmt.Errorf("read allowance: %w", err)
	}
	id := w.id()
	if w.Threshold > 1 {
		id += "/" + address
	}
	if err := k.spend(ctx, w, id, allowance(p, w.Kind), 1, writes, bytes); err != nil {
		return err
	}
	if w.Kind == bsn.KindAccount {
		portal := Writer{Kind: bsn.KindPortal, Name: w.Parent}
		return k.spend(ctx, portal, portal.id(), p.PortalWrites, portalFactor, writes, bytes)
	}
	return nil
}

func (k *Keeper) spend(ctx context.Context, w Writer, id string, limit, factor int64, writes, bytes int) error {
	height, now := sdk.UnwrapSDKContext(ctx).BlockHeight(), sdk.UnwrapSDKContext(ctx).BlockTime().Unix()
	u, err := k.used.get(ctx, id)
	if err != nil {
		return err
	}
	if now-u.Window >= window {
		u = use{Window: now}
	}
	if u.Count += int64(writes); u.Count > limit {
		return fmt.Errorf("%w: %s %q may write %d times an hour; again in %d s", ErrAllowance, w.Kind, w.Name, limit, u.Window+window-now)
	}
	if u.Block != height {
		u.Block, u.Burst, u.Bytes = height, 0, 0
	}
	u.Burst += int64(writes)
	u.Bytes += int64(bytes)
	if u.Burst > factor*burst || u.Bytes > factor*burstBytes {
		return fmt.Errorf("%w: %s %q may write %d times and %d bytes in a block; again in the next", ErrAllowance, w.Kind, w.Name, factor*burst, factor*burstBytes)
	}
	return k.used.set(ctx, id, u, now)
}

// CheckKey tells whether b is a compressed secp256k1 public key.
func CheckKey(b []byte) error {
	// The library's own error differs with how it was built, and errors of effects
	// are part of the state.
	if _, err := crypto.DecompressPubkey(b); err != nil {
		return fmt.Errorf("key must be a compressed secp256k1 public key of %d bytes", secp256k1.PubKeySize)
	}
	return nil
}

func anyOf(kinds []bsn.Kind) string {
	s := ""
	for i, k := range kinds {
		if i > 0 {
			s += " or"
		}
		s += " " + string(k)
	}
	return s
}

type genesis struct {
	Writers map[string]Writer `json:"writers,omitempty"`
	Ended   map[string]string `json:"ended,omitempty"`
	// Used is what writers have used up of their allowance.
	Used map[string]use `json:"used,omitempty"`
}
