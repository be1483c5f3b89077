// Package receipt is the ledger's module of what cities metered. It is there from
// protocol version 2 on.
//
// A city says once what was used in a period of ledger time that is over: its next
// receipt begins where the one before ended, so that nothing is billed twice.
package receipt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/receiptpb"
	"github.com/openbsn/bsn/ledger/account"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/record"
)

// StoreKey names the module's store.
const StoreKey = "bsn-receipt"

// receiptsAt is the prefix of the receipts in the store.
const receiptsAt = 1

const (
	maxParts  = 999
	maxAge    = int64(bsn.MaxReceiptAge / time.Second)
	lastAge   = int64(bsn.LastReceiptAge / time.Second)
	retention = int64(bsn.ReceiptRetention / time.Second)
	// forget is how many of a city's old receipts one that comes removes at most: more
	// than it adds.
	forget = 2

	maxRows  = 1 << 20
	maxCount = 1 << 53 // what JSON's readers know exactly
	rootSize = 32
)

// Keeper holds the receipts.
type Keeper struct {
	operators *operator.Keeper
	accounts  *account.Keeper
	Receipts  record.Table[bsn.Receipt]
	Usage     record.Table[bsn.Usage]
	last      collections.Map[string, last] // by city
	// most is the most that a receipt of a city charged a project, by city and project,
	// in compute units.
	most collections.Map[string, uint64]
}

// last is the newest part of a city's receipts.
type last struct {
	Until int64 `json:"until"`
	Part  int   `json:"part"`
	Parts int   `json:"parts"`
	// Project is the last of that part.
	Project string `json:"project"`
}

// NewKeeper opens the module's store.
func NewKeeper(store corestore.KVStoreService, operators *operator.Keeper, accounts *account.Keeper) *Keeper {
	k := &Keeper{operators: operators, accounts: accounts}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Receipts = record.NewTable[bsn.Receipt](sb, receiptsAt, bsn.KindReceipt)
		k.Usage = record.NewTable[bsn.Usage](sb, 2, bsn.KindUsage)
		k.last = collections.NewMap(sb, collections.NewPrefix(3), "last", collections.StringKey, record.JSON[last]())
		k.most = collections.NewMap(sb, collections.NewPrefix(4), "most", collections.StringKey, collections.Uint64Value)
	})
	return k
}

// Key is where the module's store has a receipt, for proofs.
func Key(id string) []byte { return append([]byte{receiptsAt}, id...) }

// Put takes in a part of a city's receipt. The same part again changes nothing.
func (k *Keeper) Put(ctx sdk.Context, m *pb.MsgReceipt) error {
	c, err := k.operators.Own(ctx, m.Signer, m.City)
	if err != nil {
		return err
	}
	now := ctx.BlockTime().Unix()
	r, err := read(m)
	if err != nil {
		return err
	}
	r.Received = now
	charged := r.Projects
	if !c.Status.Member() {
		if err := final(c, r.Until, now); err != nil {
			return err
		}
		if charged, err = k.capped(ctx, c.Name, r.Projects); err != nil {
			return err
		}
		r.Charges = bsn.ChargesOf(charged)
	}
	if old, err := k.Receipts.Get(ctx, r.ID()); err == nil {
		if r.Received = old.Received; reflect.DeepEqual(old, r) {
			return nil
		}
		return fmt.Errorf("city %q has billed the period until %d otherwise: nothing is billed twice", c.Name, r.Until)
	} else if !errors.Is(err, bsn.ErrNoRecord) {
		return err
	}
	before, err := k.last.Get(ctx, c.Name)
	if err != nil && !errors.Is(err, collections.ErrNotFound) {
		return fmt.Errorf("read last receipt: %w", err)
	}
	switch {
	case r.Until > now:
		return fmt.Errorf("period until %d is not over: the ledger's time is %d", r.Until, now)
	case r.Until < now-maxAge:
		return fmt.Errorf("period until %d is over for more than %d s: it is too late to bill it", r.Until, maxAge)
	case r.Part > 1 && !(before.Until == r.Until && before.Part == r.Part-1 && before.Parts == r.Parts && before.Project < r.Projects[0].Project):
		return fmt.Errorf("part %d of %d of the receipt until %d does not follow the part before", r.Part, r.Parts, r.Until)
	case r.Part == 1 && r.Until <= before.Until:
		return fmt.Errorf("city %q has billed until %d: nothing is billed twice", c.Name, before.Until)
	}
	for _, p := range charged {
		if err := k.use(ctx, r, p, c.Status.Member()); err != nil {
			return err
		}
	}
	if err := k.Receipts.Set(ctx, r.ID(), r); err != nil {
		return err
	}
	if err := k.last.Set(ctx, c.Name, last{r.Until, r.Part, r.Parts, r.Projects[len(r.Projects)-1].Project}); err != nil {
		return fmt.Errorf("store last receipt: %w", err)
	}
	return k.forget(ctx, c.Name, now)
}

