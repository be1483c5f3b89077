package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/mempool"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/gogoproto/proto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/ledger/apppb"
	"github.com/openbsn/bsn/gen/ledger/governpb"
	"github.com/openbsn/bsn/gen/ledger/identitypb"
	"github.com/openbsn/bsn/ledger/writer"
)

// ErrRefused is wrapped where the ledger refused a transaction. The text says why.
var ErrRefused = errors.New("the ledger refused")

// ErrStranger is wrapped where a key is not registered, or not as what it takes.
var ErrStranger = writer.ErrStranger

// Result says where a transaction landed.
type Result struct {
	Height int64
	Hash   string // SHA-256 of the transaction in hex
	// Data are the messages' answers, encoded; see Proposal and Version.
	Data []byte
}

// Proposal is the id that the first Propose in the transaction got, or 0.
func (r Result) Proposal() uint64 {
	var m governpb.MsgProposeResponse
	r.answer(&m)
	return m.Id
}

// Version is the number that the first PublishApp in the transaction got, or 0.
func (r Result) Version() int {
	var m apppb.MsgPublishResponse
	r.answer(&m)
	return int(m.Version)
}

// answer finds the first answer of m's type, in an act if need be.
func (r Result) answer(m proto.Message) bool {
	var all sdk.TxMsgData
	if all.Unmarshal(r.Data) != nil {
		return false
	}
	answers := all.MsgResponses
	for i := 0; i < len(answers); i++ {
		switch strings.TrimPrefix(answers[i].TypeUrl, "/") {
		case proto.MessageName(m):
			return proto.Unmarshal(answers[i].Value, m) == nil
		case proto.MessageName(&identitypb.MsgActResponse{}):
			var act identitypb.MsgActResponse
			if proto.Unmarshal(answers[i].Value, &act) == nil {
				answers = append(answers, act.Answers...)
			}
		}
	}
	return false
}

// waiting is nil unless the transaction left an act that is not done.
func (r Result) waiting() error {
	var act identitypb.MsgActResponse
	if !r.answer(&act) {
		return nil
	}
	switch bsn.ActStatus(act.Status) {
	case bsn.ActDone:
		return nil
	case bsn.ActOpen:
		return &WaitingError{Act: act.Id, Missing: int(act.Missing)}
	}
	return fmt.Errorf("%w: act %d is %s: %s", ErrRefused, act.Id, act.Status, act.Reason)
}

type txResult struct {
	height int64
	result *abci.ExecTxResult
}

// Writer implements Conn: what a signer needs to know of its own address.
func (n *Node) Writer(_ context.Context, address string) (Signer, error) {
	ctx, err := n.app.committed()
	if err != nil {
		return Signer{}, fmt.Errorf("read ledger: %w", err)
	}
	w, err := n.app.writers.Lookup(ctx, address)
	if err != nil {
		return Signer{}, err
	}
	acc, err := sdk.AccAddressFromBech32(address)
	if err != nil {
		return Signer{}, fmt.Errorf("address: %w", err)
	}
	a := n.app.auth.GetAccount(ctx, acc)
	if a == nil {
		return Signer{}, fmt.Errorf("address %s: %w", address, bsn.ErrNoRecord)
	}
	s := Signer{Network: n.network, Number: a.GetAccountNumber()}
	if w.Threshold > 1 {
		s.Identity = writer.Address(w.Kind, w.Name)
	}
	return s, nil
}

// Who tells what kind of writer an address is, by what name and under whom.
func (n *Node) Who(address string) (kind bsn.Kind, name, parent string, err error) {
	ctx, err := n.app.committed()
	if err != nil {
		return "", "", "", fmt.Errorf("read ledger: %w", err)
	}
	w, err := n.app.writers.Lookup(ctx, address)
	return w.Kind, w.Name, w.Parent, err
}

