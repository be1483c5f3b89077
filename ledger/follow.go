package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/libs/pubsub"
	cmttypes "github.com/cometbft/cometbft/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/record"
)

// watchPause is the time between two looks for new blocks where none is announced.
const watchPause = time.Second

// watch announces every block after height, in order, until ctx ends. The event
// bus only wakes it; what a block held is read from the store, so that a lost
// event, or a bus that drops a slow listener, loses nothing.
func (n *Node) watch(ctx context.Context, height int64) {
	bus := n.comet.EventBus()
	look := time.NewTicker(watchPause)
	defer look.Stop()
	for ctx.Err() == nil {
		var wake <-chan pubsub.Message
		var dropped <-chan struct{}
		if sub, err := bus.Subscribe(ctx, "follow", cmttypes.EventQueryNewBlock, 100); err == nil {
			wake, dropped = sub.Out(), sub.Canceled()
		}
		for alive := true; alive && ctx.Err() == nil; {
			height = n.announce(height)
			select {
			case <-wake:
			case <-dropped:
				alive = false
			case <-look.C:
				alive = wake != nil
			case <-ctx.Done():
			}
		}
	}
}

// announce tells waiters of the blocks after height and returns the newest one.
func (n *Node) announce(height int64) int64 {
	// A block counts once the application has committed it: who was told of it
	// reads its effects.
	latest := n.app.LastBlockHeight()
	if base := n.comet.BlockStore().Base(); height < base-1 {
		height = base - 1 // the first block of a node that took over a state
	}
	for h := height + 1; h <= latest; h++ {
		block, err := n.local.Block(context.Background(), &h)
		if err != nil || block.Block == nil {
			return h - 1
		}
		results, err := n.local.BlockResults(context.Background(), &h)
		if err != nil {
			return h - 1
		}
		n.waiting.resolve(h, block.Block.Txs, results.TxsResults)
		if n.parting {
			n.parting = n.dropStrangers(block.Block.Time)
		}
		n.parting = n.parting || touchesCities(results)
		if n.guard.watching() {
			n.attend(block.Block)
		}
	}
	return max(height, latest)
}

func (w *waiting) resolve(height int64, txs cmttypes.Txs, results []*abci.ExecTxResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.height, w.heard.block = height, time.Now()
	close(w.block)
	w.block = make(chan struct{})
	for _, r := range results {
		if r.Code == 0 {
			w.done++
		} else {
			w.refused++
		}
	}
	for i, tx := range txs {
		if len(w.txs) == 0 {
			return
		}
		hash := sha256.Sum256(tx)
		for _, ch := range w.txs[hash] {
			ch <- txResult{height, results[i]} // buffered for the one value it ever gets
		}
		delete(w.txs, hash)
	}
}

// counted are the transactions in blocks since the start.
func (w *waiting) counted() (done, refused uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done, w.refused
}

// next returns the newest height announced and a channel that closes with the next.
func (w *waiting) next() (int64, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.height, w.block
}

