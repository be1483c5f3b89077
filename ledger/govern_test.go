package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

// consensus is the address of the key with which the first consensus key of the
// city with this number signs blocks.
func (m *machine) consensus(i int) string { return consensusAddress(admission(i).ConsensusKey) }

// accuse brings evidence against a city with the next block.
func (m *machine) accuse(i int) {
	m.evidence = append(m.evidence, abci.Misbehavior{
		Type: abci.MisbehaviorType_DUPLICATE_VOTE, Validator: abci.Validator{Address: []byte(m.consensus(i)), Power: 1},
		Height: m.height, Time: m.time, TotalVotingPower: int64(len(m.validators)),
	})
}

func (m *machine) operator(t tester, i int) bsn.Operator {
	t.Helper()
	return read[bsn.Operator](t, m, bsn.KindOperator, fmt.Sprintf("op-%d", i))
}

func (m *machine) city(t tester, i int) bsn.City {
	t.Helper()
	return read[bsn.City](t, m, bsn.KindCity, fmt.Sprintf("city-%d", i))
}

func (m *machine) chain(t tester, name string) bsn.Chain {
	t.Helper()
	return read[bsn.Chain](t, m, bsn.KindChain, name)
}

// refusedWrite fails unless a write is refused with these words.
func (m *machine) refusedWrite(t tester, c *Client, words string, messages ...Message) {
	t.Helper()
	if _, err := c.Write(context.Background(), messages...); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("want a refusal with %q, have %v", words, err)
	}
}

// fails proposes an effect, has it voted for, and wants it to fail with these words.
func (m *machine) fails(t tester, words string, e Effect) {
	t.Helper()
	id := m.write(t, m.operators[0], Propose("", e)).Proposal()
	for i, o := range m.operators {
		if m.proposal(t, id).Status == bsn.ProposalOpen && m.operator(t, i).ValidatingCity != "" {
			m.write(t, o, Vote(id, true))
		}
	}
	if p := m.proposal(t, id); p.Status != bsn.ProposalFailed || !strings.Contains(p.Reason, words) {
		t.Errorf("want a failure with %q, have %+v", words, p)
	}
}

// rest fails unless blocks in which nothing happens leave the state as it is.
func (m *machine) rest(t tester) {
	t.Helper()
	for range 3 { // what a transaction left to its next block is done by then
		m.block(t)
	}
	before := m.hash
	for range 5 {
		if m.block(t); !bytes.Equal(before, m.hash) {
			t.Fatalf("an empty block at height %d changed the state", m.height)
		}
	}
}

func TestEvictedCity(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.pass(t, EvictCity("city-3"))
	if c := m.city(t, 3); c.Status != bsn.CityEvicted || c.Since != m.time.Unix() {
		t.Errorf("city: %+v", c)
	}
	if o := m.operator(t, 3); o.ValidatingCity != "" || o.Evicted != 0 || len(m.validators) != 3 {
		t.Errorf("operator: %+v with %d validators", o, len(m.validators))
	}
	if c := m.chain(t, "a1"); !slices.Equal(c.Committee, []string{"city-0", "city-1", "city-2"}) || c.Status != bsn.ChainRunning || len(c.Nodes) != 4 {
		t.Errorf("chain: %+v", c)
	}
	m.refusedWrite(t, m.cities[3], `city "city-3" was evicted`, UpdateCity("http://127.0.0.1:1", "", nil))
	m.refusedWrite(t, m.operators[3], "no vote", Vote(1, true))
	alice := m.client(t, "alice")
	m.write(t, alice, SetProject(bsn.Project{Name: "web"}))
	m.refusedWrite(t, alice, "is evicted", AddKey("web", bsn.Key{City: "city-3", Hash: strings.Repeat("ab", 32)}))
	m.refusedWrite(t, alice, "is evicted", PublishApp("app", bsn.Version{Artifact: strings.Repeat("ab", 32), Chain: "a1", Cities: []string{"city-3"}}))
	m.fails(t, "already", EvictCity("city-3"))
	m.fails(t, "is evicted", SetCommittee("a1", []string{"city-0", "city-3"}))
	m.fails(t, "there is a city", AdmitCity(admission(3)))
	// Its operator may bring another, whose index is new.
	a := admission(3)
	a.City, a.CityKey, a.ConsensusKey, a.NodeKey = "city-9", seed("city9").Public(), bytes.Repeat([]byte{99}, 32), bytes.Repeat([]byte{98}, 32)
	m.pass(t, AdmitCity(a))
	m.write(t, m.client(t, "city9"), ActivateCity())
	if c := read[bsn.City](t, m, bsn.KindCity, "city-9"); c.Index != 5 {
		t.Errorf("index %d of a new city", c.Index)
	}
	if o := m.operator(t, 3); o.ValidatingCity != "city-9" || len(m.validators) != 4 {
		t.Errorf("operator: %+v with %d validators", o, len(m.validators))
	}
	m.rest(t)
	m.compare(t)
}

