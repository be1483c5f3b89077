package chain

import (
	"context"
	"fmt"
	"slices"

	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
)

// change carries out what the operators decided about one chain.
func (k *Keeper) change(ctx context.Context, authority, chain string, f func(*bsn.Chain) error) error {
	if err := k.ruled(authority); err != nil {
		return err
	}
	c, err := k.Chains.Get(ctx, chain)
	if err != nil {
		return err
	}
	if err := f(&c); err != nil {
		return err
	}
	return k.Chains.Set(ctx, c.Name, c)
}

// shut closes a chain to new apps and versions. What is on it goes on.
func shut(c *bsn.Chain) error {
	if c.Status != bsn.ChainRunning {
		return fmt.Errorf("chain %q is at %q: only a running one is closed", c.Name, c.Status)
	}
	c.Status = bsn.ChainClosed
	return nil
}

func (k *Keeper) reopen(ctx context.Context) func(c *bsn.Chain) error {
	return func(c *bsn.Chain) error {
		if c.Status != bsn.ChainClosed {
			return fmt.Errorf("chain %q is at %q: only a closed one is opened again", c.Name, c.Status)
		}
		if c.Genesis == "" {
			return fmt.Errorf("chain %q never ran: open another", c.Name)
		}
		// The committee of a chain whose last city was evicted names that still.
		if err := k.checkCommittee(ctx, c.Committee); err != nil {
			return err
		}
		c.Status = bsn.ChainRunning
		return nil
	}
}

func deploy(policy string) func(c *bsn.Chain) error {
	return func(c *bsn.Chain) error {
		c.Deploy = bsn.DeployPolicy(policy)
		return checkDeploy(c.Deploy)
	}
}

func checkDeploy(p bsn.DeployPolicy) error {
	if p != bsn.DeployAccounts && p != bsn.DeployAnyone {
		return fmt.Errorf("deploy policy %.32q: it is %s or %s", string(p), bsn.DeployAccounts, bsn.DeployAnyone)
	}
	return nil
}

// release takes a city that leaves or was evicted out of all committees. One that
// leaves is refused where a chain needs it; one that was evicted goes, and a chain
// that it ran alone is closed, its committee left as it was.
func (k *Keeper) release(ctx context.Context, city bsn.City) error {
	var all []bsn.Chain
	if err := k.Chains.Each(ctx, "", func(_ string, c bsn.Chain) (bool, error) {
		if c.Member(city.Name) {
			all = append(all, c)
		}
		return true, nil
	}); err != nil {
		return err
	}
	evicted := city.Status == bsn.CityEvicted
	for _, c := range all {
		rest := slices.DeleteFunc(slices.Clone(c.Committee), func(name string) bool { return name == city.Name })
		switch {
		// More than half of those who run a chain must remain to take the leaving
		// city's validator off it by their votes.
		case !evicted && c.Runs() && 2*len(rest) <= len(c.Committee), len(rest) == 0 && !evicted:
			return fmt.Errorf("chain %q would be left with %d of its %d cities, and more than half must remain: have others run it first (bsn chain committee %s --cities …)",
				c.Name, len(rest), len(c.Committee), c.Name)
		case len(rest) == 0:
			if !c.Runs() {
				c.Genesis, c.Proposer, c.Approvals = "", "", nil
			}
			c.Status = bsn.ChainClosed
		default:
			c = without(ctx, c, city.Name, rest)
		}
		if err := k.Chains.Set(ctx, c.Name, c); err != nil {
			return err
		}
	}
	return nil
}

// without is a chain with one member less. Before it runs, the rest begin anew
// with a genesis that does not know the member.
func without(ctx context.Context, c bsn.Chain, city string, rest []string) bsn.Chain {
	c.Committee = rest
	if c.Runs() {
		return c
	}
	c.Nodes = slices.DeleteFunc(slices.Clone(c.Nodes), func(n bsn.ChainNode) bool { return n.City == city })
	c.Genesis, c.Proposer, c.Approvals = "", "", nil
	if c.Status == bsn.ChainKeys && len(c.Nodes) == len(c.Committee) {
		c.Status, c.GenesisTime = bsn.ChainGenesis, sdk.UnwrapSDKContext(ctx).BlockTime().Unix()
	}
	return c
}
