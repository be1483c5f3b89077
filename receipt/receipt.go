// Package receipt makes and checks what stands behind a city's receipt: the rows of
// usage, a Merkle tree of each project's (RFC 6962 with SHA-256), and the proofs that
// a row is in it.
package receipt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/openbsn/bsn"
)

// Leaf is a row as the tree has it: its compact JSON.
func Leaf(r bsn.UsageRow) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // texts and numbers always encode
	}
	return b
}

var factory = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// tree is all complete nodes of a tree, and its root.
type tree struct {
	nodes map[compact.NodeID][]byte
	size  uint64
	root  []byte
}

func grow(rows []bsn.UsageRow) (tree, error) {
	t := tree{nodes: map[compact.NodeID][]byte{}, size: uint64(len(rows)), root: rfc6962.DefaultHasher.EmptyRoot()}
	if len(rows) == 0 {
		return t, nil
	}
	r := factory.NewEmptyRange(0)
	keep := func(id compact.NodeID, hash []byte) { t.nodes[id] = hash }
	for i, row := range rows {
		leaf := rfc6962.DefaultHasher.HashLeaf(Leaf(row))
		keep(compact.NewNodeID(0, uint64(i)), leaf)
		if err := r.Append(leaf, keep); err != nil {
			return t, fmt.Errorf("grow tree of rows: %w", err)
		}
	}
	var err error
	if t.root, err = r.GetRootHash(nil); err != nil {
		return t, fmt.Errorf("grow tree of rows: %w", err)
	}
	return t, nil
}

// Projects sums up rows, which are in order of project, as the receipt states them.
func Projects(rows []bsn.UsageRow) ([]bsn.ProjectUse, error) {
	var out []bsn.ProjectUse
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].Project == rows[0].Project {
			n++
		}
		t, err := grow(rows[:n])
		if err != nil {
			return nil, err
		}
		use := bsn.ProjectUse{Project: rows[0].Project, Rows: n, Root: hex.EncodeToString(t.root)}
		for _, r := range rows[:n] {
			use.Calls += r.Calls
			use.Units += r.Units
		}
		out = append(out, use)
		rows = rows[n:]
	}
	return out, nil
}

// Proven is a row with the proof that a receipt has it.
type Proven struct {
	bsn.UsageRow
	// Index is the row's place in the tree, from 0, and Proof its inclusion proof:
	// hashes in hex, from the leaf's sibling upwards.
	Index int      `json:"index"`
	Proof []string `json:"proof"`
}

// Prove returns the rows of a project, in their order, with their proofs.
func Prove(rows []bsn.UsageRow) ([]Proven, error) {
	t, err := grow(rows)
	if err != nil {
		return nil, err
	}
	out := make([]Proven, 0, len(rows))
	for i, row := range rows {
		nodes, err := proof.Inclusion(uint64(i), t.size)
		if err != nil {
			return nil, fmt.Errorf("prove row: %w", err)
		}
		hashes := make([][]byte, 0, len(nodes.IDs))
		for _, id := range nodes.IDs {
			hashes = append(hashes, t.nodes[id])
		}
		if hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren); err != nil {
			return nil, fmt.Errorf("prove row: %w", err)
		}
		p := Proven{UsageRow: row, Index: i, Proof: []string{}}
		for _, h := range hashes {
			p.Proof = append(p.Proof, hex.EncodeToString(h))
		}
		out = append(out, p)
	}
	return out, nil
}

// maxProof is more hashes than any tree's proof has.
const maxProof = 64

// Verify checks rows that a city says are all of a project's in a receipt against
// what the ledger has of it.
func Verify(use bsn.ProjectUse, rows []Proven) error {
	root, err := hex.DecodeString(use.Root)
	if err != nil {
		return fmt.Errorf("root of project %s: %w", use.Project, err)
	}
	if len(rows) != use.Rows {
		return fmt.Errorf("the city shows %d rows, its receipt has %d", len(rows), use.Rows)
	}
	var calls, units uint64
	for i, r := range rows {
		if r.Index != i || r.Project != use.Project {
			return fmt.Errorf("row %d is that of %d of project %.80q", i, r.Index, r.Project)
		}
		if err := verifyRow(r, uint64(use.Rows), root); err != nil {
			return fmt.Errorf("row %d (%s) is not in the receipt: %w", i, Leaf(r.UsageRow), err)
		}
		calls += r.Calls
		units += r.Units
	}
	if calls != use.Calls || units != use.Units {
		return fmt.Errorf("the rows sum up to %d calls of %d compute units, the receipt says %d of %d", calls, units, use.Calls, use.Units)
	}
	return nil
}

func verifyRow(r Proven, size uint64, root []byte) error {
	if len(r.Proof) > maxProof {
		return fmt.Errorf("a proof of %d hashes", len(r.Proof))
	}
	hashes := make([][]byte, 0, len(r.Proof))
	for _, text := range r.Proof {
		h, err := hex.DecodeString(text)
		if err != nil || len(h) != rfc6962.DefaultHasher.Size() {
			return fmt.Errorf("%.80q is no hash", text)
		}
		hashes = append(hashes, h)
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(Leaf(r.UsageRow))
	got, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, uint64(r.Index), size, leaf, hashes)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, root) {
		return fmt.Errorf("its proof leads to root %x", got)
	}
	return nil
}
