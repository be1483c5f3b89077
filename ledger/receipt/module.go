package receipt

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	pb "github.com/openbsn/bsn/gen/ledger/receiptpb"
	"github.com/openbsn/bsn/ledger/record"
)

// Version is the protocol version from which on there are receipts.
const Version = 2

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
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgReceipt{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
			},
			Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
		},
		Genesis: record.Genesis[state]{Import: k.init, Export: k.export},
	}
}

type server struct{ k *Keeper }

func (s server) Receipt(ctx context.Context, m *pb.MsgReceipt) (*pb.MsgReceiptResponse, error) {
	return &pb.MsgReceiptResponse{}, s.k.Put(sdk.UnwrapSDKContext(ctx), m)
}
