package bsn

import (
	"crypto/sha256"
	"encoding/hex"
)

// Operator is an organisation that runs cities. All operators have equal power.
type Operator struct {
	Name string `json:"name"`
	Identity
	// Admitted is the ledger height at which the operator was admitted.
	Admitted int64 `json:"admitted"`
	// ValidatingCity carries the operator's voting power on the ledger; empty
	// until a city of the operator has been activated, and while it has no power.
	ValidatingCity string `json:"validatingCity,omitempty"`
	// Absence is how much the validating city has been missed; nil: never for long.
	Absence *Absence `json:"absence,omitempty"`
	// Suspended: the operator lost its power and its vote by evidence, until the
	// others reinstate it.
	Suspended *Suspension `json:"suspended,omitempty"`
	// Evicted is the ledger height at which the operators voted it out; 0: they did not.
	Evicted int64 `json:"evicted,omitempty"`
}

// Absence counts blocks that an operator's validating city did not sign.
type Absence struct {
	// Since is the ledger time, in Unix seconds, since which it signs none; 0: it signs.
	Since int64 `json:"since,omitempty"`
	// Seconds and Blocks are what the absences that have ended came to, from the
	// ledger time Counted on.
	Seconds int64 `json:"seconds"`
	Blocks  int64 `json:"blocks"`
	Counted int64 `json:"counted"`
}

// Suspension says why and at which ledger height an operator lost its power.
type Suspension struct {
	Reason string `json:"reason"`
	Height int64  `json:"height"`
	City   string `json:"city"` // whose key gave the evidence
}

// CityStatus is where a city stands on its way into the network.
type CityStatus string

const (
	// CityAdmitted: the operators voted the city in; it is syncing.
	CityAdmitted CityStatus = "admitted"
	// CityActive: the city follows the ledger and takes its part.
	CityActive CityStatus = "active"
	// CityLeaving: the city is out of all committees and drains.
	CityLeaving CityStatus = "leaving"
	// CityLeft: the city has drained; its key writes no more.
	CityLeft CityStatus = "left"
	// CityEvicted: the operators voted the city, or its operator, out.
	CityEvicted CityStatus = "evicted"
)

// Member tells whether a city of this status is part of the network: others talk
// to it and its key may write.
func (s CityStatus) Member() bool {
	return s == CityAdmitted || s == CityActive || s == CityLeaving
}

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
	// Since is the ledger time, in Unix seconds, at which the city began to leave,
	// left or was evicted. A leaving city serves, or says where else, until Until.
	Since int64 `json:"since,omitempty"`
	Until int64 `json:"until,omitempty"`
}

// KeyPurpose is what one of a city's keys is for.
type KeyPurpose string

const (
	// KeyConsensus signs ledger blocks.
	KeyConsensus KeyPurpose = "consensus"
	// KeyNode shows other cities who a city is, at its link and its ledger node.
	KeyNode KeyPurpose = "node"
	// KeyCity signs what the city's daemon writes to the ledger and asks other cities.
	KeyCity KeyPurpose = "city"
)

// KeyPurposes lists all.
var KeyPurposes = []KeyPurpose{KeyConsensus, KeyNode, KeyCity}

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
	Votes   map[string]bool `json:"votes"` // by operator, the latest of each
	// Cast is when each operator's vote came.
	Cast map[string]Moment `json:"cast,omitempty"`
	// Opened, Expires and Decided are ledger time, in Unix seconds.
	Opened  int64 `json:"opened"`
	Expires int64 `json:"expires"`
	// Decided is when, and Height at which ledger height, it passed and took effect,
	// failed, was rejected or expired; 0 while it is open.
	Decided int64 `json:"decided,omitempty"`
	Height  int64 `json:"height,omitempty"`
	// Voters are the operators that had a vote when it was decided.
	Voters int    `json:"voters,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Moment is a block of the ledger.
type Moment struct {
	Height int64 `json:"height"`
	Time   int64 `json:"time"` // Unix seconds
}
