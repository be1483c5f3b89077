package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

// TestExportLeavesNothingOut compares all stores, key by key: a module whose genesis
// lacks something shows.
func TestExportLeavesNothingOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := running(t)
		m.write(t, m.operators[0], Propose("left open", SetDeploy("a1", bsn.DeployAnyone)))
		for range rapid.IntRange(0, 40).Draw(t, "writes") {
			by, message := anyWrite(t, m)
			by.Write(context.Background(), message) // refused or not
		}
		before := contents(t, m.app)
		m.restart(t, m.export(t))
		after := contents(t, m.app)
		for place := range before {
			if after[place] != before[place] {
				t.Errorf("%s was %q and is %q", place, before[place], after[place])
			}
		}
		for place := range after {
			if _, was := before[place]; !was {
				t.Errorf("%s is %q and was not", place, after[place])
			}
		}
	})
}

func TestRefound(t *testing.T) {
	t.Parallel()
	w := found(t, 4, bsn.Parameters{})
	alice, aliceKey := w.account("alice")
	_, secret := bsn.NewKey("city-0")
	must[Result](t)(alice.Write(w.ctx, SetProject(bsn.Project{Name: "web"}), AddKey("web", secret)))
	open := must[Result](t)(w.operators[1].Write(w.ctx, Propose("left open", OpenChain(bsn.Chain{
		Name: "later", Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: 9, Deploy: bsn.DeployAccounts, Committee: []string{"city-0", "city-1"},
	})))).Proposal()
	must[Result](t)(w.operators[1].Write(w.ctx, Vote(open, true)))
	// Signed while all was well, and never handed in.
	old := must[[]byte](t)(alice.Sign(w.ctx, SetProject(bsn.Project{Name: "replayed"})))

	// Two of four are gone: the ledger stands still, and the others stop it.
	for _, n := range []int{2, 3, 0, 1} {
		if err := w.nodes[n].Stop(); err != nil {
			t.Fatal(err)
		}
	}
	exports := []Export{must[Export](t)(ExportState(w.homes[0])), must[Export](t)(ExportState(w.homes[1]))}
	slices.SortFunc(exports, func(a, b Export) int { return int(b.Height - a.Height) })
	again := must[Export](t)(ExportState(w.homes[0]))
	text := must[[]byte](t)(exports[0].Encode())
	if parsed := must[Export](t)(ParseExport(text)); !bytes.Equal(must[[]byte](t)(parsed.Encode()), text) {
		t.Error("an export changes as it is read and written")
	}
	if again.AppHash == "" || exports[0].Height == exports[1].Height && exports[0].AppHash != exports[1].AppHash {
		t.Errorf("two exports at %d differ: %s and %s", again.Height, exports[0].AppHash, exports[1].AppHash)
	}
	stay := []string{"op-0", "op-1"}
	genesis := must[[]byte](t)(Refound(exports[0], "test-net-2", stay))
	for _, order := range [][]string{{"op-1", "op-0"}, stay} {
		if other := must[[]byte](t)(Refound(must[Export](t)(ParseExport(text)), "test-net-2", order)); !bytes.Equal(other, genesis) {
			t.Fatal("two cities make different genesis files")
		}
	}
	for name, c := range map[string]struct {
		network string
		stay    []string
	}{
		"takes another name": {"test-net", stay}, "no operator": {"test-net-2", []string{"op-0", "atlantis"}},
		"none of the operators": {"test-net-2", nil}, "malformed": {"No Name", stay},
	} {
		if _, err := Refound(exports[0], c.network, c.stay); err == nil {
			t.Errorf("%s: it was made", name)
		}
	}

	addrs := []string{freePort(t), freePort(t)}
	var peers []string
	for i, addr := range addrs {
		peers = append(peers, bsn.NodeID(must[Identity](t)(InitNode(w.homes[i])).NodeKey)+"@"+addr)
	}
	for i, addr := range addrs {
		for range 2 { // cut off and done again
			if err := Succeed(w.homes[i], "test-net", genesis); err != nil {
				t.Fatal(err)
			}
		}
		n := must[*Node](t)(Start(NodeConfig{Home: w.homes[i], Listen: addr, Peers: peers, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond}))
		t.Cleanup(func() { n.Stop() })
		w.nodes[i] = n
	}
	for _, n := range w.nodes[:2] {
		if err := n.Ready(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	alice = must[*Client](t)(NewClient(w.nodes[1], aliceKey))
	res := must[Result](t)(alice.Write(w.ctx, SetProject(bsn.Project{Name: "after"})))
	if res.Height < exports[0].Height+heightGap {
		t.Errorf("the first block is %d, and the old ledger was at %d", res.Height, exports[0].Height)
	}
	if _, err := w.nodes[0].Submit(w.ctx, old); err == nil {
		t.Error("a transaction of the old network took effect in the new one")
	}
	if p := get[bsn.Project](t, w.nodes[0], bsn.KindProject, "alice/web"); len(p.Keys) != 1 || p.Keys[0].Hash != secret.Hash || p.Keys[0].Revoked {
		t.Errorf("alice's project: %+v", p)
	}
	for i, gone := range []bool{false, false, true, true} {
		o := get[bsn.Operator](t, w.nodes[0], bsn.KindOperator, fmt.Sprintf("op-%d", i))
		c := get[bsn.City](t, w.nodes[0], bsn.KindCity, fmt.Sprintf("city-%d", i))
		if (o.Evicted > 0) != gone || (o.ValidatingCity == "") != gone || (c.Status == bsn.CityEvicted) != gone {
			t.Errorf("operator %+v, city %+v", o, c)
		}
	}
	for i := range 2 {
		w.operators[i].conn, w.operators[i].signer = w.nodes[i], Signer{}
	}
	must[Result](t)(w.operators[0].Write(w.ctx, Vote(open, true)))
	if p := w.proposal(open); p.Status != bsn.ProposalPassed {
		t.Errorf("what was open goes on with the votes that it had: %+v", p)
	}
	if _, err := os.Stat(w.homes[0] + "/data-test-net"); err != nil {
		t.Errorf("the old ledger is not kept: %v", err)
	}
}

func FuzzParseExport(f *testing.F) {
	m := settle(f, 1, bsn.Parameters{})
	e, err := m.app.export("test-net", m.time)
	if err != nil {
		f.Fatal(err)
	}
	b, err := e.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"network":"x","height":"1","consensus":{},"state":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseExport(b)
		if err != nil {
			return
		}
		var state map[string]json.RawMessage
		if json.Unmarshal(e.State, &state) != nil {
			state = nil
		}
		if _, err := Refound(e, "test-net-2", []string{"op-0"}); err == nil && len(state) == 0 {
			t.Error("a genesis without state")
		}
	})
}
