package ledger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/light/provider"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	blockstore "github.com/cometbft/cometbft/store"
	cmttypes "github.com/cometbft/cometbft/types"

	"github.com/openbsn/bsn"
)

// Source is another city, as far as a new node learns the ledger's state from it.
// Nothing that it says is believed without proof. *Node is one, and so is the
// client of a city's API.
type Source interface {
	// LightBlock returns header, commit and validators of a block, encoded; height 0
	// is the newest. Errors: bsn.ErrPruned; bsn.ErrNoRecord for one that is not yet.
	LightBlock(ctx context.Context, height int64) ([]byte, error)
	// Snapshots returns the states that the city offers, newest first, and the oldest
	// block that it still has.
	Snapshots(ctx context.Context) (offered []Snapshot, oldestBlock int64, err error)
	// SnapshotChunk returns a part of a snapshot. Error: bsn.ErrPruned.
	SnapshotChunk(ctx context.Context, height int64, format, index uint32) ([]byte, error)
}

// Snapshot describes the ledger's state after a block, in chunks.
type Snapshot struct {
	Height int64
	Format uint32
	// Version is the protocol version that the state follows; 0 stands for 1.
	Version uint64
	Hash    []byte // of all chunks
	Chunks  [][]byte
}

// validatorsPage is the most validators that CometBFT gives at once.
const validatorsPage = 100

// LightBlock implements Source.
func (n *Node) LightBlock(ctx context.Context, height int64) ([]byte, error) {
	if err := n.still(); err != nil {
		return nil, err
	}
	store := n.comet.BlockStore()
	newest := store.Height()
	switch {
	case height == 0:
		height = newest
	case height > newest || height < 0:
		return nil, fmt.Errorf("block %d, the newest is %d: %w", height, newest, bsn.ErrNoRecord)
	case height < store.Base():
		return nil, fmt.Errorf("block %d, the oldest is %d: %w", height, store.Base(), bsn.ErrPruned)
	}
	commit, err := n.local.Commit(ctx, &height)
	if err != nil {
		return nil, fmt.Errorf("read commit of block %d: %w", height, err)
	}
	if commit.Header == nil || commit.Commit == nil {
		return nil, fmt.Errorf("block %d: %w", height, bsn.ErrPruned)
	}
	var all []*cmttypes.Validator
	for page, size := 1, validatorsPage; ; page++ {
		v, err := n.local.Validators(ctx, &height, &page, &size)
		if err != nil {
			return nil, fmt.Errorf("read validators of block %d: %w", height, err)
		}
		if all = append(all, v.Validators...); len(all) >= v.Total {
			break
		}
	}
	validators, err := cmttypes.ValidatorSetFromExistingValidators(all)
	if err != nil {
		return nil, fmt.Errorf("read validators of block %d: %w", height, err)
	}
	p, err := (&cmttypes.LightBlock{SignedHeader: &commit.SignedHeader, ValidatorSet: validators}).ToProto()
	if err != nil {
		return nil, fmt.Errorf("encode block %d: %w", height, err)
	}
	return p.Marshal()
}

// decodeLight reads a block of a network and checks that its parts belong together.
// Whether the network ever had it is for the light client to say.
func decodeLight(network string, b []byte) (*cmttypes.LightBlock, error) {
	var p cmtproto.LightBlock
	if err := p.Unmarshal(b); err != nil {
		return nil, fmt.Errorf("decode block: %w", err)
	}
	block, err := cmttypes.LightBlockFromProto(&p)
	if err != nil {
		return nil, fmt.Errorf("decode block: %w", err)
	}
	if block.SignedHeader == nil || block.ValidatorSet == nil {
		return nil, errors.New("decode block: parts are missing")
	}
	if err := block.ValidateBasic(network); err != nil {
		return nil, fmt.Errorf("check block: %w", err)
	}
	return block, nil
}

// TrustOf returns a block for a node to begin with, as a source names it, unproven:
// that of its newest snapshot, from which the way to its state is short, else its
// newest.
func TrustOf(ctx context.Context, network string, s Source) (Trust, error) {
	offered, oldest, err := s.Snapshots(ctx)
	if err != nil {
		return Trust{}, err
	}
	height := int64(0)
	if len(offered) > 0 && offered[0].Height >= oldest {
		height = offered[0].Height
	}
	b, err := s.LightBlock(ctx, height)
	if err != nil {
		return Trust{}, err
	}
	block, err := decodeLight(network, b)
	if err != nil {
		return Trust{}, err
	}
	return trust(block), nil
}

// LastTrust returns such a block of the node in home, which must not run. Error:
// fs.ErrNotExist if it has none.
func LastTrust(home string) (t Trust, err error) {
	cfg := cometConfig(NodeConfig{Home: home})
	if _, err := os.Stat(filepath.Join(cfg.DBDir(), "blockstore.db")); err != nil {
		return t, fmt.Errorf("read blocks: %w", err)
	}
	db, err := config.DefaultDBProvider(&config.DBContext{ID: "blockstore", Config: cfg})
	if err != nil {
		return t, fmt.Errorf("read blocks: %w", err)
	}
	blocks := blockstore.NewBlockStore(db)
	defer func() { err = errors.Join(err, blocks.Close()) }()
	if blocks.Height() < 1 {
		return t, fmt.Errorf("read blocks: there is none: %w", fs.ErrNotExist)
	}
	height := blocks.Height()
	entries, err := os.ReadDir(filepath.Join(home, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("list snapshots: %w", err)
	}
	newest := int64(0)
	for _, e := range entries {
		if h, err := strconv.ParseInt(e.Name(), 10, 64); err == nil && h > newest && h >= blocks.Base() && h <= height {
			newest = h
		}
	}
	if newest > 0 {
		height = newest
	}
	meta := blocks.LoadBlockMeta(height)
	if meta == nil {
		return t, fmt.Errorf("read block %d: %w", height, fs.ErrNotExist)
	}
	return Trust{Height: height, Hash: hex.EncodeToString(meta.BlockID.Hash)}, nil
}

// witness gives CometBFT's light client a source.
type witness struct {
	Source
	network string
}

// ChainID implements provider.Provider.
func (w witness) ChainID() string { return w.network }

// LightBlock implements provider.Provider.
func (w witness) LightBlock(ctx context.Context, height int64) (*cmttypes.LightBlock, error) {
	b, err := w.Source.LightBlock(ctx, height)
	switch {
	case errors.Is(err, bsn.ErrPruned):
		return nil, provider.ErrLightBlockNotFound
	case errors.Is(err, bsn.ErrNoRecord):
		return nil, provider.ErrHeightTooHigh
	case err != nil:
		return nil, fmt.Errorf("%w: %v", provider.ErrNoResponse, err)
	}
	block, err := decodeLight(w.network, b)
	if err == nil && height != 0 && block.Height != height {
		err = fmt.Errorf("asked for block %d and got %d", height, block.Height)
	}
	if err != nil {
		return nil, provider.ErrBadLightBlock{Reason: err}
	}
	return block, nil
}

// ReportEvidence implements provider.Provider. There is nobody to report to: each
// city is compared with itself, and Sync compares the cities.
func (w witness) ReportEvidence(context.Context, cmttypes.Evidence) error { return nil }
