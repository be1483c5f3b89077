package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cometbft/cometbft/crypto/merkle"
	cmtcrypto "github.com/cometbft/cometbft/proto/tendermint/crypto"
	"github.com/cosmos/cosmos-sdk/store/v2/rootmulti"
	storetypes "github.com/cosmos/cosmos-sdk/store/v2/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/receipt"
)

// Proof shows that the ledger has a receipt.
type Proof struct {
	// Height is that of the block whose header has the root of the state.
	Height int64
	Record []byte // JSON
	Path   []byte // a tendermint.crypto.ProofOps, from the record to the root
}

const (
	// maxProofOps is how many steps a proof has: the receipts' tree, and that of all stores.
	maxProofOps = 2
	maxPath     = 1 << 20
)

// ProveReceipt proves a receipt in the state before the newest block. Error:
// bsn.ErrNoRecord for one that was not there then.
func (n *Node) ProveReceipt(_ context.Context, id string) (Proof, error) {
	t, err := n.table(bsn.KindReceipt, id)
	if err != nil {
		return Proof{}, err
	}
	committed, err := n.app.committed()
	if err != nil {
		return Proof{}, fmt.Errorf("read ledger: %w", err)
	}
	if _, err := t.Read(committed, id); err != nil {
		return Proof{}, err
	}
	if err := n.still(); err != nil {
		return Proof{}, err
	}
	height := n.comet.BlockStore().Height()
	v, err := view(n.db, height-1, func(store string) bool { return store == receipt.StoreKey })
	if err != nil {
		return Proof{}, fmt.Errorf("prove receipt %q: %w", id, err)
	}
	r, err := v.Query(&storetypes.RequestQuery{Path: "/" + receipt.StoreKey + "/key", Data: receipt.Key(id), Height: height - 1, Prove: true})
	switch {
	case err != nil:
		return Proof{}, fmt.Errorf("prove receipt %q: %w", id, err)
	case len(r.Value) == 0:
		return Proof{}, fmt.Errorf("receipt %q is of the newest block, and is proven with the next one, within %v: %w", id, heartbeat, bsn.ErrNoRecord)
	}
	path, err := r.ProofOps.Marshal()
	if err != nil {
		return Proof{}, fmt.Errorf("prove receipt %q: %w", id, err)
	}
	return Proof{Height: height, Record: r.Value, Path: path}, nil
}

// VerifyReceipt returns the receipt that a proof is of, if the network has it: the
// light client proves the block from the trusted one, with blocks that the source has,
// and the block the receipt. Neither the source nor who made the proof is believed.
func VerifyReceipt(ctx context.Context, network string, from Trust, source Source, id string, p Proof) (r bsn.Receipt, err error) {
	if len(p.Path) > maxPath {
		return r, fmt.Errorf("a proof of %d bytes", len(p.Path))
	}
	var ops cmtcrypto.ProofOps
	if err := ops.Unmarshal(p.Path); err != nil {
		return r, fmt.Errorf("decode proof: %w", err)
	}
	if len(ops.Ops) != maxProofOps {
		return r, fmt.Errorf("a proof of %d steps, and not %d", len(ops.Ops), maxProofOps)
	}
	if p.Height < 2 {
		return r, errors.New("a proof without a block")
	}
	s := syncer{SyncConfig: SyncConfig{Trust: from, Log: slog.New(slog.DiscardHandler)}, network: network}
	block, err := s.prove(ctx, source, p.Height)
	if err != nil {
		return r, fmt.Errorf("prove block %d of the ledger: %w", p.Height, err)
	}
	path := merkle.KeyPath{}.AppendKey([]byte(receipt.StoreKey), merkle.KeyEncodingURL).AppendKey(receipt.Key(id), merkle.KeyEncodingHex)
	if err := rootmulti.DefaultProofRuntime().VerifyValue(&ops, block.AppHash, path.String(), p.Record); err != nil {
		return r, fmt.Errorf("block %d does not have this receipt: %w", p.Height, err)
	}
	if err := json.Unmarshal(p.Record, &r); err != nil {
		return r, fmt.Errorf("decode receipt: %w", err)
	}
	if r.ID() != id {
		return r, fmt.Errorf("receipt %q is stored as %q", r.ID(), id)
	}
	return r, nil
}

// TrustAt returns a source's block at a height as one to begin with, unproven; height
// 0 is its newest.
func TrustAt(ctx context.Context, network string, s Source, height int64) (Trust, error) {
	b, err := (witness{s, network}).LightBlock(ctx, height)
	if err != nil {
		return Trust{}, err
	}
	return trust(b), nil
}