// read checks what a message says by itself.
func read(m *pb.MsgReceipt) (r bsn.Receipt, err error) {
	if m.Part < 1 || m.Part > m.Parts || m.Parts > maxParts {
		return r, fmt.Errorf("part %d of %d: a receipt has 1 to %d parts", m.Part, m.Parts, maxParts)
	}
	if n := len(m.Projects); n == 0 || n > bsn.MaxReceiptProjects {
		return r, fmt.Errorf("%d projects: a part of a receipt has 1 to %d", n, bsn.MaxReceiptProjects)
	}
	r = bsn.Receipt{City: m.City, Until: m.Until, Part: int(m.Part), Parts: int(m.Parts)}
	for i, p := range m.Projects {
		switch {
		case p == nil:
			return r, errors.New("a project of the receipt is missing")
		case i > 0 && p.Project <= m.Projects[i-1].Project:
			return r, fmt.Errorf("project %.80q comes twice or not in order", p.Project)
		case p.Calls == 0 || p.Calls > maxCount || p.Units > maxCount:
			return r, fmt.Errorf("project %.80q: %d calls of %d compute units are no use that can be billed", p.Project, p.Calls, p.Units)
		case p.Rows == 0 || p.Rows > maxRows || len(p.Root) != rootSize:
			return r, fmt.Errorf("project %.80q: a receipt has 1 to %d rows and a root of %d bytes", p.Project, maxRows, rootSize)
		}
		r.Projects = append(r.Projects, bsn.ProjectUse{Project: p.Project, Calls: p.Calls, Units: p.Units, Rows: int(p.Rows), Root: hex.EncodeToString(p.Root)})
	}
	r.Charges = bsn.ChargesOf(r.Projects)
	return r, nil
}

// final says what speaks against a receipt of a city that is out of the network. One
// that left has settled before. One that was evicted has a single receipt left, by its
// operator: of all that is open until the eviction, and soon after. An operator that was
// evicted itself writes no more.
func final(c bsn.City, until, now int64) error {
	switch {
	case c.Status != bsn.CityEvicted:
		return fmt.Errorf("city %q is %s: it meters nothing any more", c.Name, c.Status)
	case until != c.Since:
		return fmt.Errorf("city %q was evicted: its last receipt is until %d, when that was, and not until %d", c.Name, c.Since, until)
	case now > c.Since+lastAge:
		return fmt.Errorf("city %q was evicted more than %d s ago: it is too late for its last receipt", c.Name, lastAge)
	}
	return nil
}

// capped lowers what a city says of projects to the most that one of its receipts charged
// each of them while it was in the network: nobody can put out again who now says too
// much, and so that is not worth anything.
func (k *Keeper) capped(ctx context.Context, city string, projects []bsn.ProjectUse) ([]bsn.ProjectUse, error) {
	out := slices.Clone(projects)
	for i, p := range out {
		most, err := k.most.Get(ctx, bsn.ID(city, p.Project))
		if err != nil && !errors.Is(err, collections.ErrNotFound) {
			return nil, fmt.Errorf("read what was charged before: %w", err)
		}
		out[i].Units = min(p.Units, most)
	}
	return out, nil
}

// use adds to what a project used, and remembers it if it is the most so far.
func (k *Keeper) use(ctx context.Context, r bsn.Receipt, p bsn.ProjectUse, remember bool) error {
	if has, err := k.accounts.Projects.Has(ctx, p.Project); err != nil || !has {
		return errors.Join(err, fmt.Errorf("there is no project %.80q to bill", p.Project))
	}
	u, err := k.Usage.Get(ctx, p.Project)
	if err != nil && !errors.Is(err, bsn.ErrNoRecord) {
		return err
	}
	u.Project = p.Project
	if err := k.Usage.Set(ctx, p.Project, u.Add(r.City, r.Until, p.Units)); err != nil || !remember {
		return err
	}
	id := bsn.ID(r.City, p.Project)
	most, err := k.most.Get(ctx, id)
	if err != nil && !errors.Is(err, collections.ErrNotFound) {
		return fmt.Errorf("read what was charged before: %w", err)
	}
	if p.Units > most {
		return k.most.Set(ctx, id, p.Units)
	}
	return nil
}

// forget removes some of a city's receipts that are kept no longer.
func (k *Keeper) forget(ctx context.Context, city string, now int64) error {
	var old []string
	err := k.Receipts.Each(ctx, city+"/", func(id string, r bsn.Receipt) (bool, error) {
		if r.City != city || r.Until >= now-retention {
			return false, nil
		}
		old = append(old, id)
		return len(old) < forget, nil
	})
	if err != nil {
		return err
	}
	for _, id := range old {
		if err := k.Receipts.Remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// state is the module's genesis.
type state struct {
	Receipts map[string]bsn.Receipt `json:"receipts,omitempty"`
	Usage    map[string]bsn.Usage   `json:"usage,omitempty"`
	Last     map[string]last        `json:"last,omitempty"`
	Most     map[string]uint64      `json:"most,omitempty"`
}

func (k *Keeper) init(ctx sdk.Context, s state) error {
	if err := k.Receipts.Import(ctx, s.Receipts); err != nil {
		return err
	}
	if err := k.Usage.Import(ctx, s.Usage); err != nil {
		return err
	}
	for _, city := range record.SortedKeys(s.Last) {
		if err := k.last.Set(ctx, city, s.Last[city]); err != nil {
			return fmt.Errorf("store last receipt: %w", err)
		}
	}
	for _, id := range record.SortedKeys(s.Most) {
		if err := k.most.Set(ctx, id, s.Most[id]); err != nil {
			return fmt.Errorf("store what was charged: %w", err)
		}
	}
	return nil
}

func (k *Keeper) export(ctx sdk.Context) (s state, err error) {
	if s.Receipts, err = k.Receipts.Export(ctx); err != nil {
		return s, err
	}
	if s.Usage, err = k.Usage.Export(ctx); err != nil {
		return s, err
	}
	s.Most = map[string]uint64{}
	err = k.most.Walk(ctx, nil, func(id string, units uint64) (bool, error) {
		s.Most[id] = units
		return false, nil
	})
	if err != nil {
		return s, err
	}
	s.Last = map[string]last{}
	return s, k.last.Walk(ctx, nil, func(city string, l last) (bool, error) {
		s.Last[city] = l
		return false, nil
	})
}
