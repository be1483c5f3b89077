package ledger

import (
	"encoding/json"
	"fmt"

	"cosmossdk.io/log/v2"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmttypes "github.com/cometbft/cometbft/types"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/cosmos/cosmos-sdk/runtime"
	"github.com/cosmos/cosmos-sdk/store/v2/rootmulti"
	storetypes "github.com/cosmos/cosmos-sdk/store/v2/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/receipt"
	"github.com/openbsn/bsn/ledger/upgrade"
	"github.com/openbsn/bsn/ledger/writer"
)

// protocol is what one version of the ledger's rules adds to the one before. Code
// whose effect on the state differs between versions asks application.version, so
// that a new binary follows the old rules until the operators' upgrade.
type protocol struct {
	// stores are new ones.
	stores []string
	// migrate brings the state from the version before to this one, in the first block
	// under the new rules. It must do the same everywhere.
	migrate func(sdk.Context, *application) error
}

// protocols are the versions that this binary knows; number 1 is the first.
var protocols = []protocol{
	{}, // 1: the stores that are always there
	{ // 2: what writers wrote in the last hour is forgotten after it; receipts
		stores: []string{writer.UseKey, receipt.StoreKey},
		migrate: func(ctx sdk.Context, a *application) error {
			return a.writers.MigrateUse(ctx, runtime.NewKVStoreService(a.stores[writer.StoreKey]))
		},
	},
}

// Protocols is the newest protocol version that this binary supports, besides all
// before it.
func Protocols() uint64 { return uint64(len(protocols)) }

// storesAfter lists the stores that the versions after one, up to another, add.
func storesAfter(known []protocol, after, upTo uint64) (names []string) {
	for _, p := range known[after:upTo] {
		names = append(names, p.stores...)
	}
	return names
}

// VersionError means that the ledger follows rules that this binary does not know.
type VersionError struct {
	Needed, Supported uint64
	Height            int64  // from which block on
	Name, URL         string // of the release that brings it, if the operators named it
}

// Error implements error.
func (e *VersionError) Error() string {
	text := fmt.Sprintf("from block %d on the ledger follows protocol version %d, and this bsn supports versions up to %d: install a newer one with `bsn upgrade --binary FILE`",
		e.Height, e.Needed, e.Supported)
	if e.Name != "" || e.URL != "" {
		text += fmt.Sprintf(" (%s %s)", e.Name, e.URL)
	}
	return text
}

// stored reads which protocol a state follows, before the application is made that
// is to run it, and the state's height. Without a state they are the genesis's and 0.
func stored(db dbm.DB, doc *cmttypes.GenesisDoc) (p bsn.Protocol, height int64, err error) {
	if height = rootmulti.GetLatestVersion(db); height == 0 {
		var genesis map[string]json.RawMessage
		var s upgrade.State
		if err = json.Unmarshal(doc.AppState, &genesis); err == nil && genesis[upgrade.StoreKey] != nil {
			err = json.Unmarshal(genesis[upgrade.StoreKey], &s)
		}
		if err != nil {
			return p, 0, fmt.Errorf("decode genesis: %w", err)
		}
		return bsn.Protocol{Version: max(1, s.Version)}, 0, nil
	}
	key := storetypes.NewKVStoreKey(upgrade.StoreKey)
	all := rootmulti.NewStore(db, log.NewNopLogger())
	all.MountStoreWithDB(key, storetypes.StoreTypeIAVL, nil)
	if err := all.LoadLatestVersion(); err != nil {
		return p, 0, fmt.Errorf("read the state's protocol version: %w", err)
	}
	ctx := sdk.NewContext(all.CacheMultiStore(), cmtproto.Header{}, false, log.NewNopLogger())
	p, err = upgrade.NewKeeper(runtime.NewKVStoreService(key), "").Get(ctx)
	return p, height, err
}

// readApplication makes the application that a state was made by, to read from it,
// or one of the genesis's version for a state that is to be. Error: *VersionError.
func readApplication(db dbm.DB, doc *cmttypes.GenesisDoc) (*application, error) {
	p, height, err := stored(db, doc)
	if err != nil {
		return nil, err
	}
	if p.Version > Protocols() {
		return nil, &VersionError{Needed: p.Version, Supported: Protocols(), Height: height}
	}
	return newApplication(db, doc.ChainID, rules{p.Version, p.Version, protocols})
}

// choose says under which version the next block is to be executed. Where this
// binary does not know that version, it is the state's own, to read from, and why
// says so. Error: *VersionError, where not even that is known.
func choose(p bsn.Protocol, height int64, known []protocol) (version uint64, why *VersionError, err error) {
	supported := uint64(len(known))
	need := func(version uint64, from int64) *VersionError {
		e := &VersionError{Needed: version, Supported: supported, Height: from}
		for _, u := range p.Upgrades {
			if u.Version == version {
				e.Height, e.Name, e.URL = u.Height, u.Name, u.URL
			}
		}
		if p.Next != nil && p.Next.Version == version {
			e.Name, e.URL = p.Next.Name, p.Next.URL
		}
		return e
	}
	if p.Version > supported {
		return 0, nil, need(p.Version, height+1)
	}
	version = p.At(height + 1)
	if version > supported {
		return p.Version, need(version, height+1), nil
	}
	return version, nil, nil
}

// advance runs, in the first block under new rules, the migrations that lead there.
func (a *application) advance(ctx sdk.Context) error {
	p, err := a.upgrades.Get(ctx)
	if err != nil {
		return err
	}
	if p.Version == a.version {
		return nil
	}
	if p.At(ctx.BlockHeight()) != a.version {
		return fmt.Errorf("block %d follows protocol version %d, and this application runs %d", ctx.BlockHeight(), p.At(ctx.BlockHeight()), a.version)
	}
	for v := p.Version + 1; v <= a.version; v++ {
		if migrate := a.known[v-1].migrate; migrate != nil {
			if err := migrate(ctx, a); err != nil {
				return fmt.Errorf("migrate to protocol version %d: %w", v, err)
			}
		}
	}
	return a.upgrades.Done(ctx)
}

// load opens the state. Stores that it lacks are made: those of a version that
// begins with the next block.
func (a *application) load(state uint64) error {
	added := storesAfter(a.known, state, max(state, a.version))
	if len(added) == 0 {
		return a.LoadLatestVersion()
	}
	a.SetStoreLoader(func(ms storetypes.CommitMultiStore) error {
		return ms.LoadLatestVersionAndUpgrade(&storetypes.StoreUpgrades{Added: added})
	})
	return a.LoadLatestVersion()
}

// protocol reads which rules the newest committed state follows.
func (a *application) protocol() (bsn.Protocol, error) {
	if a.LastBlockHeight() == 0 {
		return bsn.Protocol{Version: a.version}, nil
	}
	ctx, err := a.committed()
	if err != nil {
		return bsn.Protocol{}, fmt.Errorf("read ledger: %w", err)
	}
	return a.upgrades.Get(ctx)
}
