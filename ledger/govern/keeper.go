// Package govern is the ledger's module of proposals: operators vote, and with
// more than two thirds of them the effect takes place by itself.
package govern

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/codec"
	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/governpb"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/parameter"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// StoreKey names the module's store.
const StoreKey = "bsn-govern"

const (
	maxSummary = 256
	maxEffect  = 16 << 10
	maxReason  = 512
)

// Keeper holds the proposals.
type Keeper struct {
	cdc        codec.Codec
	router     baseapp.MessageRouter
	parameters *parameter.Keeper
	operators  *operator.Keeper
	writers    *writer.Keeper
	authority  sdk.AccAddress
	Proposals  record.Table[bsn.Proposal]
	effects    collections.Map[string, []byte] // the message of an open proposal, by id
	// queue holds the open proposals in order of expiry.
	queue  collections.KeySet[collections.Pair[int64, string]]
	nextID collections.Sequence
}

// NewKeeper opens the module's store. Effects are run through router as authority.
func NewKeeper(store corestore.KVStoreService, cdc codec.Codec, router baseapp.MessageRouter, parameters *parameter.Keeper, operators *operator.Keeper, writers *writer.Keeper, authority sdk.AccAddress) *Keeper {
	k := &Keeper{cdc: cdc, router: router, parameters: parameters, operators: operators, writers: writers, authority: authority}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Proposals = record.NewTable[bsn.Proposal](sb, 1, bsn.KindProposal)
		k.effects = collections.NewMap(sb, collections.NewPrefix(2), "effects", collections.StringKey, collections.BytesValue)
		k.queue = collections.NewKeySet(sb, collections.NewPrefix(3), "queue", collections.PairKeyCodec(collections.Int64Key, collections.StringKey))
		k.nextID = collections.NewSequence(sb, collections.NewPrefix(4), "id")
	})
	return k
}

// key makes ids sort by number.
func key(id uint64) string { return fmt.Sprintf("%08d", id) }

// Propose opens a proposal, or returns the open one with the same effect.
func (k *Keeper) Propose(ctx sdk.Context, m *pb.MsgPropose) (uint64, error) {
	w, err := k.writers.As(ctx, m.Proposer, bsn.KindOperator, bsn.KindCity)
	if err != nil {
		return 0, err
	}
	proposer := w.Name
	if w.Kind == bsn.KindCity {
		proposer = w.Parent
	}
	o, err := k.operators.Operators.Get(ctx, proposer)
	if err != nil {
		return 0, err
	}
	if o.Suspended != nil || o.Evicted > 0 {
		return 0, fmt.Errorf("operator %q is suspended: it has no say until the others reinstate it", proposer)
	}
	if len(m.Summary) > maxSummary {
		return 0, fmt.Errorf("summary of %d bytes: the most is %d", len(m.Summary), maxSummary)
	}
	if m.Effect == nil || len(m.Effect.Value) > maxEffect {
		return 0, fmt.Errorf("proposal needs an effect of at most %d bytes", maxEffect)
	}
	effect, err := k.unpack(m.Effect)
	if err != nil {
		return 0, err
	}
	text, err := k.cdc.MarshalJSON(effect)
	if err != nil {
		return 0, fmt.Errorf("encode effect: %w", err)
	}
	figures, err := k.parameters.Get(ctx)
	if err != nil {
		return 0, err
	}
	p := bsn.Proposal{
		Proposer: proposer, Effect: record.MessageName(m.Effect.TypeUrl), Summary: m.Summary, Message: string(text),
		Status: bsn.ProposalOpen, Votes: map[string]bool{},
		Opened: ctx.BlockTime().Unix(), Expires: ctx.BlockTime().Unix() + figures.VotingPeriod,
	}
	if id, found, err := k.open(ctx, p, int(figures.OpenProposals)); err != nil || found {
		return id, err
	}
	n, err := k.nextID.Next(ctx)
	if err != nil {
		return 0, fmt.Errorf("number proposal: %w", err)
	}
	p.ID = n + 1
	if err := k.effects.Set(ctx, key(p.ID), k.cdc.MustMarshal(m.Effect)); err != nil {
		return 0, err
	}
	if err := k.queue.Set(ctx, collections.Join(p.Expires, key(p.ID))); err != nil {
		return 0, err
	}
	return p.ID, k.Proposals.Set(ctx, key(p.ID), p)
}

