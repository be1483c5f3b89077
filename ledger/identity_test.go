package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	sdk "github.com/cosmos/cosmos-sdk/types"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/ledger/accountpb"
	"github.com/openbsn/bsn/gen/ledger/identitypb"
)

func (m *machine) account(t tester, name string) bsn.Account {
	t.Helper()
	return read[bsn.Account](t, m, bsn.KindAccount, name)
}

func (m *machine) act(t tester, id uint64) bsn.Act {
	t.Helper()
	return read[bsn.Act](t, m, bsn.KindAct, fmt.Sprintf("%08d", id))
}

// alices are keys for the account alice.
func alices(keys ...string) (out []Offer) {
	for _, k := range keys {
		out = append(out, offered(k, bsn.KindAccount, "alice"))
	}
	return out
}

// waits fails unless the write became an act, and returns its id.
func (m *machine) waits(t tester, missing int, c *Client, messages ...Message) uint64 {
	t.Helper()
	_, err := c.Write(context.Background(), messages...)
	var waiting *WaitingError
	if !errors.As(err, &waiting) || waiting.Missing != missing {
		t.Fatalf("got %v, want an act that waits for %d", err, missing)
	}
	return waiting.Act
}

func (m *machine) has(t tester, kind bsn.Kind, id string) bool {
	t.Helper()
	_, err := m.app.tables[kind].Read(m.context(t), id)
	if err != nil && !errors.Is(err, bsn.ErrNoRecord) {
		t.Fatalf("%v", err)
	}
	return err == nil
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	old := m.client(t, "alice")
	before := m.account(t, "alice")
	m.write(t, old, SetKeys(KeyChange{Set: alices("new"), Remove: []string{old.Address()}}))
	m.refuses(t, old, "not registered", SetProject(bsn.Project{Name: "web"}))
	renewed := m.client(t, "new")
	m.write(t, renewed, SetProject(bsn.Project{Name: "web"}))
	a := m.account(t, "alice")
	if a.Address != before.Address || len(a.Signers) != 1 || a.Signers[0].Address != renewed.Address() || a.Deploys(before.Signers[0].Ethereum) {
		t.Errorf("account: %+v", a)
	}
	// The old key may come back, to whoever has it.
	m.write(t, m.portal, RegisterAccount("carol", offered("alice", bsn.KindAccount, "carol")))
	m.write(t, m.client(t, "alice"), SetProject(bsn.Project{Name: "carols"}))
	m.refuses(t, renewed, "already belongs to account \"carol\"", SetKeys(KeyChange{Set: alices("alice")}))
	m.compare(t)
}

func TestKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	m := settle(t, 2, bsn.Parameters{})
	alice := m.client(t, "alice")
	stolen := offered("other", bsn.KindAccount, "bob") // a proof for another account
	other := NewOffer(seed("other"), "other-net", bsn.KindAccount, "alice")
	unproven := Offer{PublicKey: seed("other").Public()}
	for reason, c := range map[string]KeyChange{
		"0 keys":                         {Remove: []string{alice.Address()}},
		"2 of 1 keys":                    {Threshold: 2},
		"3 of 2 keys":                    {Set: alices("other"), Threshold: 3},
		"is no key of":                   {Set: alices("other"), Remove: []string{seed("bob").Address()}},
		"does not prove":                 {Set: []Offer{stolen}},
		"for account \"alice\": offer":   {Set: []Offer{other}},
		"prove that":                     {Set: []Offer{unproven}},
		"already belongs to operator":    {Set: alices("op0")},
		"already belongs to city":        {Set: alices("city0")},
		"already belongs to account":     {Set: alices("bob")},
		"named twice":                    {Set: alices("other", "other")},
		"compressed secp256k1":           {Set: []Offer{{PublicKey: []byte("short")}}},
		"17 keys: the most":              {Set: alices("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17")},
		"there would be 17 keys":         {Set: alices("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16")},
		"one line of at most":            {Set: []Offer{{PublicKey: seed("alice").Public(), Label: "two\nlines"}}},
		"can be removed":                 {Set: alices("alice"), Remove: []string{alice.Address()}},
		"is no key of account \"alice\"": {Set: alices("other"), Remove: []string{alice.Address(), alice.Address()}},
	} {
		m.refuses(t, alice, reason, SetKeys(c))
	}
	m.refuses(t, m.cities[0], "it takes the key of a", SetKeys(KeyChange{}))
	m.refuses(t, m.portal, "does not prove", RegisterAccount("carol", offered("other", bsn.KindAccount, "alice")))
	m.refuses(t, m.operators[0], "", Message{build: SetOperatorKeys("op-1", []Offer{offered("other", bsn.KindOperator, "op-1")}, 1).as})
	if a := m.account(t, "alice"); len(a.Signers) != 1 || a.Threshold != 1 {
		t.Errorf("account: %+v", a)
	}
	m.compare(t)
}

