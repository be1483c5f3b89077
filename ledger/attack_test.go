package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	clienttx "github.com/cosmos/cosmos-sdk/client/tx"
	sdk "github.com/cosmos/cosmos-sdk/types"
	txtypes "github.com/cosmos/cosmos-sdk/types/tx"
	"github.com/cosmos/cosmos-sdk/types/tx/signing"
	authsigning "github.com/cosmos/cosmos-sdk/x/auth/signing"
	authtx "github.com/cosmos/cosmos-sdk/x/auth/tx"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/ledger/accountpb"
	"github.com/openbsn/bsn/gen/ledger/governpb"
)

func (m *machine) refuses(t tester, c *Client, reason string, messages ...Message) {
	t.Helper()
	before := m.records(t)
	_, err := c.Write(context.Background(), messages...)
	if err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("got %v, want a refusal with %q", err, reason)
	}
	if after := m.records(t); len(after) != len(before) {
		t.Errorf("a refused transaction left a record")
	}
}

func TestAdmissionsThatLie(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	fails := func(reason string, change func(*Admission)) {
		t.Helper()
		a := admission(5)
		change(&a)
		id := m.write(t, m.cities[0], Propose("", AdmitCity(a))).Proposal()
		m.write(t, m.operators[0], Vote(id, true))
		if p := m.proposal(t, id); p.Status != bsn.ProposalFailed || !strings.Contains(p.Reason, reason) {
			t.Errorf("%+v, want failed with %q", p, reason)
		}
	}
	fails("has another key", func(a *Admission) { a.Operator = "op-0" }) // another's name with one's own key
	fails("already belongs to operator", func(a *Admission) { a.OperatorKey = seed("op0").Public() })
	fails("already belongs to city", func(a *Admission) { a.CityKey = seed("city0").Public() })
	fails("already belongs to operator", func(a *Admission) { a.CityKey = a.OperatorKey })
	fails("already", func(a *Admission) { a.City = "city-0" })
	fails("consensus key", func(a *Admission) { a.ConsensusKey = admission(0).ConsensusKey })
	fails("has this node key", func(a *Admission) { a.NodeKey = admission(0).NodeKey })
	fails("node key must be", func(a *Admission) { a.NodeKey = a.NodeKey[1:] })
	fails("node key must be", func(a *Admission) { a.NodeKey = nil })
	fails("compressed secp256k1", func(a *Admission) { a.CityKey = append([]byte{2}, make([]byte, 32)...) }) // not on the curve
	fails("malformed name", func(a *Admission) { a.City = "../city" })
	for _, bad := range []string{"ftp://host", "http://", "http://host/path", "http://user@host", "http://host?q", "http://ho\x1bst", "host:1", "http://h:99999", "http://" + strings.Repeat("h", 300)} {
		fails("addresses of API and gateway", func(a *Admission) { a.API = bad })
		fails("addresses of API and gateway", func(a *Admission) { a.Gateway = bad })
	}
	fails("the most is 4", func(a *Admission) { a.Link = slices.Repeat([]string{"paris.example.org:7800"}, 5) })
	for _, bad := range []string{"", "host", "host:", ":1", "host:0", "a,b:1", "id@host:1", "host:port"} {
		fails("host:port", func(a *Admission) { a.Link = []string{"paris.example.org:7800", bad} })
	}
	// A second city of an operator takes the operator's key.
	a := admission(6)
	a.Operator, a.OperatorKey, a.API, a.Link = "op-0", seed("op0").Public(), "https://paris.example.org:7700", []string{"[::1]:7800"}
	m.pass(t, AdmitCity(a))
}

