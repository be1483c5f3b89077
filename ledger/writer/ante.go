package writer

import (
	"errors"
	"fmt"
	"time"

	storetypes "github.com/cosmos/cosmos-sdk/store/v2/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	authsigning "github.com/cosmos/cosmos-sdk/x/auth/signing"
)

const (
	// maxMessages is the most messages that one transaction may carry.
	maxMessages = 200
	// maxGas bounds the state that one transaction reads and writes, in the SDK's
	// units: some 3 MB written.
	maxGas = 100_000_000
	// writeBytes and writeGas are what one write may bring and use up. Who needs
	// more is charged for several.
	writeBytes = 4 << 10
	writeGas   = 200_000
)

// Admit comes before all that costs time: nobody pays for gas, since writes have an
// allowance, but a transaction has a bound. It has one signer, who is registered.
type Admit struct{ Keeper *Keeper }

// AnteHandle implements sdk.AnteDecorator.
func (d Admit) AnteHandle(ctx sdk.Context, tx sdk.Tx, simulate bool, next sdk.AnteHandler) (sdk.Context, error) {
	ctx = ctx.WithGasMeter(storetypes.NewGasMeter(maxGas))
	if ctx.IsCheckTx() && ctx.BlockHeight() == 0 {
		// A node that was restarted does not know the ledger's height and time until
		// the next block, and takes itself to be at genesis, where signatures are
		// checked otherwise. Blocks judge the transaction by theirs.
		ctx = ctx.WithBlockHeight(1).WithBlockTime(time.Now().UTC())
	}
	if n := len(tx.GetMsgs()); n > maxMessages {
		return ctx, fmt.Errorf("transaction carries %d messages: the most is %d", n, maxMessages)
	}
	address, err := signer(tx)
	if err != nil {
		return ctx, err
	}
	w, err := d.Keeper.Lookup(ctx, address)
	if err != nil {
		return ctx, err
	}
	if w.All {
		return ctx, fmt.Errorf("%w: %s has no key of its own", ErrStranger, address)
	}
	return next(ctx.WithValue(writerKey{}, w), tx, simulate)
}

// writerKey is where Admit leaves who signed: after the messages the key may no
// longer be known.
type writerKey struct{}

// Charge counts a transaction's messages, or its size if that is more. It comes
// after the signature has been checked, so that nobody uses up somebody else's
// allowance. Settle counts the rest once it is known.
type Charge struct{ Keeper *Keeper }

// AnteHandle implements sdk.AnteDecorator.
func (d Charge) AnteHandle(ctx sdk.Context, tx sdk.Tx, simulate bool, next sdk.AnteHandler) (sdk.Context, error) {
	if err := d.Keeper.charge(ctx, tx, brought(ctx, tx), len(ctx.TxBytes())); err != nil {
		return ctx, err
	}
	return next(ctx, tx, simulate)
}

// Settle comes after the messages: it charges for what they did to the state
// beyond what Charge took them for, so that small messages that rewrite large
// records use up the allowance too.
type Settle struct{ Keeper *Keeper }

// PostHandle implements sdk.PostDecorator.
func (d Settle) PostHandle(ctx sdk.Context, tx sdk.Tx, simulate, success bool, next sdk.PostHandler) (sdk.Context, error) {
	if more := int(ctx.GasMeter().GasConsumed()/writeGas) - brought(ctx, tx); success && more > 0 {
		if err := d.Keeper.charge(ctx, tx, more, 0); err != nil {
			return ctx, err
		}
	}
	return next(ctx, tx, simulate, success)
}

// brought is the number of writes that a transaction is taken for by its looks.
func brought(ctx sdk.Context, tx sdk.Tx) int {
	return max(len(tx.GetMsgs()), len(ctx.TxBytes())/writeBytes)
}

func (k *Keeper) charge(ctx sdk.Context, tx sdk.Tx, writes, bytes int) error {
	address, err := signer(tx)
	if err != nil {
		return err
	}
	w, ok := ctx.Value(writerKey{}).(Writer)
	if !ok {
		return errors.New("transaction was not admitted")
	}
	return k.Spend(ctx, w, address, writes, bytes)
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
