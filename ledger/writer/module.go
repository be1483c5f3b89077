package writer

import (
	"fmt"
	"maps"
	"slices"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"

	"github.com/openbsn/bsn/ledger/record"
)

// Module is the application's module.
type Module struct {
	record.Module
	record.Genesis[genesis]
}

// NewModule wires the module.
func NewModule(k *Keeper) Module {
	return Module{
		Module: record.Module{
			ModuleName: StoreKey,
			Interfaces: func(cdctypes.InterfaceRegistry) {},
			Services:   func(module.Configurator) {},
		},
		Genesis: record.Genesis[genesis]{Import: k.init, Export: k.export},
	}
}

func (k *Keeper) init(ctx sdk.Context, g genesis) error {
	a := maps.Clone(DefaultAllowance)
	maps.Copy(a, g.Allowance)
	for _, address := range slices.Sorted(maps.Keys(g.Writers)) {
		if err := k.writers.Set(ctx, address, g.Writers[address]); err != nil {
			return fmt.Errorf("store writer %s: %w", address, err)
		}
	}
	return k.allowance.Set(ctx, a)
}

func (k *Keeper) export(ctx sdk.Context) (g genesis, err error) {
	if g.Allowance, err = k.allowance.Get(ctx); err != nil {
		return g, fmt.Errorf("read allowance: %w", err)
	}
	g.Writers = map[string]Writer{}
	return g, k.writers.Walk(ctx, nil, func(address string, w Writer) (bool, error) {
		g.Writers[address] = w
		return false, nil
	})
}
