// Package account is the ledger's module of portals, accounts, and their
// projects and keys.
package account

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/ethereum/go-ethereum/common"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/accountpb"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// StoreKey names the module's store.
const StoreKey = "bsn-account"

const (
	maxURL       = 256
	maxProjects  = 2000 // of an account, revoked ones included
	maxKeys      = 256  // of a project, revoked ones included
	maxDeployers = 64
)

// Keeper holds portals, accounts and projects.
type Keeper struct {
	writers   *writer.Keeper
	operators *operator.Keeper
	authority string
	Portals   record.Table[bsn.Portal]
	Accounts  record.Table[bsn.Account]
	Projects  record.Table[bsn.Project]
	hashes    collections.Map[string, string] // key hash to project id: no two projects share a key
	counts    collections.Map[string, uint64] // projects of an account
}

// NewKeeper opens the module's store. Only authority registers portals.
func NewKeeper(store corestore.KVStoreService, writers *writer.Keeper, operators *operator.Keeper, authority string) *Keeper {
	k := &Keeper{writers: writers, operators: operators, authority: authority}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Portals = record.NewTable[bsn.Portal](sb, 1, bsn.KindPortal)
		k.Accounts = record.NewTable[bsn.Account](sb, 2, bsn.KindAccount)
		k.Projects = record.NewTable[bsn.Project](sb, 3, bsn.KindProject)
		k.counts = collections.NewMap(sb, collections.NewPrefix(5), "counts", collections.StringKey, collections.Uint64Value)
		k.hashes = collections.NewMap(sb, collections.NewPrefix(4), "hashes", collections.StringKey, collections.StringValue)
	})
	return k
}

// RegisterPortal makes a portal whose key registers accounts.
func (k *Keeper) RegisterPortal(ctx context.Context, m *pb.MsgRegisterPortal) error {
	if m.Authority != k.authority {
		return fmt.Errorf("%w: portals are registered by the operators' vote", writer.ErrStranger)
	}
	if err := bsn.CheckName("portal", m.Name); err != nil {
		return err
	}
	if len(m.Url) > maxURL {
		return fmt.Errorf("address of %d bytes: the most is %d", len(m.Url), maxURL)
	}
	if has, err := k.Portals.Has(ctx, m.Name); err != nil || has {
		return errors.Join(err, fmt.Errorf("there is a portal %q already", m.Name))
	}
	w := writer.Writer{Kind: bsn.KindPortal, Name: m.Name}
	if err := writer.Proven(ctx, w, m.Key, m.Proof); err != nil {
		return err
	}
	address, err := k.writers.Register(ctx, m.Key, w)
	if err != nil {
		return err
	}
	return k.Portals.Set(ctx, m.Name, bsn.Portal{Name: m.Name, Address: address, URL: m.Url})
}

// RegisterAccount makes an account of the signing portal. The same account again
// changes nothing.
func (k *Keeper) RegisterAccount(ctx context.Context, m *pb.MsgRegisterAccount) error {
	w, err := k.writers.As(ctx, m.Portal, bsn.KindPortal)
	if err != nil {
		return err
	}
	if err := bsn.CheckName("account", m.Name); err != nil {
		return err
	}
	own := writer.Writer{Kind: bsn.KindAccount, Name: m.Name, Parent: w.Name}
	if err := writer.Proven(ctx, own, m.Key, m.Proof); err != nil {
		return err
	}
	switch old, err := k.Accounts.Get(ctx, m.Name); {
	case err == nil && old.Portal == w.Name && slices.ContainsFunc(old.Signers, func(s bsn.Signer) bool { return slices.Equal(s.PublicKey, m.Key) }):
		return nil
	case err == nil:
		return fmt.Errorf("there is an account %q already", m.Name)
	case !errors.Is(err, bsn.ErrNoRecord):
		return err
	}
	id, err := k.writers.Found(ctx, own, m.Key)
	if err != nil {
		return err
	}
	return k.Accounts.Set(ctx, m.Name, bsn.Account{Name: m.Name, Portal: w.Name, Identity: id})
}

// SetProject makes a project or changes its requests per second and deployers.
func (k *Keeper) SetProject(ctx context.Context, m *pb.MsgSetProject) error {
	w, err := k.writers.As(ctx, m.Account, bsn.KindAccount)
	if err != nil {
		return err
	}
	if err := bsn.CheckName("project", m.Name); err != nil {
		return err
	}
	if m.RequestsPerSecond > bsn.MaxRequestsPerSecond {
		return fmt.Errorf("%d requests per second: the most is %d", m.RequestsPerSecond, bsn.MaxRequestsPerSecond)
	}
	if len(m.Deployers) > maxDeployers {
		return fmt.Errorf("%d deployers: the most is %d", len(m.Deployers), maxDeployers)
	}
	p, err := k.Projects.Get(ctx, bsn.ID(w.Name, m.Name))
	if errors.Is(err, bsn.ErrNoRecord) {
		if err := record.Count(ctx, k.counts, w.Name, maxProjects); err != nil {
			return fmt.Errorf("projects of account %q: %w", w.Name, err)
		}
		p = bsn.Project{Account: w.Name, Name: m.Name, Keys: []bsn.Key{}}
	} else if err != nil {
		return err
	}
	if p.Revoked {
		return fmt.Errorf("project %q is revoked", p.ID())
	}
	p.Limits.RequestsPerSecond = int(m.RequestsPerSecond)
	p.Deployers = nil
	for _, d := range m.Deployers {
		if !common.IsHexAddress(d) {
			return fmt.Errorf("deployer %.64q is not an Ethereum address", d)
		}
		p.Deployers = append(p.Deployers, strings.ToLower(common.HexToAddress(d).Hex()))
	}
	return k.Projects.Set(ctx, p.ID(), p)
}

