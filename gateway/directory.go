package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/age"
)

// followed are the kinds of records that the gateway needs.
var followed = []bsn.Kind{bsn.KindCity, bsn.KindChain, bsn.KindAccount, bsn.KindProject, bsn.KindApp, bsn.KindParameters, bsn.KindUsage}

// records is what the ledger said at one height. The values are never changed
// once they are in: a new state of a record is a new value.
type records struct {
	Height   int64                   `json:"height"`
	Time     time.Time               `json:"time"` // of the block
	Cities   map[string]bsn.City     `json:"cities"`
	Chains   map[string]bsn.Chain    `json:"chains"`
	Accounts map[string]bsn.Account  `json:"accounts"`
	Projects map[string]*bsn.Project `json:"projects"`
	Apps     map[string]*bsn.App     `json:"apps"`
	Usage    map[string]bsn.Usage    `json:"usage"`
	// Parameters are zero where the ledger was not heard of.
	Parameters bsn.Parameters `json:"parameters"`

	keys map[string]*keyEntry // by the key's hash
	// naming are the hashes of the keys whose restrictions name an app, by its id.
	naming map[string]map[string]struct{}
}

// keyEntry is a key with what its record comes to. It is never changed.
type keyEntry struct {
	project *bsn.Project
	id      string // the project's
	key     bsn.Key
	policy  *policy // nil: no restrictions
}

func newRecords() *records {
	return &records{
		Cities:   map[string]bsn.City{},
		Chains:   map[string]bsn.Chain{},
		Accounts: map[string]bsn.Account{},
		Projects: map[string]*bsn.Project{},
		Apps:     map[string]*bsn.App{},
		Usage:    map[string]bsn.Usage{},
		keys:     map[string]*keyEntry{},
		naming:   map[string]map[string]struct{}{},
	}
}

// apply takes in one record. A record that cannot be read is dropped together
// with its earlier state: nobody keeps a right that may have been revoked.
func (r *records) apply(c bsn.Change) error {
	var err error
	switch c.Kind {
	case bsn.KindCity:
		err = put(r.Cities, c)
	case bsn.KindChain:
		err = put(r.Chains, c)
	case bsn.KindAccount:
		err = put(r.Accounts, c)
	case bsn.KindApp:
		err = put(r.Apps, c)
		r.renew(c.ID)
	case bsn.KindUsage:
		err = put(r.Usage, c)
	case bsn.KindParameters:
		var p bsn.Parameters
		if err = json.Unmarshal(c.Record, &p); err == nil {
			r.Parameters = p
		}
	case bsn.KindProject:
		r.forgetKeys(c.ID)
		if err = put(r.Projects, c); err == nil {
			r.learnKeys(c.ID)
		}
	}
	if err != nil {
		return fmt.Errorf("read %s %q at height %d: %w", c.Kind, c.ID, r.Height, err)
	}
	return nil
}

func put[T any](m map[string]T, c bsn.Change) error {
	var v *T
	if err := json.Unmarshal(c.Record, &v); err != nil || v == nil {
		delete(m, c.ID)
		return err
	}
	m[c.ID] = *v
	return nil
}

func (r *records) forgetKeys(project string) {
	if p := r.Projects[project]; p != nil {
		for _, k := range p.Keys {
			if e := r.keys[k.Hash]; e != nil && e.id == project {
				delete(r.keys, k.Hash)
				for _, app := range appsOf(k) {
					delete(r.naming[app], k.Hash)
					if len(r.naming[app]) == 0 {
						delete(r.naming, app)
					}
				}
			}
		}
	}
}

// learnKeys enters a project's keys. Who copies the hash of another project's
// key from the ledger into an own project must not take that key over.
func (r *records) learnKeys(project string) {
	p := r.Projects[project]
	if p == nil {
		return
	}
	for _, k := range p.Keys {
		if _, taken := r.keys[k.Hash]; taken {
			continue
		}
		r.keys[k.Hash] = &keyEntry{project: p, id: project, key: k, policy: newPolicy(k.Restrictions, r.app)}
		for _, app := range appsOf(k) {
			if r.naming[app] == nil {
				r.naming[app] = map[string]struct{}{}
			}
			r.naming[app][k.Hash] = struct{}{}
		}
	}
}

// renew looks anew at the keys that name an app, which has changed.
func (r *records) renew(app string) {
	for hash := range r.naming[app] {
		e := *r.keys[hash]
		e.policy = newPolicy(e.key.Restrictions, r.app)
		r.keys[hash] = &e
	}
}

