package bsn

import (
	"slices"
	"strings"
)

// MaxSigners is the most keys of one identity.
const MaxSigners = 16

// Identity is who signs for an account or an operator: a set of keys, of which a
// number have to agree.
type Identity struct {
	// Address stands for all keys together on the ledger (bech32). It belongs to no
	// key and never changes: what the keys decided on together is signed by it.
	Address string   `json:"address"`
	Signers []Signer `json:"signers"`
	// Threshold is how many keys have to agree. With 1 each key writes by itself;
	// with more, writes are acts. See [Act].
	Threshold int `json:"threshold"`
}

// Signer is the public side of one secp256k1 key of an identity.
type Signer struct {
	// Address is the key's own ledger address (bech32), its name in all listings.
	Address   string `json:"address"`
	PublicKey []byte `json:"publicKey"` // compressed, 33 bytes
	// Ethereum is the address of the same key on EVM chains (0x, lower case).
	Ethereum string `json:"ethereum"`
	Label    string `json:"label,omitempty"` // what people call it
	// Tokens: the key may sign tokens by itself though it takes several keys to write.
	Tokens bool `json:"tokens,omitempty"`
}

// Signer returns the key with this ledger address.
func (i Identity) Signer(address string) (Signer, bool) {
	for _, s := range i.Signers {
		if s.Address == address {
			return s, true
		}
	}
	return Signer{}, false
}

// Deploys tells whether an EVM address is that of one of the keys.
func (i Identity) Deploys(ethereum string) bool {
	return ethereum != "" && slices.ContainsFunc(i.Signers, func(s Signer) bool { return strings.EqualFold(s.Ethereum, ethereum) })
}

// MaySignTokens tells whether tokens by one of the identity's keys are good.
func (i Identity) MaySignTokens(s Signer) bool { return i.Threshold == 1 || s.Tokens }

// Guard says who may give an account new keys when its own are lost.
type Guard struct {
	// Guardians are accounts; Portal makes the account's portal one more of them.
	Guardians []string `json:"guardians"`
	Portal    bool     `json:"portal,omitempty"`
	// Threshold is how many of them have to name the same new keys.
	Threshold int `json:"threshold"`
	// Delay is how many seconds of ledger time lie between their agreement and its
	// effect. Until then any present key of the account can cancel it.
	Delay int64 `json:"delay"`
}

// Recovery is a set of new keys that guardians named for an account.
type Recovery struct {
	Signers   []Signer `json:"signers"`
	Threshold int      `json:"threshold"`
	// By are the guardians that named just this set, in order of name; the portal
	// is "portal:NAME".
	By []string `json:"by"`
	// Effective is the ledger time, in Unix seconds, at which the keys change; 0
	// while too few guardians have named them.
	Effective int64 `json:"effective,omitempty"`
	// Reason says why the keys could not be changed when it was time.
	Reason string `json:"reason,omitempty"`
}

// ActStatus is where an act stands.
type ActStatus string

const (
	ActOpen ActStatus = "open"
	ActDone ActStatus = "done"
	// ActFailed: enough keys agreed, but the ledger refused; see Reason.
	ActFailed    ActStatus = "failed"
	ActCancelled ActStatus = "cancelled"
	ActExpired   ActStatus = "expired"
)

// Act is what one key of an identity wants to write and others have to agree
// with. It takes effect by itself with the key that completes the threshold.
type Act struct {
	ID   uint64 `json:"id"`
	Kind Kind   `json:"kind"` // account or operator
	Name string `json:"name"`
	// Steps are the messages, in order.
	Steps []ActStep `json:"steps"`
	// Encoded are the messages as they will be run, and what an approving key
	// signs the hash of; empty once the act is closed.
	Encoded []byte    `json:"encoded,omitempty"`
	Status  ActStatus `json:"status"`
	// Proposer and Approvals are ledger addresses of keys; the proposer's own is
	// the first approval.
	Proposer  string   `json:"proposer"`
	Approvals []string `json:"approvals"`
	Opened    int64    `json:"opened"`
	// Expires is ledger time, Unix seconds.
	Expires int64  `json:"expires"`
	Reason  string `json:"reason,omitempty"`
}

// ActStep is one message of an act, for people: its name, such as "set-project",
// and its content in JSON.
type ActStep struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}
