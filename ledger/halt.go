package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openbsn/bsn"
)

// ErrHalted is wrapped where the ledger takes no transactions since it makes no
// blocks. The text says since when and how many validators can be reached.
var ErrHalted = errors.New("the ledger is halted")

const (
	// startGrace is how long a node that was just started may wait for a first block.
	startGrace = 5 * time.Second
	// haltPause is the time between two looks whether the ledger is halted.
	haltPause = time.Second
)

// heard is when this process last saw a new block.
type heard struct {
	started, block time.Time // by the process's own clock; zero block: none yet
}

// halted tells whether no block has come for haltedAfter. A node that has seen
// none since its start goes by the time of the newest one that it holds.
func (n *Node) halted() bool {
	n.waiting.mu.Lock()
	h := n.waiting.heard
	n.waiting.mu.Unlock()
	if !h.block.IsZero() {
		return time.Since(h.block) > haltedAfter
	}
	newest := n.newest()
	return !newest.IsZero() && time.Since(h.started) > startGrace && time.Since(newest) > haltedAfter
}

// newest is the time of the newest block; zero if there is none.
func (n *Node) newest() time.Time {
	meta := n.comet.BlockStore().LoadBlockMeta(n.comet.BlockStore().Height())
	if meta == nil {
		return time.Time{}
	}
	return meta.Header.Time
}

// haltError says what is known of a halt.
func (n *Node) haltError() error {
	reachable, all, err := n.reach()
	since := n.newest().UTC().Format(time.RFC3339)
	if err != nil {
		return fmt.Errorf("%w: no block since %s", ErrHalted, since)
	}
	return fmt.Errorf("%w: no block since %s; %d of %d validators are reachable from this city, and more than two thirds must be: start their daemons",
		ErrHalted, since, reachable, all)
}

// reach counts the validators that this node is connected to, itself among them.
func (n *Node) reach() (reachable, all int, err error) {
	ctx := context.Background()
	cities := map[string]bsn.City{}
	if err := each(ctx, n, bsn.KindCity, func(c bsn.City) { cities[c.Name] = c }); err != nil {
		return 0, 0, err
	}
	self := string(n.comet.NodeInfo().ID())
	err = each(ctx, n, bsn.KindOperator, func(o bsn.Operator) {
		c, ok := cities[o.ValidatingCity]
		if !ok {
			return
		}
		all++
		id := c.NodeID()
		for _, p := range n.comet.Switch().Peers().Copy() {
			if string(p.ID()) == id {
				reachable++
				return
			}
		}
		if id == self {
			reachable++
		}
	})
	return reachable, all, err
}

// each reads all records of a kind.
func each[T any](ctx context.Context, l bsn.Ledger, kind bsn.Kind, do func(T)) error {
	for after := ""; ; {
		page, _, err := l.List(ctx, kind, after, 0)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, c := range page {
			var v T
			if err := json.Unmarshal(c.Record, &v); err != nil {
				return fmt.Errorf("decode %s %q: %w", kind, c.ID, err)
			}
			do(v)
			after = c.ID
		}
	}
}