// twoOfThree gives alice three keys, of which two have to agree.
func twoOfThree(t tester, m *machine) (one, two, three *Client) {
	t.Helper()
	m.write(t, m.client(t, "alice"), SetKeys(KeyChange{Set: alices("alice2", "alice3"), Threshold: 2}))
	return m.client(t, "alice"), m.client(t, "alice2"), m.client(t, "alice3")
}

func TestSeveralKeysAgree(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	one, two, three := twoOfThree(t, m)
	_, k := bsn.NewKey("city-0")
	id := m.waits(t, 1, one, SetProject(bsn.Project{Name: "web"}), AddKey("web", k))
	if again := m.waits(t, 1, one, SetProject(bsn.Project{Name: "web"}), AddKey("web", k)); again != id {
		t.Errorf("the same act again is act %d, not %d", again, id)
	}
	m.waits(t, 1, one, ApproveAct(m.act(t, id)))
	if m.has(t, bsn.KindProject, "alice/web") {
		t.Fatal("one key of two was enough")
	}
	steps, err := ActSteps(m.act(t, id))
	if err != nil || len(steps) != 2 || steps[0].Name != "set-project" || !slices.Equal(steps, m.act(t, id).Steps) {
		t.Errorf("steps: %+v %v", steps, err)
	}
	other := m.act(t, id)
	other.Encoded = append(other.Encoded, 0)
	m.refuses(t, two, "is another one", ApproveAct(other))
	m.refuses(t, m.client(t, "bob"), "of account \"bob\"", ApproveAct(m.act(t, id)))
	open := m.act(t, id)
	m.write(t, two, ApproveAct(open))
	if a := m.act(t, id); a.Status != bsn.ActDone || a.Encoded != nil {
		t.Errorf("act: %+v", a)
	}
	if p := read[bsn.Project](t, m, bsn.KindProject, "alice/web"); len(p.Keys) != 1 {
		t.Errorf("project: %+v", p)
	}
	m.write(t, two, ApproveAct(open)) // the same again
	m.refuses(t, three, "is done", ApproveAct(open))
	// Who writes the same agrees with it, and gets its answer.
	m.waits(t, 1, three, SetProject(bsn.Project{Name: "app"}))
	m.write(t, two, SetProject(bsn.Project{Name: "app"}))
	// An act that the ledger refuses changes nothing and says why.
	failing := m.waits(t, 1, three, SetProject(bsn.Project{Name: "one-more"}), SetProject(bsn.Project{Name: "Bad!"}))
	m.refuses(t, two, "malformed name", SetProject(bsn.Project{Name: "one-more"}), SetProject(bsn.Project{Name: "Bad!"}))
	if a := m.act(t, failing); a.Status != bsn.ActFailed || m.has(t, bsn.KindProject, "alice/one-more") {
		t.Errorf("act: %+v", a)
	}
	m.compare(t)
}

