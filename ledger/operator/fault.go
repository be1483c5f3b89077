package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"cosmossdk.io/collections"
	"cosmossdk.io/core/comet"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/record"
)

const maxReason = 256

// flapPause is the least time, in seconds of ledger time, between two beginnings of
// an absence of one operator. A change of state makes CometBFT produce a further
// block at once; without the pause a city that signs every other block would keep
// the ledger from ever coming to rest.
const flapPause = 60

// gap is an absence, from the first block that was not signed on.
type gap struct {
	Time   int64 `json:"time"` // of the block that told, Unix seconds
	Height int64 `json:"height"`
	// Over: the city signs again. The gap is kept until another may begin.
	Over bool `json:"over,omitempty"`
}

// begin takes in what CometBFT says with a block: evidence, and who signed the
// block before.
func (k *Keeper) begin(ctx sdk.Context) error {
	info := ctx.CometInfo()
	if info == nil {
		return nil
	}
	if all := info.GetEvidence(); all != nil {
		for i := range all.Len() {
			if err := k.convict(ctx, all.Get(i)); err != nil {
				return err
			}
		}
	}
	return k.attend(ctx)
}

// convict suspends the operator of a city whose key signed two things at one height.
func (k *Keeper) convict(ctx sdk.Context, e comet.Evidence) error {
	var what string
	switch e.Type() {
	case comet.DuplicateVote:
		what = "signed two votes"
	case comet.LightClientAttack:
		what = "signed a block that is not the ledger's"
	default:
		return nil
	}
	// CometBFT brings no evidence that is older; it is looked at here too, since what
	// follows is grave.
	if p := ctx.ConsensusParams().Evidence; p != nil && ctx.BlockTime().Sub(e.Time()) > p.MaxAgeDuration && ctx.BlockHeight()-e.Height() > p.MaxAgeNumBlocks {
		return nil
	}
	cities, err := k.byAddress(ctx)
	if err != nil {
		return err
	}
	city, known := cities[string(e.Validator().Address())]
	if !known {
		return nil
	}
	c, err := k.Cities.Get(ctx, city)
	if err != nil {
		return err
	}
	o, err := k.Operators.Get(ctx, c.Operator)
	if err != nil || o.Suspended != nil || o.Evicted > 0 {
		return err // it pays once for what it did before that
	}
	return k.Suspend(ctx, o, city, fmt.Sprintf("city %s %s at height %d", city, what, e.Height()))
}

// byAddress returns the cities that have or had each consensus key, by the address
// that CometBFT gives the key: the first 20 bytes of its SHA-256.
func (k *Keeper) byAddress(ctx sdk.Context) (map[string]string, error) {
	out := map[string]string{}
	return out, k.byConsensusKey.Walk(ctx, nil, func(key, city string) (bool, error) {
		b, err := hex.DecodeString(key)
		if err != nil {
			return true, fmt.Errorf("read consensus key: %w", err)
		}
		sum := sha256.Sum256(b)
		out[string(sum[:20])] = city
		return false, nil
	})
}

// attend keeps count of operators whose validating city does not sign. It writes
// only where an absence begins, is long enough to be recorded, or ends.
func (k *Keeper) attend(ctx sdk.Context) error {
	signed := map[string]bool{} // by address
	missing := false
	for _, v := range ctx.VoteInfos() {
		signed[string(v.Validator.Address)] = v.BlockIdFlag != cmtproto.BlockIDFlagAbsent
		missing = missing || v.BlockIdFlag == cmtproto.BlockIDFlagAbsent
	}
	open := map[string]gap{}
	if err := k.missed.Walk(ctx, nil, func(operator string, g gap) (bool, error) {
		open[operator] = g
		return false, nil
	}); err != nil {
		return err
	}
	if !missing && !anyOpen(open) || len(signed) == 0 {
		return nil
	}
	voters, err := k.Voters(ctx)
	if err != nil {
		return err
	}
	for _, name := range record.SortedKeys(voters) {
		o := voters[name]
		c, err := k.Cities.Get(ctx, o.ValidatingCity)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(c.ConsensusKey)
		here, asked := signed[string(sum[:20])]
		if !asked {
			continue // its power is younger than that block
		}
		g, err := k.missed.Get(ctx, name)
		if err != nil && !errors.Is(err, collections.ErrNotFound) {
			return err
		}
		if err := k.presence(ctx, o, g, here); err != nil {
			return err
		}
	}
	return nil
}

func anyOpen(gaps map[string]gap) bool {
	for _, g := range gaps {
		if !g.Over {
			return true
		}
	}
	return false
}

// presence moves one operator's count on by a block. The zero gap is none.
func (k *Keeper) presence(ctx sdk.Context, o bsn.Operator, g gap, here bool) error {
	now, height := ctx.BlockTime().Unix(), ctx.BlockHeight()
	none := g == gap{}
	switch {
	case !here && (none || g.Over && now-g.Time >= flapPause):
		return k.missed.Set(ctx, o.Name, gap{Time: now, Height: height})
	case none || g.Over:
		return nil
	case here:
		g.Over = true
		if err := k.missed.Set(ctx, o.Name, g); err != nil || o.Absence == nil || o.Absence.Since == 0 {
			return err // too short to be told
		}
		o.Absence = ended(ctx, *o.Absence, g)
		return k.Operators.Set(ctx, o.Name, o)
	case o.Absence == nil || o.Absence.Since == 0:
		p, err := k.parameters.Get(ctx)
		if err != nil || now-g.Time < p.AbsenceThreshold {
			return err
		}
		a := bsn.Absence{Counted: g.Time}
		if o.Absence != nil && now-o.Absence.Counted <= p.AbsenceWindow {
			a = *o.Absence
		}
		a.Since = g.Time
		o.Absence = &a
		return k.Operators.Set(ctx, o.Name, o)
	}
	return nil
}

// forgive ends an operator's absence where its power goes or moves: the count is
// of a city that has it no more.
func (k *Keeper) forgive(ctx context.Context, o bsn.Operator) (bsn.Operator, error) {
	if o.Absence != nil && o.Absence.Since > 0 {
		g, err := k.missed.Get(ctx, o.Name)
		if err != nil {
			return o, fmt.Errorf("read absence: %w", err)
		}
		o.Absence = ended(ctx, *o.Absence, g)
	}
	return o, k.missed.Remove(ctx, o.Name)
}

func ended(ctx context.Context, a bsn.Absence, g gap) *bsn.Absence {
	now := sdk.UnwrapSDKContext(ctx)
	a.Since, a.Seconds, a.Blocks = 0, a.Seconds+now.BlockTime().Unix()-g.Time, a.Blocks+now.BlockHeight()-g.Height
	return &a
}
