package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cosmossdk.io/collections"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/identitypb"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

const (
	maxGuardians = 16
	// maxDelay is the longest time between guardians' agreement and its effect, in seconds.
	maxDelay = 90 * 24 * 3600
)

// SetGuard names the guardians of the signing account anew. What earlier ones
// named is void.
func (k *Keeper) SetGuard(ctx context.Context, m *pb.MsgSetGuard) error {
	w, err := k.writers.As(ctx, m.Account, bsn.KindAccount)
	if err != nil {
		return err
	}
	a, err := k.accounts.Accounts.Get(ctx, w.Name)
	if err != nil {
		return err
	}
	old := a
	a.Guard, a.Recoveries = nil, nil
	if len(m.Guardians) > 0 || m.Portal {
		if a.Guard, err = k.guard(ctx, w.Name, m); err != nil {
			return err
		}
	}
	return k.store(ctx, old, a)
}

func (k *Keeper) guard(ctx context.Context, account string, m *pb.MsgSetGuard) (*bsn.Guard, error) {
	if len(m.Guardians) > maxGuardians {
		return nil, fmt.Errorf("%d guardians: the most is %d", len(m.Guardians), maxGuardians)
	}
	g := bsn.Guard{Guardians: slices.Sorted(slices.Values(m.Guardians)), Portal: m.Portal, Threshold: int(m.Threshold), Delay: m.Delay}
	if g.Guardians == nil {
		g.Guardians = []string{}
	}
	for i, name := range g.Guardians {
		switch {
		case name == account:
			return nil, errors.New("an account cannot be its own guardian")
		case i > 0 && name == g.Guardians[i-1]:
			return nil, fmt.Errorf("guardian %q is named twice", name)
		}
		if _, err := k.accounts.Accounts.Get(ctx, name); err != nil {
			return nil, fmt.Errorf("guardian: %w", err)
		}
	}
	all := len(g.Guardians)
	if g.Portal {
		all++
	}
	if g.Threshold < 1 || g.Threshold > all {
		return nil, fmt.Errorf("%d of %d guardians would have to agree: 1 to %d are possible", g.Threshold, all, all)
	}
	if g.Delay < 1 || g.Delay > maxDelay {
		return nil, fmt.Errorf("a delay of %d seconds: 1 to %d are possible", g.Delay, maxDelay)
	}
	return &g, nil
}

// Recover is a guardian's word on the keys that an account is to have.
func (k *Keeper) Recover(ctx sdk.Context, m *pb.MsgRecover) error {
	w, err := k.writers.As(ctx, m.Guardian, bsn.KindAccount, bsn.KindPortal)
	if err != nil {
		return err
	}
	a, err := k.accounts.Accounts.Get(ctx, m.Account)
	if err != nil {
		return err
	}
	guardian, err := guards(a, w)
	if err != nil {
		return err
	}
	r := bsn.Recovery{Threshold: int(m.Threshold)}
	if len(m.Keys) > 0 {
		own := writer.Writer{Kind: bsn.KindAccount, Name: a.Name}
		if r.Signers, err = k.offered(ctx, own, a.Identity, m.Keys); err != nil {
			return err
		}
		if err := writer.CheckIdentity(len(r.Signers), r.Threshold); err != nil {
			return err
		}
		for _, s := range r.Signers {
			if err := k.writers.Free(ctx, own, s); err != nil {
				return err
			}
		}
		slices.SortFunc(r.Signers, func(x, y bsn.Signer) int { return slices.Compare([]byte(x.Address), []byte(y.Address)) })
	}
	next := a
	next.Recoveries = nominate(a.Recoveries, r, guardian, *a.Guard, ctx.BlockTime().Unix())
	return k.store(ctx, a, next)
}

// guards returns the name under which w guards the account.
func guards(a bsn.Account, w writer.Writer) (string, error) {
	switch {
	case a.Guard == nil:
		return "", fmt.Errorf("%w: account %q has named no guardians, so nobody can give it new keys", writer.ErrStranger, a.Name)
	case w.Kind == bsn.KindAccount && slices.Contains(a.Guard.Guardians, w.Name):
		return w.Name, nil
	case w.Kind == bsn.KindPortal && w.Name == a.Portal && a.Guard.Portal:
		return "portal:" + w.Name, nil
	case w.Kind == bsn.KindPortal && w.Name == a.Portal:
		return "", fmt.Errorf("%w: account %q has not made its portal a guardian", writer.ErrStranger, a.Name)
	}
	return "", fmt.Errorf("%w: %s %q is no guardian of account %q", writer.ErrStranger, w.Kind, w.Name, a.Name)
}

