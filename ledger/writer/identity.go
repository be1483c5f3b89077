package writer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"cosmossdk.io/collections"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/address"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
)

// maxLabel bounds a key's label in bytes.
const maxLabel = 64

// Offer is a key that is to join an identity.
type Offer struct {
	PublicKey []byte
	// Proof that whoever offers the key has it; see [key.Prove]. Not needed for a
	// key that the identity has.
	Proof  []byte
	Label  string
	Tokens bool
}

// Address is what stands for all keys of an account or operator: no key belongs
// to it (ADR-028 of the Cosmos SDK, address of a module's sub-account).
func Address(kind bsn.Kind, name string) string {
	return sdk.AccAddress(address.Module(StoreKey, []byte(string(kind)+"/"+name))).String()
}

// Proven tells whether an offered key proves that its owner wants it to be a key
// of w on this network.
func Proven(ctx context.Context, w Writer, pub, proof []byte) error {
	if err := CheckKey(pub); err != nil {
		return err
	}
	if !key.Proves(pub, proof, sdk.UnwrapSDKContext(ctx).ChainID(), w.Kind, w.Name) {
		return fmt.Errorf("key %s does not prove that it is for %s %q: offer it again", key.Fingerprint(pub), w.Kind, w.Name)
	}
	return nil
}

// Signers checks offered keys: those of known are taken as they are there, others
// have to prove themselves.
func Signers(ctx context.Context, w Writer, known bsn.Identity, offers []Offer) ([]bsn.Signer, error) {
	var out []bsn.Signer
	for _, o := range offers {
		if len(o.Label) > maxLabel || !utf8.ValidString(o.Label) || strings.ContainsFunc(o.Label, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("label of a key must be one line of at most %d bytes", maxLabel)
		}
		s, err := public(o)
		if err != nil {
			return nil, err
		}
		if _, has := known.Signer(s.Address); !has {
			if err := Proven(ctx, w, o.PublicKey, o.Proof); err != nil {
				return nil, err
			}
		}
		if slices.ContainsFunc(out, func(other bsn.Signer) bool { return other.Address == s.Address }) {
			return nil, fmt.Errorf("key %s is named twice", s.Address)
		}
		out = append(out, s)
	}
	return out, nil
}

// public is what the record says of an offered key.
func public(o Offer) (bsn.Signer, error) {
	pub, err := crypto.DecompressPubkey(o.PublicKey)
	if err != nil {
		return bsn.Signer{}, CheckKey(o.PublicKey)
	}
	a, err := key.Address(o.PublicKey)
	return bsn.Signer{
		Address: a, PublicKey: o.PublicKey, Ethereum: strings.ToLower(crypto.PubkeyToAddress(*pub).Hex()),
		Label: o.Label, Tokens: o.Tokens,
	}, err
}

// CheckIdentity tells whether a number of keys and a threshold can be: at least one
// way to write, and no more keys than there may be.
func CheckIdentity(keys, threshold int) error {
	switch {
	case keys < 1 || keys > bsn.MaxSigners:
		return fmt.Errorf("there would be %d keys: 1 to %d are possible", keys, bsn.MaxSigners)
	case threshold < 1 || threshold > keys:
		return fmt.Errorf("%d of %d keys would have to agree: 1 to %d are possible", threshold, keys, keys)
	}
	return nil
}

// SetIdentity makes signers the keys of w, which so far had those of old (the zero
// value if w is new), and returns the identity. Keys that are left out stop at once.
func (k *Keeper) SetIdentity(ctx context.Context, w Writer, old bsn.Identity, signers []bsn.Signer, threshold int) (bsn.Identity, error) {
	if err := CheckIdentity(len(signers), threshold); err != nil {
		return old, err
	}
	id := bsn.Identity{Address: old.Address, Signers: signers, Threshold: threshold}
	if id.Address == "" {
		id.Address = Address(w.Kind, w.Name)
		all := w
		all.All = true
		if err := k.writers.Set(ctx, id.Address, all); err != nil {
			return old, fmt.Errorf("store writer: %w", err)
		}
	}
	for _, s := range old.Signers {
		if _, stays := id.Signer(s.Address); stays {
			continue
		}
		if err := k.writers.Remove(ctx, s.Address); err != nil {
			return old, fmt.Errorf("remove key: %w", err)
		}
	}
	w.Threshold = threshold
	for _, s := range signers {
		if _, had := old.Signer(s.Address); had {
			if err := k.writers.Set(ctx, s.Address, w); err != nil {
				return old, fmt.Errorf("store writer: %w", err)
			}
		} else if _, err := k.Register(ctx, s.PublicKey, w); err != nil {
			return old, err
		}
	}
	return id, nil
}

// Found makes w a new account or operator with one key.
func (k *Keeper) Found(ctx context.Context, w Writer, key []byte) (bsn.Identity, error) {
	s, err := public(Offer{PublicKey: key})
	if err != nil {
		return bsn.Identity{}, err
	}
	return k.SetIdentity(ctx, w, bsn.Identity{}, []bsn.Signer{s}, 1)
}

// Free tells whether a key belongs to nobody yet, or to w.
func (k *Keeper) Free(ctx context.Context, w Writer, s bsn.Signer) error {
	old, err := k.writers.Get(ctx, s.Address)
	switch {
	case errors.Is(err, collections.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read writer: %w", err)
	case old.Kind != w.Kind || old.Name != w.Name:
		return taken(old)
	}
	return nil
}

func taken(w Writer) error { return fmt.Errorf("this key already belongs to %s %q", w.Kind, w.Name) }
