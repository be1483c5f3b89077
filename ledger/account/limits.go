package account

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"cosmossdk.io/collections"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/accountpb"
)

// LimitsVersion is the protocol version from which on keys have limits and
// restrictions of their own, and projects limits in compute units.
const LimitsVersion = 2

// SetKey registers a key with what it is good for, or sets that anew for a key
// that the project has. The same again changes nothing.
func (k *Keeper) SetKey(ctx sdk.Context, m *pb.MsgSetKey) error {
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
	key := bsn.Key{ID: m.Hash[:12], City: m.City, Hash: m.Hash, Limits: rates(m.Rates), Expires: m.Expires}
	if err := key.Limits.Check(); err != nil {
		return err
	}
	if key.Restrictions, err = (bsn.Restrictions{
		Methods: m.Methods, DeniedMethods: m.DeniedMethods, Contracts: m.Contracts, IPs: m.Ips, Origins: m.Origins,
	}).Normal(); err != nil {
		return err
	}
	i := slices.IndexFunc(p.Keys, func(known bsn.Key) bool { return known.Hash == m.Hash })
	if unchanged := i >= 0 && p.Keys[i].Expires == m.Expires; !unchanged && m.Expires != 0 && m.Expires <= ctx.BlockTime().Unix() {
		return fmt.Errorf("key would expire at %d, in Unix seconds, and it is %d on the ledger: give a later time, or revoke the key", m.Expires, ctx.BlockTime().Unix())
	}
	if i >= 0 {
		if old := p.Keys[i]; old.City != m.City || old.Revoked {
			return fmt.Errorf("key %s is of city %q or revoked: make another", old.ID, old.City)
		}
		if reflect.DeepEqual(p.Keys[i], key) {
			return nil
		}
		p.Keys[i] = key
		return k.Projects.Set(ctx, p.ID(), p)
	}
	if _, err := k.operators.Staying(ctx, m.City); err != nil {
		return err
	}
	if _, err := k.hashes.Get(ctx, m.Hash); err == nil {
		return errors.New("another project has this key")
	} else if !errors.Is(err, collections.ErrNotFound) {
		return fmt.Errorf("read keys: %w", err)
	}
	return k.newKey(ctx, p, key)
}

// SetLimits sets all limits of a project anew.
func (k *Keeper) SetLimits(ctx context.Context, m *pb.MsgSetLimits) error {
	p, err := k.own(ctx, m.Account, m.Project)
	if err != nil {
		return err
	}
	if p.Revoked {
		return fmt.Errorf("project %q is revoked", p.ID())
	}
	p.Limits, p.Quota = rates(m.Rates), bsn.Quota{Daily: m.DailyUnits, Monthly: m.MonthlyUnits}
	if err := p.Limits.Check(); err != nil {
		return err
	}
	if err := p.Quota.Check(); err != nil {
		return err
	}
	return k.Projects.Set(ctx, p.ID(), p)
}

func rates(r *pb.Rates) bsn.Limits {
	return bsn.Limits{RequestsPerSecond: int(r.GetRequestsPerSecond()), UnitsPerSecond: int(r.GetUnitsPerSecond())}
}

func (s server) SetKey(ctx context.Context, m *pb.MsgSetKey) (*pb.MsgSetKeyResponse, error) {
	return &pb.MsgSetKeyResponse{}, s.k.SetKey(sdk.UnwrapSDKContext(ctx), m)
}

func (s server) SetLimits(ctx context.Context, m *pb.MsgSetLimits) (*pb.MsgSetLimitsResponse, error) {
	return &pb.MsgSetLimitsResponse{}, s.k.SetLimits(ctx, m)
}