func TestEvictedOperator(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.pass(t, EvictOperator("op-2"))
	if o := m.operator(t, 2); o.Evicted == 0 || o.ValidatingCity != "" {
		t.Errorf("operator: %+v", o)
	}
	if c := m.city(t, 2); c.Status != bsn.CityEvicted {
		t.Errorf("city: %+v", c)
	}
	m.refusedWrite(t, m.operators[2], `operator "op-2" was evicted`, Propose("", CloseChain("a1")))
	m.refusedWrite(t, m.cities[2], `city "city-2" was evicted`, Propose("", CloseChain("a1")))
	a := admission(7)
	a.Operator, a.OperatorKey = "op-2", admission(2).OperatorKey
	m.fails(t, "was evicted", AdmitCity(a))
	m.fails(t, "already", EvictOperator("op-2"))
	m.fails(t, "not suspended", ReinstateOperator("op-2", "city-2", bytes.Repeat([]byte{77}, 32)))
	m.restart(t, m.export(t))
	m.refusedWrite(t, m.client(t, "op2"), `operator "op-2" was evicted`, Propose("", CloseChain("a1")))
	m.rest(t)
}

// TestLastOneStays: nothing takes the last power from the ledger.
func TestLastOneStays(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	m.fails(t, "stand still", EvictOperator("op-0"))
	m.fails(t, "stand still", EvictCity("city-0"))
	m.refusedWrite(t, m.cities[0], "stand still", LeaveCity("city-0", 0))
	m.accuse(0)
	m.block(t)
	if o := m.operator(t, 0); o.Suspended != nil || o.ValidatingCity == "" {
		t.Errorf("the only operator is suspended: %+v", o)
	}
}

func TestChainOfEvictedCityAlone(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.pass(t, SetCommittee("a1", []string{"city-3"}))
	m.refusedWrite(t, m.cities[3], `chain "a1" would be left with 0 of its 1 cities`, LeaveCity("city-3", 0))
	m.pass(t, EvictCity("city-3"))
	if c := m.chain(t, "a1"); c.Status != bsn.ChainClosed || len(c.Committee) != 1 {
		t.Errorf("chain: %+v", c)
	}
	m.fails(t, "is evicted", ReopenChain("a1"))
	m.pass(t, SetCommittee("a1", []string{"city-0", "city-1"}))
	m.pass(t, ReopenChain("a1"))
	m.refusedWrite(t, m.operators[0], "more than half", LeaveCity("city-0", 0))
}

