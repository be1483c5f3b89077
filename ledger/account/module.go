package account

import (
	"context"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	pb "github.com/openbsn/bsn/gen/ledger/accountpb"
	"github.com/openbsn/bsn/ledger/record"
)

// Module is the application's module.
type Module struct {
	record.Module
	record.Genesis[state]
}

// NewModule wires the module with the messages of a protocol version.
func NewModule(k *Keeper, version uint64) Module {
	return Module{
		Module: record.Module{
			ModuleName: StoreKey,
			Interfaces: func(r cdctypes.InterfaceRegistry) {
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgRegisterPortal{}, &pb.MsgRegisterAccount{},
					&pb.MsgSetProject{}, &pb.MsgRevokeProject{}, &pb.MsgAddKey{}, &pb.MsgRevokeKey{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
				if version >= LimitsVersion {
					r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgSetKey{}, &pb.MsgSetLimits{})
					msgservice.RegisterMsgServiceDesc(r, &pb.Limits_serviceDesc)
				}
			},
			Services: func(c module.Configurator) {
				pb.RegisterMsgServer(c.MsgServer(), server{k})
				if version >= LimitsVersion {
					pb.RegisterLimitsServer(c.MsgServer(), server{k})
				}
			},
		},
		Genesis: record.Genesis[state]{Import: k.init, Export: k.export},
	}
}

type server struct{ k *Keeper }

func (s server) RegisterPortal(ctx context.Context, m *pb.MsgRegisterPortal) (*pb.MsgRegisterPortalResponse, error) {
	return &pb.MsgRegisterPortalResponse{}, s.k.RegisterPortal(ctx, m)
}

func (s server) RegisterAccount(ctx context.Context, m *pb.MsgRegisterAccount) (*pb.MsgRegisterAccountResponse, error) {
	return &pb.MsgRegisterAccountResponse{}, s.k.RegisterAccount(ctx, m)
}

func (s server) SetProject(ctx context.Context, m *pb.MsgSetProject) (*pb.MsgSetProjectResponse, error) {
	return &pb.MsgSetProjectResponse{}, s.k.SetProject(ctx, m)
}

func (s server) RevokeProject(ctx context.Context, m *pb.MsgRevokeProject) (*pb.MsgRevokeProjectResponse, error) {
	return &pb.MsgRevokeProjectResponse{}, s.k.RevokeProject(ctx, m)
}

func (s server) AddKey(ctx context.Context, m *pb.MsgAddKey) (*pb.MsgAddKeyResponse, error) {
	return &pb.MsgAddKeyResponse{}, s.k.AddKey(ctx, m)
}

func (s server) RevokeKey(ctx context.Context, m *pb.MsgRevokeKey) (*pb.MsgRevokeKeyResponse, error) {
	return &pb.MsgRevokeKeyResponse{}, s.k.RevokeKey(ctx, m)
}
