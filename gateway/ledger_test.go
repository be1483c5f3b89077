package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

// memoryLedger is a ledger of blocks in memory, which can be cut off.
type memoryLedger struct {
	mu     sync.Mutex
	change *sync.Cond
	blocks []bsn.Block // block i has height i+1
	pruned int64       // heights up to this one are gone
	down   bool
	lists  int // how often all records were read
	// at is the time of further blocks; zero is the present.
	at time.Time
	// between, if set, runs after each page that List gives.
	between func()
}

var errDown = errors.New("ledger is down")

func newMemoryLedger() *memoryLedger {
	l := &memoryLedger{}
	l.change = sync.NewCond(&l.mu)
	return l
}

// put makes a block of the records.
func (l *memoryLedger) put(records ...any) {
	var changes []bsn.Change
	for _, r := range records {
		var c bsn.Change
		switch r := r.(type) {
		case bsn.City:
			c = bsn.Change{Kind: bsn.KindCity, ID: r.Name}
		case bsn.Chain:
			c = bsn.Change{Kind: bsn.KindChain, ID: r.Name}
		case bsn.Account:
			c = bsn.Change{Kind: bsn.KindAccount, ID: r.Name}
		case bsn.Project:
			c = bsn.Change{Kind: bsn.KindProject, ID: r.ID()}
		case bsn.Usage:
			c = bsn.Change{Kind: bsn.KindUsage, ID: r.Project}
		case bsn.App:
			c = bsn.Change{Kind: bsn.KindApp, ID: r.ID()}
		case bsn.Change:
			changes = append(changes, r)
			continue
		default:
			panic("no record")
		}
		c.Record, _ = json.Marshal(r)
		changes = append(changes, c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks = append(l.blocks, bsn.Block{Height: int64(len(l.blocks) + 1), Time: l.now(), Changes: changes})
	l.change.Broadcast()
}

func (l *memoryLedger) now() time.Time {
	if l.at.IsZero() {
		return time.Now().UTC()
	}
	return l.at
}

func (l *memoryLedger) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	l.change.Broadcast()
}

func (l *memoryLedger) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change.Broadcast()
}

func (l *memoryLedger) height() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.blocks))
}

func (l *memoryLedger) Get(context.Context, bsn.Kind, string) (json.RawMessage, error) {
	return nil, bsn.ErrNoRecord
}

func (l *memoryLedger) List(_ context.Context, kind bsn.Kind, after string, limit int) ([]bsn.Change, int64, error) {
	l.mu.Lock()
	if l.down {
		l.mu.Unlock()
		return nil, 0, errDown
	}
	if kind == followed[0] && after == "" {
		l.lists++
	}
	all := map[string]bsn.Change{}
	for _, b := range l.blocks {
		for _, c := range b.Changes {
			if c.Kind == kind && c.ID > after {
				all[c.ID] = c
			}
		}
	}
	var page []bsn.Change
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if len(page) < limit {
			page = append(page, all[id])
		}
	}
	height, between := int64(len(l.blocks)), l.between
	l.mu.Unlock()
	if between != nil {
		between()
	}
	return page, height, nil
}

func (l *memoryLedger) Follow(ctx context.Context, from int64) iter.Seq2[bsn.Block, error] {
	return func(yield func(bsn.Block, error) bool) {
		defer context.AfterFunc(ctx, l.wake)()
		for ; ; from++ {
			l.mu.Lock()
			for !l.down && ctx.Err() == nil && from > int64(len(l.blocks)) {
				l.change.Wait()
			}
			var b bsn.Block
			var err error
			switch {
			case ctx.Err() != nil:
				err = ctx.Err()
			case l.down:
				err = errDown
			case from <= l.pruned:
				err = bsn.ErrPruned
			default:
				b = l.blocks[from-1]
			}
			l.mu.Unlock()
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