// TestMemberGoesBeforeTheChainRuns: those who remain begin anew without it.
func TestMemberGoesBeforeTheChainRuns(t *testing.T) {
	t.Parallel()
	m := settle(t, 4, bsn.Parameters{})
	m.pass(t, OpenChain(bsn.Chain{
		Name: "b1", Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: 9, Deploy: bsn.DeployAccounts,
		Committee: []string{"city-0", "city-1", "city-2", "city-3"},
	}))
	for _, c := range m.cities[:3] {
		m.write(t, c, PostNode("b1", map[string]string{"node": "key"}))
	}
	m.write(t, m.cities[3], LeaveCity("city-3", 0)) // the last that others waited for
	if c := m.chain(t, "b1"); c.Status != bsn.ChainGenesis || c.GenesisTime == 0 || len(c.Nodes) != 3 {
		t.Fatalf("chain: %+v", c)
	}
	m.write(t, m.cities[0], ProposeGenesis("b1", fmt.Sprintf("%064x", 1)))
	m.pass(t, EvictCity("city-0"))
	if c := m.chain(t, "b1"); c.Genesis != "" || len(c.Approvals) != 0 || len(c.Nodes) != 2 {
		t.Fatalf("chain: %+v", c)
	}
	for _, c := range m.cities[1:3] {
		m.write(t, c, ProposeGenesis("b1", fmt.Sprintf("%064x", 2)))
	}
	if c := m.chain(t, "b1"); c.Status != bsn.ChainRunning {
		t.Fatalf("chain: %+v", c)
	}
}

func TestClosedChain(t *testing.T) {
	t.Parallel()
	m := running(t)
	alice := m.client(t, "alice")
	publish := PublishApp("app", bsn.Version{Artifact: strings.Repeat("ab", 32), Chain: "a1", Cities: []string{"city-0"}})
	m.pass(t, CloseChain("a1"))
	m.refusedWrite(t, alice, "closed", publish)
	m.fails(t, "only a running one", CloseChain("a1"))
	m.pass(t, ReopenChain("a1"))
	m.write(t, alice, publish)
	m.fails(t, "only a closed one", ReopenChain("a1"))
	m.pass(t, SetDeploy("a1", bsn.DeployAnyone))
	if c := m.chain(t, "a1"); c.Deploy != bsn.DeployAnyone {
		t.Errorf("chain: %+v", c)
	}
	m.fails(t, "deploy policy", SetDeploy("a1", "nobody"))
}

func TestParameters(t *testing.T) {
	t.Parallel()
	m := settle(t, 2, bsn.Parameters{AccountWrites: 7})
	parameters := func() bsn.Parameters {
		return read[bsn.Parameters](t, m, bsn.KindParameters, bsn.ParametersID)
	}
	if p := parameters(); p.AccountWrites != 7 || p.VotingPeriod != 7*24*3600 || p.Check() != nil {
		t.Errorf("parameters of a new network: %+v", p)
	}
	m.pass(t, SetParameter("votingPeriod", 60))
	m.pass(t, SetParameter("openProposals", 1))
	m.fails(t, "between", SetParameter("votingPeriod", 59))
	m.fails(t, "there are votingPeriod, ", SetParameter("volume", 11))
	id := m.write(t, m.operators[0], Propose("", SetParameter("accountWrites", 1))).Proposal()
	m.refusedWrite(t, m.operators[0], "has 1 open proposals", Propose("", CloseChain("a1")))
	m.restart(t, m.export(t))
	if p := parameters(); p.VotingPeriod != 60 || p.OpenProposals != 1 || p.AccountWrites != 7 {
		t.Errorf("parameters after a restart: %+v", p)
	}
	m.time = m.time.Add(time.Minute)
	m.block(t)
	if p := m.proposal(t, id); p.Status != bsn.ProposalExpired || p.Decided != m.time.Unix() || p.Height != m.height || p.Voters != 2 {
		t.Errorf("after a minute: %+v", p)
	}
	if _, err := NewGenesis("test-net", 77, admission(0), bsn.Parameters{VotingPeriod: 1}); err == nil {
		t.Error("a genesis takes any parameter")
	}
}