func TestOneKeyOfSeveralHasNoRights(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	one, _, _ := twoOfThree(t, m)
	all := m.account(t, "alice").Address
	direct := func(build func(signer string) sdk.Msg) Message {
		return Message{single: true, build: func(s string) (sdk.Msg, error) { return build(s), nil }}
	}
	project := func(s string) sdk.Msg { return &accountpb.MsgSetProject{Account: s, Name: "web"} }
	act := func(messages ...sdk.Msg) Message {
		msgs, err := build([]Message{{build: func(string) (sdk.Msg, error) { return messages[0], nil }}}, one.Address(), all)
		if err != nil {
			t.Fatal(err)
		}
		return direct(func(string) sdk.Msg { return msgs[0] })
	}
	m.refuses(t, one, "propose an act", direct(project))
	m.refuses(t, one, "propose an act", direct(func(s string) sdk.Msg { return &identitypb.MsgSetKeys{Signer: s, Threshold: 1} }))
	m.refuses(t, one, "signer must be", act(project(one.Address())))
	m.refuses(t, one, "signer must be", act(project(m.account(t, "bob").Address)))
	m.refuses(t, one, "signer must be", act(SetOperatorKeys("op-0", nil, 1).msg))
	m.refuses(t, one, "", direct(func(string) sdk.Msg { return project(all) })) // signed by a key that is not its own
	m.refuses(t, one, "carries 0", direct(func(s string) sdk.Msg { return &identitypb.MsgAct{Key: s} }))
	// An act within an act is nobody's.
	id := m.waits(t, 1, one, direct(func(s string) sdk.Msg { return act(&identitypb.MsgCancelAct{Key: all, Id: 1}).must(t, s) }))
	m.refuses(t, m.client(t, "alice2"), "it takes one key", ApproveAct(m.act(t, id)))
	m.compare(t)
}

func (m Message) must(t *testing.T, signer string) sdk.Msg {
	t.Helper()
	msg, err := m.build(signer)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestActsOfRemovedKeys(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	one, two, three := twoOfThree(t, m)
	web := SetProject(bsn.Project{Name: "web"})
	lonely := m.waits(t, 1, one, web)
	remove := SetKeys(KeyChange{Remove: []string{one.Address()}})
	m.waits(t, 1, two, remove)
	m.write(t, three, remove)
	if a := m.act(t, lonely); a.Status != bsn.ActCancelled || len(a.Approvals) != 0 {
		t.Errorf("act of a removed key: %+v", a)
	}
	m.refuses(t, one, "not registered", web)
	// What the removed key said does not count when it comes back.
	m.waits(t, 1, two, SetKeys(KeyChange{Set: alices("alice")}))
	m.write(t, three, SetKeys(KeyChange{Set: alices("alice")}))
	if again := m.waits(t, 1, two, web); again == lonely {
		t.Error("a cancelled act goes on")
	}
	m.refuses(t, three, "only its proposer can cancel", CancelAct(lonely+3))
	m.write(t, two, CancelAct(lonely+3))
	m.write(t, two, CancelAct(lonely+3))
	m.refuses(t, three, "is cancelled", ApproveAct(m.act(t, lonely+3)))
	// One key cannot fill what the others need.
	for i := range 8 {
		m.waits(t, 1, one, SetProject(bsn.Project{Name: fmt.Sprintf("many-%d", i)}))
	}
	m.refuses(t, one, "has proposed 8 acts", SetProject(bsn.Project{Name: "many-8"}))
	m.waits(t, 1, two, remove)
	m.write(t, three, remove)
	// Acts run out.
	last := m.waits(t, 1, two, web)
	m.time = m.time.Add(8 * 24 * time.Hour)
	m.block(t)
	if a := m.act(t, last); a.Status != bsn.ActExpired {
		t.Errorf("after eight days: %+v", a)
	}
	m.compare(t)
}

func TestOneKeyDoesNotSilenceTheOthers(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{AccountWrites: 20})
	one, two, three := twoOfThree(t, m)
	var err error
	for i := 0; err == nil || !errors.Is(err, ErrRefused) || i < 8; i++ {
		_, err = one.Write(context.Background(), SetProject(bsn.Project{Name: fmt.Sprintf("many-%d", i)}))
		if i > 100 {
			t.Fatal("no end of it")
		}
	}
	for range 30 {
		one.Write(context.Background(), CancelAct(999))
	}
	m.refuses(t, one, "allowance used up", CancelAct(999))
	remove := SetKeys(KeyChange{Remove: []string{one.Address()}})
	m.waits(t, 1, two, remove)
	m.write(t, three, remove)
}