// open finds an open proposal of the same effect, so that asking twice opens one.
// If there is none, the proposer may still have too many others.
func (k *Keeper) open(ctx context.Context, p bsn.Proposal, most int) (id uint64, found bool, err error) {
	own := 0
	err = k.queue.Walk(ctx, nil, func(e collections.Pair[int64, string]) (bool, error) {
		o, err := k.Proposals.Get(ctx, e.K2())
		if err == nil && o.Effect == p.Effect && o.Message == p.Message {
			id, found = o.ID, true
		}
		if o.Proposer == p.Proposer {
			own++
		}
		return found || err != nil, err
	})
	if err == nil && !found && own >= most {
		err = fmt.Errorf("operator %q has %d open proposals: wait until some are decided", p.Proposer, own)
	}
	return id, found, err
}

// Vote records an operator's vote and, if it decides, runs the effect.
func (k *Keeper) Vote(ctx sdk.Context, m *pb.MsgVote) error {
	w, err := k.writers.As(ctx, m.Operator, bsn.KindOperator)
	if err != nil {
		return err
	}
	voters, err := k.operators.Voters(ctx)
	if err != nil {
		return err
	}
	if _, ok := voters[w.Name]; !ok {
		return k.noVote(ctx, w.Name)
	}
	p, err := k.Proposals.Get(ctx, key(m.Id))
	if err != nil {
		return err
	}
	if p.Status != bsn.ProposalOpen {
		if v, voted := p.Votes[w.Name]; voted && v == m.Yes {
			return nil // the same vote again, after it decided
		}
		return fmt.Errorf("proposal %d is %s", m.Id, p.Status)
	}
	if p.Expires <= ctx.BlockTime().Unix() {
		return fmt.Errorf("proposal %d is %s", m.Id, bsn.ProposalExpired)
	}
	p.Votes[w.Name] = m.Yes
	if p.Cast == nil {
		p.Cast = map[string]bsn.Moment{}
	}
	p.Cast[w.Name] = bsn.Moment{Height: ctx.BlockHeight(), Time: ctx.BlockTime().Unix()}
	return k.tally(ctx, p, voters)
}

func (k *Keeper) noVote(ctx context.Context, name string) error {
	o, err := k.operators.Operators.Get(ctx, name)
	if err != nil {
		return err
	}
	if o.Suspended != nil {
		return fmt.Errorf("operator %q has no vote: it is suspended (%s)", name, o.Suspended.Reason)
	}
	return fmt.Errorf("operator %q has no vote until a city of it is active", name)
}

// tally counts the votes of those who have one now, and decides if they do.
func (k *Keeper) tally(ctx sdk.Context, p bsn.Proposal, voters map[string]bsn.Operator) error {
	switch verdict(p, voters) {
	case bsn.ProposalPassed:
		p.Status = bsn.ProposalPassed
		if err := k.run(ctx, p.ID); err != nil {
			p.Status, p.Reason = bsn.ProposalFailed, record.Clip(err.Error(), maxReason)
		}
	case bsn.ProposalRejected:
		p.Status, p.Reason = bsn.ProposalRejected, "more than two thirds can no longer be reached"
	}
	return k.settle(ctx, p, len(voters))
}

// verdict is what the votes of those who have one now come to.
func verdict(p bsn.Proposal, voters map[string]bsn.Operator) bsn.ProposalStatus {
	yes, no := 0, 0
	for name := range voters {
		switch v, voted := p.Votes[name]; {
		case voted && v:
			yes++
		case voted:
			no++
		}
	}
	switch {
	case 3*yes > 2*len(voters):
		return bsn.ProposalPassed
	case 3*(len(voters)-no) <= 2*len(voters):
		return bsn.ProposalRejected
	}
	return bsn.ProposalOpen
}

// Retally counts the votes on all open proposals again, in order of id, if this
// block has changed who has a vote: what those who remain have decided takes
// effect now, and what they can no longer decide ends. An effect may change the
// voters once more, and then it begins anew.
func (k *Keeper) Retally(ctx sdk.Context) error {
	for {
		changed, err := k.operators.VotersChanged(ctx)
		if err != nil || !changed {
			return err
		}
		var open []string
		if err := k.queue.Walk(ctx, nil, func(e collections.Pair[int64, string]) (bool, error) {
			open = append(open, e.K2())
			return false, nil
		}); err != nil {
			return err
		}
		slices.Sort(open)
		for _, id := range open {
			p, err := k.Proposals.Get(ctx, id)
			if err != nil {
				return err
			}
			voters, err := k.operators.Voters(ctx)
			if err != nil {
				return err
			}
			if verdict(p, voters) == bsn.ProposalOpen {
				continue // nothing is written for what stays as it is
			}
			if err := k.tally(ctx, p, voters); err != nil {
				return err
			}
		}
	}
}

