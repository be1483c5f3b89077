package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

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

// RotationVersion is the protocol version from which on cities' keys can be rotated.
const RotationVersion = 2

// NewModule wires the module with the messages of a protocol version.
func NewModule(k *Keeper, version uint64) Module {
	return Module{record.Module{
		ModuleName: StoreKey,
		Interfaces: func(r cdctypes.InterfaceRegistry) {
			if version >= RotationVersion {
				r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgRotateKey{})
				msgservice.RegisterMsgServiceDesc(r, &pb.Rotation_serviceDesc)
			}
			r.RegisterImplementations((*sdk.Msg)(nil), &pb.MsgAdmitCity{}, &pb.MsgActivateCity{}, &pb.MsgUpdateCity{},
				&pb.MsgEvictCity{}, &pb.MsgEvictOperator{}, &pb.MsgReinstateOperator{}, &pb.MsgLeaveCity{}, &pb.MsgEndCity{})
			msgservice.RegisterMsgServiceDesc(r, &pb.Msg_serviceDesc)
		},
		Services: func(c module.Configurator) {
			pb.RegisterMsgServer(c.MsgServer(), server{k})
			if version >= RotationVersion {
				pb.RegisterRotationServer(c.MsgServer(), server{k})
			}
		},
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
	// Former consensus keys of cities, in hex: nobody may have them again.
	Former map[string]string `json:"former,omitempty"`
	// Missed are the operators whose validating city signs nothing now.
	Missed map[string]gap `json:"missed,omitempty"`
	// Last is the highest index that a city was given.
	Last int `json:"last,omitempty"`
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
	last := s.Last
	for _, hex := range record.SortedKeys(s.Former) {
		if err := k.byConsensusKey.Set(ctx, hex, s.Former[hex]); err != nil {
			return nil, err
		}
	}
	for _, name := range record.SortedKeys(s.Missed) {
		g := s.Missed[name]
		g.Height = ctx.BlockHeight() // blocks may be counted from another height now
		if err := k.missed.Set(ctx, name, g); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Cities)) {
		c := s.Cities[name]
		last = max(last, c.Index)
		if err := k.byConsensusKey.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), c.Name); err != nil {
			return nil, err
		}
		if s.Operators[c.Operator].ValidatingCity == c.Name {
			if err := k.updates.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), power); err != nil {
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
	s, err := m.keeper.export(ctx)
	if err != nil {
		panic(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

func (k *Keeper) export(ctx context.Context) (s State, err error) {
	if s.Net, err = k.Net(ctx); err != nil {
		return s, err
	}
	if s.Operators, err = k.Operators.Export(ctx); err != nil {
		return s, err
	}
	if s.Cities, err = k.Cities.Export(ctx); err != nil {
		return s, err
	}
	last, err := k.nextIndex.Peek(ctx)
	if err != nil {
		return s, err
	}
	s.Last, s.Former, s.Missed = int(last), map[string]string{}, map[string]gap{}
	if err := k.byConsensusKey.Walk(ctx, nil, func(hex, city string) (bool, error) {
		if hex != fmt.Sprintf("%x", s.Cities[city].ConsensusKey) {
			s.Former[hex] = city
		}
		return false, nil
	}); err != nil {
		return s, err
	}
	return s, k.missed.Walk(ctx, nil, func(operator string, g gap) (bool, error) {
		s.Missed[operator] = g
		return false, nil
	})
}

// BeginBlock implements appmodule.HasBeginBlocker: it takes in who signed the last
// block, and evidence.
func (m Module) BeginBlock(ctx context.Context) error {
	return m.keeper.begin(sdk.UnwrapSDKContext(ctx))
}

// EndBlock implements module.HasABCIEndBlock: it hands power updates to CometBFT.
func (m Module) EndBlock(ctx context.Context) ([]abci.ValidatorUpdate, error) {
	return m.keeper.takeUpdates(ctx)
}

func (s server) EvictCity(ctx context.Context, m *pb.MsgEvictCity) (*pb.MsgEvictCityResponse, error) {
	if err := s.k.ruled(m.Authority); err != nil {
		return nil, err
	}
	return &pb.MsgEvictCityResponse{}, s.k.EvictCity(sdk.UnwrapSDKContext(ctx), m.City)
}

func (s server) EvictOperator(ctx context.Context, m *pb.MsgEvictOperator) (*pb.MsgEvictOperatorResponse, error) {
	if err := s.k.ruled(m.Authority); err != nil {
		return nil, err
	}
	return &pb.MsgEvictOperatorResponse{}, s.k.EvictOperator(sdk.UnwrapSDKContext(ctx), m.Operator)
}

func (s server) ReinstateOperator(ctx context.Context, m *pb.MsgReinstateOperator) (*pb.MsgReinstateOperatorResponse, error) {
	if err := s.k.ruled(m.Authority); err != nil {
		return nil, err
	}
	return &pb.MsgReinstateOperatorResponse{}, s.k.Reinstate(ctx, m.Operator, m.City, m.ConsensusKey)
}

func (s server) LeaveCity(ctx context.Context, m *pb.MsgLeaveCity) (*pb.MsgLeaveCityResponse, error) {
	c, err := s.k.Own(ctx, m.Signer, m.City)
	if err != nil {
		return nil, err
	}
	return &pb.MsgLeaveCityResponse{}, s.k.Leave(sdk.UnwrapSDKContext(ctx), c, int64(m.Notice))
}

func (s server) EndCity(ctx context.Context, m *pb.MsgEndCity) (*pb.MsgEndCityResponse, error) {
	c, err := s.k.Own(ctx, m.Signer, m.City)
	if err != nil {
		return nil, err
	}
	return &pb.MsgEndCityResponse{}, s.k.End(sdk.UnwrapSDKContext(ctx), c)
}
