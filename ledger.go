package bsn

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"
)

// HaltedAfter is the age of the newest block from which the ledger counts as
// halted: three times the pause between blocks while nothing happens.
const HaltedAfter = 30 * time.Second

// Kind names a kind of record on the ledger.
type Kind string

const (
	KindOperator Kind = "operator"
	KindCity     Kind = "city"
	KindProposal Kind = "proposal"
	KindChain    Kind = "chain"
	KindPortal   Kind = "portal"
	KindAccount  Kind = "account"
	KindProject  Kind = "project"
	KindApp      Kind = "app"
	KindAct      Kind = "act"
	KindReceipt  Kind = "receipt"
	KindUsage    Kind = "usage"
	// KindParameters has one record, [ParametersID].
	KindParameters Kind = "parameters"
	// KindProtocol has one record, [ProtocolID].
	KindProtocol Kind = "protocol"
)

// Kinds lists all kinds of records.
var Kinds = []Kind{KindOperator, KindCity, KindProposal, KindChain, KindPortal, KindAccount, KindProject, KindApp, KindAct, KindReceipt, KindUsage, KindParameters, KindProtocol}

// ErrNoRecord means that the ledger has no record of this kind and id.
var ErrNoRecord = errors.New("no such record")

// ErrPruned means that a height is older than what this city still holds; read
// the records afresh and follow from there.
var ErrPruned = errors.New("height is no longer kept")

// Change is one record as one block left it.
type Change struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
	// Record is the new state in JSON: an Operator, City, Chain and so on.
	Record json.RawMessage `json:"record"`
}

// Block is what one block of the ledger changed. Blocks that changed nothing are
// delivered too, so that a follower knows how far it is.
type Block struct {
	Height  int64     `json:"height"`
	Time    time.Time `json:"time"`
	Changes []Change  `json:"changes,omitempty"`
}

// Ledger is a reader's view of the network's records, at one city.
type Ledger interface {
	// Get returns one record in JSON. Error: ErrNoRecord.
	Get(ctx context.Context, kind Kind, id string) (json.RawMessage, error)
	// List returns up to limit records of a kind with ids after the given one, in
	// order of id, and the height at which they were read.
	List(ctx context.Context, kind Kind, after string, limit int) ([]Change, int64, error)
	// Follow yields every block from the given height on, without a gap, until ctx
	// ends or an error is yielded. Error: ErrPruned.
	Follow(ctx context.Context, from int64) iter.Seq2[Block, error]
}