func TestFloodOfProposals(t *testing.T) {
	t.Parallel()
	m := running(t)
	portal := func(i int) Message {
		name := fmt.Sprintf("portal-%d", i)
		return Propose("", RegisterPortal(name, offered(name, bsn.KindPortal, name), ""))
	}
	for i := range 20 {
		m.write(t, []*Client{m.cities[1], m.operators[1]}[i%2], portal(i))
	}
	m.refuses(t, m.cities[1], "has 20 open proposals", portal(20))
	m.refuses(t, m.operators[1], "has 20 open proposals", portal(20))
	same := m.write(t, m.operators[1], portal(3)) // which is open
	m.write(t, m.operators[2], portal(20))
	for _, o := range m.operators[:2] {
		m.write(t, o, Vote(same.Proposal(), false))
	}
	m.write(t, m.operators[1], portal(21))
	// What runs out is nobody's vote to decide any more.
	m.time = m.time.Add(8*24*time.Hour - time.Second)
	m.refuses(t, m.operators[0], "is expired", Vote(same.Proposal()+1, true))
	m.compare(t)
	m.write(t, m.operators[1], portal(22))
}

// TestLargeRecordsUseUpTheAllowance: a record is bounded, and who makes others
// store large ones pays with more than a write.
func TestLargeRecordsUseUpTheAllowance(t *testing.T) {
	t.Parallel()
	m := running(t)
	alice := m.client(t, "alice")
	var functions []string
	for i := range 128 {
		functions = append(functions, fmt.Sprintf("%0128d", i))
	}
	publish := func(i int) Message {
		return PublishApp("big", bsn.Version{
			Artifact: fmt.Sprintf("%064x", i), Chain: "a1", Cities: []string{"city-0"},
			Roles: map[string]bsn.Role{"one": {Functions: functions}, "two": {Functions: functions}},
		})
	}
	versions := 0
	var err error
	for ; versions < 100 && err == nil; versions++ {
		_, err = alice.Write(context.Background(), publish(versions))
	}
	if err == nil || !strings.Contains(err.Error(), "would have") {
		t.Fatalf("after %d versions of 34 kB: %v", versions, err)
	}
	if size := len(read[map[string]any](t, m, bsn.KindApp, "alice/big")); size == 0 {
		t.Fatal("no record")
	}
	// Small messages that rewrite it all.
	writes := 0
	for err = nil; err == nil && writes < 1000; writes++ {
		_, err = m.cities[0].Write(context.Background(), PlaceApp("alice/big", 1, bsn.Placement{Status: bsn.PlacementRefused, Reason: fmt.Sprint(writes)}))
		if writes == 50 {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for writes = 0; err == nil && writes < 1000; writes++ {
		_, err = alice.Write(context.Background(), SetContracts("big", 1, []bsn.Contract{{Name: "C", Address: fmt.Sprint(writes)}}))
	}
	if err == nil || !strings.Contains(err.Error(), "allowance used up") || writes > 100 {
		t.Errorf("after %d rewrites of a large record: %v", writes, err)
	}
	// One transaction with many of them is more than one transaction may do.
	var many []Message
	for i := range 100 {
		many = append(many, PlaceApp("alice/big", 1, bsn.Placement{Status: bsn.PlacementRefused, Reason: fmt.Sprint(i)}))
	}
	m.refuses(t, m.cities[0], "out of gas", many...)
	m.compare(t)
}

func TestLargeTransactionsUseUpTheAllowance(t *testing.T) {
	m := settle(t, 1, bsn.Parameters{AccountWrites: 20})
	alice := m.client(t, "alice")
	tx, err := alice.Sign(context.Background(), PublishApp(strings.Repeat("x", 100<<10), bsn.Version{}))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := m.checkTx(tx); err != nil || code == 0 {
		t.Errorf("100 kB of 20 times 4 kB: code %d, %v", code, err)
	}
	var many []Message
	for range 201 {
		many = append(many, ActivateCity())
	}
	m.refuses(t, m.cities[0], "the most is 200", many...)
}

// raw signs messages with whatever an attacker sets.
func raw(t *testing.T, m *machine, signers []string, network string, change func(*rawTx)) []byte {
	t.Helper()
	r := rawTx{mode: signing.SignMode_SIGN_MODE_DIRECT, expires: m.time.Add(time.Minute), unordered: true}
	for _, s := range signers {
		r.messages = append(r.messages, &accountpb.MsgSetProject{Account: seed(s).Address(), Name: "raw"})
	}
	if change != nil {
		change(&r)
	}
	b := m.app.coder.tx.NewTxBuilder()
	if err := b.SetMsgs(r.messages...); err != nil {
		t.Fatal(err)
	}
	b.SetMemo(r.memo)
	b.SetUnordered(r.unordered)
	b.SetTimeoutTimestamp(r.expires)
	if r.payer != nil {
		b.SetFeePayer(r.payer)
	}
	sigs := make([]signing.SignatureV2, len(signers))
	for i, s := range signers {
		sigs[i] = signing.SignatureV2{PubKey: seed(s).Secp256k1().PubKey(), Data: &signing.SingleSignatureData{SignMode: r.mode}, Sequence: r.sequence}
	}
	if err := b.SetSignatures(sigs...); err != nil {
		t.Fatal(err)
	}
	for i, s := range signers {
		w, err := m.Writer(context.Background(), seed(s).Address())
		if err != nil {
			t.Fatal(err)
		}
		k := seed(s).Secp256k1()
		sig, err := clienttx.SignWithPrivKey(context.Background(), r.mode, authsigning.SignerData{
			ChainID: network, AccountNumber: w.Number, PubKey: k.PubKey(), Address: seed(s).Address(), Sequence: r.sequence,
		}, b, k, authtx.NewTxConfig(m.app.codec, authtx.DefaultSignModes), r.sequence)
		if err != nil {
			t.Fatal(err)
		}
		sigs[i] = sig
	}
	if err := b.SetSignatures(sigs...); err != nil {
		t.Fatal(err)
	}
	tx, err := m.app.coder.tx.TxEncoder()(b.GetTx())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

type rawTx struct {
	messages  []sdk.Msg
	mode      signing.SignMode
	memo      string
	unordered bool
	expires   time.Time
	sequence  uint64
	payer     sdk.AccAddress
}

func TestForgedTransactions(t *testing.T) {
	t.Parallel()
	m := settle(t, 2, bsn.Parameters{})
	alice := []string{"alice"}
	for name, c := range map[string]struct {
		signers []string
		network string
		change  func(*rawTx)
		reason  string
	}{
		"several signers": {signers: []string{"alice", "bob"}, reason: "2 signers"},
		"two of one": {signers: alice, reason: "wrong number of signers", change: func(r *rawTx) {
			r.messages = append(r.messages, &accountpb.MsgSetProject{Account: seed("bob").Address(), Name: "raw"})
		}},
		"another pays": {signers: alice, reason: "wrong number of signers", change: func(r *rawTx) { r.payer = sdk.MustAccAddressFromBech32(seed("bob").Address()) }},
		"another's record": {signers: alice, reason: "does not match signer address", change: func(r *rawTx) {
			r.messages = []sdk.Msg{&accountpb.MsgSetProject{Account: seed("bob").Address(), Name: "raw"}}
		}},
		"no address":         {signers: alice, reason: "", change: func(r *rawTx) { r.messages = []sdk.Msg{&accountpb.MsgSetProject{Account: "bsn1", Name: "raw"}} }},
		"of another network": {signers: alice, network: "other-net", reason: "signature verification failed"},
		"amino":              {signers: alice, reason: "", change: func(r *rawTx) { r.mode = signing.SignMode_SIGN_MODE_LEGACY_AMINO_JSON }},
		"a memo":             {signers: alice, reason: "memo", change: func(r *rawTx) { r.memo = "x" }},
		"valid for too long": {signers: alice, reason: "ttl exceeds", change: func(r *rawTx) { r.expires = m.time.Add(maxTimeout + time.Hour) }},
		"run out":            {signers: alice, reason: "tx timeout", change: func(r *rawTx) { r.expires = m.time.Add(-time.Minute) }},
		"an old sequence":    {signers: alice, reason: "sequence", change: func(r *rawTx) { r.unordered, r.sequence, r.expires = false, 7, time.Time{} }},
		"a vote's effect": {signers: alice, reason: "", change: func(r *rawTx) {
			r.messages = []sdk.Msg{RegisterPortal("mine", offered("mine", bsn.KindPortal, "mine"), "").msg}
		}},
		"invalid UTF-8": {signers: alice, reason: "", change: func(r *rawTx) {
			r.messages = []sdk.Msg{&accountpb.MsgSetProject{Account: seed("alice").Address(), Name: "raw\xff"}}
		}},
		"a proposal to vote": {signers: []string{"op0"}, reason: "", change: func(r *rawTx) {
			r.messages = []sdk.Msg{proposal(t, &governpb.MsgVote{Operator: seed("op1").Address(), Id: 1, Yes: true})}
		}},
		"a proposal of write": {signers: []string{"op0"}, reason: "", change: func(r *rawTx) {
			r.messages = []sdk.Msg{proposal(t, &accountpb.MsgRevokeProject{Account: seed("bob").Address(), Name: "web"})}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			network := c.network
			if network == "" {
				network = "test-net"
			}
			tx := raw(t, m, c.signers, network, c.change)
			before := m.records(t)
			check, err := m.checkTx(tx)
			if err != nil {
				t.Fatal(err)
			}
			res := m.block(t, tx).TxResults[0]
			if res.Code == 0 || !strings.Contains(res.Log, c.reason) {
				t.Errorf("code %d in the pool and %d in a block: %s, want a refusal with %q", check, res.Code, res.Log, c.reason)
			}
			if strings.Contains(res.Log, "recovered") {
				t.Errorf("it panicked: %s", res.Log)
			}
			if after := m.records(t); !maps.Equal(before, after) {
				t.Error("it changed records")
			}
		})
	}
	// What lacks a part is refused like all else.
	var whole txtypes.TxRaw
	if err := whole.Unmarshal(raw(t, m, alice, "test-net", nil)); err != nil {
		t.Fatal(err)
	}
	var auth txtypes.AuthInfo
	if err := auth.Unmarshal(whole.AuthInfoBytes); err != nil {
		t.Fatal(err)
	}
	auth.Fee = nil
	without, err := auth.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []txtypes.TxRaw{
		{BodyBytes: whole.BodyBytes, AuthInfoBytes: without, Signatures: whole.Signatures},
		{BodyBytes: whole.BodyBytes, Signatures: whole.Signatures},
		{AuthInfoBytes: whole.AuthInfoBytes, Signatures: whole.Signatures},
		{BodyBytes: whole.BodyBytes, AuthInfoBytes: whole.AuthInfoBytes},
		{},
	} {
		tx, err := part.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if res := m.block(t, tx).TxResults[0]; res.Code == 0 || strings.Contains(res.Log, "recovered") {
			t.Errorf("%x: %s", tx, res.Log)
		}
	}
	// The same made right is taken, once.
	tx := raw(t, m, alice, "test-net", nil)
	if res := m.block(t, tx, tx); res.TxResults[0].Code != 0 || res.TxResults[1].Code == 0 {
		t.Errorf("taken %v, again %v", res.TxResults[0].Log, res.TxResults[1].Log)
	}
	if res := m.block(t, tx).TxResults[0]; !strings.Contains(res.Log, "already used") {
		t.Errorf("in a later block: %s", res.Log)
	}
	// A network that is founded again under the same name is another network.
	again := settle(t, 2, bsn.Parameters{})
	if res := again.block(t, raw(t, m, alice, "test-net", nil)).TxResults[0]; !strings.Contains(res.Log, "signature verification failed") {
		t.Errorf("on a new network of the same name: %d %s", res.Code, res.Log)
	}
}

// proposal packs an effect as it is.
func proposal(t *testing.T, effect sdk.Msg) sdk.Msg {
	t.Helper()
	m, err := Propose("", Effect{effect}).build(seed("op0").Address())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestWritesAreAllOrNothing: the second of three messages fails.
func TestWritesAreAllOrNothing(t *testing.T) {
	m := settle(t, 1, bsn.Parameters{})
	alice := m.client(t, "alice")
	m.refuses(t, alice, "malformed name", SetProject(bsn.Project{Name: "one"}), SetProject(bsn.Project{Name: "Two!"}), SetProject(bsn.Project{Name: "three"}))
	m.compare(t)
	m.write(t, alice, SetProject(bsn.Project{Name: "one"}))
}

func TestKeysOfAProject(t *testing.T) {
	m := settle(t, 2, bsn.Parameters{})
	alice := m.client(t, "alice")
	_, k := bsn.NewKey("city-0")
	m.write(t, alice, SetProject(bsn.Project{Name: "web"}), AddKey("web", k), AddKey("web", k))
	elsewhere := k
	elsewhere.City = "city-1"
	m.refuses(t, alice, "make another", AddKey("web", elsewhere))
	m.write(t, alice, RevokeKey("web", k.ID), RevokeKey("web", k.ID))
	m.refuses(t, alice, "make another", AddKey("web", k))
	m.refuses(t, alice, "another project has this key", SetProject(bsn.Project{Name: "app"}), AddKey("app", k))
	if p := read[bsn.Project](t, m, bsn.KindProject, "alice/web"); len(p.Keys) != 1 || !p.Keys[0].Revoked {
		t.Errorf("project: %+v", p)
	}
}

func TestRefusedGenesisIsReplacedByAnotherMember(t *testing.T) {
	m := running(t)
	m.pass(t, OpenChain(bsn.Chain{
		Name: "c3", Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: 11, Deploy: bsn.DeployAccounts,
		Committee: []string{"city-0", "city-1", "city-2", "city-3"},
	}))
	for _, c := range m.cities {
		m.write(t, c, PostNode("c3", map[string]string{"node": "key"}))
	}
	bad, good := strings.Repeat("0b", 32), strings.Repeat("0a", 32)
	m.write(t, m.cities[3], ProposeGenesis("c3", bad))
	m.write(t, m.cities[0], AnswerGenesis("c3", bad, bsn.Approval{Reason: "differs"}))
	m.refuses(t, m.cities[1], "approve or refuse it", ProposeGenesis("c3", good))
	m.write(t, m.cities[1], AnswerGenesis("c3", bad, bsn.Approval{Reason: strings.Repeat("é", 500)}))
	m.refuses(t, m.cities[3], "another city to propose", ProposeGenesis("c3", strings.Repeat("0c", 32)))
	m.write(t, m.cities[1], ProposeGenesis("c3", good))
	m.refuses(t, m.cities[0], "is not the proposed one", AnswerGenesis("c3", bad, bsn.Approval{Approved: true}))
	for _, c := range m.cities[:3] {
		m.write(t, c, AnswerGenesis("c3", good, bsn.Approval{Approved: true}))
	}
	if c := read[bsn.Chain](t, m, bsn.KindChain, "c3"); c.Status != bsn.ChainRunning || c.Genesis != good || c.Proposer != "city-1" {
		t.Errorf("chain: %+v", c)
	}
}

// TestNobodyFillsTheBlocks: of one writer a block takes a part, whoever else writes
// gets in, and the next block takes more.
func TestNobodyFillsTheBlocks(t *testing.T) {
	m := begin(t, settle(t, 1, bsn.Parameters{AccountWrites: 100_000}).export(t))
	alice, bob := m.client(t, "alice"), m.client(t, "bob")
	large := make([]Message, 150)
	for i := range large {
		large[i] = SetProject(bsn.Project{Name: "web", Deployers: []string{"0x" + strings.Repeat("ab", 20)}})
	}
	flood := func() (taken int, err error) {
		for ; taken < 1000; taken++ {
			tx, err := alice.Sign(t.Context(), large...)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := m.app.CheckTx(&abci.RequestCheckTx{Tx: tx, Type: abci.CheckTxType_New}); err != nil || r.Code != 0 {
				if err == nil {
					err = refused(r.Log)
				}
				return taken, err
			}
		}
		return taken, nil
	}
	first, err := flood()
	refuse(t, err, "may write 600 times and 262144 bytes in a block; again in the next")
	if first == 0 {
		t.Fatal("nothing is taken")
	}
	tx, err := bob.Sign(t.Context(), SetProject(bsn.Project{Name: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := m.app.CheckTx(&abci.RequestCheckTx{Tx: tx, Type: abci.CheckTxType_New}); err != nil || r.Code != 0 {
		t.Errorf("another writer is held up: %v %v", r, err)
	}
	if _, err := bob.Write(t.Context(), SetProject(bsn.Project{Name: "web"})); err != nil { // a block
		t.Fatal(err)
	}
	if again, err := flood(); again != first {
		t.Errorf("%d in the next block, %d in the first (%v)", again, first, err)
	}
}
