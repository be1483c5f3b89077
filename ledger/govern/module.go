package govern

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	pb "github.com/openbsn/bsn/gen/ledger/governpb"
	"github.com/openbsn/bsn/ledger/record"
)

// Module is the application's module.
type Module struct {
	record.Module
	record.Genesis[state]
	keeper *Keeper
}

// NewModule wires the module.
func NewModule(k *Keeper) Module {
	return Module{
		Module: record.Module{
			ModuleName: StoreKey,
			Interfaces: func(r cdctypes.InterfaceRegistry) {
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgPropose{}, &pb.MsgVote{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
			},
			Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
		},
		Genesis: record.Genesis[state]{Import: k.init, Export: k.export},
		keeper:  k,
	}
}

// EndBlock implements appmodule.HasEndBlocker.
func (m Module) EndBlock(ctx context.Context) error {
	if err := m.keeper.Expire(sdk.UnwrapSDKContext(ctx)); err != nil {
		return err
	}
	return m.keeper.Retally(sdk.UnwrapSDKContext(ctx))
}

type server struct{ k *Keeper }

func (s server) Propose(ctx context.Context, m *pb.MsgPropose) (*pb.MsgProposeResponse, error) {
	id, err := s.k.Propose(sdk.UnwrapSDKContext(ctx), m)
	return &pb.MsgProposeResponse{Id: id}, err
}

func (s server) Vote(ctx context.Context, m *pb.MsgVote) (*pb.MsgVoteResponse, error) {
	return &pb.MsgVoteResponse{}, s.k.Vote(sdk.UnwrapSDKContext(ctx), m)
}
