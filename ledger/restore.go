package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cosmossdk.io/log/v2"
	"github.com/cometbft/cometbft/config"
	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	sm "github.com/cometbft/cometbft/state"
	blockstore "github.com/cometbft/cometbft/store"
	cmttypes "github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/cosmos/cosmos-sdk/store/v2/snapshots"
	snapshottypes "github.com/cosmos/cosmos-sdk/store/v2/snapshots/types"
)

// syncedStores are the stores that a restore makes.
var syncedStores = []string{"application.db", "blockstore.db", "state.db"}

// errBroken means that a restore cannot go on.
var errBroken = errors.New("snapshot does not hold together")

// restore makes the stores of a node from a snapshot, in a folder of their own.
type restore struct {
	dir      string
	network  string
	snapshot Snapshot
	app      *application
	manager  *snapshots.Manager
	complete bool
	closed   bool
}

func newRestore(dir, network string, s Snapshot) (*restore, error) {
	version := max(1, s.Version)
	if version > Protocols() {
		return nil, &VersionError{Needed: version, Supported: Protocols(), Height: s.Height}
	}
	db, err := dbm.NewGoLevelDB("application", dir, nil)
	if err != nil {
		return nil, fmt.Errorf("make state: %w", err)
	}
	app, err := newApplication(db, network, rules{version, version, protocols})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	kept, err := openSnapshots(filepath.Join(dir, "chunks"))
	if err != nil {
		return nil, errors.Join(err, app.Close())
	}
	r := &restore{dir: dir, network: network, snapshot: s, app: app}
	r.manager = snapshots.NewManager(kept, snapshottypes.SnapshotOptions{}, app.CommitMultiStore(), nil, log.NewNopLogger())
	err = r.manager.Restore(snapshottypes.Snapshot{
		Height: uint64(s.Height), Format: s.Format, Chunks: uint32(len(s.Chunks)), Hash: s.Hash,
		Metadata: snapshottypes.Metadata{ChunkHashes: s.Chunks},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin to restore: %w", err), r.close())
	}
	return r, nil
}

// chunk takes in the next chunk. After an error another one may be tried, unless
// that is errBroken.
func (r *restore) chunk(b []byte) error {
	done, err := r.manager.RestoreChunk(b)
	if err != nil && !errors.Is(err, snapshottypes.ErrChunkHashMismatch) {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	r.complete = done
	return err
}

func (r *restore) close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	return errors.Join(r.manager.Close(), r.app.Close())
}

// finish compares the state with the blocks after it, which are proven, and makes
// CometBFT's own stores.
func (r *restore) finish(blocks [3]*cmttypes.LightBlock, initial int64) error {
	id := r.app.LastCommitID()
	if !r.complete || id.Version != blocks[0].Height || !bytes.Equal(id.Hash, blocks[1].AppHash) {
		return fmt.Errorf("%w: its state is not the one that block %d names", errBroken, blocks[1].Height)
	}
	ctx, err := r.app.committed()
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	// All parameters are part of the state; the header covers only some of them.
	params, err := consensusParams(r.app.GetConsensusParams(ctx))
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if !bytes.Equal(params.Hash(), blocks[1].ConsensusHash) {
		return fmt.Errorf("%w: consensus parameters differ from block %d", errBroken, blocks[1].Height)
	}
	if err := r.close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(r.dir, "chunks")); err != nil {
		return fmt.Errorf("remove chunks: %w", err)
	}
	return bootstrap(r.dir, sm.State{
		ChainID: r.network, InitialHeight: max(1, initial),
		Version:         cmtstate.Version{Consensus: blocks[1].Version, Software: version.TMCoreSemVer},
		LastBlockHeight: blocks[0].Height, LastBlockTime: blocks[0].Time, LastBlockID: blocks[0].Commit.BlockID,
		AppHash: blocks[1].AppHash, LastResultsHash: blocks[1].LastResultsHash,
		LastValidators: blocks[0].ValidatorSet, Validators: blocks[1].ValidatorSet, NextValidators: blocks[2].ValidatorSet,
		LastHeightValidatorsChanged: blocks[2].Height,
		ConsensusParams:             *params, LastHeightConsensusParamsChanged: blocks[1].Height,
	}, blocks[0].Commit)
}

// bootstrap makes CometBFT's stores for a node whose newest block is the one of state.
func bootstrap(dir string, state sm.State, commit *cmttypes.Commit) (err error) {
	cfg := cometConfig(NodeConfig{Home: filepath.Dir(dir)})
	cfg.DBPath = filepath.Base(dir)
	stateDB, err := config.DefaultDBProvider(&config.DBContext{ID: "state", Config: cfg})
	if err != nil {
		return fmt.Errorf("make ledger node's state: %w", err)
	}
	states := sm.NewStore(stateDB, sm.StoreOptions{})
	defer func() { err = errors.Join(err, states.Close()) }()
	blockDB, err := config.DefaultDBProvider(&config.DBContext{ID: "blockstore", Config: cfg})
	if err != nil {
		return fmt.Errorf("make block store: %w", err)
	}
	blocks := blockstore.NewBlockStore(blockDB)
	defer func() { err = errors.Join(err, blocks.Close()) }()
	if err := states.Bootstrap(state); err != nil {
		return fmt.Errorf("write ledger node's state: %w", err)
	}
	if err := blocks.SaveSeenCommit(state.LastBlockHeight, commit); err != nil {
		return fmt.Errorf("write commit: %w", err)
	}
	if err := states.SetOfflineStateSyncHeight(state.LastBlockHeight); err != nil {
		return fmt.Errorf("write ledger node's state: %w", err)
	}
	return nil
}
