package ledger

import (
	"context"

	ctypes "github.com/cometbft/cometbft/rpc/core/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn/ledger/writer"
)

type (
	sdkMsg  = sdk.Msg
	checkTx = ctypes.ResultCheckTx
)

// ErrStranger is the writer module's.
var ErrStranger = writer.ErrStranger

func (n *Node) check(ctx context.Context, tx []byte) (*checkTx, error) {
	return n.local.CheckTx(ctx, tx)
}
