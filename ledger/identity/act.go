package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"cosmossdk.io/collections"
	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/identitypb"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

const (
	// actPeriod is how long an act stays open, in seconds of ledger time.
	actPeriod = 7 * 24 * 3600

	maxMessages = 16
	maxAct      = 48 << 10
	// maxOpen is the most open acts that one key proposed: a key in wrong hands
	// must not keep the others from acting.
	maxOpen   = 8
	maxReason = 512
)

// actID makes ids sort by number.
func actID(id uint64) string { return fmt.Sprintf("%08d", id) }

func owner(kind bsn.Kind, name string) string { return string(kind) + "/" + name }

// one returns the account or operator of a single key.
func (k *Keeper) one(ctx context.Context, key string) (writer.Writer, bsn.Identity, error) {
	w, err := k.writers.Lookup(ctx, key)
	if err != nil {
		return w, bsn.Identity{}, err
	}
	if w.Kind != bsn.KindAccount && w.Kind != bsn.KindOperator || w.All {
		return w, bsn.Identity{}, fmt.Errorf("%w: it takes one key of an account or operator, and %s is of the %s %q", writer.ErrStranger, key, w.Kind, w.Name)
	}
	id, err := k.identity(ctx, w)
	return w, id, err
}

// Act opens an act, or approves the open one with the same messages.
func (k *Keeper) Act(ctx sdk.Context, m *pb.MsgAct) (*pb.MsgActResponse, error) {
	w, id, err := k.one(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	if len(m.Messages) < 1 || len(m.Messages) > maxMessages {
		return nil, fmt.Errorf("an act carries %d messages: 1 to %d are possible", len(m.Messages), maxMessages)
	}
	encoded, err := k.cdc.Marshal(&pb.Messages{Messages: m.Messages})
	if err != nil {
		return nil, fmt.Errorf("encode act: %w", err)
	}
	if len(encoded) > maxAct {
		return nil, fmt.Errorf("an act of %d bytes: the most is %d", len(encoded), maxAct)
	}
	messages, err := k.unpack(encoded, id)
	if err != nil {
		return nil, err
	}
	// The transaction was counted as one write.
	if err := k.writers.Spend(ctx, w, m.Key, len(messages)-1, 0); err != nil {
		return nil, err
	}
	own := 0
	var same *bsn.Act
	if err := k.each(ctx, w, func(a bsn.Act) error {
		if same == nil && bytes.Equal(a.Encoded, encoded) && a.Expires > ctx.BlockTime().Unix() {
			same = &a
		}
		if a.Proposer == m.Key {
			own++
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if same != nil {
		return k.agree(ctx, *same, id, m.Key)
	}
	if own >= maxOpen {
		return nil, fmt.Errorf("this key has proposed %d acts that are open: wait until some are decided, or cancel one", own)
	}
	n, err := k.nextID.Next(ctx)
	if err != nil {
		return nil, fmt.Errorf("number act: %w", err)
	}
	a := bsn.Act{
		ID: n + 1, Kind: w.Kind, Name: w.Name, Encoded: encoded, Status: bsn.ActOpen, Proposer: m.Key, Approvals: []string{},
		Opened: ctx.BlockTime().Unix(), Expires: ctx.BlockTime().Unix() + actPeriod,
	}
	for _, message := range messages {
		text, err := k.cdc.MarshalJSON(message)
		if err != nil {
			return nil, fmt.Errorf("encode act: %w", err)
		}
		a.Steps = append(a.Steps, bsn.ActStep{Name: record.MessageName(sdk.MsgTypeURL(message)), Message: string(text)})
	}
	if err := k.enter(ctx, a); err != nil {
		return nil, err
	}
	return k.agree(ctx, a, id, m.Key)
}

// unpack returns the messages if all of them are for the identity to write.
func (k *Keeper) unpack(encoded []byte, id bsn.Identity) ([]sdk.Msg, error) {
	var packed pb.Messages
	if err := k.cdc.Unmarshal(encoded, &packed); err != nil {
		return nil, fmt.Errorf("decode act: %w", err)
	}
	var out []sdk.Msg
	for _, any := range packed.Messages {
		var m sdk.Msg
		if err := k.cdc.UnpackAny(any, &m); err != nil {
			return nil, fmt.Errorf("decode act: %w", err)
		}
		signers, _, err := k.cdc.GetMsgV1Signers(m)
		if err != nil {
			return nil, fmt.Errorf("read signer of act: %w", err)
		}
		if len(signers) != 1 || sdk.AccAddress(signers[0]).String() != id.Address || k.router.Handler(m) == nil {
			return nil, fmt.Errorf("%s is not for this account or operator to write: its signer must be %s", sdk.MsgTypeURL(m), id.Address)
		}
		out = append(out, m)
	}
	return out, nil
}

// ApproveAct agrees with an act. The key that completes the threshold runs it.
func (k *Keeper) ApproveAct(ctx sdk.Context, m *pb.MsgApproveAct) (*pb.MsgActResponse, error) {
	a, id, err := k.own(ctx, m.Key, m.Id)
	if err != nil {
		return nil, err
	}
	if a.Status != bsn.ActOpen {
		if slices.Contains(a.Approvals, m.Key) { // the same again, after it was decided
			return &pb.MsgActResponse{Id: a.ID, Status: string(a.Status), Reason: a.Reason}, nil
		}
		return nil, fmt.Errorf("act %d is %s", a.ID, a.Status)
	}
	if a.Expires <= ctx.BlockTime().Unix() {
		return nil, fmt.Errorf("act %d is %s", a.ID, bsn.ActExpired)
	}
	if sum := sha256.Sum256(a.Encoded); !bytes.Equal(sum[:], m.Hash) {
		return nil, fmt.Errorf("act %d is another one than the key agrees with", a.ID)
	}
	return k.agree(ctx, a, id, m.Key)
}

// own reads an act of the key's identity.
func (k *Keeper) own(ctx context.Context, key string, n uint64) (bsn.Act, bsn.Identity, error) {
	w, id, err := k.one(ctx, key)
	if err != nil {
		return bsn.Act{}, id, err
	}
	a, err := k.Acts.Get(ctx, actID(n))
	if err == nil && (a.Kind != w.Kind || a.Name != w.Name) {
		err = fmt.Errorf("%w: act %d is of %s %q, the key of %s %q", writer.ErrStranger, n, a.Kind, a.Name, w.Kind, w.Name)
	}
	return a, id, err
}

// agree adds a key's approval to an open act and, if that completes the threshold,
// runs it.
func (k *Keeper) agree(ctx sdk.Context, a bsn.Act, id bsn.Identity, key string) (*pb.MsgActResponse, error) {
	if !slices.Contains(a.Approvals, key) {
		a.Approvals = append(a.Approvals, key)
	}
	// Approvals of keys that were removed are gone: see forget.
	if missing := id.Threshold - len(a.Approvals); missing > 0 {
		return &pb.MsgActResponse{Id: a.ID, Status: string(a.Status), Missing: uint32(missing)}, k.Acts.Set(ctx, actID(a.ID), a)
	}
	messages, err := k.unpack(a.Encoded, id)
	if err != nil {
		return nil, err
	}
	// It is closed before it runs: what it does to the keys does not concern it.
	a.Encoded = nil
	if err := k.leave(ctx, a); err != nil {
		return nil, err
	}
	answers, err := k.run(ctx, messages)
	a.Status = bsn.ActDone
	if err != nil {
		a.Status, a.Reason = bsn.ActFailed, record.Clip(err.Error(), maxReason)
	}
	return &pb.MsgActResponse{Id: a.ID, Status: string(a.Status), Reason: a.Reason, Answers: answers}, k.Acts.Set(ctx, actID(a.ID), a)
}

// run carries out messages, all or none, and returns their answers.
func (k *Keeper) run(ctx sdk.Context, messages []sdk.Msg) (answers []*cdctypes.Any, err error) {
	inner, write := ctx.CacheContext()
	var events []sdk.Event
	for _, m := range messages {
		res, err := k.router.Handler(m)(inner, m)
		if err != nil {
			return nil, err
		}
		answers = append(answers, res.MsgResponses...)
		// The router gives a message an event manager of its own.
		events = append(events, res.GetEvents()...)
	}
	write()
	ctx.EventManager().EmitEvents(events)
	return answers, nil
}

// CancelAct takes back what a key said.
func (k *Keeper) CancelAct(ctx context.Context, m *pb.MsgCancelAct) error {
	a, _, err := k.own(ctx, m.Key, m.Id)
	if err != nil {
		return err
	}
	switch {
	case a.Status == bsn.ActCancelled:
		return nil
	case a.Status != bsn.ActOpen:
		return fmt.Errorf("act %d is %s", a.ID, a.Status)
	case a.Proposer == m.Key:
		return k.close(ctx, a, bsn.ActCancelled, "its proposer took it back")
	case !slices.Contains(a.Approvals, m.Key):
		return fmt.Errorf("this key has not approved act %d: only its proposer can cancel it", a.ID)
	}
	return k.withdraw(ctx, a, func(key string) bool { return key == m.Key })
}

// withdraw removes approvals. An act that nobody wants any more is cancelled.
func (k *Keeper) withdraw(ctx context.Context, a bsn.Act, of func(key string) bool) error {
	before := len(a.Approvals)
	a.Approvals = slices.DeleteFunc(a.Approvals, of)
	switch len(a.Approvals) {
	case before:
		return nil
	case 0:
		return k.close(ctx, a, bsn.ActCancelled, "none of the keys that agreed is left")
	}
	return k.Acts.Set(ctx, actID(a.ID), a)
}

// forget takes the approvals of keys that are no longer there from the open acts
// of an identity.
func (k *Keeper) forget(ctx context.Context, w writer.Writer, id bsn.Identity) error {
	var open []bsn.Act
	if err := k.each(ctx, w, func(a bsn.Act) error {
		open = append(open, a)
		return nil
	}); err != nil {
		return err
	}
	for _, a := range open {
		if err := k.withdraw(ctx, a, func(key string) bool { _, has := id.Signer(key); return !has }); err != nil {
			return err
		}
	}
	return nil
}

// each calls f with the open acts of an identity.
func (k *Keeper) each(ctx context.Context, w writer.Writer, f func(bsn.Act) error) error {
	return k.open.Walk(ctx, collections.NewPrefixedPairRange[string, string](owner(w.Kind, w.Name)), func(e collections.Pair[string, string]) (bool, error) {
		a, err := k.Acts.Get(ctx, e.K2())
		if err != nil {
			return true, err
		}
		return false, f(a)
	})
}

// enter puts an act among the open ones, leave takes it out.
func (k *Keeper) enter(ctx context.Context, a bsn.Act) error {
	return errors.Join(
		k.open.Set(ctx, collections.Join(owner(a.Kind, a.Name), actID(a.ID))),
		k.expiry.Set(ctx, collections.Join(a.Expires, actID(a.ID))))
}

func (k *Keeper) leave(ctx context.Context, a bsn.Act) error {
	return errors.Join(
		k.open.Remove(ctx, collections.Join(owner(a.Kind, a.Name), actID(a.ID))),
		k.expiry.Remove(ctx, collections.Join(a.Expires, actID(a.ID))))
}

func (k *Keeper) close(ctx context.Context, a bsn.Act, status bsn.ActStatus, reason string) error {
	if err := k.leave(ctx, a); err != nil {
		return err
	}
	a.Status, a.Reason, a.Encoded = status, reason, nil
	return k.Acts.Set(ctx, actID(a.ID), a)
}
