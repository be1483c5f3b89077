package ledger

import (
	"context"

	corestore "cosmossdk.io/core/store"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cosmos/cosmos-sdk/baseapp"
)

type storeService = corestore.KVStoreService

// consensusApp gives CometBFT the application. The SDK has an adapter of its own
// in its server package, which brings a whole command line with it.
type consensusApp struct {
	*baseapp.BaseApp
	// admits tells whether a block is one that this application is to execute.
	admits func(height int64) error
}

func (a consensusApp) Info(_ context.Context, r *abci.RequestInfo) (*abci.ResponseInfo, error) {
	return a.BaseApp.Info(r)
}

func (a consensusApp) CheckTx(_ context.Context, r *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	return a.BaseApp.CheckTx(r)
}

func (a consensusApp) InsertTx(_ context.Context, r *abci.RequestInsertTx) (*abci.ResponseInsertTx, error) {
	return a.BaseApp.InsertTx(r)
}

func (a consensusApp) ReapTxs(_ context.Context, r *abci.RequestReapTxs) (*abci.ResponseReapTxs, error) {
	return a.BaseApp.ReapTxs(r)
}

func (a consensusApp) InitChain(_ context.Context, r *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	return a.BaseApp.InitChain(r)
}

func (a consensusApp) PrepareProposal(_ context.Context, r *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	return a.BaseApp.PrepareProposal(r)
}

func (a consensusApp) ProcessProposal(_ context.Context, r *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	return a.BaseApp.ProcessProposal(r)
}

func (a consensusApp) FinalizeBlock(_ context.Context, r *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	if err := a.admits(r.Height); err != nil {
		return nil, err
	}
	return a.BaseApp.FinalizeBlock(r)
}

func (a consensusApp) ExtendVote(ctx context.Context, r *abci.RequestExtendVote) (*abci.ResponseExtendVote, error) {
	return a.BaseApp.ExtendVote(ctx, r)
}

func (a consensusApp) VerifyVoteExtension(_ context.Context, r *abci.RequestVerifyVoteExtension) (*abci.ResponseVerifyVoteExtension, error) {
	return a.BaseApp.VerifyVoteExtension(r)
}

func (a consensusApp) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	return a.BaseApp.Commit()
}

func (a consensusApp) ListSnapshots(_ context.Context, r *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	return a.BaseApp.ListSnapshots(r)
}

func (a consensusApp) OfferSnapshot(_ context.Context, r *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	return a.BaseApp.OfferSnapshot(r)
}

func (a consensusApp) LoadSnapshotChunk(_ context.Context, r *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	return a.BaseApp.LoadSnapshotChunk(r)
}

func (a consensusApp) ApplySnapshotChunk(_ context.Context, r *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	return a.BaseApp.ApplySnapshotChunk(r)
}