// TestParameterListIsComplete: each field of the record can be set by its name.
func TestParameterListIsComplete(t *testing.T) {
	t.Parallel()
	var fields map[string]int64
	b, err := json.Marshal(bsn.Parameters{}.Complete())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for _, d := range bsn.ParameterList {
		p, err := bsn.Parameters{}.Complete().With(Protocols(), d.Name, d.Max)
		if fields[d.Name] != d.Default || err != nil || d.Value(p) != d.Max {
			t.Errorf("%s: field %d, default %d, %v", d.Name, fields[d.Name], d.Default, err)
		}
		delete(fields, d.Name)
	}
	if len(fields) > 0 {
		t.Errorf("not in the list: %v", fields)
	}
}

func TestEvidence(t *testing.T) {
	t.Parallel()
	m := running(t)
	id := m.write(t, m.operators[0], Propose("", CloseChain("a1"))).Proposal()
	m.write(t, m.operators[3], Vote(id, true))
	m.accuse(3)
	m.accuse(3)
	m.block(t)
	o := m.operator(t, 3)
	if o.Suspended == nil || o.Suspended.Height != m.height || o.Suspended.City != "city-3" || !strings.Contains(o.Suspended.Reason, "signed two votes at height") || o.ValidatingCity != "" || len(m.validators) != 3 {
		t.Fatalf("operator: %+v, %d validators", o, len(m.validators))
	}
	if c := m.city(t, 3); c.Status != bsn.CityActive {
		t.Errorf("city: %+v", c)
	}
	m.accuse(3) // once more
	m.rest(t)
	m.refusedWrite(t, m.operators[3], "suspended", Vote(id, false))
	m.refusedWrite(t, m.cities[3], "suspended", Propose("", ReopenChain("a1")))
	// Three remain, and more than two thirds of them are all three: its own vote
	// does not count.
	m.write(t, m.operators[0], Vote(id, true))
	m.write(t, m.operators[1], Vote(id, true))
	if p := m.proposal(t, id); p.Status != bsn.ProposalOpen {
		t.Fatalf("two of three decide: %+v", p)
	}
	m.restart(t, m.export(t))
	m.write(t, m.operators[2], Vote(id, true))
	if p := m.proposal(t, id); p.Status != bsn.ProposalPassed || p.Voters != 3 || p.Cast["op-2"].Height != m.height {
		t.Fatalf("three of three do not: %+v", p)
	}
	fresh := bytes.Repeat([]byte{200}, 32)
	m.fails(t, "has or had", ReinstateOperator("op-3", "city-3", admission(3).ConsensusKey))
	m.fails(t, "has or had", ReinstateOperator("op-3", "city-3", admission(1).ConsensusKey))
	m.fails(t, "no active city", ReinstateOperator("op-3", "city-1", fresh))
	m.fails(t, "32 bytes", ReinstateOperator("op-3", "city-3", fresh[:31]))
	m.fails(t, "not suspended", ReinstateOperator("op-1", "city-1", fresh))
	m.pass(t, ReinstateOperator("op-3", "city-3", fresh))
	if o := m.operator(t, 3); o.Suspended != nil || o.ValidatingCity != "city-3" || len(m.validators) != 4 {
		t.Fatalf("operator: %+v, %d validators", o, len(m.validators))
	}
	if _, ok := m.validators[consensusAddress(fresh)]; !ok {
		t.Error("the new key has no power")
	}
	// Evidence against the old key is of the same operator, also after a restart.
	m.restart(t, m.export(t))
	m.accuse(3)
	m.block(t)
	if o := m.operator(t, 3); o.Suspended == nil || len(m.validators) != 3 {
		t.Fatalf("operator: %+v, %d validators", o, len(m.validators))
	}
}

func TestOldEvidence(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.accuse(2)
	m.evidence[0].Time = m.time.Add(-30 * 24 * time.Hour)
	m.evidence[0].Height -= 2_000_000
	m.block(t)
	if o := m.operator(t, 2); o.Suspended != nil {
		t.Errorf("operator: %+v", o)
	}
}

