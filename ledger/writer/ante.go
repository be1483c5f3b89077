package writer

import (
	"fmt"
	"time"

	storetypes "github.com/cosmos/cosmos-sdk/store/v2/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	authsigning "github.com/cosmos/cosmos-sdk/x/auth/signing"
)

// MaxMessages is the most messages that one transaction may carry.
const MaxMessages = 200

// Admit is the first decorator: no gas is counted, since writes have an
// allowance and transactions a size, and one transaction has one signer, who is
// registered.
type Admit struct{ Keeper *Keeper }

// AnteHandle implements sdk.AnteDecorator.
func (d Admit) AnteHandle(ctx sdk.Context, tx sdk.Tx, simulate bool, next sdk.AnteHandler) (sdk.Context, error) {
	ctx = ctx.WithGasMeter(storetypes.NewInfiniteGasMeter())
	if ctx.IsCheckTx() && ctx.BlockHeight() == 0 {
		// A node that was restarted does not know the ledger's height and time until
		// the next block, and takes itself to be at genesis, where signatures are
		// checked otherwise. Blocks judge the transaction by theirs.
		ctx = ctx.WithBlockHeight(1).WithBlockTime(time.Now().UTC())
	}
	if n := len(tx.GetMsgs()); n > MaxMessages {
		return ctx, fmt.Errorf("transaction carries %d messages: the most is %d", n, MaxMessages)
	}
	address, err := signer(tx)
	if err != nil {
		return ctx, err
	}
	if _, err := d.Keeper.Lookup(ctx, address); err != nil {
		return ctx, err
	}
	return next(ctx, tx, simulate)
}

// Charge comes after the signature has been checked, so that nobody uses up
// somebody else's allowance.
type Charge struct{ Keeper *Keeper }

// AnteHandle implements sdk.AnteDecorator.
func (d Charge) AnteHandle(ctx sdk.Context, tx sdk.Tx, simulate bool, next sdk.AnteHandler) (sdk.Context, error) {
	address, err := signer(tx)
	if err != nil {
		return ctx, err
	}
	w, err := d.Keeper.Lookup(ctx, address)
	if err != nil {
		return ctx, err
	}
	if err := d.Keeper.Spend(ctx, w, len(tx.GetMsgs())); err != nil {
		return ctx, err
	}
	return next(ctx, tx, simulate)
}

func signer(tx sdk.Tx) (string, error) {
	s, ok := tx.(authsigning.SigVerifiableTx)
	if !ok {
		return "", fmt.Errorf("transaction %T cannot be verified", tx)
	}
	signers, err := s.GetSigners()
	if err != nil {
		return "", fmt.Errorf("read signers: %w", err)
	}
	if len(signers) != 1 {
		return "", fmt.Errorf("transaction has %d signers: the ledger takes one", len(signers))
	}
	return sdk.AccAddress(signers[0]).String(), nil
}
