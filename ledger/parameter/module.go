package parameter

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/parameterpb"
	"github.com/openbsn/bsn/ledger/record"
)

// Module is the application's module.
type Module struct {
	record.Module
	record.Genesis[bsn.Parameters]
}

// NewModule wires the module.
func NewModule(k *Keeper) Module {
	return Module{
		Module: record.Module{
			ModuleName: StoreKey,
			Interfaces: func(r cdctypes.InterfaceRegistry) {
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgSetParameter{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
			},
			Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
		},
		Genesis: record.Genesis[bsn.Parameters]{
			Import: func(ctx sdk.Context, p bsn.Parameters) error {
				p = p.Complete()
				if err := p.Check(); err != nil {
					return err
				}
				return k.Records.Set(ctx, bsn.ParametersID, p.At(k.version))
			},
			Export: func(ctx sdk.Context) (bsn.Parameters, error) { return k.Get(ctx) },
		},
	}
}

type server struct{ k *Keeper }

func (s server) SetParameter(ctx context.Context, m *pb.MsgSetParameter) (*pb.MsgSetParameterResponse, error) {
	return &pb.MsgSetParameterResponse{}, s.k.Change(ctx, m)
}