// own reads a project of the signing account.
func (k *Keeper) own(ctx context.Context, signer, name string) (bsn.Project, error) {
	w, err := k.writers.As(ctx, signer, bsn.KindAccount)
	if err != nil {
		return bsn.Project{}, err
	}
	return k.Projects.Get(ctx, bsn.ID(w.Name, name))
}

// RevokeProject ends a project and all its keys for good.
func (k *Keeper) RevokeProject(ctx context.Context, m *pb.MsgRevokeProject) error {
	p, err := k.own(ctx, m.Account, m.Name)
	if err != nil || p.Revoked {
		return err
	}
	p.Revoked = true
	return k.Projects.Set(ctx, p.ID(), p)
}

// AddKey registers the hash of a key that is valid in one city.
func (k *Keeper) AddKey(ctx context.Context, m *pb.MsgAddKey) error {
	p, err := k.own(ctx, m.Account, m.Project)
	if err != nil {
		return err
	}
	if p.Revoked {
		return fmt.Errorf("project %q is revoked", p.ID())
	}
	if err := checkHash(m.Hash); err != nil {
		return err
	}
	if _, err := k.operators.Staying(ctx, m.City); err != nil {
		return err
	}
	if owner, err := k.hashes.Get(ctx, m.Hash); err == nil {
		if owner != p.ID() {
			return errors.New("another project has this key")
		}
		old := p.Keys[slices.IndexFunc(p.Keys, func(key bsn.Key) bool { return key.Hash == m.Hash })]
		if old.City != m.City || old.Revoked {
			return fmt.Errorf("key %s is of city %q or revoked: make another", old.ID, old.City)
		}
		return nil
	} else if !errors.Is(err, collections.ErrNotFound) {
		return fmt.Errorf("read keys: %w", err)
	}
	return k.newKey(ctx, p, bsn.Key{ID: m.Hash[:12], City: m.City, Hash: m.Hash})
}

func checkHash(hash string) error {
	if b, err := hex.DecodeString(hash); err != nil || len(b) != 32 || hash != strings.ToLower(hash) {
		return errors.New("key's hash must be a SHA-256 in 64 lower-case hex digits")
	}
	return nil
}

// newKey adds a key that no project has.
func (k *Keeper) newKey(ctx context.Context, p bsn.Project, key bsn.Key) error {
	if len(p.Keys) >= maxKeys {
		return fmt.Errorf("project %q has had its %d keys: make another project", p.ID(), maxKeys)
	}
	p.Keys = append(p.Keys, key)
	if err := k.hashes.Set(ctx, key.Hash, p.ID()); err != nil {
		return err
	}
	return k.Projects.Set(ctx, p.ID(), p)
}

// RevokeKey ends one key for good.
func (k *Keeper) RevokeKey(ctx context.Context, m *pb.MsgRevokeKey) error {
	p, err := k.own(ctx, m.Account, m.Project)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(p.Keys, func(key bsn.Key) bool { return key.ID == m.KeyId })
	if i < 0 {
		return fmt.Errorf("project %q has no key %.64q", p.ID(), m.KeyId)
	}
	if p.Keys[i].Revoked {
		return nil
	}
	p.Keys[i].Revoked = true
	return k.Projects.Set(ctx, p.ID(), p)
}

// state is the module's genesis.
type state struct {
	Portals  map[string]bsn.Portal  `json:"portals,omitempty"`
	Accounts map[string]bsn.Account `json:"accounts,omitempty"`
	Projects map[string]bsn.Project `json:"projects,omitempty"`
}

func (k *Keeper) init(ctx sdk.Context, s state) error {
	if err := k.Portals.Import(ctx, s.Portals); err != nil {
		return err
	}
	if err := k.Accounts.Import(ctx, s.Accounts); err != nil {
		return err
	}
	owners := map[string]string{}
	for _, id := range record.SortedKeys(s.Projects) {
		p := s.Projects[id]
		if err := record.Count(ctx, k.counts, p.Account, maxProjects); err != nil {
			return err
		}
		for _, key := range p.Keys {
			if other, taken := owners[key.Hash]; taken {
				return fmt.Errorf("projects %q and %q share a key", other, id)
			}
			owners[key.Hash] = id
		}
	}
	for _, hash := range record.SortedKeys(owners) {
		if err := k.hashes.Set(ctx, hash, owners[hash]); err != nil {
			return err
		}
	}
	return k.Projects.Import(ctx, s.Projects)
}

func (k *Keeper) export(ctx sdk.Context) (s state, err error) {
	if s.Portals, err = k.Portals.Export(ctx); err != nil {
		return s, err
	}
	if s.Accounts, err = k.Accounts.Export(ctx); err != nil {
		return s, err
	}
	s.Projects, err = k.Projects.Export(ctx)
	return s, err
}