// Follow implements bsn.Ledger.
func (n *Node) Follow(ctx context.Context, from int64) iter.Seq2[bsn.Block, error] {
	return func(yield func(bsn.Block, error) bool) {
		for ; ctx.Err() == nil; from++ {
			b, err := n.next(ctx, from)
			if ctx.Err() != nil || !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// next waits for the block of a height and returns it. Error: bsn.ErrPruned.
func (n *Node) next(ctx context.Context, height int64) (bsn.Block, error) {
	if n.needs != nil {
		if newest := n.app.LastBlockHeight(); height <= newest {
			return bsn.Block{}, fmt.Errorf("follow from %d: this node stands still at %d: %w", height, newest, bsn.ErrPruned)
		}
		<-ctx.Done()
		return bsn.Block{}, fmt.Errorf("follow: %w", ctx.Err())
	}
	if base := n.comet.BlockStore().Base(); height < base {
		return bsn.Block{}, fmt.Errorf("follow from %d: the oldest block here is %d: %w", height, base, bsn.ErrPruned)
	}
	for {
		latest, more := n.waiting.next()
		if height <= latest {
			return n.block(ctx, height)
		}
		select {
		case <-ctx.Done():
			return bsn.Block{}, fmt.Errorf("follow: %w", ctx.Err())
		case <-n.comet.Quit():
			return bsn.Block{}, errors.New("follow: the ledger node stopped")
		case <-more:
		}
	}
}

func (n *Node) block(ctx context.Context, height int64) (bsn.Block, error) {
	header, err := n.local.Header(ctx, &height)
	if err != nil || header.Header == nil {
		return bsn.Block{}, fmt.Errorf("read block %d: %w: %v", height, bsn.ErrPruned, err)
	}
	results, err := n.local.BlockResults(ctx, &height)
	if err != nil {
		return bsn.Block{}, fmt.Errorf("read results of block %d: %w: %v", height, bsn.ErrPruned, err)
	}
	b := bsn.Block{Height: height, Time: header.Header.Time}
	b.Changes = left(results.TxsResults, results.FinalizeBlockEvents)
	return b, nil
}

// left is what a block left of the records: its beginning, its transactions and its
// end follow each other, though the block's own events come together.
func left(txs []*abci.ExecTxResult, own []abci.Event) []bsn.Change {
	begins := func(e abci.Event) bool {
		return slices.ContainsFunc(e.Attributes, func(a abci.EventAttribute) bool { return a.Key == "mode" && a.Value == "BeginBlock" })
	}
	all := changes(slices.DeleteFunc(slices.Clone(own), func(e abci.Event) bool { return !begins(e) }))
	for _, tx := range txs {
		all = append(all, changes(tx.Events)...)
	}
	return last(append(all, changes(slices.DeleteFunc(slices.Clone(own), begins))...))
}

// last keeps of each record its last change: what the block left.
func last(all []bsn.Change) []bsn.Change {
	type record struct {
		kind bsn.Kind
		id   string
	}
	seen := map[record]bool{}
	var out []bsn.Change
	for _, c := range slices.Backward(all) {
		if r := (record{c.Kind, c.ID}); !seen[r] {
			seen[r] = true
			out = append(out, c)
		}
	}
	slices.Reverse(out)
	return out
}

func changes(events []abci.Event) []bsn.Change {
	var out []bsn.Change
	for _, e := range events {
		if e.Type != record.EventType {
			continue
		}
		var c bsn.Change
		for _, a := range e.Attributes {
			switch a.Key {
			case "kind":
				c.Kind = bsn.Kind(a.Value)
			case "id":
				c.ID = a.Value
			case "record":
				c.Record = json.RawMessage(a.Value)
			}
		}
		out = append(out, c)
	}
	return out
}

// maxPage is the most records that List returns at once.
const maxPage = 1000

// maxID is above the length of every record's id.
const maxID = 2*bsn.MaxName + 1

func (n *Node) table(kind bsn.Kind, id string) (record.Reader, error) {
	t, ok := n.app.tables[kind]
	if !ok {
		return nil, fmt.Errorf("records of kind %.32q: %w: there are %v", string(kind), bsn.ErrNoRecord, bsn.Kinds)
	}
	if len(id) > maxID {
		return nil, fmt.Errorf("%s with an id of %d bytes: %w", kind, len(id), bsn.ErrNoRecord)
	}
	return t, nil
}

// Get implements bsn.Ledger.
func (n *Node) Get(_ context.Context, kind bsn.Kind, id string) (json.RawMessage, error) {
	t, err := n.table(kind, id)
	if err != nil {
		return nil, err
	}
	ctx, err := n.app.committed()
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	return t.Read(ctx, id)
}

// List implements bsn.Ledger. A limit outside 1 to 1000 means 1000. Pages of large
// records are shorter: only an empty one is the end.
func (n *Node) List(_ context.Context, kind bsn.Kind, after string, limit int) ([]bsn.Change, int64, error) {
	t, err := n.table(kind, after)
	if err != nil {
		return nil, 0, err
	}
	if limit < 1 || limit > maxPage {
		limit = maxPage
	}
	ctx, err := n.app.committed()
	if err != nil {
		return nil, 0, fmt.Errorf("read ledger: %w", err)
	}
	page, err := t.Page(ctx, after, limit)
	return slices.Clip(page), ctx.BlockHeight(), err
}
