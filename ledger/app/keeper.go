// Package app is the ledger's module of published apps.
package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/apppb"
	"github.com/openbsn/bsn/ledger/account"
	"github.com/openbsn/bsn/ledger/chain"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// StoreKey names the module's store.
const StoreKey = "bsn-app"

const (
	maxApps      = 1000 // of an account
	maxVersions  = 200
	maxContracts = 64
	maxRoles     = 32
	maxRoleItems = 128
	maxText      = 128
	maxReason    = 512
	maxRate      = 1_000_000
)

// Keeper holds the apps.
type Keeper struct {
	writers   *writer.Keeper
	operators *operator.Keeper
	chains    *chain.Keeper
	accounts  *account.Keeper
	Apps      record.Table[bsn.App]
	counts    collections.Map[string, uint64] // apps of an account
}

// NewKeeper opens the module's store.
func NewKeeper(store corestore.KVStoreService, writers *writer.Keeper, operators *operator.Keeper, chains *chain.Keeper, accounts *account.Keeper) *Keeper {
	k := &Keeper{writers: writers, operators: operators, chains: chains, accounts: accounts}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Apps = record.NewTable[bsn.App](sb, 1, bsn.KindApp)
		k.counts = collections.NewMap(sb, collections.NewPrefix(2), "counts", collections.StringKey, collections.Uint64Value)
	})
	return k
}

// Publish makes a new version of an app, or returns the newest one if it asks
// for just that and no city refused it.
func (k *Keeper) Publish(ctx context.Context, m *pb.MsgPublish) (int, error) {
	w, err := k.writers.As(ctx, m.Account, bsn.KindAccount)
	if err != nil {
		return 0, err
	}
	v, err := k.version(ctx, m)
	if err != nil {
		return 0, err
	}
	a, err := k.Apps.Get(ctx, bsn.ID(w.Name, m.Name))
	if errors.Is(err, bsn.ErrNoRecord) {
		if err := record.Count(ctx, k.counts, w.Name, maxApps); err != nil {
			return 0, fmt.Errorf("apps of account %q: %w", w.Name, err)
		}
		a = bsn.App{Account: w.Name, Name: m.Name}
	} else if err != nil {
		return 0, err
	}
	if old, ok := a.Latest(); ok {
		if same(old, v) {
			return old.Number, nil
		}
		if old.Artifact == v.Artifact && old.Chain == v.Chain {
			v.Contracts = old.Contracts // other cities, roles or limits for what is there
		}
	}
	if len(a.Versions) >= maxVersions {
		return 0, fmt.Errorf("app %q has had its %d versions", a.ID(), maxVersions)
	}
	v.Number = len(a.Versions) + 1
	a.Versions = append(a.Versions, v)
	return v.Number, k.Apps.Set(ctx, a.ID(), a)
}

func (k *Keeper) version(ctx context.Context, m *pb.MsgPublish) (v bsn.Version, err error) {
	if err := bsn.CheckName("app", m.Name); err != nil {
		return v, err
	}
	if b, err := hex.DecodeString(m.Artifact); err != nil || len(b) != 32 || m.Artifact != strings.ToLower(m.Artifact) {
		return v, errors.New("artifact must be a SHA-256 in 64 lower-case hex digits")
	}
	c, err := k.chains.Chains.Get(ctx, m.Chain)
	if err != nil {
		return v, err
	}
	if c.Status != bsn.ChainRunning {
		return v, fmt.Errorf("chain %q is at %q: it takes apps when it is running", c.Name, c.Status)
	}
	if len(m.Cities) == 0 {
		return v, errors.New("app names no city")
	}
	for i, city := range m.Cities {
		if slices.Contains(m.Cities[:i], city) {
			return v, fmt.Errorf("app names city %q twice", city)
		}
		if _, err := k.operators.Staying(ctx, city); err != nil {
			return v, err
		}
		if !c.Member(city) {
			return v, fmt.Errorf("city %q does not run chain %q: these do: %s", city, c.Name, strings.Join(c.Committee, ", "))
		}
	}
	if m.RequestsPerSecond > maxRate {
		return v, fmt.Errorf("%d requests per second: the most is %d", m.RequestsPerSecond, maxRate)
	}
	v = bsn.Version{
		Artifact: m.Artifact, Chain: m.Chain, Cities: m.Cities, Contracts: []bsn.Contract{},
		Limits: bsn.Limits{RequestsPerSecond: int(m.RequestsPerSecond)}, Placements: map[string]bsn.Placement{},
	}
	v.Roles, err = k.roles(ctx, m.Roles)
	return v, err
}

func (k *Keeper) roles(ctx context.Context, in []*pb.Role) (map[string]bsn.Role, error) {
	if len(in) > maxRoles {
		return nil, fmt.Errorf("%d roles: the most is %d", len(in), maxRoles)
	}
	var out map[string]bsn.Role
	for _, r := range in {
		if err := bsn.CheckName("role", r.Name); err != nil {
			return nil, err
		}
		if len(r.Accounts) > maxRoleItems || len(r.Functions) > maxRoleItems {
			return nil, fmt.Errorf("role %q names over %d accounts or functions", r.Name, maxRoleItems)
		}
		for _, a := range r.Accounts {
			if _, err := k.accounts.Accounts.Get(ctx, a); err != nil {
				return nil, fmt.Errorf("role %q: %w", r.Name, err)
			}
		}
		for _, f := range r.Functions {
			if len(f) > maxText {
				return nil, fmt.Errorf("role %q: function's name has %d bytes, the most is %d", r.Name, len(f), maxText)
			}
		}
		if out == nil {
			out = map[string]bsn.Role{}
		}
		out[r.Name] = bsn.Role{Accounts: r.Accounts, Functions: r.Functions}
	}
	return out, nil
}