// Submit implements Conn. It hands in a signed transaction and returns when a
// block holds it and it had its effect. Errors: ErrRefused; ErrHalted, at once if
// no blocks are made; or ctx's, after which the transaction may still be committed
// until it expires.
func (n *Node) Submit(ctx context.Context, tx []byte) (Result, error) {
	if len(tx) > maxTxBytes {
		return Result{}, fmt.Errorf("%w a transaction of %d bytes: the most is %d", ErrRefused, len(tx), maxTxBytes)
	}
	if err := n.still(); err != nil {
		return Result{}, fmt.Errorf("hand in transaction: %w", err)
	}
	if n.halted() {
		return Result{}, n.haltError()
	}
	hash := sha256.Sum256(tx)
	done := n.waiting.add(hash)
	defer n.waiting.drop(hash, done)
	res, err := n.local.BroadcastTxSync(ctx, tx)
	switch {
	case errors.Is(err, mempool.ErrTxInCache): // handed in before
		if r, ok := n.recent(ctx, hash); ok {
			select {
			case done <- r:
			default: // its block came just now
			}
		}
	case err != nil:
		return Result{}, fmt.Errorf("hand in transaction: %w", err)
	case res.Code != 0:
		return Result{}, refused(res.Log)
	}
	look := time.NewTicker(haltPause)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return Result{}, fmt.Errorf("wait for block: %w", ctx.Err())
		case <-n.comet.Quit():
			return Result{}, errors.New("wait for block: the ledger node stopped")
		case <-look.C:
			if n.halted() {
				return Result{}, fmt.Errorf("%w (if it goes on within a minute, it may still take the transaction)", n.haltError())
			}
		case r := <-done:
			return r.outcome(hash)
		}
	}
}

// repeatWait is how long a refused transaction is looked for in new blocks.
const repeatWait = 2 * time.Second

// submitAgain is Submit for a transaction that may have been handed in before, to a
// node that has forgotten it since.
func (n *Node) submitAgain(ctx context.Context, tx []byte) (Result, error) {
	if err := n.Ready(ctx); err != nil {
		return Result{}, err
	}
	if err := n.still(); err != nil {
		return Result{}, fmt.Errorf("hand in transaction: %w", err)
	}
	hash := sha256.Sum256(tx)
	if r, ok := n.recent(ctx, hash); ok {
		return r.outcome(hash)
	}
	res, err := n.Submit(ctx, tx)
	if !errors.Is(err, ErrRefused) {
		return res, err
	}
	// It may be in the block that is just being executed, and count as a repetition.
	for end := time.Now().Add(repeatWait); time.Now().Before(end) && ctx.Err() == nil; {
		if r, ok := n.recent(ctx, hash); ok {
			return r.outcome(hash)
		}
		select {
		case <-ctx.Done():
		case <-time.After(repeatWait / 20):
		}
	}
	return res, err
}

func (r txResult) outcome(hash [32]byte) (Result, error) {
	if r.result.Code != 0 {
		return Result{}, refused(r.result.Log)
	}
	return Result{Height: r.height, Hash: hex.EncodeToString(hash[:]), Data: r.result.Data}, nil
}

// recent looks for a transaction in the blocks of the last minute: who lost the
// answer asks again with the same bytes. Where it came into two blocks, the earlier
// one counts: in the later it was refused as a repetition.
func (n *Node) recent(ctx context.Context, hash [32]byte) (r txResult, found bool) {
	var newest time.Time
	for h := n.app.LastBlockHeight(); h > 0 && ctx.Err() == nil; h-- {
		b, err := n.local.Block(ctx, &h)
		if err != nil || b.Block == nil {
			break
		}
		if newest.IsZero() {
			newest = b.Block.Time
		}
		if newest.Sub(b.Block.Time) > txLife {
			break
		}
		for i, tx := range b.Block.Txs {
			if sha256.Sum256(tx) != hash {
				continue
			}
			res, err := n.local.BlockResults(ctx, &h)
			if err != nil {
				return r, found
			}
			if r, found = (txResult{h, res.TxsResults[i]}), true; r.result.Code == 0 {
				return r, true
			}
		}
	}
	return r, found
}

func (w *waiting) add(hash [32]byte) chan txResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.txs == nil {
		w.txs = map[[32]byte][]chan txResult{}
	}
	ch := make(chan txResult, 1)
	w.txs[hash] = append(w.txs[hash], ch)
	return ch
}

func (w *waiting) drop(hash [32]byte, ch chan txResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.txs[hash][:0]
	for _, c := range w.txs[hash] {
		if c != ch {
			left = append(left, c)
		}
	}
	if w.txs[hash] = left; len(left) == 0 {
		delete(w.txs, hash)
	}
}

// wrapping is what the SDK puts around a module's own words.
var wrapping = regexp.MustCompile(`^failed to execute message; message index: \d+: `)

func refused(log string) error {
	log, _, _ = strings.Cut(log, "\nstack:") // a trace of the program is of no use to the caller
	return fmt.Errorf("%w: %s", ErrRefused, wrapping.ReplaceAllString(log, ""))
}