func TestOperatorsWithSeveralKeys(t *testing.T) {
	t.Parallel()
	m := settle(t, 2, bsn.Parameters{})
	op := func(keys ...string) (out []Offer) {
		for _, k := range keys {
			out = append(out, offered(k, bsn.KindOperator, "op-1"))
		}
		return out
	}
	m.write(t, m.operators[1], SetKeys(KeyChange{Set: op("second", "third"), Threshold: 2}))
	second := m.client(t, "second")
	again := m.client(t, "op1")
	portal := Propose("a portal", RegisterPortal("shop", offered("shop", bsn.KindPortal, "shop"), ""))
	m.waits(t, 1, again, portal)
	id := m.write(t, second, portal).Proposal()
	if id == 0 {
		t.Fatal("an act's answer is lost")
	}
	m.write(t, m.operators[0], Vote(id, true))
	m.waits(t, 1, second, Vote(id, true))
	if p := m.proposal(t, id); p.Status != bsn.ProposalOpen {
		t.Fatalf("one of two keys voted: %+v", p)
	}
	m.write(t, m.client(t, "third"), Vote(id, true))
	if p := m.proposal(t, id); p.Status != bsn.ProposalPassed {
		t.Errorf("proposal: %+v", p)
	}
	// All keys are lost: the operators vote for new ones.
	m.operators[1] = second
	lost := m.write(t, m.operators[0], Propose("", SetOperatorKeys("op-0", []Offer{offered("found", bsn.KindOperator, "op-0")}, 1))).Proposal()
	m.write(t, m.operators[0], Vote(lost, true))
	m.waits(t, 1, second, Vote(lost, true))
	m.write(t, m.client(t, "third"), Vote(lost, true))
	if p := m.proposal(t, lost); p.Status != bsn.ProposalPassed {
		t.Fatalf("proposal: %+v", p)
	}
	m.refuses(t, m.operators[0], "not registered", portal)
	m.write(t, m.client(t, "found"), Propose("", RegisterPortal("later", offered("later", bsn.KindPortal, "later"), "")))
	m.compare(t)
}

const delay = 3600

func TestGuardiansRecover(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	m.write(t, m.portal, RegisterAccount("carol", offered("carol", bsn.KindAccount, "carol")))
	alice, bob, carol := m.client(t, "alice"), m.client(t, "bob"), m.client(t, "carol")
	m.refuses(t, bob, "has named no guardians", Recover("alice", alices("new"), 1))
	m.refuses(t, m.portal, "has named no guardians", Recover("alice", alices("new"), 1))
	for reason, g := range map[string]bsn.Guard{
		"own guardian":   {Guardians: []string{"alice"}, Threshold: 1, Delay: delay},
		"no such record": {Guardians: []string{"nobody"}, Threshold: 1, Delay: delay},
		"named twice":    {Guardians: []string{"bob", "bob"}, Threshold: 1, Delay: delay},
		"of 2 guardians": {Guardians: []string{"bob", "carol"}, Threshold: 3, Delay: delay},
		"of 1 guardians": {Portal: true, Delay: delay},
		"a delay of 0":   {Guardians: []string{"bob"}, Threshold: 1},
	} {
		m.refuses(t, alice, reason, SetGuard(g))
	}
	m.write(t, alice, SetGuard(bsn.Guard{Guardians: []string{"carol", "bob"}, Threshold: 2, Delay: delay}))
	m.refuses(t, m.portal, "has not made its portal a guardian", Recover("alice", alices("new"), 1))
	m.refuses(t, m.client(t, "alice"), "is no guardian", Recover("alice", alices("new"), 1))
	m.refuses(t, bob, "does not prove", Recover("alice", []Offer{offered("new", bsn.KindAccount, "bob")}, 1))
	m.refuses(t, bob, "already belongs", Recover("alice", alices("carol"), 1))

	m.write(t, bob, Recover("alice", alices("new"), 1))
	m.write(t, carol, Recover("alice", alices("thief"), 1)) // another set does not count
	if a := m.account(t, "alice"); len(a.Recoveries) != 2 || a.Recoveries[0].Effective != 0 {
		t.Fatalf("account: %+v", a)
	}
	m.write(t, carol, Recover("alice", alices("new"), 1))
	a := m.account(t, "alice")
	if len(a.Recoveries) != 1 || a.Recoveries[0].Effective != m.time.Unix()+delay {
		t.Fatalf("account: %+v, now %d", a, m.time.Unix())
	}
	// A present key cancels it.
	m.write(t, alice, CancelRecovery())
	m.time = m.time.Add(2 * delay * time.Second)
	m.block(t)
	m.write(t, alice, SetProject(bsn.Project{Name: "still-here"}))
	// Taken back by a guardian, it is not announced any more.
	m.write(t, bob, Recover("alice", alices("new"), 1))
	m.write(t, carol, Recover("alice", alices("new"), 1))
	m.write(t, carol, Recover("alice", nil, 0))
	m.time = m.time.Add(2 * delay * time.Second)
	m.block(t)
	m.write(t, alice, SetProject(bsn.Project{Name: "here"}))
	m.write(t, carol, Recover("alice", alices("new"), 1))
	// It goes on after a restart, and takes effect by itself, not before.
	m.restart(t, m.export(t))
	m.time = m.time.Add((delay - 10) * time.Second)
	m.block(t)
	alice = m.client(t, "alice")
	m.write(t, alice, SetProject(bsn.Project{Name: "last-words"}))
	m.time = m.time.Add(10 * time.Second)
	m.block(t)
	m.refuses(t, alice, "not registered", SetProject(bsn.Project{Name: "too-late"}))
	m.write(t, m.client(t, "new"), SetProject(bsn.Project{Name: "recovered"}))
	if a := m.account(t, "alice"); len(a.Recoveries) != 0 || a.Guard == nil {
		t.Errorf("account: %+v", a)
	}
	m.compare(t)
}

