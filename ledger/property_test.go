package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	cmttypes "github.com/cometbft/cometbft/types"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

// TestSameBlocksGiveSameState runs the same random transactions on two machines:
// whatever depends on the order of a map, on a clock or on memory shows.
func TestSameBlocksGiveSameState(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m, twin := running(t), running(t)
		for range rapid.IntRange(1, 40).Draw(t, "blocks") {
			var txs [][]byte
			for range rapid.IntRange(0, 3).Draw(t, "txs") {
				by, message := anyWrite(t, m)
				tx, err := by.Sign(context.Background(), message)
				if err != nil {
					t.Fatalf("%v", err)
				}
				txs = append(txs, tx)
			}
			if rapid.IntRange(0, 30).Draw(t, "wait") == 0 { // until proposals expire
				m.time = m.time.Add(8 * 24 * time.Hour)
				txs = nil
			}
			twin.time = m.time
			if rapid.IntRange(0, 5).Draw(t, "absence") == 0 {
				i := rapid.IntRange(0, 3).Draw(t, "absent")
				m.absent[m.consensus(i)] = !m.absent[m.consensus(i)]
			}
			if rapid.IntRange(0, 30).Draw(t, "evidence") == 0 {
				m.accuse(rapid.IntRange(0, 3).Draw(t, "accused"))
			}
			twin.absent, twin.evidence = m.absent, m.evidence
			a, b := m.block(t, txs...), twin.block(t, txs...)
			if !bytes.Equal(a.AppHash, b.AppHash) {
				t.Fatalf("block %d: hashes differ", m.height)
			}
			for i := range a.TxResults {
				x, y := a.TxResults[i], b.TxResults[i]
				if x.Code != y.Code || !bytes.Equal(x.Data, y.Data) || x.GasUsed != y.GasUsed {
					t.Fatalf("transaction %d: %v and %v", i, x, y)
				}
			}
			m.compare(t)
		}
	})
}

// export is a genesis with all that the machine holds.
func (m *machine) export(t tester) []byte {
	t.Helper()
	state, err := m.app.manager.ExportGenesis(m.context(t), m.app.codec)
	if err != nil {
		t.Fatalf("%v", err)
	}
	b, err := json.Marshal(state)
	if err != nil {
		t.Fatalf("%v", err)
	}
	doc := cmttypes.GenesisDoc{GenesisTime: m.time, ChainID: "test-net", InitialHeight: 1, ConsensusParams: cmttypes.DefaultConsensusParams(), AppState: b}
	if err := doc.ValidateAndComplete(); err != nil {
		t.Fatalf("%v", err)
	}
	out, err := cmtjson.Marshal(doc)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// restart goes on from a genesis, with the same signers.
func (m *machine) restart(t tester, genesis []byte) {
	t.Helper()
	fresh := begin(t, genesis)
	m.app, m.height, m.time, m.hash, m.known = fresh.app, fresh.height, fresh.time, fresh.hash, fresh.known
	m.validators, m.absent, m.evidence = fresh.validators, fresh.absent, nil
}

func TestExportedGenesisGivesTheSameNetwork(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := running(t)
		open := m.write(t, m.operators[0], Propose("left open", RegisterPortal("later", offered("later", bsn.KindPortal, "later"), ""))).Proposal()
		m.write(t, m.operators[1], Vote(open, true))
		for range rapid.IntRange(0, 40).Draw(t, "writes") {
			by, message := anyWrite(t, m)
			by.Write(context.Background(), message) // refused or not
		}
		before := m.records(t)
		m.restart(t, m.export(t))
		if after := m.records(t); !maps.Equal(before, after) {
			t.Fatalf("records differ:\n%v\n%v", before, after)
		}
		if m.proposal(t, open).Status != bsn.ProposalOpen {
			return // voted on meanwhile
		}
		// What was open goes on: votes count, the effect is known, time runs out.
		voters := m.voters(t)
		for _, o := range voters {
			if m.proposal(t, open).Status == bsn.ProposalOpen {
				m.write(t, o, Vote(open, true))
			}
		}
		if p := m.proposal(t, open); p.Status != bsn.ProposalPassed {
			t.Fatalf("open proposal: %+v", p)
		}
		m.time = m.time.Add(time.Hour) // for the allowance
		expiring := m.write(t, voters[0], Propose("", RegisterPortal("never", offered("never", bsn.KindPortal, "never"), ""))).Proposal()
		m.restart(t, m.export(t))
		m.time = m.time.Add(8 * 24 * time.Hour)
		m.block(t)
		if p := m.proposal(t, expiring); p.Status != bsn.ProposalExpired {
			t.Fatalf("after a week: %+v", p)
		}
		m.compare(t)
	})
}

// voters are the clients of the operators that have a vote.
func (m *machine) voters(t tester) (out []*Client) {
	t.Helper()
	for i, o := range m.operators {
		if m.operator(t, i).ValidatingCity != "" {
			out = append(out, o)
		}
	}
	return out
}

// needed is how many of n operators are more than two thirds.
var needed = []int{0, 1, 2, 3, 3, 4, 5, 5}