// nominate moves a guardian's word to r, or takes it back if r has no keys, and returns
// what the guardians say now.
func nominate(before []bsn.Recovery, r bsn.Recovery, guardian string, g bsn.Guard, now int64) (after []bsn.Recovery) {
	same := func(o bsn.Recovery) bool {
		return o.Threshold == r.Threshold && slices.EqualFunc(o.Signers, r.Signers, func(x, y bsn.Signer) bool { return x.Address == y.Address })
	}
	if len(r.Signers) > 0 && !slices.ContainsFunc(before, same) {
		before = append(slices.Clone(before), r)
	}
	for _, o := range before {
		o.By = slices.DeleteFunc(slices.Clone(o.By), func(by string) bool { return by == guardian })
		if same(o) && len(r.Signers) > 0 {
			o.By = slices.Sorted(slices.Values(append(o.By, guardian)))
			o.Reason = "" // it is tried again
		}
		switch {
		case len(o.By) < g.Threshold:
			o.Effective = 0
		case o.Effective == 0 && o.Reason == "":
			o.Effective = now + g.Delay
		}
		if len(o.By) > 0 {
			after = append(after, o)
		}
	}
	return after
}

// CancelRecovery is any key's word that the account's keys are not lost.
func (k *Keeper) CancelRecovery(ctx context.Context, m *pb.MsgCancelRecovery) error {
	w, err := k.writers.Lookup(ctx, m.Key)
	if err != nil {
		return err
	}
	if w.Kind != bsn.KindAccount {
		return fmt.Errorf("%w: it takes a key of the account, and this is one of %s %q", writer.ErrStranger, w.Kind, w.Name)
	}
	a, err := k.accounts.Accounts.Get(ctx, w.Name)
	if err != nil || len(a.Recoveries) == 0 {
		return err
	}
	next := a
	next.Recoveries = nil
	return k.store(ctx, a, next)
}

// recover gives an account the keys whose time has come.
func (k *Keeper) recover(ctx sdk.Context, account string) error {
	a, err := k.accounts.Accounts.Get(ctx, account)
	if err != nil {
		return err
	}
	first := -1
	for i, r := range a.Recoveries {
		if r.Effective != 0 && r.Effective <= ctx.BlockTime().Unix() && (first < 0 || r.Effective < a.Recoveries[first].Effective) {
			first = i
		}
	}
	if first < 0 {
		return fmt.Errorf("account %q is queued for recovery without one", account)
	}
	r := a.Recoveries[first]
	next := a
	inner, write := ctx.CacheContext()
	w := writer.Writer{Kind: bsn.KindAccount, Name: a.Name, Parent: a.Portal}
	if err := k.set(inner, w, a.Identity, r.Signers, r.Threshold); err != nil {
		// A key became somebody else's meanwhile. The guardians may name others.
		next.Recoveries = slices.Clone(a.Recoveries)
		next.Recoveries[first].Effective, next.Recoveries[first].Reason = 0, record.Clip(err.Error(), maxReason)
		return k.store(ctx, a, next)
	}
	write()
	if next, err = k.accounts.Accounts.Get(ctx, account); err != nil {
		return err
	}
	next.Recoveries = nil
	return k.store(ctx, a, next)
}

// store replaces an account's record and brings what is announced in line with it.
func (k *Keeper) store(ctx context.Context, old, a bsn.Account) error {
	for _, r := range old.Recoveries {
		if r.Effective != 0 {
			if err := k.due.Remove(ctx, collections.Join(r.Effective, a.Name)); err != nil {
				return err
			}
		}
	}
	if err := k.announce(ctx, a); err != nil {
		return err
	}
	return k.accounts.Accounts.Set(ctx, a.Name, a)
}

func (k *Keeper) announce(ctx context.Context, a bsn.Account) error {
	for _, r := range a.Recoveries {
		if r.Effective != 0 {
			if err := k.due.Set(ctx, collections.Join(r.Effective, a.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}
