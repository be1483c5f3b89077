package upgrade

import (
	"context"
	"errors"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/upgradepb"
	"github.com/openbsn/bsn/ledger/record"
)

// Module is the application's module.
type Module struct {
	record.Module
	record.Genesis[State]
}

// NewModule wires the module.
func NewModule(k *Keeper) Module {
	return Module{
		Module: record.Module{
			ModuleName: StoreKey,
			Interfaces: func(r cdctypes.InterfaceRegistry) {
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgUpgrade{}, &pb.MsgCancelUpgrade{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
			},
			Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
		},
		Genesis: record.Genesis[State]{
			Import: func(ctx sdk.Context, s State) error { return k.init(ctx, s) },
			Export: func(ctx sdk.Context) (State, error) {
				p, err := k.Get(ctx)
				return State{p.Version}, err
			},
		},
	}
}

var errAuthority = errors.New("upgrades are decided by the operators' vote")

type server struct{ k *Keeper }

func (s server) Upgrade(ctx context.Context, m *pb.MsgUpgrade) (*pb.MsgUpgradeResponse, error) {
	if m.Authority != s.k.authority {
		return nil, errAuthority
	}
	u := bsn.Upgrade{Version: m.Version, Height: m.Height, Name: m.Name, URL: m.Url}
	return &pb.MsgUpgradeResponse{}, s.k.Plan(ctx, u, sdk.UnwrapSDKContext(ctx).BlockHeight())
}

func (s server) CancelUpgrade(ctx context.Context, m *pb.MsgCancelUpgrade) (*pb.MsgCancelUpgradeResponse, error) {
	if m.Authority != s.k.authority {
		return nil, errAuthority
	}
	return &pb.MsgCancelUpgradeResponse{}, s.k.Cancel(ctx, m.Version, sdk.UnwrapSDKContext(ctx).BlockHeight())
}
