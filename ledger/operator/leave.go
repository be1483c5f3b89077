package operator

import (
	"context"
	"fmt"

	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// maxNotice is the longest that a leaving city can be asked to stay, in seconds.
const maxNotice = 30 * 24 * 3600

func (k *Keeper) ruled(authority string) error {
	if authority != k.authority {
		return fmt.Errorf("%w: this takes the operators' vote", writer.ErrStranger)
	}
	return nil
}

// Own reads a city for itself or for its operator.
func (k *Keeper) Own(ctx context.Context, signer, city string) (bsn.City, error) {
	w, err := k.writers.As(ctx, signer, bsn.KindCity, bsn.KindOperator)
	if err != nil {
		return bsn.City{}, err
	}
	c, err := k.Cities.Get(ctx, city)
	if err == nil && !(w.Kind == bsn.KindCity && w.Name == c.Name || w.Kind == bsn.KindOperator && w.Name == c.Operator) {
		err = fmt.Errorf("%w: city %q is of operator %q, and %s is the %s %q", writer.ErrStranger, city, c.Operator, signer, w.Kind, w.Name)
	}
	return c, err
}

// Leave begins a city's way out: it leaves all committees at once, and its
// operator's power moves to another city of its own or goes. For notice seconds
// of ledger time at least it goes on answering.
func (k *Keeper) Leave(ctx sdk.Context, c bsn.City, notice int64) error {
	switch c.Status {
	case bsn.CityLeaving, bsn.CityLeft:
		return nil
	case bsn.CityEvicted:
		return fmt.Errorf("city %q was evicted", c.Name)
	}
	if notice < 0 || notice > maxNotice {
		return fmt.Errorf("notice of %d s: the most is %d", notice, maxNotice)
	}
	c.Status, c.Since, c.Until = bsn.CityLeaving, ctx.BlockTime().Unix(), ctx.BlockTime().Unix()+notice
	return k.remove(ctx, c)
}

// End makes a leaving city one that left: its key writes no more, and it may be
// deleted from its machine. It cannot come back; its operator can bring another.
func (k *Keeper) End(ctx sdk.Context, c bsn.City) error {
	switch c.Status {
	case bsn.CityLeft:
		return nil
	case bsn.CityLeaving:
	default:
		return fmt.Errorf("city %q is %s: it has to leave first (bsn city leave %s)", c.Name, c.Status, c.Name)
	}
	c.Status, c.Since, c.Until = bsn.CityLeft, ctx.BlockTime().Unix(), 0
	if err := k.Cities.Set(ctx, c.Name, c); err != nil {
		return err
	}
	return k.writers.End(ctx, bsn.KindCity, c.Name, "has left the network")
}

// EvictCity puts a city out of the network: it is in no committee, its key writes
// no more, and other cities do not talk to it. Its operator stays.
func (k *Keeper) EvictCity(ctx sdk.Context, name string) error {
	c, err := k.Cities.Get(ctx, name)
	if err != nil {
		return err
	}
	if !c.Status.Member() {
		return fmt.Errorf("city %q is %s already", name, c.Status)
	}
	return k.evict(ctx, c)
}

func (k *Keeper) evict(ctx sdk.Context, c bsn.City) error {
	c.Status, c.Since, c.Until = bsn.CityEvicted, ctx.BlockTime().Unix(), 0
	if err := k.remove(ctx, c); err != nil {
		return err
	}
	return k.writers.End(ctx, bsn.KindCity, c.Name, "was evicted")
}

// EvictOperator puts an operator out of the network, with all its cities.
func (k *Keeper) EvictOperator(ctx sdk.Context, name string) error {
	o, err := k.Operators.Get(ctx, name)
	if err != nil {
		return err
	}
	if o.Evicted > 0 {
		return fmt.Errorf("operator %q was evicted already", name)
	}
	o.Evicted = ctx.BlockHeight()
	if err := k.disempower(ctx, o); err != nil {
		return err
	}
	cities, err := k.cities(ctx, name)
	if err != nil {
		return err
	}
	for _, c := range cities {
		if c.Status.Member() {
			if err := k.evict(ctx, c); err != nil {
				return err
			}
		}
	}
	return k.writers.End(ctx, bsn.KindOperator, name, "was evicted")
}

// remove stores a city that is on its way out, after it has left its committees
// and its operator's power has found another place.
func (k *Keeper) remove(ctx context.Context, c bsn.City) error {
	if err := k.removal(ctx, c); err != nil {
		return err
	}
	if err := k.Cities.Set(ctx, c.Name, c); err != nil {
		return err
	}
	o, err := k.Operators.Get(ctx, c.Operator)
	if err != nil || o.ValidatingCity != c.Name {
		return err
	}
	others, err := k.cities(ctx, o.Name)
	if err != nil {
		return err
	}
	for _, other := range others {
		if other.Status == bsn.CityActive {
			if err := k.updates.Set(ctx, fmt.Sprintf("%x", c.ConsensusKey), 0); err != nil {
				return err
			}
			if o, err = k.forgive(ctx, o); err != nil {
				return err
			}
			return k.empower(ctx, o, other)
		}
	}
	return k.disempower(ctx, o)
}

// cities returns all cities that an operator has or had, in order of name.
func (k *Keeper) cities(ctx context.Context, operator string) (out []bsn.City, err error) {
	return out, k.Cities.Each(ctx, "", func(_ string, c bsn.City) (bool, error) {
		if c.Operator == operator {
			out = append(out, c)
		}
		return true, nil
	})
}

// Staying reads a city of the network that is not on its way out: what is new goes
// to such ones only.
func (k *Keeper) Staying(ctx context.Context, name string) (bsn.City, error) {
	c, err := k.Cities.Get(ctx, name)
	if err == nil && (!c.Status.Member() || c.Status == bsn.CityLeaving) {
		err = fmt.Errorf("city %q is %s", name, c.Status)
	}
	return c, err
}

// Suspend takes an operator's power and vote for what evidence shows, until the
// others reinstate it. The only operator with power keeps it.
func (k *Keeper) Suspend(ctx sdk.Context, o bsn.Operator, city, reason string) error {
	voters, err := k.Voters(ctx)
	if err != nil {
		return err
	}
	if _, has := voters[o.Name]; has && len(voters) < 2 {
		return nil
	}
	o.Suspended = &bsn.Suspension{Reason: record.Clip(reason, maxReason), Height: ctx.BlockHeight(), City: city}
	return k.disempower(ctx, o)
}

// Reinstate gives a suspended operator its power and vote back, carried by one of
// its active cities with a consensus key that no city ever had.
func (k *Keeper) Reinstate(ctx context.Context, operator, city string, consensusKey []byte) error {
	o, err := k.Operators.Get(ctx, operator)
	if err != nil {
		return err
	}
	if o.Suspended == nil || o.Evicted > 0 {
		return fmt.Errorf("operator %q is not suspended", operator)
	}
	c, err := k.Cities.Get(ctx, city)
	if err != nil {
		return err
	}
	if c.Operator != operator || c.Status != bsn.CityActive {
		return fmt.Errorf("city %q is no active city of operator %q", city, operator)
	}
	if c, err = k.rekey(ctx, c, consensusKey); err != nil {
		return err
	}
	o.Suspended = nil
	return k.empower(ctx, o, c)
}
