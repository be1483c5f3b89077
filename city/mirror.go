package city

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/age"
)

// mirror keeps in memory what a city acts on: cities, chains and apps. It is
// read once and then follows the ledger block by block. A file keeps it for a
// daemon that is started while the ledger does not answer.
type mirror struct {
	clock age.Clock

	mu     sync.Mutex
	read   bool // from the ledger, not from the file
	dirty  bool // changed since it was last written
	height int64
	time   time.Time
	cities map[string]bsn.City
	chains map[string]bsn.Chain
	apps   map[string]bsn.App
	open   map[string]bsn.Proposal // those on which operators may still vote
}

// view is a copy of the mirror that does not change.
type view struct {
	// fresh: it is what the ledger says now. By one that is not, nodes are started
	// and none is stopped, and nothing is said to the ledger.
	fresh  bool
	height int64
	time   time.Time // of the block
	cities map[string]bsn.City
	chains map[string]bsn.Chain
	apps   map[string]bsn.App
}

var mirrored = []bsn.Kind{bsn.KindCity, bsn.KindChain, bsn.KindApp, bsn.KindProposal}

// load reads everything afresh. What was known stays until all of it is read: a
// view that lacks chains would have their nodes stopped.
func (m *mirror) load(ctx context.Context, l bsn.Ledger) (height int64, err error) {
	fresh := mirror{cities: map[string]bsn.City{}, chains: map[string]bsn.Chain{}, apps: map[string]bsn.App{}, open: map[string]bsn.Proposal{}}
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
	m.open, m.read, m.dirty = fresh.open, true, true
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
	m.dirty = m.dirty || changed
	m.clock.Saw(b.Time)
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
	case bsn.KindProposal:
		if err := put(m.open, c); err != nil || m.open[c.ID].Status == bsn.ProposalOpen {
			return err
		}
		delete(m.open, c.ID)
	}
	return nil
}

// awaiting counts the open proposals on which an operator has not voted.
func (m *mirror) awaiting(operator string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.open {
		if _, voted := p.Votes[operator]; !voted {
			n++
		}
	}
	return n
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
	old, known := m.clock.Age()
	v := view{m.read && known && old < bsn.HaltedAfter, m.height, m.time, map[string]bsn.City{}, map[string]bsn.Chain{}, map[string]bsn.App{}}
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

// savePause is the least time between two writings of the mirror's file.
const savePause = time.Second

// saved is the mirror's file.
type saved struct {
	Height int64                `json:"height"`
	Cities map[string]bsn.City  `json:"cities"`
	Chains map[string]bsn.Chain `json:"chains"`
	Apps   map[string]bsn.App   `json:"apps"`
}

// restore takes in what an earlier daemon knew, if the file is there.
func (m *mirror) restore(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := saved{}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.read {
		m.height, m.cities, m.chains, m.apps = s.Height, s.Cities, s.Chains, s.Apps
	}
	return nil
}

// save writes the file if something changed.
func (m *mirror) save(path string) error {
	m.mu.Lock()
	dirty := m.dirty
	m.dirty = false
	m.mu.Unlock()
	if !dirty {
		return nil
	}
	v := m.view()
	b, err := json.Marshal(saved{v.height, v.cities, v.chains, v.apps})
	if err == nil {
		err = renameio.WriteFile(path, b, 0o600, renameio.WithTempDir(filepath.Dir(path)))
	}
	if err != nil {
		m.mu.Lock()
		m.dirty = true
		m.mu.Unlock()
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// keepMirror writes the mirror down until ctx ends, and once more then.
func (d *daemon) keepMirror(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			d.try("mirror", d.mirror.save(d.home.mirrorFile()))
			return
		case <-time.After(savePause):
			d.try("mirror", d.mirror.save(d.home.mirrorFile()))
		}
	}
}
