package bsn

import (
	"crypto/sha256"
	"encoding/hex"
)

// Operator is an organisation that runs cities. All operators have equal power.
type Operator struct {
	Name string `json:"name"`
	// Address is the bech32 ledger address of the operator's key.
	Address string `json:"address"`
	// Admitted is the ledger height at which the operator was admitted.
	Admitted int64 `json:"admitted"`
	// ValidatingCity carries the operator's voting power on the ledger; empty
	// until a city of the operator has been activated.
	ValidatingCity string `json:"validatingCity,omitempty"`
}

// CityStatus is where a city stands on its way into the network.
type CityStatus string

const (
	// CityAdmitted: the operators voted the city in; it is syncing.
	CityAdmitted CityStatus = "admitted"
	// CityActive: the city follows the ledger and takes its part.
	CityActive CityStatus = "active"
)

// City is one site of an operator.
type City struct {
	Name     string `json:"name"`
	Operator string `json:"operator"`
	// Index is the third byte of the city's virtual addresses, from 1.
	Index int `json:"index"`
	// Address is the bech32 ledger address of the city's own key, which signs
	// what the daemon reports.
	Address string `json:"address"`
	// ConsensusKey is the Ed25519 public key with which the city signs ledger
	// blocks; NodeKey the one with which it shows other cities who it is.
	ConsensusKey []byte `json:"consensusKey"`
	NodeKey      []byte `json:"nodeKey"`
	// Link is where other cities reach this one's link, host:port. With none they
	// reach it through a city that has one.
	Link []string `json:"link,omitempty"`
	// API and Gateway are the URLs at which the city serves its API and its
	// gateway to people. Cities use virtual addresses among each other.
	API     string     `json:"api"`
	Gateway string     `json:"gateway"`
	Status  CityStatus `json:"status"`
}

// NodeID is the city's id among the ledger's nodes (a CometBFT peer id): the first
// 20 bytes of the SHA-256 of its node key, in hex.
func (c City) NodeID() string { return NodeID(c.NodeKey) }

// NodeID is the id that a node key gives; see [City.NodeID].
func NodeID(nodeKey []byte) string {
	sum := sha256.Sum256(nodeKey)
	return hex.EncodeToString(sum[:20])
}

// ProposalStatus is where a proposal stands.
type ProposalStatus string

const (
	ProposalOpen     ProposalStatus = "open"
	ProposalPassed   ProposalStatus = "passed"
	ProposalRejected ProposalStatus = "rejected"
	// ProposalFailed: enough votes, but the effect was refused; see Reason.
	ProposalFailed  ProposalStatus = "failed"
	ProposalExpired ProposalStatus = "expired"
)

// Proposal is a change that operators vote on. It takes effect by itself with
// the vote that brings more than two thirds of the operators together.
type Proposal struct {
	ID       uint64 `json:"id"`
	Proposer string `json:"proposer"`
	// Effect is the name of what it does, such as "admit-city"; Summary says it
	// for people; Message is the effect itself in JSON.
	Effect  string          `json:"effect"`
	Summary string          `json:"summary"`
	Message string          `json:"message"`
	Status  ProposalStatus  `json:"status"`
	Votes   map[string]bool `json:"votes"`
	Opened  int64           `json:"opened"`
	// Expires is ledger time, Unix seconds.
	Expires int64  `json:"expires"`
	Reason  string `json:"reason,omitempty"`
}
