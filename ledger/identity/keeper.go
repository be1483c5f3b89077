// Package identity is the ledger's module of who signs: the keys of accounts and
// operators, acts on which several of them have to agree, and recovery by guardians.
package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/codec"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/identitypb"
	"github.com/openbsn/bsn/ledger/account"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// StoreKey names the module's store.
const StoreKey = "bsn-identity"

// Keeper holds the acts. Keys, guardians and recoveries are in the records of
// accounts and operators.
type Keeper struct {
	cdc       codec.Codec
	router    baseapp.MessageRouter
	writers   *writer.Keeper
	operators *operator.Keeper
	accounts  *account.Keeper
	authority string
	Acts      record.Table[bsn.Act]
	// open holds the open acts by kind/name of their identity, expiry by time.
	open   collections.KeySet[collections.Pair[string, string]]
	expiry collections.KeySet[collections.Pair[int64, string]]
	// due holds the accounts whose recovery is announced, by the time of its effect.
	due    collections.KeySet[collections.Pair[int64, string]]
	nextID collections.Sequence
}

// NewKeeper opens the module's store. Acts run their messages through router; only
// authority sets an operator's keys.
func NewKeeper(store corestore.KVStoreService, cdc codec.Codec, router baseapp.MessageRouter, writers *writer.Keeper, operators *operator.Keeper, accounts *account.Keeper, authority string) *Keeper {
	k := &Keeper{cdc: cdc, router: router, writers: writers, operators: operators, accounts: accounts, authority: authority}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		times := collections.PairKeyCodec(collections.Int64Key, collections.StringKey)
		k.Acts = record.NewTable[bsn.Act](sb, 1, bsn.KindAct)
		k.open = collections.NewKeySet(sb, collections.NewPrefix(2), "open", collections.PairKeyCodec(collections.StringKey, collections.StringKey))
		k.expiry = collections.NewKeySet(sb, collections.NewPrefix(3), "expiry", times)
		k.due = collections.NewKeySet(sb, collections.NewPrefix(4), "due", times)
		k.nextID = collections.NewSequence(sb, collections.NewPrefix(5), "id")
	})
	return k
}

// identity reads the keys of an account or operator.
func (k *Keeper) identity(ctx context.Context, w writer.Writer) (bsn.Identity, error) {
	if w.Kind == bsn.KindOperator {
		o, err := k.operators.Operators.Get(ctx, w.Name)
		return o.Identity, err
	}
	a, err := k.accounts.Accounts.Get(ctx, w.Name)
	return a.Identity, err
}

// SetKeys changes the keys of the signing account or operator.
func (k *Keeper) SetKeys(ctx context.Context, m *pb.MsgSetKeys) error {
	w, err := k.writers.As(ctx, m.Signer, bsn.KindAccount, bsn.KindOperator)
	if err != nil {
		return err
	}
	old, err := k.identity(ctx, w)
	if err != nil {
		return err
	}
	set, err := k.offered(ctx, w, old, m.Set)
	if err != nil {
		return err
	}
	signers := slices.Clone(old.Signers)
	for _, s := range set {
		if i := index(signers, s.Address); i >= 0 {
			signers[i] = s
		} else {
			signers = append(signers, s)
		}
	}
	for i, address := range m.Remove {
		if _, has := old.Signer(address); !has || slices.Contains(m.Remove[:i], address) || index(set, address) >= 0 {
			return fmt.Errorf("%.64q is no key of %s %q that can be removed", address, w.Kind, w.Name)
		}
		signers = slices.DeleteFunc(signers, func(s bsn.Signer) bool { return s.Address == address })
	}
	threshold := old.Threshold
	if m.Threshold != 0 {
		threshold = int(m.Threshold)
	}
	return k.set(ctx, w, old, signers, threshold)
}

// SetOperatorKeys gives an operator new keys, by the operators' vote.
func (k *Keeper) SetOperatorKeys(ctx context.Context, m *pb.MsgSetOperatorKeys) error {
	if m.Authority != k.authority {
		return fmt.Errorf("%w: an operator's lost keys are replaced by the operators' vote", writer.ErrStranger)
	}
	o, err := k.operators.Operators.Get(ctx, m.Operator)
	if err != nil {
		return err
	}
	w := writer.Writer{Kind: bsn.KindOperator, Name: o.Name}
	signers, err := k.offered(ctx, w, o.Identity, m.Keys)
	if err != nil {
		return err
	}
	return k.set(ctx, w, o.Identity, signers, int(m.Threshold))
}