// TestVotersGo: an open proposal that those who remain have decided takes effect
// with the block that takes the others away.
func TestVotersGo(t *testing.T) {
	t.Parallel()
	m := settle(t, 6, bsn.Parameters{})
	passes := m.write(t, m.operators[0], Propose("", SetParameter("openProposals", 5))).Proposal()
	waits := m.write(t, m.operators[0], Propose("", SetParameter("openProposals", 6))).Proposal()
	ends := m.write(t, m.operators[0], Propose("", SetParameter("openProposals", 7))).Proposal()
	chained := m.write(t, m.operators[0], Propose("", EvictOperator("op-4"))).Proposal()
	for _, i := range []int{0, 1, 2, 5} { // of 6 it takes 5, of 5 without op-5 it takes 4, of 4 it takes 3
		m.write(t, m.operators[i], Vote(passes, true), Vote(chained, true))
	}
	for _, i := range []int{0, 1, 5} {
		m.write(t, m.operators[i], Vote(waits, true))
	}
	m.write(t, m.operators[4], Vote(waits, true))
	m.write(t, m.operators[3], Vote(ends, false))
	for _, id := range []uint64{passes, waits, ends, chained} {
		if p := m.proposal(t, id); p.Status != bsn.ProposalOpen {
			t.Fatalf("%+v", p)
		}
	}
	m.accuse(5) // 5 remain, with three votes for
	m.block(t)
	m.compare(t)
	for _, id := range []uint64{passes, waits, ends, chained} {
		if p := m.proposal(t, id); p.Status != bsn.ProposalOpen {
			t.Fatalf("after one went: %+v", p)
		}
	}
	m.accuse(4) // 4 remain, and 3 are enough
	m.block(t)
	for id, want := range map[uint64]bsn.ProposalStatus{
		passes: bsn.ProposalPassed, chained: bsn.ProposalPassed, waits: bsn.ProposalOpen, ends: bsn.ProposalOpen,
	} {
		if p := m.proposal(t, id); p.Status != want {
			t.Errorf("want %s: %+v", want, p)
		}
	}
	if p := m.proposal(t, passes); p.Voters != 4 || p.Height != m.height {
		t.Errorf("%+v", p)
	}
	m.accuse(0) // 3 remain, and all three are needed: one was against
	m.block(t)
	if p := m.proposal(t, ends); p.Status != bsn.ProposalRejected || p.Voters != 3 {
		t.Errorf("%+v", p)
	}
	m.rest(t)
	m.compare(t)
}

func TestAbsence(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.rest(t)
	pass := func(seconds int) { m.time = m.time.Add(time.Duration(seconds-1) * time.Second); m.block(t) }
	m.absent[m.consensus(1)] = true
	m.block(t)
	since := m.time.Unix()
	if o := m.operator(t, 1); o.Absence != nil {
		t.Fatalf("a block is no absence: %+v", o.Absence)
	}
	m.rest(t)
	pass(60)
	if o := m.operator(t, 1); o.Absence == nil || o.Absence.Since != since {
		t.Fatalf("after a minute: %+v", o.Absence)
	}
	m.rest(t)
	m.restart(t, m.export(t)) // whose first block all sign
	m.absent[m.consensus(1)] = true
	m.rest(t)
	pass(600)
	m.absent[m.consensus(1)] = false
	m.block(t)
	a := m.operator(t, 1).Absence
	if a == nil || a.Since != 0 || m.time.Unix()-since-a.Seconds > 1 || a.Blocks == 0 || a.Counted != since {
		t.Fatalf("back after %d s, since %d: %+v", m.time.Unix()-since, since, a)
	}
	m.rest(t)
	// A second absence adds up; one after the window begins a new count.
	m.absent[m.consensus(1)] = true
	pass(61)
	pass(61)
	m.absent[m.consensus(1)] = false
	pass(10)
	if b := m.operator(t, 1).Absence; b.Seconds != a.Seconds+71 || b.Blocks != a.Blocks+2 || b.Counted != since {
		t.Fatalf("twice: %+v after %+v", b, a)
	}
	pass(8 * 24 * 3600)
	m.absent[m.consensus(1)] = true
	pass(10)
	pass(61)
	if b := m.operator(t, 1).Absence; b.Seconds != 0 || b.Since == 0 || b.Counted != b.Since {
		t.Fatalf("after the window: %+v", b)
	}
	// Who loses its power is not absent.
	m.pass(t, EvictCity("city-1"))
	if b := m.operator(t, 1).Absence; b.Since != 0 {
		t.Fatalf("evicted: %+v", b)
	}
	m.rest(t)
}

