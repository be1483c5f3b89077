package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	ctypes "github.com/cometbft/cometbft/rpc/core/types"

	"github.com/openbsn/bsn"
)

// errStrangePeer is what a node is told that is no city's.
var errStrangePeer = errors.New("no city of the network has this node id")

// filterPeer answers CometBFT, which asks before it takes a peer.
func (n *Node) filterPeer(id string) *abci.ResponseQuery {
	if err := n.takes(id); err != nil {
		return &abci.ResponseQuery{Code: 1, Log: err.Error()}
	}
	return &abci.ResponseQuery{}
}

// takes tells whether a node may be a peer: that of a city which the ledger knows
// and did not put out. As long as this node does not know the ledger it takes those
// that it was told to begin with.
func (n *Node) takes(id string) error {
	if n.app.LastBlockHeight() > 0 {
		ctx, err := n.app.committed()
		if err != nil {
			return fmt.Errorf("read cities: %w", err)
		}
		known := false
		member := false
		err = n.app.operators.Cities.Each(ctx, "", func(_ string, c bsn.City) (bool, error) {
			if c.NodeID() == id {
				// One that left of its own will still takes the block that says so, and ends.
				known, member = true, member || c.Status.Member() || c.Status == bsn.CityLeft
			}
			return !member, nil
		})
		if err != nil {
			return err
		}
		if member {
			return nil
		}
		if known {
			return errStrangePeer
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.ContainsFunc(n.peers, func(p string) bool { return strings.HasPrefix(p, id+"@") }) {
		return nil
	}
	return errStrangePeer
}

// dropStrangers ends the connections to nodes of cities that are no longer of the
// network, at the time of a block. Those that were put out with that very block, or
// in the same second, are left for another time: a validator's power ends a block
// later, and with few of them that block does not come without it.
func (n *Node) dropStrangers(now time.Time) (later bool) {
	s := n.comet.Switch()
	for _, p := range s.Peers().Copy() {
		id := string(p.ID())
		switch {
		case n.takes(id) == nil:
		case n.putOut(id) >= now.Unix():
			later = true
		default:
			s.StopPeerGracefully(p)
		}
	}
	return later
}

// putOut is the ledger time, in Unix seconds, since which a node's city is out of the
// network; 0: it is no city's.
func (n *Node) putOut(id string) (since int64) {
	ctx, err := n.app.committed()
	if err != nil {
		return 0
	}
	if err := n.app.operators.Cities.Each(ctx, "", func(_ string, c bsn.City) (bool, error) {
		if c.NodeID() == id {
			since = c.Since
		}
		return since == 0, nil
	}); err != nil {
		return 0
	}
	return since
}

// touchesCities tells whether a block changed a city's record.
func touchesCities(r *ctypes.ResultBlockResults) bool {
	city := func(c bsn.Change) bool { return c.Kind == bsn.KindCity }
	for _, tx := range r.TxsResults {
		if slices.ContainsFunc(changes(tx.Events), city) {
			return true
		}
	}
	return slices.ContainsFunc(changes(r.FinalizeBlockEvents), city)
}