func index(signers []bsn.Signer, address string) int {
	return slices.IndexFunc(signers, func(s bsn.Signer) bool { return s.Address == address })
}

func (k *Keeper) offered(ctx context.Context, w writer.Writer, known bsn.Identity, keys []*pb.NewKey) ([]bsn.Signer, error) {
	if len(keys) > bsn.MaxSigners {
		return nil, fmt.Errorf("%d keys: the most is %d", len(keys), bsn.MaxSigners)
	}
	offers := make([]writer.Offer, 0, len(keys))
	for _, n := range keys {
		if n == nil {
			return nil, errors.New("a key is missing")
		}
		offers = append(offers, writer.Offer{PublicKey: n.PublicKey, Proof: n.Proof, Label: n.Label, Tokens: n.Tokens})
	}
	return writer.Signers(ctx, w, known, offers)
}

// set makes signers the keys of w and stores its record.
func (k *Keeper) set(ctx context.Context, w writer.Writer, old bsn.Identity, signers []bsn.Signer, threshold int) error {
	id, err := k.writers.SetIdentity(ctx, writer.Writer{Kind: w.Kind, Name: w.Name, Parent: w.Parent}, old, signers, threshold)
	if err != nil {
		return err
	}
	if w.Kind == bsn.KindOperator {
		o, err := k.operators.Operators.Get(ctx, w.Name)
		if err != nil {
			return err
		}
		o.Identity = id
		if err := k.operators.Operators.Set(ctx, w.Name, o); err != nil {
			return err
		}
	} else {
		a, err := k.accounts.Accounts.Get(ctx, w.Name)
		if err != nil {
			return err
		}
		a.Identity = id
		if err := k.accounts.Accounts.Set(ctx, w.Name, a); err != nil {
			return err
		}
	}
	return k.forget(ctx, w, id)
}

// state is the module's genesis.
type state struct {
	Acts map[string]bsn.Act `json:"acts,omitempty"`
}

func (k *Keeper) init(ctx sdk.Context, s state) error {
	last := uint64(0)
	for _, id := range record.SortedKeys(s.Acts) {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return fmt.Errorf("act %q: %w", id, err)
		}
		last = max(last, n)
		if a := s.Acts[id]; a.Status == bsn.ActOpen {
			if err := k.enter(ctx, a); err != nil {
				return err
			}
		}
	}
	if last > 0 {
		if err := k.nextID.Set(ctx, last); err != nil {
			return err
		}
	}
	// What is announced is in the accounts' records, which were read before.
	if err := k.accounts.Accounts.Each(ctx, "", func(_ string, a bsn.Account) (bool, error) {
		return true, k.announce(ctx, a)
	}); err != nil {
		return err
	}
	return k.Acts.Import(ctx, s.Acts)
}

func (k *Keeper) export(ctx sdk.Context) (s state, err error) {
	s.Acts, err = k.Acts.Export(ctx)
	return s, err
}

// Expire closes acts that nobody completed in time and lets recoveries take
// effect. It touches the state only then.
func (k *Keeper) Expire(ctx sdk.Context) error {
	acts, err := until(ctx, k.expiry)
	if err != nil {
		return err
	}
	for _, id := range acts {
		a, err := k.Acts.Get(ctx, id)
		if err != nil {
			return err
		}
		if err := k.close(ctx, a, bsn.ActExpired, ""); err != nil {
			return err
		}
	}
	accounts, err := until(ctx, k.due)
	if err != nil {
		return err
	}
	for _, name := range accounts {
		if err := k.recover(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// until returns what a queue holds for the block's time and before, each once.
func until(ctx sdk.Context, queue collections.KeySet[collections.Pair[int64, string]]) (due []string, err error) {
	return due, queue.Walk(ctx, nil, func(e collections.Pair[int64, string]) (bool, error) {
		if e.K1() > ctx.BlockTime().Unix() {
			return true, nil
		}
		if !slices.Contains(due, e.K2()) {
			due = append(due, e.K2())
		}
		return false, nil
	})
}