func TestPortalRecoversOnlyWhoSaidSo(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{})
	alice := m.client(t, "alice")
	m.write(t, alice, SetGuard(bsn.Guard{Portal: true, Threshold: 1, Delay: delay}))
	m.refuses(t, m.portal, "has named no guardians", Recover("bob", []Offer{offered("new", bsn.KindAccount, "bob")}, 1))
	m.write(t, m.portal, Recover("alice", alices("new"), 1))
	// The key that was named becomes somebody else's: nothing changes, and it is said.
	m.write(t, m.portal, RegisterAccount("dora", offered("new", bsn.KindAccount, "dora")))
	m.time = m.time.Add(delay * time.Second)
	m.block(t)
	if a := m.account(t, "alice"); len(a.Recoveries) != 1 || a.Recoveries[0].Reason == "" || a.Recoveries[0].Effective != 0 {
		t.Fatalf("account: %+v", a)
	}
	m.write(t, alice, SetProject(bsn.Project{Name: "web"}))
	m.write(t, m.portal, Recover("alice", alices("newer"), 1))
	m.time = m.time.Add(delay * time.Second)
	m.block(t)
	m.write(t, m.client(t, "newer"), SetProject(bsn.Project{Name: "web"}), SetGuard(bsn.Guard{}))
	m.refuses(t, m.portal, "has named no guardians", Recover("alice", alices("again"), 1))
	m.compare(t)
}

