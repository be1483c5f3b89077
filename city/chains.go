package city

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// proposerTurn is how long, in ledger time, each member of a committee has to
// propose a genesis before the next may.
const proposerTurn = 15 * time.Second

// governPause is the time between two looks at a chain's own membership.
const governPause = 2 * time.Second

// settleTime is how long a node is left alone after its start.
const settleTime = 5 * time.Second

// nodes is what the daemon knows of the nodes of its chains.
type nodes struct {
	mu    sync.Mutex
	sites map[string]bsn.Site // by chain, of those whose node was started
}

func (n *nodes) set(chain string, s bsn.Site) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sites == nil {
		n.sites = map[string]bsn.Site{}
	}
	n.sites[chain] = s
}

func (n *nodes) drop(chain string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sites, chain)
}

func (n *nodes) all() map[string]bsn.Site {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.sites)
}

// nodeID names a chain's node in the runtime.
func nodeID(c bsn.Chain) string { return c.Framework + "-" + c.Name }

// chains brings every chain of which this city is a member one step further, and
// stops the nodes of those that it has left: not by what it knew once, since the
// ledger may have asked for them after that. It returns what it has to say to the
// ledger, and what nodes wait for that are to stop.
func (d *daemon) chains(ctx context.Context, v view, self bsn.City) (say []ledger.Message, waits []string) {
	wanted := map[string]bool{gatewayID: true}
	for _, name := range slices.Sorted(maps.Keys(v.chains)) {
		c := v.chains[name]
		if !c.Member(self.Name) {
			if w := d.drain(ctx, self, c); w != "" {
				wanted[nodeID(c)], waits = true, append(waits, w)
			} else {
				d.nodes.drop(name)
			}
			continue
		}
		wanted[nodeID(c)] = true
		m, err := d.chain(ctx, v, self, c)
		d.try("chain "+name, err)
		say = append(say, m...)
	}
	for _, n := range d.runtime.List() {
		if !v.fresh {
			break
		}
		if !wanted[n.ID] && n.State != bsn.NodeStopped {
			d.log.Info("stopping a node that is no longer asked for", "node", n.ID)
			d.try("stop "+n.ID, d.runtime.Stop(ctx, n.ID))
		}
	}
	return say, waits
}

// chain is the way of one chain: keys, genesis, node.
func (d *daemon) chain(ctx context.Context, v view, self bsn.City, c bsn.Chain) ([]ledger.Message, error) {
	f, ok := d.frameworks[c.Framework]
	if !ok {
		return nil, fmt.Errorf("this bsn does not know framework %q", c.Framework)
	}
	dir, err := d.runtime.Dir(nodeID(c))
	if err != nil {
		return nil, err
	}
	site := bsn.Site{Net: d.state.Net, City: self, Chain: c, Dir: dir}
	var say []ledger.Message
	if _, posted := c.Node(self.Name); !posted {
		keys, err := f.Keys(site)
		if err != nil {
			return nil, fmt.Errorf("make node's keys: %w", err)
		}
		say = append(say, ledger.PostNode(c.Name, keys))
	}
	switch c.Status {
	case bsn.ChainGenesis:
		m, err := d.genesis(ctx, v, self, c, f)
		return append(say, m...), err
	case bsn.ChainRunning, bsn.ChainClosed:
		for _, a := range c.Approvals {
			if a.City == self.Name && !a.Approved {
				return say, fmt.Errorf("this city refused the genesis that the others approved: %s", a.Reason)
			}
		}
		return say, d.node(ctx, v, site, f)
	}
	return say, nil
}

// genesis proposes a genesis, or rebuilds and compares the proposed one.
func (d *daemon) genesis(ctx context.Context, v view, self bsn.City, c bsn.Chain, f bsn.Framework) ([]ledger.Message, error) {
	if c.Genesis == "" || c.Refused() && c.Proposer != self.Name {
		turn := time.Duration(slices.Index(c.Committee, self.Name)) * proposerTurn
		if turn > 0 && v.time.Sub(time.Unix(c.GenesisTime, 0)) < turn {
			return nil, nil
		}
		b, err := f.Genesis(c)
		if err != nil {
			return nil, fmt.Errorf("build genesis: %w", err)
		}
		hash, err := d.store(b)
		if err != nil || hash == c.Genesis { // what the others refused helps nobody
			return nil, err
		}
		return []ledger.Message{ledger.ProposeGenesis(c.Name, hash)}, nil
	}
	for _, a := range c.Approvals {
		if a.City == self.Name {
			return nil, nil
		}
	}
	b, err := d.want(ctx, v, c.Genesis, c.Proposer)
	if errors.Is(err, errFetching) {
		return nil, nil
	}
	if err == nil {
		err = safely(func() error { return f.CheckGenesis(c, b) })
	}
	answer := bsn.Approval{Approved: true}
	if err != nil {
		answer = bsn.Approval{Reason: err.Error()}
	}
	return []ledger.Message{ledger.AnswerGenesis(c.Name, c.Genesis, answer)}, nil
}

// node makes the chain's node run here.
func (d *daemon) node(ctx context.Context, v view, site bsn.Site, f bsn.Framework) error {
	binary, err := f.Software(ctx, nil)
	if err != nil {
		return err
	}
	genesis, err := d.fetch(ctx, v, site.Chain.Genesis, site.Chain.Proposer)
	if err != nil {
		return fmt.Errorf("fetch genesis: %w", err)
	}
	spec, err := f.Plan(site, binary, genesis)
	if err != nil {
		return fmt.Errorf("plan node: %w", err)
	}
	spec.ID = nodeID(site.Chain)
	if err := d.runtime.Start(ctx, spec); err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	d.nodes.set(site.Chain.Name, site)
	return nil
}

// tend does this city's part in what the ledger decided about running chains.
func (d *daemon) tend(ctx context.Context) {
	for ctx.Err() == nil {
		young := map[string]bool{}
		for _, n := range d.runtime.List() {
			young[n.ID] = time.Since(n.Started) < settleTime
		}
		for name, site := range d.nodes.all() {
			if young[nodeID(site.Chain)] {
				continue
			}
			call, cancel := context.WithTimeout(ctx, 10*time.Second)
			done, err := d.frameworks[site.Chain.Framework].Govern(call, site)
			cancel()
			if ctx.Err() == nil {
				d.try("membership of chain "+name, err)
			}
			if done != "" {
				d.log.Info("chain's membership", "chain", name, "did", done)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(governPause):
		}
	}
}
