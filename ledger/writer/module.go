package writer

import (
	"fmt"

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
	for _, address := range record.SortedKeys(g.Writers) {
		if err := k.writers.Set(ctx, address, g.Writers[address]); err != nil {
			return fmt.Errorf("store writer %s: %w", address, err)
		}
	}
	for _, id := range record.SortedKeys(g.Ended) {
		if err := k.ended.Set(ctx, id, g.Ended[id]); err != nil {
			return fmt.Errorf("store writer %s: %w", id, err)
		}
	}
	for _, id := range record.SortedKeys(g.Used) {
		if err := k.used.set(ctx, id, g.Used[id], 0); err != nil {
			return fmt.Errorf("store writer %s: %w", id, err)
		}
	}
	return nil
}

func (k *Keeper) export(ctx sdk.Context) (g genesis, err error) {
	g.Writers, g.Ended, g.Used = map[string]Writer{}, map[string]string{}, map[string]use{}
	if err := k.writers.Walk(ctx, nil, func(address string, w Writer) (bool, error) {
		g.Writers[address] = w
		return false, nil
	}); err != nil {
		return g, err
	}
	if err := k.ended.Walk(ctx, nil, func(id, reason string) (bool, error) {
		g.Ended[id] = reason
		return false, nil
	}); err != nil {
		return g, err
	}
	return g, k.used.byID.Walk(ctx, nil, func(id string, u use) (bool, error) {
		g.Used[id] = u
		return false, nil
	})
}
