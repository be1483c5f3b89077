package city

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/openbsn/bsn"
)

// mirror keeps in memory what a city acts on: cities, chains and apps. It is
// read once and then follows the ledger block by block.
type mirror struct {
	mu     sync.Mutex
	height int64
	time   time.Time
	cities map[string]bsn.City
	chains map[string]bsn.Chain
	apps   map[string]bsn.App
}

// view is a copy of the mirror that does not change.
type view struct {
	height int64
	time   time.Time // of the block
	cities map[string]bsn.City
	chains map[string]bsn.Chain
	apps   map[string]bsn.App
}

var mirrored = []bsn.Kind{bsn.KindCity, bsn.KindChain, bsn.KindApp}

// load reads everything afresh. What was known stays until all of it is read: a
// view that lacks chains would have their nodes stopped.
func (m *mirror) load(ctx context.Context, l bsn.Ledger) (height int64, err error) {
	fresh := mirror{cities: map[string]bsn.City{}, chains: map[string]bsn.Chain{}, apps: map[string]bsn.App{}}
	for _, kind := range mirrored {
		for after := ""; ; {
			page, at, err := l.List(ctx, kind, after, 0)
			if err != nil {
				return 0, err
			}
			// The oldest height counts: following from there repeats a change at worst.
			if height == 0 || at < height {
				height = at
			}
			if len(page) == 0 {
				break
			}
			for _, c := range page {
				if err := fresh.put(c); err != nil {
					return 0, err
				}
				after = c.ID
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.height, m.cities, m.chains, m.apps = height, fresh.cities, fresh.chains, fresh.apps
	return height, nil
}

// apply takes in a block and tells whether it changed something here.
func (m *mirror) apply(b bsn.Block) (changed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range b.Changes {
		if err := m.put(c); err != nil {
			return false, err
		}
		changed = true
	}
	m.height, m.time = b.Height, b.Time
	return changed, nil
}

func (m *mirror) put(c bsn.Change) error {
	switch c.Kind {
	case bsn.KindCity:
		return put(m.cities, c)
	case bsn.KindChain:
		return put(m.chains, c)
	case bsn.KindApp:
		return put(m.apps, c)
	}
	return nil
}

func put[T any](into map[string]T, c bsn.Change) error {
	var v T
	if err := json.Unmarshal(c.Record, &v); err != nil {
		return fmt.Errorf("decode %s %q: %w", c.Kind, c.ID, err)
	}
	into[c.ID] = v
	return nil
}

func (m *mirror) view() view {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := view{m.height, m.time, map[string]bsn.City{}, map[string]bsn.Chain{}, map[string]bsn.App{}}
	for k, c := range m.cities {
		v.cities[k] = c
	}
	for k, c := range m.chains {
		v.chains[k] = c
	}
	for k, a := range m.apps {
		v.apps[k] = a
	}
	return v
}