func (r *records) app(id string) *bsn.App { return r.Apps[id] }

// appsOf are the apps that a key's restrictions name.
func appsOf(k bsn.Key) (apps []string) {
	for _, s := range k.Restrictions.Contracts {
		if rule, err := bsn.ParseContractRule(s); err == nil && rule.App != "" {
			apps = append(apps, rule.App)
		}
	}
	return apps
}

// directory is the gateway's view of the ledger: read by every call, changed by
// the one follower.
type directory struct {
	clock   age.Clock
	changes atomic.Uint64 // counts what was taken in

	mu      sync.RWMutex
	records *records  // nil until something is known; replaced and changed under mu
	contact time.Time // when the ledger last said anything; zero: not since the start
	dirty   bool      // changed since last saved
}

// state is how fresh the directory is.
type state struct {
	known   bool
	height  int64
	time    time.Time
	contact time.Time
}

func (d *directory) state() state {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.records == nil {
		return state{}
	}
	return state{known: true, height: d.records.Height, time: d.records.Time, contact: d.contact}
}

// key returns what is known of the key with this hash, and whether the
// directory knows anything at all.
func (d *directory) key(hash string) (entry *keyEntry, found, ready bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.records == nil {
		return nil, false, false
	}
	entry, found = d.records.keys[hash]
	return entry, found, true
}

func (d *directory) account(name string) (bsn.Account, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	a, ok := d.known().Accounts[name]
	return a, ok
}

// parameters are the network's figures, as far as they are known.
func (d *directory) parameters() bsn.Parameters {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.known().Parameters.Complete()
}

// usage is what the receipts say that a project used.
func (d *directory) usage(project string) bsn.Usage {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.known().Usage[project]
}

func (d *directory) app(id string) (*bsn.App, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	a, ok := d.known().Apps[id]
	return a, ok
}

func (d *directory) city(name string) (bsn.City, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c, ok := d.known().Cities[name]
	return c, ok
}

// chains returns all chains in order of name.
func (d *directory) chains() []bsn.Chain {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.known().chains()
}

func (r *records) chains() []bsn.Chain {
	chains := make([]bsn.Chain, 0, len(r.Chains))
	for _, name := range slices.Sorted(maps.Keys(r.Chains)) {
		chains = append(chains, r.Chains[name])
	}
	return chains
}

var noRecords = newRecords()

// known needs mu.
func (d *directory) known() *records {
	if d.records == nil {
		return noRecords
	}
	return d.records
}

// replace takes over records that were read afresh.
func (d *directory) replace(r *records, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records, d.contact, d.dirty = r, now, true
	d.clock.Saw(r.Time)
	d.changes.Add(1)
}

// restore takes over records of an earlier run, unless the ledger was faster, and
// how old they are.
func (d *directory) restore(r *records, counted age.State) {
	d.clock.Restore(counted)
	d.clock.Saw(r.Time)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil {
		d.records = r
	}
	d.changes.Add(1)
}

// advance takes in a block. It tells whether a chain changed, and returns the
// records that could not be read.
func (d *directory) advance(b bsn.Block, now time.Time) (chains bool, broken []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	chains, broken = d.records.advance(b)
	d.contact = now
	d.clock.Saw(b.Time)
	for _, c := range b.Changes {
		d.dirty = d.dirty || slices.Contains(followed, c.Kind)
	}
	d.changes.Add(1)
	return chains, broken
}

func (r *records) advance(b bsn.Block) (chains bool, broken []error) {
	r.Height, r.Time = b.Height, b.Time
	for _, c := range b.Changes {
		if err := r.apply(c); err != nil {
			broken = append(broken, err)
		}
		chains = chains || c.Kind == bsn.KindChain
	}
	return chains, broken
}

// unsaved asks for another try of what was not saved.
func (d *directory) unsaved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty = true
}

// snapshot returns a copy of the records for saving, if they changed since the
// last one or if everything is asked for, and how old all that is known is. The
// values are shared.
func (d *directory) snapshot(always bool) (*records, age.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	counted := d.clock.State()
	if d.records == nil || !d.dirty && !always {
		return nil, counted
	}
	d.dirty = false
	r := *d.records
	r.Cities, r.Chains, r.Accounts = maps.Clone(r.Cities), maps.Clone(r.Chains), maps.Clone(r.Accounts)
	r.Projects, r.Apps, r.Usage, r.keys, r.naming = maps.Clone(r.Projects), maps.Clone(r.Apps), maps.Clone(r.Usage), nil, nil
	return &r, counted
}
