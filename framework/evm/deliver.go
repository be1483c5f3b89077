package evm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
)

const (
	poll = 200 * time.Millisecond
	// resend: nodes forget what they have only in memory, so a transaction that is
	// in no block is handed in again, as the very same bytes.
	resend = 3 * time.Second
	// patience is how long nodes may disagree, or not answer, before that is an error.
	patience = 20 * time.Second
)

var (
	// errDisplaced means that another transaction of the account took the nonce of
	// one that may have been handed in.
	errDisplaced = errors.New("another transaction of this account took its nonce: look what happened before you try again")
	// errNonceTaken means the same of one that no node has ever accepted.
	errNonceTaken = errors.New("another transaction of this account took its nonce")
)

// sendAnswer is what the text of a node's error on eth_sendRawTransaction means.
// The codes say nothing; the texts are those of go-ethereum, Kaia and anvil.
type sendAnswer int

const (
	sendUnanswered sendAnswer = iota // no node could be asked
	sendRefused
	sendKnown     // the node has this very transaction
	sendDisplaced // its nonce is taken; if by a block, perhaps by this very transaction
)

func classify(err error) sendAnswer {
	var answer *rpcError
	if !errors.As(err, &answer) {
		return sendUnanswered
	}
	text := strings.ToLower(answer.Message)
	for _, known := range []struct {
		text string
		is   sendAnswer
	}{
		{"already known", sendKnown},
		{"already imported", sendKnown},
		{"known transaction", sendKnown},
		{"nonce too low", sendDisplaced},
		{"replacement transaction underpriced", sendDisplaced},
		{"another tx which has the same nonce", sendDisplaced},
	} {
		if strings.Contains(text, known.text) {
			return known.is
		}
	}
	return sendRefused
}

// deliver hands in a transaction and waits until a block holds it. It returns
// errDisplaced once it is clear that none ever will, since another transaction
// has its nonce. Mine says that nobody can have handed in these very bytes before;
// then errNonceTaken says at once that nobody has. As long as the chain makes no progress it waits, until ctx ends.
func (c *Client) deliver(ctx context.Context, tx *types.Transaction, mine bool) (*receipt, error) {
	raw, err := tx.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode transaction: %w", err)
	}
	var (
		sent     time.Time
		asked    bool  // a node may have it
		accepted bool  // a node has said so
		trouble  error // what is wrong since the time below, if anything
		since    time.Time
	)
	for {
		if time.Since(sent) >= resend {
			sent = time.Now()
			err := c.call(ctx, new(string), "eth_sendRawTransaction", hexutil.Bytes(raw))
			answer := classify(err)
			if answer == sendDisplaced {
				err = fmt.Errorf("%w (%w)", errDisplaced, err)
			}
			switch {
			case err == nil || answer == sendKnown:
				accepted, trouble = true, nil
			case answer == sendDisplaced && mine && !asked:
				return nil, errNonceTaken
			case answer == sendRefused && !accepted:
				return nil, err
			default:
				if trouble == nil {
					since = sent
				}
				trouble = err
			}
			asked = true
		}
		r, err := c.receipt(ctx, tx.Hash())
		if err == nil && r != nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait for transaction %s: %w", tx.Hash(), errors.Join(ctx.Err(), trouble))
		}
		if trouble != nil && time.Since(since) > patience {
			return nil, trouble
		}
		if err := pause(ctx, poll); err != nil {
			return nil, fmt.Errorf("wait for transaction %s: %w", tx.Hash(), err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
