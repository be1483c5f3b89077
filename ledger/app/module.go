package app

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	pb "github.com/openbsn/bsn/gen/ledger/apppb"
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
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgPublish{}, &pb.MsgSetContracts{}, &pb.MsgWithdraw{}, &pb.MsgPlace{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
			},
			Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
		},
		Genesis: record.Genesis[state]{Import: k.init, Export: k.export},
	}
}

type server struct{ k *Keeper }

func (s server) Publish(ctx context.Context, m *pb.MsgPublish) (*pb.MsgPublishResponse, error) {
	n, err := s.k.Publish(ctx, m)
	return &pb.MsgPublishResponse{Version: uint32(n)}, err
}

func (s server) SetContracts(ctx context.Context, m *pb.MsgSetContracts) (*pb.MsgSetContractsResponse, error) {
	return &pb.MsgSetContractsResponse{}, s.k.SetContracts(ctx, m)
}

func (s server) Withdraw(ctx context.Context, m *pb.MsgWithdraw) (*pb.MsgWithdrawResponse, error) {
	return &pb.MsgWithdrawResponse{}, s.k.Withdraw(ctx, m)
}

func (s server) Place(ctx context.Context, m *pb.MsgPlace) (*pb.MsgPlaceResponse, error) {
	return &pb.MsgPlaceResponse{}, s.k.Place(ctx, m)
}