// TestFlappingCity: one that signs every other block does not keep the ledger at work.
func TestFlappingCity(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.rest(t)
	changed := 0
	for i := range 600 { // ten minutes of blocks a second apart
		m.absent[m.consensus(2)] = i%2 == 0
		before := m.hash
		m.block(t)
		if !bytes.Equal(before, m.hash) {
			changed++
		}
	}
	if changed > 2*11 {
		t.Errorf("%d of 600 blocks changed the state", changed)
	}
	if o := m.operator(t, 2); o.Absence != nil {
		t.Errorf("absent: %+v", o.Absence)
	}
}

func TestLeave(t *testing.T) {
	t.Parallel()
	m := running(t)
	a := admission(3)
	a.City, a.CityKey, a.ConsensusKey, a.NodeKey = "second", seed("second").Public(), bytes.Repeat([]byte{99}, 32), bytes.Repeat([]byte{98}, 32)
	m.pass(t, AdmitCity(a))
	m.write(t, m.client(t, "second"), ActivateCity())
	m.refusedWrite(t, m.operators[0], `is of operator "op-3"`, LeaveCity("city-3", 0))
	m.refusedWrite(t, m.cities[0], `is of operator "op-3"`, LeaveCity("city-3", 0))
	m.refusedWrite(t, m.operators[3], "has to leave first", EndCity("city-3"))
	m.write(t, m.operators[3], LeaveCity("city-3", 10*time.Minute))
	c := m.city(t, 3)
	if c.Status != bsn.CityLeaving || c.Since != m.time.Unix() || c.Until != c.Since+600 {
		t.Errorf("city: %+v", c)
	}
	if o := m.operator(t, 3); o.ValidatingCity != "second" || len(m.validators) != 4 {
		t.Errorf("operator: %+v, %d validators", o, len(m.validators))
	}
	if m.chain(t, "a1").Member("city-3") {
		t.Error("it is still in the committee")
	}
	m.write(t, m.cities[3], LeaveCity("city-3", 0)) // once more changes nothing
	if again := m.city(t, 3); again.Until != c.Until {
		t.Errorf("city: %+v", again)
	}
	m.write(t, m.cities[3], UpdateCity("http://127.0.0.1:1", "", nil)) // it still speaks for itself
	m.write(t, m.cities[3], EndCity("city-3"))
	if c := m.city(t, 3); c.Status != bsn.CityLeft || c.Until != 0 {
		t.Errorf("city: %+v", c)
	}
	m.refusedWrite(t, m.cities[3], "has left", UpdateCity("http://127.0.0.1:2", "", nil))
	m.write(t, m.operators[3], LeaveCity("city-3", 0), EndCity("city-3"))
	m.restart(t, m.export(t))
	m.refusedWrite(t, m.client(t, "city3"), "has left", ActivateCity())
	// The operator's last city takes its power with it.
	m.write(t, m.operators[3], LeaveCity("second", 0))
	if o := m.operator(t, 3); o.ValidatingCity != "" || len(m.validators) != 3 {
		t.Errorf("operator: %+v, %d validators", o, len(m.validators))
	}
	m.rest(t)
}