// same tells whether publishing v would give just what old is. A version that a
// city refused is not tried again: the publisher asked anew.
func same(old, v bsn.Version) bool {
	for _, p := range old.Placements {
		if p.Status == bsn.PlacementRefused {
			return false
		}
	}
	return old.Artifact == v.Artifact && old.Chain == v.Chain && slices.Equal(old.Cities, v.Cities) &&
		old.Limits == v.Limits && (len(old.Roles) == 0 && len(v.Roles) == 0 || reflect.DeepEqual(old.Roles, v.Roles))
}

// edit changes one version of an app of the signing account.
func (k *Keeper) edit(ctx context.Context, signer, name string, number uint32, change func(*bsn.Version) error) error {
	w, err := k.writers.As(ctx, signer, bsn.KindAccount)
	if err != nil {
		return err
	}
	return k.editVersion(ctx, bsn.ID(w.Name, name), number, change)
}

func (k *Keeper) editVersion(ctx context.Context, id string, number uint32, change func(*bsn.Version) error) error {
	a, err := k.Apps.Get(ctx, id)
	if err != nil {
		return err
	}
	if number < 1 || int(number) > len(a.Versions) {
		return fmt.Errorf("app %q has no version %d", id, number)
	}
	before := a.Versions[number-1]
	v := before
	if err := change(&v); err != nil || reflect.DeepEqual(before, v) {
		return err
	}
	a.Versions[number-1] = v
	return k.Apps.Set(ctx, id, a)
}

// SetContracts records where a version's contracts are, planned or deployed.
func (k *Keeper) SetContracts(ctx context.Context, m *pb.MsgSetContracts) error {
	if len(m.Contracts) > maxContracts {
		return fmt.Errorf("%d contracts: the most is %d", len(m.Contracts), maxContracts)
	}
	contracts := []bsn.Contract{}
	for _, c := range m.Contracts {
		if c.Name == "" || len(c.Name) > maxText || len(c.Address) > maxText || len(c.CodeHash) > maxText {
			return fmt.Errorf("contract %.64q has an empty or overlong field", c.Name)
		}
		contracts = append(contracts, bsn.Contract{Name: c.Name, Address: c.Address, Nonce: c.Nonce, CodeHash: c.CodeHash})
	}
	return k.edit(ctx, m.Account, m.Name, m.Version, func(v *bsn.Version) error {
		for _, p := range v.Placements {
			if p.Status == bsn.PlacementServing && !slices.Equal(v.Contracts, contracts) {
				return errors.New("version is being served: publish a new one")
			}
		}
		v.Contracts = contracts
		return nil
	})
}

// Withdraw takes one version out of service, or with number 0 all of them.
func (k *Keeper) Withdraw(ctx context.Context, m *pb.MsgWithdraw) error {
	w, err := k.writers.As(ctx, m.Account, bsn.KindAccount)
	if err != nil {
		return err
	}
	id := bsn.ID(w.Name, m.Name)
	a, err := k.Apps.Get(ctx, id)
	if err != nil {
		return err
	}
	if int(m.Version) > len(a.Versions) {
		return fmt.Errorf("app %q has no version %d", id, m.Version)
	}
	changed := false
	for i := range a.Versions {
		if v := &a.Versions[i]; (m.Version == 0 || v.Number == int(m.Version)) && !v.Withdrawn {
			v.Withdrawn, changed = true, true
		}
	}
	if !changed {
		return nil
	}
	return k.Apps.Set(ctx, id, a)
}

// Place records how far the signing city is with a version, or that it refuses.
func (k *Keeper) Place(ctx context.Context, m *pb.MsgPlace) error {
	city, err := k.operators.City(ctx, m.City)
	if err != nil {
		return err
	}
	p := bsn.Placement{Status: bsn.PlacementStatus(m.Status), Reason: record.Clip(m.Reason, maxReason)}
	switch p.Status {
	case bsn.PlacementAccepted, bsn.PlacementServing, bsn.PlacementRefused:
	default:
		return fmt.Errorf("placement %.32q is unknown", m.Status)
	}
	return k.editVersion(ctx, m.App, m.Version, func(v *bsn.Version) error {
		if !slices.Contains(v.Cities, city.Name) {
			return fmt.Errorf("%w: city %q was not chosen for app %q", writer.ErrStranger, city.Name, m.App)
		}
		placements := map[string]bsn.Placement{city.Name: p}
		for name, other := range v.Placements {
			if name != city.Name {
				placements[name] = other
			}
		}
		v.Placements = placements
		return nil
	})
}

// state is the module's genesis.
type state struct {
	Apps map[string]bsn.App `json:"apps,omitempty"`
}

func (k *Keeper) init(ctx sdk.Context, s state) error {
	for _, id := range record.SortedKeys(s.Apps) {
		if err := record.Count(ctx, k.counts, s.Apps[id].Account, maxApps); err != nil {
			return err
		}
	}
	return k.Apps.Import(ctx, s.Apps)
}

func (k *Keeper) export(ctx sdk.Context) (s state, err error) {
	s.Apps, err = k.Apps.Export(ctx)
	return s, err
}