// run carries out the effect, wholly or not at all.
func (k *Keeper) run(ctx sdk.Context, id uint64) (err error) {
	defer func() {
		// At the end of a block nobody else would stop it from ending the ledger. The
		// text becomes state, so that it must be the same everywhere.
		if r := recover(); r != nil {
			err = errors.New("the effect could not be carried out")
		}
	}()
	b, err := k.effects.Get(ctx, key(id))
	if err != nil {
		return fmt.Errorf("read effect: %w", err)
	}
	var packed cdctypes.Any
	if err := k.cdc.Unmarshal(b, &packed); err != nil {
		return fmt.Errorf("decode effect: %w", err)
	}
	msg, err := k.unpack(&packed)
	if err != nil {
		return err
	}
	inner, write := ctx.CacheContext()
	res, err := k.router.Handler(msg)(inner, msg)
	if err != nil {
		return err
	}
	write()
	// The router gives a message an event manager of its own.
	ctx.EventManager().EmitEvents(res.GetEvents())
	return nil
}

// settle stores a proposal and, unless it is still open, forgets its effect.
func (k *Keeper) settle(ctx sdk.Context, p bsn.Proposal, voters int) error {
	if p.Status != bsn.ProposalOpen {
		p.Decided, p.Height, p.Voters = ctx.BlockTime().Unix(), ctx.BlockHeight(), voters
		if err := k.effects.Remove(ctx, key(p.ID)); err != nil {
			return err
		}
		if err := k.queue.Remove(ctx, collections.Join(p.Expires, key(p.ID))); err != nil {
			return err
		}
	}
	return k.Proposals.Set(ctx, key(p.ID), p)
}

// Expire closes what nobody decided in time. It touches the state only then.
func (k *Keeper) Expire(ctx sdk.Context) error {
	var due []string
	err := k.queue.Walk(ctx, nil, func(e collections.Pair[int64, string]) (bool, error) {
		if e.K1() > ctx.BlockTime().Unix() {
			return true, nil
		}
		due = append(due, e.K2())
		return false, nil
	})
	if err != nil {
		return err
	}
	if len(due) == 0 {
		return nil
	}
	voters, err := k.operators.Voters(ctx)
	if err != nil {
		return err
	}
	for _, id := range due {
		p, err := k.Proposals.Get(ctx, id)
		if err != nil {
			return err
		}
		p.Status = bsn.ProposalExpired
		if err := k.settle(ctx, p, len(voters)); err != nil {
			return err
		}
	}
	return nil
}

// unpack returns the effect if it is one that the operators' vote may have.
func (k *Keeper) unpack(packed *cdctypes.Any) (sdk.Msg, error) {
	var msg sdk.Msg
	if err := k.cdc.UnpackAny(packed, &msg); err != nil {
		return nil, fmt.Errorf("decode effect: %w", err)
	}
	signers, _, err := k.cdc.GetMsgV1Signers(msg)
	if err != nil {
		return nil, fmt.Errorf("read effect's signer: %w", err)
	}
	if len(signers) != 1 || !k.authority.Equals(sdk.AccAddress(signers[0])) || k.router.Handler(msg) == nil {
		return nil, errors.New("effect is not one that operators vote on")
	}
	return msg, nil
}

// state is the module's genesis.
type state struct {
	Proposals map[string]bsn.Proposal `json:"proposals,omitempty"`
	// Effects of the open proposals, encoded, by id.
	Effects map[string][]byte `json:"effects,omitempty"`
}

func (k *Keeper) init(ctx sdk.Context, s state) error {
	last := uint64(0)
	for _, id := range record.SortedKeys(s.Proposals) {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return fmt.Errorf("proposal %q: %w", id, err)
		}
		last = max(last, n)
		p := s.Proposals[id]
		if p.Status != bsn.ProposalOpen {
			continue
		}
		if err := k.effects.Set(ctx, id, s.Effects[id]); err != nil {
			return err
		}
		if err := k.queue.Set(ctx, collections.Join(p.Expires, id)); err != nil {
			return err
		}
	}
	if last > 0 {
		if err := k.nextID.Set(ctx, last); err != nil {
			return err
		}
	}
	return k.Proposals.Import(ctx, s.Proposals)
}

func (k *Keeper) export(ctx sdk.Context) (s state, err error) {
	if s.Proposals, err = k.Proposals.Export(ctx); err != nil {
		return s, err
	}
	s.Effects = map[string][]byte{}
	return s, k.effects.Walk(ctx, nil, func(id string, effect []byte) (bool, error) {
		s.Effects[id] = effect
		return false, nil
	})
}
