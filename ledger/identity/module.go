package identity

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	pb "github.com/openbsn/bsn/gen/ledger/identitypb"
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
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgSetKeys{}, &pb.MsgAct{}, &pb.MsgApproveAct{}, &pb.MsgCancelAct{},
					&pb.MsgSetGuard{}, &pb.MsgRecover{}, &pb.MsgCancelRecovery{}, &pb.MsgSetOperatorKeys{})
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
	return m.keeper.Expire(sdk.UnwrapSDKContext(ctx))
}

type server struct{ k *Keeper }

func (s server) SetKeys(ctx context.Context, m *pb.MsgSetKeys) (*pb.MsgSetKeysResponse, error) {
	return &pb.MsgSetKeysResponse{}, s.k.SetKeys(ctx, m)
}

func (s server) Act(ctx context.Context, m *pb.MsgAct) (*pb.MsgActResponse, error) {
	return s.k.Act(sdk.UnwrapSDKContext(ctx), m)
}

func (s server) ApproveAct(ctx context.Context, m *pb.MsgApproveAct) (*pb.MsgActResponse, error) {
	return s.k.ApproveAct(sdk.UnwrapSDKContext(ctx), m)
}

func (s server) CancelAct(ctx context.Context, m *pb.MsgCancelAct) (*pb.MsgCancelActResponse, error) {
	return &pb.MsgCancelActResponse{}, s.k.CancelAct(ctx, m)
}

func (s server) SetGuard(ctx context.Context, m *pb.MsgSetGuard) (*pb.MsgSetGuardResponse, error) {
	return &pb.MsgSetGuardResponse{}, s.k.SetGuard(ctx, m)
}

func (s server) Recover(ctx context.Context, m *pb.MsgRecover) (*pb.MsgRecoverResponse, error) {
	return &pb.MsgRecoverResponse{}, s.k.Recover(sdk.UnwrapSDKContext(ctx), m)
}

func (s server) CancelRecovery(ctx context.Context, m *pb.MsgCancelRecovery) (*pb.MsgCancelRecoveryResponse, error) {
	return &pb.MsgCancelRecoveryResponse{}, s.k.CancelRecovery(ctx, m)
}

func (s server) SetOperatorKeys(ctx context.Context, m *pb.MsgSetOperatorKeys) (*pb.MsgSetOperatorKeysResponse, error) {
	return &pb.MsgSetOperatorKeysResponse{}, s.k.SetOperatorKeys(ctx, m)
}
