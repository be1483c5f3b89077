package operator

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/openbsn/bsn"
)

// power of an operator in CometBFT's validator set. Any equal number would do.
const power = 1

// empower makes a city carry its operator's power, and stores the operator.
func (k *Keeper) empower(ctx context.Context, o bsn.Operator, c bsn.City) error {
	o.ValidatingCity = c.Name
	if err := k.updates.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), power); err != nil {
		return err
	}
	if err := k.changed.Set(ctx, true); err != nil {
		return err
	}
	return k.Operators.Set(ctx, o.Name, o)
}

// disempower takes an operator's power and vote, and stores the operator. Nobody
// does so to the last that has any: a ledger without validators would stand still
// for good.
func (k *Keeper) disempower(ctx context.Context, o bsn.Operator) error {
	if o.ValidatingCity == "" {
		return k.Operators.Set(ctx, o.Name, o)
	}
	voters, err := k.Voters(ctx)
	if err != nil {
		return err
	}
	if len(voters) < 2 {
		return fmt.Errorf("operator %q is the only one with power on the ledger, which would stand still for good without it", o.Name)
	}
	c, err := k.Cities.Get(ctx, o.ValidatingCity)
	if err != nil {
		return err
	}
	if o, err = k.forgive(ctx, o); err != nil {
		return err
	}
	o.ValidatingCity = ""
	if err := k.updates.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), 0); err != nil {
		return err
	}
	if err := k.changed.Set(ctx, true); err != nil {
		return err
	}
	return k.Operators.Set(ctx, o.Name, o)
}

// rekey gives a city another consensus key, one that no city ever had. If the city
// carries power, the key does from the end of this block on.
func (k *Keeper) rekey(ctx context.Context, c bsn.City, consensusKey []byte) (bsn.City, error) {
	if len(consensusKey) != keySize {
		return c, fmt.Errorf("consensus key must be an Ed25519 public key of %d bytes", keySize)
	}
	id := fmt.Sprintf("%x", consensusKey)
	if has, err := k.byConsensusKey.Has(ctx, id); err != nil || has {
		return c, errors.Join(err, errors.New("a city has or had this consensus key: make another"))
	}
	if err := k.byConsensusKey.Set(ctx, id, c.Name); err != nil {
		return c, err
	}
	o, err := k.Operators.Get(ctx, c.Operator)
	if err != nil {
		return c, err
	}
	if o.ValidatingCity == c.Name {
		if err := k.updates.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), 0); err != nil {
			return c, err
		}
		if err := k.updates.Set(ctx, id, power); err != nil {
			return c, err
		}
	}
	c.ConsensusKey = consensusKey
	return c, k.Cities.Set(ctx, c.Name, c)
}

// takeUpdates returns what CometBFT does not know yet of the operators' power. It
// stops for good if it is told to remove what it never had.
func (k *Keeper) takeUpdates(ctx context.Context) ([]abci.ValidatorUpdate, error) {
	type update struct {
		key   string
		power int64
	}
	var all []update
	if err := k.updates.Walk(ctx, nil, func(key string, power int64) (bool, error) {
		all = append(all, update{key, power})
		return false, nil
	}); err != nil || len(all) == 0 {
		return nil, err
	}
	var out []abci.ValidatorUpdate
	for _, u := range all {
		has, err := k.powers.Has(ctx, u.key)
		if err != nil {
			return nil, err
		}
		switch {
		case has == (u.power > 0):
			continue
		case has:
			err = k.powers.Remove(ctx, u.key)
		default:
			err = k.powers.Set(ctx, u.key, u.power)
		}
		if err != nil {
			return nil, err
		}
		public, err := hex.DecodeString(u.key)
		if err != nil {
			return nil, fmt.Errorf("read consensus key: %w", err)
		}
		out = append(out, abci.Ed25519ValidatorUpdate(public, u.power))
	}
	return out, k.updates.Clear(ctx, new(collections.Range[string]))
}

// VotersChanged tells whether this block changed who has a vote, and forgets it.
func (k *Keeper) VotersChanged(ctx context.Context) (bool, error) {
	has, err := k.changed.Has(ctx)
	if err != nil || !has {
		return false, err
	}
	return true, k.changed.Remove(ctx)
}
