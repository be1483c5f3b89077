package ledger

import (
	"fmt"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

func TestVotingTakesMoreThanTwoThirds(t *testing.T) {
	m := settle(t, 3, bsn.Parameters{})
	res := m.write(t, m.operators[0], Propose("a portal", RegisterPortal("shop", offered("shop", bsn.KindPortal, "shop"), "")))
	id := res.Proposal()
	again := m.write(t, m.operators[1], Propose("a portal", RegisterPortal("other", offered("other", bsn.KindPortal, "other"), "")))
	if again.Proposal() == id {
		t.Error("two effects share a proposal")
	}
	m.write(t, m.operators[0], Vote(id, true))
	m.write(t, m.operators[1], Vote(id, true))
	if p := m.proposal(t, id); p.Status != bsn.ProposalOpen {
		t.Errorf("two of three votes: %s, want open", p.Status)
	}
	m.write(t, m.operators[2], Vote(id, true))
	if p := m.proposal(t, id); p.Status != bsn.ProposalPassed {
		t.Errorf("three of three votes: %s, want passed", p.Status)
	}
	m.refuses(t, m.operators[2], "is passed", Vote(id, false))
	m.write(t, m.operators[0], Vote(again.Proposal(), false))
	if p := m.proposal(t, again.Proposal()); p.Status != bsn.ProposalRejected {
		t.Errorf("one of three against: %s, want rejected", p.Status)
	}
	m.refuses(t, m.cities[0], "it takes the key of a operator", Vote(id, true))
	// An effect that fails when its time comes changes nothing and says why.
	id = m.write(t, m.operators[0], Propose("", RegisterPortal("shop", offered("another", bsn.KindPortal, "shop"), ""))).Proposal()
	for _, o := range m.operators {
		m.write(t, o, Vote(id, true))
	}
	if p := m.proposal(t, id); p.Status != bsn.ProposalFailed || !strings.Contains(p.Reason, "already") {
		t.Errorf("second portal of a name: %+v", p)
	}
	m.compare(t)
}

func TestChainAndApp(t *testing.T) {
	m := settle(t, 4, bsn.Parameters{})
	open := bsn.Chain{Name: "chongqing", Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: 1901, Deploy: bsn.DeployAccounts, Committee: []string{"city-0", "city-1", "city-2", "city-3"}}
	m.pass(t, OpenChain(open))
	for i, c := range m.cities {
		m.write(t, c, PostNode("chongqing", map[string]string{"node": fmt.Sprint(i)}))
	}
	m.refuses(t, m.cities[0], "posted another node", PostNode("chongqing", map[string]string{"node": "another"}))
	c := read[bsn.Chain](t, m, bsn.KindChain, "chongqing")
	if c.Status != bsn.ChainGenesis || c.GenesisTime == 0 || c.Nodes[3].Keys["node"] != "3" {
		t.Fatalf("chain with keys: %+v", c)
	}
	hash := strings.Repeat("ab", 32)
	m.write(t, m.cities[0], ProposeGenesis("chongqing", hash))
	m.refuses(t, m.cities[1], "approve or refuse it", ProposeGenesis("chongqing", strings.Repeat("cd", 32)))
	m.write(t, m.cities[1], AnswerGenesis("chongqing", hash, bsn.Approval{Reason: "differs"}))
	m.write(t, m.cities[2], AnswerGenesis("chongqing", hash, bsn.Approval{Approved: true}))
	if c := read[bsn.Chain](t, m, bsn.KindChain, "chongqing"); c.Status != bsn.ChainGenesis {
		t.Fatalf("two of four approved: %s", c.Status)
	}
	m.write(t, m.cities[3], AnswerGenesis("chongqing", hash, bsn.Approval{Approved: true}))
	if c := read[bsn.Chain](t, m, bsn.KindChain, "chongqing"); c.Status != bsn.ChainRunning {
		t.Fatalf("three of four approved: %s", c.Status)
	}

	alice := m.client(t, "alice")
	v := bsn.Version{Artifact: hash, Chain: "chongqing", Cities: []string{"city-0", "city-2"}}
	if n := m.write(t, alice, PublishApp("certificates", v)).Version(); n != 1 {
		t.Errorf("first version is %d", n)
	}
	if n := m.write(t, alice, PublishApp("certificates", v)).Version(); n != 1 {
		t.Errorf("published again unchanged: version %d", n)
	}
	m.refuses(t, m.cities[1], "was not chosen", PlaceApp("alice/certificates", 1, bsn.Placement{Status: bsn.PlacementServing}))
	for _, i := range []int{0, 2} {
		m.write(t, m.cities[i], PlaceApp("alice/certificates", 1, bsn.Placement{Status: bsn.PlacementServing}))
	}
	m.refuses(t, alice, "publish a new one", SetContracts("certificates", 1, []bsn.Contract{{Name: "C", Address: "0x1"}}))
	v.Artifact = strings.Repeat("ef", 32)
	m.write(t, alice, PublishApp("certificates", v))
	a := read[bsn.App](t, m, bsn.KindApp, "alice/certificates")
	if got, ok := a.Serving("city-0", 0); !ok || got.Number != 1 {
		t.Errorf("until version 2 is served, 1 is: %+v", got)
	}
	m.write(t, alice, WithdrawApp("certificates", 1))
	a = read[bsn.App](t, m, bsn.KindApp, "alice/certificates")
	if _, ok := a.Serving("city-0", 1); ok {
		t.Error("version 1 is served after its withdrawal")
	}
	bob := m.client(t, "bob")
	m.refuses(t, bob, "no such record", WithdrawApp("certificates", 1))
	v.Cities = []string{"atlantis"}
	m.refuses(t, alice, "no such record", PublishApp("certificates", v))
	m.compare(t)
}
