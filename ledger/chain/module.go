package chain

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	pb "github.com/openbsn/bsn/gen/ledger/chainpb"
	"github.com/openbsn/bsn/ledger/record"
)

// Module is the application's module.
type Module struct {
	record.Module
	record.Genesis[state]
}

// NewModule wires the module.
func NewModule(k *Keeper) Module {
	return Module{
		Module: record.Module{
			ModuleName: StoreKey,
			Interfaces: func(r cdctypes.InterfaceRegistry) {
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgOpenChain{}, &pb.MsgSetCommittee{},
					&pb.MsgCloseChain{}, &pb.MsgReopenChain{}, &pb.MsgSetDeploy{},
					&pb.MsgPostNode{}, &pb.MsgProposeGenesis{}, &pb.MsgAnswerGenesis{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
			},
			Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
		},
		Genesis: record.Genesis[state]{Import: k.init, Export: k.export},
	}
}

type server struct{ k *Keeper }

func (s server) OpenChain(ctx context.Context, m *pb.MsgOpenChain) (*pb.MsgOpenChainResponse, error) {
	return &pb.MsgOpenChainResponse{}, s.k.Open(ctx, m)
}

func (s server) SetCommittee(ctx context.Context, m *pb.MsgSetCommittee) (*pb.MsgSetCommitteeResponse, error) {
	return &pb.MsgSetCommitteeResponse{}, s.k.SetCommittee(ctx, m)
}

func (s server) CloseChain(ctx context.Context, m *pb.MsgCloseChain) (*pb.MsgCloseChainResponse, error) {
	return &pb.MsgCloseChainResponse{}, s.k.change(ctx, m.Authority, m.Chain, shut)
}

func (s server) ReopenChain(ctx context.Context, m *pb.MsgReopenChain) (*pb.MsgReopenChainResponse, error) {
	return &pb.MsgReopenChainResponse{}, s.k.change(ctx, m.Authority, m.Chain, s.k.reopen(ctx))
}

func (s server) SetDeploy(ctx context.Context, m *pb.MsgSetDeploy) (*pb.MsgSetDeployResponse, error) {
	return &pb.MsgSetDeployResponse{}, s.k.change(ctx, m.Authority, m.Chain, deploy(m.Deploy))
}

func (s server) PostNode(ctx context.Context, m *pb.MsgPostNode) (*pb.MsgPostNodeResponse, error) {
	return &pb.MsgPostNodeResponse{}, s.k.PostNode(ctx, m)
}

func (s server) ProposeGenesis(ctx context.Context, m *pb.MsgProposeGenesis) (*pb.MsgProposeGenesisResponse, error) {
	return &pb.MsgProposeGenesisResponse{}, s.k.ProposeGenesis(ctx, m)
}

func (s server) AnswerGenesis(ctx context.Context, m *pb.MsgAnswerGenesis) (*pb.MsgAnswerGenesisResponse, error) {
	return &pb.MsgAnswerGenesisResponse{}, s.k.AnswerGenesis(ctx, m)
}
