package ledger

import (
	"crypto/sha256"
	"fmt"

	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/ledger/identitypb"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// Offer is a key that is to become one of an account, operator or portal, with the
// proof that whoever offers it has it.
type Offer = writer.Offer

// NewOffer offers a key to an account, operator or portal of a network.
func NewOffer(k key.Key, network string, kind bsn.Kind, name string) Offer {
	return Offer{PublicKey: k.Public(), Proof: k.Prove(network, kind, name)}
}

// KeyChange is what changes at once in the keys of an account or operator.
type KeyChange struct {
	// Set are new keys, and known ones, without proof, whose label or right to sign
	// tokens changes.
	Set []Offer
	// Remove are the ledger addresses of keys.
	Remove []string
	// Threshold is how many keys have to agree from now on; 0: as many as before.
	Threshold int
}

// SetKeys changes the keys of the signing account or operator.
func SetKeys(c KeyChange) Message {
	return message(func(s string) sdk.Msg {
		return &identitypb.MsgSetKeys{Signer: s, Set: newKeys(c.Set), Remove: c.Remove, Threshold: uint32(c.Threshold)}
	})
}

// SetOperatorKeys is the effect that replaces all keys of an operator.
func SetOperatorKeys(operator string, keys []Offer, threshold int) Effect {
	return Effect{&identitypb.MsgSetOperatorKeys{
		Authority: authority.String(), Operator: operator, Keys: newKeys(keys), Threshold: uint32(threshold),
	}}
}

func newKeys(offers []Offer) (out []*identitypb.NewKey) {
	for _, o := range offers {
		out = append(out, &identitypb.NewKey{PublicKey: o.PublicKey, Proof: o.Proof, Label: o.Label, Tokens: o.Tokens})
	}
	return out
}

// SetGuard names the guardians of the signing account. A guard without any takes
// them away.
func SetGuard(g bsn.Guard) Message {
	return message(func(s string) sdk.Msg {
		return &identitypb.MsgSetGuard{Account: s, Guardians: g.Guardians, Portal: g.Portal, Threshold: uint32(g.Threshold), Delay: g.Delay}
	})
}

// Recover is signed by a guardian of the account, which or its portal names all
// keys that it is to have. No keys take back what the guardian named before.
func Recover(account string, keys []Offer, threshold int) Message {
	return message(func(s string) sdk.Msg {
		return &identitypb.MsgRecover{Guardian: s, Account: account, Keys: newKeys(keys), Threshold: uint32(threshold)}
	})
}

// CancelRecovery is signed by any one key of the account.
func CancelRecovery() Message {
	return Message{single: true, build: func(s string) (sdk.Msg, error) { return &identitypb.MsgCancelRecovery{Key: s}, nil }}
}

// ApproveAct agrees with an open act as it was read. See Result.Waiting.
func ApproveAct(a bsn.Act) Message {
	sum := sha256.Sum256(a.Encoded)
	return Message{single: true, build: func(s string) (sdk.Msg, error) {
		return &identitypb.MsgApproveAct{Key: s, Id: a.ID, Hash: sum[:]}, nil
	}}
}

// CancelAct takes back what the signing key said: the proposer's the whole act,
// another key's its approval.
func CancelAct(id uint64) Message {
	return Message{single: true, build: func(s string) (sdk.Msg, error) { return &identitypb.MsgCancelAct{Key: s, Id: id}, nil }}
}

// ActSteps decodes what an open act would do from the very bytes that an approving
// key agrees with: what a city says of them beside that does not count.
func ActSteps(a bsn.Act) ([]bsn.ActStep, error) {
	c, err := sharedCoder()
	if err != nil {
		return nil, err
	}
	var packed identitypb.Messages
	if err := c.codec.Unmarshal(a.Encoded, &packed); err != nil {
		return nil, fmt.Errorf("decode act %d: %w", a.ID, err)
	}
	var out []bsn.ActStep
	for _, any := range packed.Messages {
		var m sdk.Msg
		if err := c.registry.UnpackAny(any, &m); err != nil {
			return nil, fmt.Errorf("decode act %d: %w", a.ID, err)
		}
		text, err := c.codec.MarshalJSON(m)
		if err != nil {
			return nil, fmt.Errorf("decode act %d: %w", a.ID, err)
		}
		out = append(out, bsn.ActStep{Name: record.MessageName(any.TypeUrl), Message: string(text)})
	}
	return out, nil
}

// WaitingError means that a write is an act now, which further keys have to agree
// with. It is no refusal: the act takes effect by itself with the last of them.
type WaitingError struct {
	Act uint64
	// Missing is how many more keys have to agree.
	Missing int
}

// Error implements error.
func (e *WaitingError) Error() string {
	keys := "keys"
	if e.Missing == 1 {
		keys = "key"
	}
	return fmt.Sprintf("act %d waits for %d more %s: bsn act approve %d", e.Act, e.Missing, keys, e.Act)
}
