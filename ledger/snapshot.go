package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"cosmossdk.io/log/v2"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/store/v2/rootmulti"
	"github.com/cosmos/cosmos-sdk/store/v2/snapshots"
	snapshottypes "github.com/cosmos/cosmos-sdk/store/v2/snapshots/types"
	storetypes "github.com/cosmos/cosmos-sdk/store/v2/types"
	protoio "github.com/cosmos/gogoproto/io"

	"github.com/openbsn/bsn"
)

// History says how much of the ledger's past a node keeps for others. The zero
// value takes no snapshots and keeps all blocks.
type History struct {
	// SnapshotInterval is the number of blocks between two snapshots of the state,
	// and Snapshots how many of them are kept.
	SnapshotInterval uint64
	Snapshots        uint32
	// Blocks is the least number of blocks to keep. More are kept where evidence of a
	// fault may still name them, or who took over the oldest snapshot needs them.
	Blocks uint64
}

// options are those of the application.
func (h History) options(home string, db dbm.DB) ([]func(*baseapp.BaseApp), error) {
	out := []func(*baseapp.BaseApp){baseapp.SetMinRetainBlocks(h.Blocks)}
	if h.SnapshotInterval == 0 {
		return out, nil
	}
	store, err := openSnapshots(filepath.Join(home, "snapshots"))
	if err != nil {
		return nil, err
	}
	o := snapshottypes.NewSnapshotOptions(h.SnapshotInterval, max(1, h.Snapshots))
	return append(out, func(b *baseapp.BaseApp) {
		consensus := b.CommitMultiStore()
		b.SetCMS(apart{consensus, db}) // whose Snapshot the manager of snapshots takes
		b.SetSnapshot(store, o)
		b.SetCMS(consensus)
	}), nil
}

// apart takes snapshots from a view of the state.
type apart struct {
	storetypes.CommitMultiStore
	db dbm.DB
}

// Snapshot implements snapshottypes.Snapshotter.
func (a apart) Snapshot(height uint64, w protoio.Writer) error {
	v, err := view(a.db, int64(height), func(string) bool { return true })
	if err != nil {
		return err
	}
	return v.Snapshot(height, w)
}

// view opens stores as they were after a block, apart from those that execute blocks:
// their trees change in memory under whoever walks them.
func view(db dbm.DB, height int64, wanted func(store string) bool) (*rootmulti.Store, error) {
	v := rootmulti.NewStore(db, log.NewNopLogger())
	v.SetIAVLCacheSize(0)
	v.SetIAVLDisableFastNode(true) // else it would write
	v.SetIAVLSyncPruning(true)     // else every tree has a goroutine that never ends
	info, err := v.GetCommitInfo(height)
	if err != nil {
		return nil, fmt.Errorf("read stores of block %d: %w", height, err)
	}
	for _, s := range info.StoreInfos {
		if wanted(s.Name) {
			v.MountStoreWithDB(storetypes.NewKVStoreKey(s.Name), storetypes.StoreTypeIAVL, nil)
		}
	}
	if err := v.LoadVersion(height); err != nil {
		return nil, fmt.Errorf("open state after block %d: %w", height, err)
	}
	return v, nil
}

// openSnapshots opens a folder of snapshots and removes those that were never completed.
func openSnapshots(dir string) (*snapshots.Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of snapshots: %w", err)
	}
	db, err := dbm.NewGoLevelDB("metadata", dir, nil)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	store, err := snapshots.NewStore(db, dir)
	if err == nil {
		err = removeUnfinished(store, dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots: %w", err), db.Close())
	}
	return store, nil
}

func removeUnfinished(store *snapshots.Store, dir string) error {
	list, err := store.List()
	if err != nil {
		return err
	}
	complete := map[string]bool{}
	for _, s := range list {
		complete[strconv.FormatUint(s.Height, 10)] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 64); err != nil || complete[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Snapshots implements Source.
func (n *Node) Snapshots(context.Context) ([]Snapshot, int64, error) {
	if err := n.still(); err != nil {
		return nil, 0, err
	}
	p, err := n.app.protocol()
	if err != nil {
		return nil, 0, err
	}
	oldest := n.comet.BlockStore().Base()
	manager := n.app.SnapshotManager()
	if manager == nil {
		return nil, oldest, nil
	}
	list, err := manager.List()
	if err != nil {
		return nil, 0, fmt.Errorf("list snapshots: %w", err)
	}
	var out []Snapshot
	for _, s := range list {
		out = append(out, Snapshot{Height: int64(s.Height), Format: s.Format, Version: p.At(int64(s.Height)), Hash: s.Hash, Chunks: s.Metadata.ChunkHashes})
	}
	return out, oldest, nil
}

// SnapshotChunk implements Source.
func (n *Node) SnapshotChunk(_ context.Context, height int64, format, index uint32) ([]byte, error) {
	manager := n.app.SnapshotManager()
	if manager == nil || height < 1 {
		return nil, fmt.Errorf("snapshot at %d: %w", height, bsn.ErrPruned)
	}
	b, err := manager.LoadChunk(uint64(height), format, index)
	if err != nil {
		return nil, fmt.Errorf("read snapshot at %d: %w", height, err)
	}
	if b == nil {
		return nil, fmt.Errorf("chunk %d of the snapshot at %d: %w", index, height, bsn.ErrPruned)
	}
	return b, nil
}

// settleSnapshots waits until no snapshot is being taken: it reads from stores that
// are closed next.
func settleSnapshots(manager *snapshots.Manager) {
	for manager != nil {
		if _, err := manager.Prune(manager.GetKeepRecent()); !errors.Is(err, storetypes.ErrConflict) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