func TestVotesAreTallied(t *testing.T) {
	t.Parallel()
	for n := 1; n < len(needed); n++ {
		m := settle(t, n, bsn.Parameters{})
		count := 0
		rapid.Check(t, func(t *rapid.T) {
			count++
			name := fmt.Sprintf("portal-%d", count)
			id := m.write(t, m.operators[0], Propose("", RegisterPortal(name, offered(name, bsn.KindPortal, name), ""))).Proposal()
			votes := map[int]bool{}
			want := bsn.ProposalOpen
			for range rapid.IntRange(0, 2*n).Draw(t, "votes") {
				i, yes := rapid.IntRange(0, n-1).Draw(t, "operator"), rapid.IntRange(0, 2).Draw(t, "yes") > 0
				_, err := m.operators[i].Write(context.Background(), Vote(id, yes))
				if want != bsn.ProposalOpen {
					if old, voted := votes[i]; err == nil && (!voted || old != yes) {
						t.Fatalf("vote after the decision was counted")
					}
					continue
				}
				if err != nil {
					t.Fatalf("%v", err)
				}
				votes[i] = yes // a vote may be changed, and counts once
				yeas, nays := 0, 0
				for _, v := range votes {
					if v {
						yeas++
					} else {
						nays++
					}
				}
				if yeas >= needed[n] {
					want = bsn.ProposalPassed
				} else if n-nays < needed[n] {
					want = bsn.ProposalRejected
				}
				if p := m.proposal(t, id); p.Status != want || len(p.Votes) != len(votes) {
					t.Fatalf("%d for, %d against of %d: %+v, want %s", yeas, nays, n, p, want)
				}
			}
			_, err := m.app.tables[bsn.KindPortal].Read(m.context(t), name)
			if done := err == nil; done != (want == bsn.ProposalPassed) {
				t.Fatalf("proposal is %s, its effect took place: %v", want, done)
			}
			if want == bsn.ProposalOpen { // leave room for the next
				for _, o := range m.operators {
					if m.proposal(t, id).Status == bsn.ProposalOpen {
						m.write(t, o, Vote(id, false))
					}
				}
			}
			m.compare(t)
		})
	}
}

func TestAllowanceIsPerHourOfLedgerTime(t *testing.T) {
	t.Parallel()
	const limit = 5
	genesis := settle(t, 1, bsn.Parameters{AccountWrites: limit}).export(t)
	rapid.Check(t, func(t *rapid.T) {
		m := begin(t, genesis)
		alice := m.client(t, "alice")
		var began time.Time
		used := 0
		for range rapid.IntRange(1, 30).Draw(t, "writes") {
			m.time = m.time.Add(time.Duration(rapid.SampledFrom([]int{0, 60, 1200, 3599, 3600}).Draw(t, "pause")) * time.Second)
			messages := make([]Message, rapid.IntRange(1, 3).Draw(t, "messages"))
			for i := range messages {
				messages[i] = SetProject(bsn.Project{Name: "web"})
			}
			_, err := alice.Write(context.Background(), messages...)
			if at := m.time.Truncate(time.Second); at.Sub(began) >= time.Hour {
				began, used = at, 0
			}
			if fits := used+len(messages) <= limit; fits != (err == nil) {
				t.Fatalf("%d used, %d more: %v", used, len(messages), err)
			} else if fits {
				used += len(messages)
			}
		}
	})
}

func TestRecordsKeepTheirForm(t *testing.T) {
	roundTrip[bsn.Operator](t)
	roundTrip[bsn.City](t)
	roundTrip[bsn.Proposal](t)
	roundTrip[bsn.Chain](t)
	roundTrip[bsn.Portal](t)
	roundTrip[bsn.Account](t)
	roundTrip[bsn.Project](t)
	roundTrip[bsn.App](t)
	roundTrip[bsn.Act](t)
	roundTrip[bsn.Parameters](t)
	roundTrip[bsn.Protocol](t)
}

func roundTrip[T any](t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, err := json.Marshal(rapid.Make[T]().Draw(t, "record"))
		if err != nil {
			t.Fatal(err)
		}
		var v T
		if err := json.Unmarshal(first, &v); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(v); err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%s became %s (%v)", first, again, err)
		}
	})
}

// FuzzCheckTx hands bytes to the application as a peer or a caller may.
func FuzzCheckTx(f *testing.F) {
	m := settle(f, 1, bsn.Parameters{})
	for _, messages := range [][]Message{
		{SetProject(bsn.Project{Name: "web"})},
		{PublishApp("certificates", bsn.Version{Artifact: strings.Repeat("ab", 32), Chain: "chongqing", Cities: []string{"city-0"}})},
		{Propose("", AdmitCity(admission(3)))},
	} {
		tx, err := m.client(f, "alice").Sign(context.Background(), messages...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(tx)
		f.Add(tx[:len(tx)/2])
	}

	f.Fuzz(func(t *testing.T, tx []byte) {
		check, err := m.checkTx(tx)
		if err != nil {
			t.Fatal(err)
		}
		res := m.block(t, tx).TxResults[0]
		if check != 0 && res.Code == 0 {
			t.Errorf("a block takes what the pool refuses: %x", tx)
		}
		if res.Code != 0 && strings.Contains(res.Log, "recovered") {
			t.Errorf("%s", res.Log)
		}
	})
}

func (m *machine) checkTx(tx []byte) (uint32, error) {
	res, err := m.app.CheckTx(&abci.RequestCheckTx{Tx: tx, Type: abci.CheckTxType_New})
	if err != nil {
		return 0, err
	}
	return res.Code, nil
}
