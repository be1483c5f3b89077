package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"cosmossdk.io/collections"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cosmos/cosmos-sdk/client"
	"github.com/cosmos/cosmos-sdk/codec"
	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/msgservice"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/operatorpb"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// Module is the application's module. It is the one that sets validators.
type Module struct {
	record.Module
	keeper *Keeper
}

// NewModule wires the module.
func NewModule(k *Keeper) Module {
	return Module{record.Module{
		ModuleName: StoreKey,
		Interfaces: func(r cdctypes.InterfaceRegistry) {
			r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgAdmitCity{}, &pb.MsgActivateCity{}, &pb.MsgUpdateCity{})
			msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
		},
		Services: func(c module.Configurator) { pb.RegisterMsgServer(c.MsgServer(), server{k}) },
	}, k}
}

type server struct{ k *Keeper }

func (s server) AdmitCity(ctx context.Context, m *pb.MsgAdmitCity) (*pb.MsgAdmitCityResponse, error) {
	if m.Authority != s.k.authority {
		return nil, fmt.Errorf("%w: cities are admitted by the operators' vote", writer.ErrStranger)
	}
	_, err := s.k.Admit(ctx, FromMessage(m), sdk.UnwrapSDKContext(ctx).BlockHeight())
	return &pb.MsgAdmitCityResponse{}, err
}

// FromMessage reads an admission.
func FromMessage(m *pb.MsgAdmitCity) Admission {
	return Admission{
		Operator: m.Operator, OperatorKey: m.OperatorKey, City: m.City, CityKey: m.CityKey,
		ConsensusKey: m.ConsensusKey, NodeKey: m.NodeKey, API: m.Api, Gateway: m.Gateway, Link: m.Link,
	}
}

func (s server) ActivateCity(ctx context.Context, m *pb.MsgActivateCity) (*pb.MsgActivateCityResponse, error) {
	c, err := s.k.City(ctx, m.City)
	if err != nil {
		return nil, err
	}
	return &pb.MsgActivateCityResponse{}, s.k.Activate(ctx, c.Name)
}

func (s server) UpdateCity(ctx context.Context, m *pb.MsgUpdateCity) (*pb.MsgUpdateCityResponse, error) {
	c, err := s.k.City(ctx, m.City)
	if err != nil {
		return nil, err
	}
	if err := checkAddresses(m.Api, m.Gateway, m.Link); err != nil {
		return nil, err
	}
	c.API, c.Gateway, c.Link = or(m.Api, c.API), or(m.Gateway, c.Gateway), m.Link
	return &pb.MsgUpdateCityResponse{}, s.k.Cities.Set(ctx, c.Name, c)
}

// State is the module's genesis: a new network has one Founder, a restarted one
// has its records.
type State struct {
	Net       bsn.Net                 `json:"net"`
	Founder   *Admission              `json:"founder,omitempty"`
	Operators map[string]bsn.Operator `json:"operators,omitempty"`
	Cities    map[string]bsn.City     `json:"cities,omitempty"`
}

// DefaultGenesis implements module.HasGenesisBasics.
func (Module) DefaultGenesis(codec.JSONCodec) json.RawMessage { return json.RawMessage("{}") }

// ValidateGenesis implements module.HasGenesisBasics.
func (Module) ValidateGenesis(_ codec.JSONCodec, _ client.TxEncodingConfig, b json.RawMessage) error {
	var s State
	return json.Unmarshal(b, &s)
}

// InitGenesis implements module.HasABCIGenesis.
func (m Module) InitGenesis(ctx sdk.Context, _ codec.JSONCodec, b json.RawMessage) []abci.ValidatorUpdate {
	updates, err := m.keeper.init(ctx, b)
	if err != nil {
		panic(err) // a network must not start on a genesis that cannot be read
	}
	return updates
}

func (k *Keeper) init(ctx sdk.Context, b json.RawMessage) ([]abci.ValidatorUpdate, error) {
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("decode genesis of operators: %w", err)
	}
	if err := k.net.Set(ctx, uint64(s.Net)); err != nil {
		return nil, err
	}
	if s.Founder != nil {
		if _, err := k.Admit(ctx, *s.Founder, 0); err != nil {
			return nil, fmt.Errorf("admit founder: %w", err)
		}
		if err := k.Activate(ctx, s.Founder.City); err != nil {
			return nil, fmt.Errorf("activate founder: %w", err)
		}
	}
	if err := k.Operators.Import(ctx, s.Operators); err != nil {
		return nil, err
	}
	if err := k.Cities.Import(ctx, s.Cities); err != nil {
		return nil, err
	}
	last := 0
	for _, name := range slices.Sorted(maps.Keys(s.Cities)) {
		c := s.Cities[name]
		last = max(last, c.Index)
		if err := k.byConsensusKey.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), c.Name); err != nil {
			return nil, err
		}
		if s.Operators[c.Operator].ValidatingCity == c.Name {
			if err := k.updates.Set(ctx, c.Name, power); err != nil {
				return nil, err
			}
		}
	}
	if last > 0 {
		if err := k.nextIndex.Set(ctx, uint64(last)); err != nil {
			return nil, err
		}
	}
	return k.takeUpdates(ctx)
}

// ExportGenesis implements module.HasABCIGenesis.
func (m Module) ExportGenesis(ctx sdk.Context, _ codec.JSONCodec) json.RawMessage {
	var s State
	var err error
	if s.Net, err = m.keeper.Net(ctx); err == nil {
		if s.Operators, err = m.keeper.Operators.Export(ctx); err == nil {
			s.Cities, err = m.keeper.Cities.Export(ctx)
		}
	}
	if err != nil {
		panic(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

// EndBlock implements module.HasABCIEndBlock: it hands power updates to CometBFT.
func (m Module) EndBlock(ctx context.Context) ([]abci.ValidatorUpdate, error) {
	return m.keeper.takeUpdates(ctx)
}

func (k *Keeper) takeUpdates(ctx context.Context) ([]abci.ValidatorUpdate, error) {
	var out []abci.ValidatorUpdate
	err := k.updates.Walk(ctx, nil, func(city string, power int64) (bool, error) {
		c, err := k.Cities.Get(ctx, city)
		if err != nil {
			return true, err
		}
		out = append(out, abci.Ed25519ValidatorUpdate(c.ConsensusKey, power))
		return false, nil
	})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	return out, k.updates.Clear(ctx, new(collections.Range[string]))
}
