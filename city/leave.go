package city

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// partingTime is how long, in ledger time, the link still talks to a city that left
// or was evicted, and how long the nodes of one that was evicted wait for their chains.
const partingTime = time.Minute

// lastVote is how long the ledger node of a city that was evicted waits for the last
// block that it has a vote on.
const lastVote = 15 * time.Second

// errEnded ends a daemon whose city is no part of the network any more.
var errEnded = errors.New("city is no part of the network any more")

// departure is how far a leaving city is.
type departure struct {
	mu    sync.Mutex
	waits []string
	// last: the gateway has ended for good, and the period that is open is settled.
	last bool
	// put is when the daemon learned that its city was put out, at which height.
	put    time.Time
	height int64
}

func (l *departure) set(waits []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = waits
}

func (l *departure) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waits
}

func (l *departure) setLast() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = true
}

func (l *departure) isLast() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// drain keeps the node of a chain whose committee the city is out of until the
// chain itself has let it go, so that it never loses a validator before it has
// counted it out. It returns what is waited for; nothing: the node may stop.
func (d *daemon) drain(ctx context.Context, self bsn.City, c bsn.Chain) string {
	own, posted := c.Node(self.Name)
	f, known := d.frameworks[c.Framework]
	runs := slices.ContainsFunc(d.runtime.List(), func(n bsn.NodeStatus) bool { return n.ID == nodeID(c) && n.State != bsn.NodeStopped })
	if !posted || !known || !runs || !c.Runs() || self.Status == bsn.CityLeft {
		return ""
	}
	dir, err := d.runtime.Dir(nodeID(c))
	if err != nil {
		return err.Error()
	}
	site := bsn.Site{Net: d.state.Net, City: self, Chain: c, Dir: dir}
	d.nodes.set(c.Name, site) // it goes on doing its part for the chain
	call, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h, err := f.Health(call, site)
	if err != nil {
		return fmt.Sprintf("chain %s: its node here does not say whether the chain has let it go: %v", c.Name, err)
	}
	for _, key := range own.Keys {
		if slices.Contains(h.Validators, key) {
			return fmt.Sprintf("chain %s: its other cities have not voted this city's validator off it yet", c.Name)
		}
	}
	return ""
}

// leave brings a leaving city one step further; waits is what its chains wait for.
// With nothing left to wait for its gateway ends, and once all that this has counted is
// billed it tells the ledger that it has left.
func (d *daemon) leave(ctx context.Context, v view, self bsn.City, waits []string) []ledger.Message {
	if rest := time.Unix(self.Until, 0).Sub(v.time); rest > 0 {
		waits = append(waits, fmt.Sprintf("notice: until %s its gateway answers, or says where else its chains are", time.Unix(self.Until, 0).UTC().Format(time.RFC3339)))
	}
	if len(waits) == 0 {
		waits = d.settleLast(ctx)
	}
	d.departure.set(waits)
	for _, w := range waits {
		if d.asked.changed("leaving", w, "") {
			d.log.Info("leaving: waiting", "for", w)
		}
	}
	if len(waits) > 0 {
		return nil
	}
	return []ledger.Message{ledger.EndCity(self.Name)}
}

// part keeps the nodes of a city that was put out until their chains, and the ledger,
// have let it go, for a while: with few validators they could not even do that
// without it.
func (d *daemon) part(ctx context.Context, v view, self bsn.City) (waiting bool) {
	if self.Status != bsn.CityEvicted {
		return false
	}
	if d.departure.put.IsZero() {
		d.departure.put, d.departure.height = time.Now(), v.height
	}
	gone := time.Since(d.departure.put)
	if gone > partingTime {
		return false
	}
	// Its vote counts for one block more, which may not come without it.
	waiting = v.height == d.departure.height && gone < lastVote
	for _, c := range v.chains {
		if !c.Member(self.Name) && d.drain(ctx, self, c) != "" {
			waiting = true
		}
	}
	return waiting
}

// end stops everything of a city that left or was evicted, and remembers it, so
// that its daemon is not started again.
func (d *daemon) end(ctx context.Context, self bsn.City) error {
	word := "has left the network"
	if self.Status == bsn.CityEvicted {
		word = "was evicted by the operators"
	}
	d.log.Info("city "+word+": stopping its gateway and nodes", "delete", "bsn city delete "+d.home.Name)
	for _, n := range d.runtime.List() {
		if n.State != bsn.NodeStopped {
			if err := d.runtime.Stop(ctx, n.ID); err != nil {
				return err
			}
		}
	}
	if self.Status == bsn.CityEvicted {
		d.try("receipts", d.keepLast(ctx, self))
	}
	if err := d.home.update(func(s *State) { s.Ended = word }); err != nil {
		return err
	}
	return errEnded
}

// inTouch are the cities that the link talks to: those of the network, and for a
// while those that left it or were put out, so that they learn of it.
func inTouch(v view) []bsn.City {
	return slices.DeleteFunc(slices.Collect(maps.Values(v.cities)), func(c bsn.City) bool {
		return !c.Status.Member() && v.time.Sub(time.Unix(c.Since, 0)) > partingTime
	})
}

// Rekey makes another consensus key for the city of a suspended operator, whose old
// one is worth nothing, and returns its public side. The daemon must not run.
func (h Home) Rekey() (consensusKey []byte, err error) {
	if _, err := h.Load(); err != nil {
		return nil, err
	}
	if pid, err := h.PID(); err != nil || pid != 0 {
		return nil, errors.Join(err, fmt.Errorf("city %q runs: stop its daemon first (bsn city stop %s --daemon-only)", h.Name, h.Name))
	}
	id, err := ledger.RenewConsensusKey(h.ledger())
	return id.ConsensusKey, err
}

// Delete removes all that a city has on this machine, its keys included. It must
// have left the network or been evicted from it, or, with force, need not.
func (h Home) Delete(force bool) error {
	s, err := h.Load()
	if err != nil {
		return err
	}
	if pid, err := h.PID(); err != nil || pid != 0 {
		return errors.Join(err, fmt.Errorf("city %q runs: stop it first (bsn city stop %s)", h.Name, h.Name))
	}
	if s.Ended == "" && s.Network != "" && !force {
		return fmt.Errorf("city %q is part of network %q: it has to leave first (bsn city leave %s); --force deletes it all the same", h.Name, s.Network, h.Name)
	}
	if err := os.RemoveAll(h.Dir()); err != nil {
		return fmt.Errorf("delete city: %w", err)
	}
	return nil
}
