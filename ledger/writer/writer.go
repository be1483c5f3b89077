// Package writer knows whose keys may write to the ledger, and how much: there
// are no fees, so an allowance per hour keeps anyone from filling it.
package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	"github.com/cosmos/cosmos-sdk/crypto/keys/secp256k1"
	sdk "github.com/cosmos/cosmos-sdk/types"
	authkeeper "github.com/cosmos/cosmos-sdk/x/auth/keeper"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/record"
)

// StoreKey names the module's store.
const StoreKey = "bsn-writer"

// window is the span, in seconds of ledger time, over which writes are counted.
const window = 3600

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
}

// Allowance is the number of writes per hour for one writer of a kind. A message
// is one write, or several if it is large or changes much.
type Allowance map[bsn.Kind]int

// DefaultAllowance is used where a genesis names none.
var DefaultAllowance = Allowance{bsn.KindOperator: 10_000, bsn.KindCity: 100_000, bsn.KindPortal: 100_000, bsn.KindAccount: 1_000}

type use struct {
	Window int64 `json:"window"` // since which second
	Count  int   `json:"count"`
}

// Keeper holds the registered keys.
type Keeper struct {
	auth      authkeeper.AccountKeeper
	writers   collections.Map[string, Writer] // by address
	used      collections.Map[string, use]    // by kind/name
	allowance collections.Item[Allowance]
}

// NewKeeper opens the module's store.
func NewKeeper(store corestore.KVStoreService, auth authkeeper.AccountKeeper) *Keeper {
	k := &Keeper{auth: auth}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.writers = collections.NewMap(sb, collections.NewPrefix(1), "writers", collections.StringKey, record.JSON[Writer]())
		k.used = collections.NewMap(sb, collections.NewPrefix(2), "used", collections.StringKey, record.JSON[use]())
		k.allowance = collections.NewItem(sb, collections.NewPrefix(3), "allowance", record.JSON[Allowance]())
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
		return "", fmt.Errorf("this key already belongs to %s %q", old.Kind, old.Name)
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

// Lookup returns what an address may act as. Error: ErrStranger.
func (k *Keeper) Lookup(ctx context.Context, address string) (Writer, error) {
	w, err := k.writers.Get(ctx, address)
	if errors.Is(err, collections.ErrNotFound) {
		return w, fmt.Errorf("%w: address %s is not registered on this network", ErrStranger, address)
	}
	return w, err
}

// As returns the writer behind an address if it is of one of the kinds.
func (k *Keeper) As(ctx context.Context, address string, kinds ...bsn.Kind) (Writer, error) {
	w, err := k.Lookup(ctx, address)
	if err != nil {
		return w, err
	}
	for _, kind := range kinds {
		if w.Kind == kind {
			return w, nil
		}
	}
	return w, fmt.Errorf("%w: it takes the key of a%s, and %s is the %s %q", ErrStranger, anyOf(kinds), address, w.Kind, w.Name)
}

// Spend counts writes against the writer's allowance and that of its portal.
// Error: ErrAllowance.
func (k *Keeper) Spend(ctx context.Context, w Writer, writes int) error {
	limits, err := k.allowance.Get(ctx)
	if err != nil {
		return fmt.Errorf("read allowance: %w", err)
	}
	if err := k.spend(ctx, limits, w.Kind, w.Name, writes); err != nil {
		return err
	}
	if w.Kind == bsn.KindAccount {
		return k.spend(ctx, limits, bsn.KindPortal, w.Parent, writes)
	}
	return nil
}

func (k *Keeper) spend(ctx context.Context, limits Allowance, kind bsn.Kind, name string, writes int) error {
	now := sdk.UnwrapSDKContext(ctx).BlockTime().Unix()
	id := string(kind) + "/" + name
	u, err := k.used.Get(ctx, id)
	if err != nil && !errors.Is(err, collections.ErrNotFound) {
		return fmt.Errorf("read use: %w", err)
	}
	if now-u.Window >= window {
		u = use{Window: now}
	}
	if u.Count += writes; u.Count > limits[kind] {
		return fmt.Errorf("%w: %s %q may write %d times an hour; again in %d s", ErrAllowance, kind, name, limits[kind], u.Window+window-now)
	}
	return k.used.Set(ctx, id, u)
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
	Allowance Allowance         `json:"allowance"`
	Writers   map[string]Writer `json:"writers,omitempty"`
}

// Genesis is the module's genesis with this allowance.
func Genesis(a Allowance) json.RawMessage {
	b, err := json.Marshal(genesis{Allowance: a})
	if err != nil {
		panic(err) // a map of strings to numbers always has a JSON form
	}
	return b
}
