package ledger

import (
	"context"

	ctypes "github.com/cometbft/cometbft/rpc/core/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
)

type (
	sdkMsg  = sdk.Msg
	checkTx = ctypes.ResultCheckTx
)

func (n *Node) check(ctx context.Context, tx []byte) (*checkTx, error) {
	return n.local.CheckTx(ctx, tx)
}