// TestIdentityHolds: whatever is written in whatever order, alice's account has
// keys that can write, only they can, and a removed key can do nothing.
func TestIdentityHolds(t *testing.T) {
	t.Parallel()
	genesis := settle(t, 1, bsn.Parameters{AccountWrites: 100_000}).export(t)
	names := []string{"alice", "k1", "k2", "k3"}
	rapid.Check(t, func(t *rapid.T) {
		m := begin(t, genesis)
		m.portal = m.client(t, "portal")
		m.write(t, m.client(t, "alice"), SetGuard(bsn.Guard{Guardians: []string{"bob"}, Portal: true, Threshold: 1, Delay: 60}))
		if rapid.Bool().Draw(t, "several") {
			m.write(t, m.client(t, "alice"), SetKeys(KeyChange{Set: alices("k1", "k2"), Threshold: 2}))
		}
		for range rapid.IntRange(1, 40).Draw(t, "writes") {
			before := m.account(t, "alice")
			by := rapid.SampledFrom([]string{"alice", "k1", "k2", "k3", "bob", "portal"}).Draw(t, "by")
			some := func() []string {
				return rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 4, rapid.ID).Draw(t, "keys")
			}
			var message Message
			threshold := rapid.IntRange(0, 3).Draw(t, "threshold")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				c := KeyChange{Set: alices(some()...), Threshold: threshold}
				for _, k := range before.Signers { // mostly such as can be removed
					set := slices.ContainsFunc(c.Set, func(o Offer) bool { return bytes.Equal(o.PublicKey, k.PublicKey) })
					if remove := rapid.IntRange(0, 9).Draw(t, "remove"); remove == 0 || remove < 4 && !set {
						c.Remove = append(c.Remove, k.Address)
					}
				}
				message = SetKeys(c)
			case 2:
				message = SetProject(bsn.Project{Name: "web", Limits: bsn.Limits{RequestsPerSecond: rapid.IntRange(1, 1000).Draw(t, "rate")}})
			case 3:
				message = ApproveAct(m.anAct(t))
			case 4:
				message = Recover("alice", alices(some()...), threshold)
			case 5:
				message = rapid.SampledFrom([]Message{CancelRecovery(), CancelAct(m.anAct(t).ID)}).Draw(t, "cancel")
			}
			if rapid.IntRange(0, 3).Draw(t, "direct") == 0 {
				message.single = true // as if it did not take several keys
			}
			m.time = m.time.Add(time.Duration(rapid.SampledFrom([]int{0, 5, 60}).Draw(t, "pause")) * time.Second)
			m.block(t)
			now := m.account(t, "alice") // a recovery may have taken effect
			_, present := now.Signer(seed(by).Address())
			done := m.done(t)
			tx, err := m.client(t, by).Sign(context.Background(), message)
			if err == nil {
				_, err = m.Submit(context.Background(), tx)
			}
			after := m.account(t, "alice")
			guardian := by == "bob" || by == "portal"
			if !present && !guardian && err == nil {
				t.Fatalf("%s is no key and wrote", by)
			}
			changed := !bytes.Equal(text(t, now.Identity), text(t, after.Identity))
			if changed && (!present || now.Threshold > 1 && m.done(t) != done+1) {
				t.Fatalf("%s changed the keys from %+v to %+v", by, now.Identity, after.Identity)
			}
			if m.done(t) > done && !slices.ContainsFunc(m.acts(t), func(a bsn.Act) bool {
				return a.Status == bsn.ActDone && len(a.Approvals) >= now.Threshold && slices.Contains(a.Approvals, seed(by).Address()) &&
					!slices.ContainsFunc(a.Approvals, func(k string) bool { _, has := now.Signer(k); return !has })
			}) {
				t.Fatalf("an act took effect without %d keys of %+v: %+v", now.Threshold, now.Identity, m.acts(t))
			}
			if after.Address != before.Address || len(after.Signers) < after.Threshold || after.Threshold < 1 {
				t.Fatalf("nobody can write for %+v", after)
			}
			for _, k := range names {
				w, err := m.app.writers.Lookup(m.context(t), seed(k).Address())
				if _, has := after.Signer(seed(k).Address()); has != (err == nil) || has && (w.Threshold != after.Threshold || w.Name != "alice") {
					t.Fatalf("key %s of %+v: %+v %v", k, after, w, err)
				}
			}
			m.compare(t)
		}
		// Enough of the keys can always do something, after a restart too.
		records := m.records(t)
		m.restart(t, m.export(t))
		if again := m.records(t); !maps.Equal(records, again) {
			t.Fatalf("records differ:\n%v\n%v", records, again)
		}
		a := m.account(t, "alice")
		left := a.Threshold
		for _, k := range names {
			if _, has := a.Signer(seed(k).Address()); has && left > 0 {
				left--
				_, err := m.client(t, k).Write(context.Background(), SetProject(bsn.Project{Name: "last"}))
				var waiting *WaitingError
				if err != nil && !(errors.As(err, &waiting) && waiting.Missing == left) {
					t.Fatalf("%d keys are left to agree: %v", left, err)
				}
			}
		}
		if !m.has(t, bsn.KindProject, "alice/last") {
			t.Fatalf("%+v could not write", a)
		}
	})
}

func text(t tester, v any) []byte {
	t.Helper()
	return fmt.Appendf(nil, "%+v", v)
}

// anAct draws one of the acts.
func (m *machine) anAct(t *rapid.T) bsn.Act {
	id := rapid.Uint64Range(1, 12).Draw(t, "act")
	if !m.has(t, bsn.KindAct, fmt.Sprintf("%08d", id)) {
		return bsn.Act{ID: id}
	}
	return m.act(t, id)
}

// done counts the acts that took effect; each was agreed on by the keys that it took.
func (m *machine) done(t *rapid.T) (n int) {
	for _, a := range m.acts(t) {
		if a.Status == bsn.ActDone {
			n++
		}
	}
	return n
}

func (m *machine) acts(t *rapid.T) (out []bsn.Act) {
	for id := uint64(1); m.has(t, bsn.KindAct, fmt.Sprintf("%08d", id)); id++ {
		out = append(out, m.act(t, id))
	}
	return out
}
