package receipt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

func rowsOf(project string, n int) []bsn.UsageRow {
	var out []bsn.UsageRow
	for i := range n {
		out = append(out, bsn.UsageRow{Project: project, Key: fmt.Sprintf("%012x", i), Chain: "chongqing", Class: bsn.MethodRead, Calls: uint64(i + 1), Units: uint64(3 * i)})
	}
	return out
}

// root is the tree's as RFC 6962, section 2.1 writes it down.
func root(leaves [][]byte) []byte {
	sum := sha256.New()
	switch n := len(leaves); n {
	case 0:
	case 1:
		sum.Write([]byte{0})
		sum.Write(leaves[0])
	default:
		k := 1
		for 2*k < n {
			k *= 2
		}
		sum.Write([]byte{1})
		sum.Write(root(leaves[:k]))
		sum.Write(root(leaves[k:]))
	}
	return sum.Sum(nil)
}

func TestProofs(t *testing.T) {
	for n := 1; n <= 40; n++ {
		rows := rowsOf("alice/main", n)
		uses, err := Projects(append(rows, rowsOf("bob/main", 3)...))
		if err != nil || len(uses) != 2 || uses[1].Rows != 3 {
			t.Fatalf("%+v, %v", uses, err)
		}
		var leaves [][]byte
		for _, r := range rows {
			leaves = append(leaves, Leaf(r))
		}
		if want := hex.EncodeToString(root(leaves)); uses[0].Root != want {
			t.Fatalf("%d rows: root %s, want %s", n, uses[0].Root, want)
		}
		proven, err := Prove(rows)
		if err != nil {
			t.Fatal(err)
		}
		if err := Verify(uses[0], proven); err != nil {
			t.Fatalf("%d rows: %v", n, err)
		}
		if err := Verify(uses[0], proven[1:]); err == nil {
			t.Fatalf("%d rows: one may be missing", n)
		}
	}
}

// A row, proof or sum that differs in anything from what was signed is noticed.
func TestForgeries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rowsOf("alice/main", rapid.IntRange(1, 20).Draw(t, "rows"))
		uses, err := Projects(rows)
		if err != nil {
			t.Fatal(err)
		}
		use := uses[0]
		proven, err := Prove(rows)
		if err != nil {
			t.Fatal(err)
		}
		r := &proven[rapid.IntRange(0, len(proven)-1).Draw(t, "row")]
		switch what := rapid.IntRange(0, 7).Draw(t, "what"); {
		case what == 0:
			r.Units++
		case what == 1:
			r.Calls--
		case what == 2:
			r.Key = "000000000bad"
		case what == 3:
			r.Index++
		case what == 4 && len(r.Proof) > 0:
			r.Proof[0] = r.Proof[len(r.Proof)-1][2:] + "00"
		case what == 5:
			r.Proof = append(r.Proof, use.Root)
		case what == 6:
			use.Units--
		default:
			use.Root = use.Root[2:] + "zz"
		}
		if Verify(use, proven) == nil {
			t.Fatalf("%+v is believed", *r)
		}
	})
}

func FuzzVerify(f *testing.F) {
	rows := rowsOf("alice/main", 5)
	proven, err := Prove(rows)
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(proven)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	uses, err := Projects(rows)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var given []Proven
		if json.Unmarshal(b, &given) != nil || Verify(uses[0], given) != nil {
			return
		}
		for i, r := range given { // whatever is believed is what was signed
			if string(Leaf(r.UsageRow)) != string(Leaf(rows[i])) {
				t.Errorf("row %d: %+v", i, r)
			}
		}
	})
}
