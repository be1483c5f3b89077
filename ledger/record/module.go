package record

import (
	"encoding/json"
	"fmt"

	"github.com/cosmos/cosmos-sdk/client"
	"github.com/cosmos/cosmos-sdk/codec"
	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	gwruntime "github.com/grpc-ecosystem/grpc-gateway/runtime"

	sdk "github.com/cosmos/cosmos-sdk/types"
)

// Module is what all of the ledger's own modules have in common; each embeds it
// and adds its genesis.
type Module struct {
	ModuleName string
	Interfaces func(cdctypes.InterfaceRegistry)
	Services   func(module.Configurator)
}

// Name implements module.AppModule.
func (m Module) Name() string { return m.ModuleName }

// IsOnePerModuleType implements depinject.OnePerModuleType.
func (Module) IsOnePerModuleType() {}

// IsAppModule implements appmodule.AppModule.
func (Module) IsAppModule() {}

// ConsensusVersion implements module.HasConsensusVersion.
func (Module) ConsensusVersion() uint64 { return 1 }

// RegisterLegacyAminoCodec implements module.AppModule: there is no amino form.
func (Module) RegisterLegacyAminoCodec(*codec.LegacyAmino) {}

// RegisterGRPCGatewayRoutes implements module.AppModule: records are read through
// the city API.
func (Module) RegisterGRPCGatewayRoutes(client.Context, *gwruntime.ServeMux) {}

// RegisterInterfaces implements module.AppModule.
func (m Module) RegisterInterfaces(r cdctypes.InterfaceRegistry) { m.Interfaces(r) }

// RegisterServices implements module.HasServices.
func (m Module) RegisterServices(c module.Configurator) { m.Services(c) }

// Genesis gives a module of plain records its genesis: a JSON value of type G.
type Genesis[G any] struct {
	Import func(sdk.Context, G) error
	Export func(sdk.Context) (G, error)
}

// DefaultGenesis implements module.HasGenesisBasics.
func (Genesis[G]) DefaultGenesis(codec.JSONCodec) json.RawMessage { return json.RawMessage("{}") }

// ValidateGenesis implements module.HasGenesisBasics.
func (Genesis[G]) ValidateGenesis(_ codec.JSONCodec, _ client.TxEncodingConfig, b json.RawMessage) error {
	_, err := decode[G](b)
	return err
}

// InitGenesis implements module.HasGenesis. A genesis that cannot be read must
// not start a chain: it panics, as the SDK's own modules do.
func (g Genesis[G]) InitGenesis(ctx sdk.Context, _ codec.JSONCodec, b json.RawMessage) {
	v, err := decode[G](b)
	if err == nil {
		err = g.Import(ctx, v)
	}
	if err != nil {
		panic(err)
	}
}

// ExportGenesis implements module.HasGenesis.
func (g Genesis[G]) ExportGenesis(ctx sdk.Context, _ codec.JSONCodec) json.RawMessage {
	v, err := g.Export(ctx)
	if err != nil {
		panic(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func decode[G any](b json.RawMessage) (g G, err error) {
	if err := json.Unmarshal(b, &g); err != nil {
		return g, fmt.Errorf("decode genesis: %w", err)
	}
	return g, nil
}