// TestRightsFollowTheRecords: whatever is decided and done, in whatever order, the
// voters are those with power, all of them stay in the network, there is always
// one, no committee is empty, and what was decided was decided by enough.
func TestRightsFollowTheRecords(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := running(t)
		decided := map[string]bsn.Proposal{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				m.accuse(rapid.IntRange(0, 3).Draw(t, "accused"))
				m.block(t)
			case 1:
				i := rapid.IntRange(0, 3).Draw(t, "absent")
				m.absent[m.consensus(i)] = !m.absent[m.consensus(i)]
				m.time = m.time.Add(40 * time.Second)
				m.block(t)
			case 2, 3, 4:
				city := func() string { return fmt.Sprintf("city-%d", rapid.IntRange(0, 3).Draw(t, "city")) }
				o := m.operators[rapid.IntRange(0, 3).Draw(t, "proposer")]
				o.Write(context.Background(), Propose("", anyEffect(t, city, func() string { return "a1" })))
			case 5:
				i := rapid.IntRange(0, 3).Draw(t, "leaving")
				m.operators[i].Write(context.Background(), LeaveCity(fmt.Sprintf("city-%d", i), 0))
			default:
				id := uint64(rapid.IntRange(6, 12).Draw(t, "proposal"))
				for i, yes := range rapid.SliceOfN(rapid.Bool(), 4, 4).Draw(t, "votes") {
					m.operators[i].Write(context.Background(), Vote(id, yes))
				}
			}
			m.check(t, decided)
		}
		m.absent = map[string]bool{}
		m.time = m.time.Add(91 * 24 * time.Hour) // whatever is open expires
		m.rest(t)
		m.compare(t)
		before := m.records(t)
		validators := m.validators
		m.restart(t, m.export(t))
		if after := m.records(t); !maps.Equal(before, after) {
			t.Fatalf("records differ after a restart")
		}
		if !slices.Equal(slices.Sorted(maps.Keys(validators)), slices.Sorted(maps.Keys(m.validators))) {
			t.Fatalf("validators differ after a restart")
		}
		m.rest(t)
	})
}

// check fails unless the records go together.
func (m *machine) check(t tester, decided map[string]bsn.Proposal) {
	t.Helper()
	want := map[string]bool{}
	voters := map[string]bool{}
	for i := range m.operators {
		o := m.operator(t, i)
		if o.ValidatingCity == "" {
			continue
		}
		voters[o.Name] = true
		c := read[bsn.City](t, m, bsn.KindCity, o.ValidatingCity)
		want[consensusAddress(c.ConsensusKey)] = true
		if c.Status != bsn.CityActive || c.Operator != o.Name || o.Suspended != nil || o.Evicted > 0 {
			t.Fatalf("%+v has power through %+v", o, c)
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(m.validators))) {
		t.Fatalf("%d operators have a vote, %d have power", len(want), len(m.validators))
	}
	c := m.chain(t, "a1")
	if len(c.Committee) == 0 {
		t.Fatalf("nobody runs the chain")
	}
	for _, name := range c.Committee {
		s := read[bsn.City](t, m, bsn.KindCity, name).Status
		if s != bsn.CityActive && !(c.Status == bsn.ChainClosed && len(c.Committee) == 1) {
			t.Fatalf("a city that is %s runs the chain: %+v", s, c)
		}
	}
	page, err := m.app.tables[bsn.KindProposal].Page(m.context(t), "", maxPage)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, r := range page {
		var p bsn.Proposal
		if err := json.Unmarshal(r.Record, &p); err != nil {
			t.Fatalf("%v", err)
		}
		if p.Status != bsn.ProposalOpen {
			if old, known := decided[r.ID]; known && string(must2(json.Marshal(old))) != string(r.Record) {
				t.Fatalf("what was decided changed: %+v", p)
			}
			decided[r.ID] = p
			continue
		}
		yes, no := 0, 0
		for name, v := range p.Votes {
			if voters[name] && v {
				yes++
			} else if voters[name] {
				no++
			}
		}
		if 3*yes > 2*len(voters) || 3*(len(voters)-no) <= 2*len(voters) {
			t.Fatalf("%d of %d are for and %d against what is still open: %+v", yes, len(voters), no, p)
		}
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
