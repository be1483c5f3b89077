package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmttypes "github.com/cometbft/cometbft/types"
	dbm "github.com/cosmos/cosmos-db"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
)

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// machine is the application without CometBFT: blocks come when the test says so,
// at the time that it says.
type machine struct {
	app    *application
	height int64
	time   time.Time
	hash   []byte
	// known is what a follower of all blocks knows.
	known map[string]string
	// validators are what CometBFT would have, by the address of the key. The absent
	// of them sign no block; evidence is brought with the next.
	validators map[string]abci.Validator
	absent     map[string]bool
	evidence   []abci.Misbehavior
	operators  []*Client
	cities     []*Client
	portal     *Client
}

// seed makes the same key from the same text.
func seed(text string) key.Key {
	k, err := key.Parse(fmt.Sprintf("%064x", []byte("k"+text)))
	if err != nil {
		panic(err)
	}
	return k
}

// offered offers the key of a seed.
func offered(text string, kind bsn.Kind, name string) Offer {
	return NewOffer(seed(text), "test-net", kind, name)
}

func admission(i int) Admission {
	name := fmt.Sprint(i)
	return Admission{
		Operator: "op-" + name, OperatorKey: seed("op" + name).Public(), City: "city-" + name, CityKey: seed("city" + name).Public(),
		ConsensusKey: bytes.Repeat([]byte{byte(i + 1)}, 32), NodeKey: bytes.Repeat([]byte{byte(i + 101)}, 32),
	}
}

// begin starts an application from a genesis.
func begin(t tester, genesis []byte) *machine {
	t.Helper()
	doc, err := cmttypes.GenesisDocFromJSON(genesis)
	if err != nil {
		t.Fatalf("%v", err)
	}
	app, err := newApplication(dbm.NewMemDB(), doc.ChainID, rules{Protocols(), Protocols(), protocols})
	if err != nil {
		t.Fatalf("%v", err)
	}
	m := &machine{
		app: app, time: doc.GenesisTime, known: map[string]string{},
		validators: map[string]abci.Validator{}, absent: map[string]bool{},
	}
	params := doc.ConsensusParams.ToProto()
	res, err := app.InitChain(&abci.RequestInitChain{
		Time: doc.GenesisTime, ChainId: doc.ChainID, ConsensusParams: &params, InitialHeight: 1, AppStateBytes: doc.AppState,
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	if len(res.Validators) == 0 {
		t.Fatalf("genesis gives no validator")
	}
	if err := m.empower(res.Validators); err != nil {
		t.Fatalf("genesis: %v", err)
	}
	m.block(t)
	m.known = m.records(t)
	return m
}

// settle makes a network of n operators, with a portal and the accounts alice and bob.
func settle(t tester, n int, parameters bsn.Parameters) *machine {
	t.Helper()
	genesis, err := NewGenesis("test-net", 77, admission(0), parameters)
	if err != nil {
		t.Fatalf("%v", err)
	}
	m := begin(t, genesis)
	for i := range n {
		if i > 0 {
			m.pass(t, AdmitCity(admission(i)))
		}
		name := fmt.Sprint(i)
		m.operators = append(m.operators, m.client(t, "op"+name))
		m.cities = append(m.cities, m.client(t, "city"+name))
		if i > 0 {
			m.write(t, m.cities[i], ActivateCity())
		}
	}
	m.pass(t, RegisterPortal("demo", offered("portal", bsn.KindPortal, "demo"), ""))
	m.portal = m.client(t, "portal")
	m.write(t, m.portal, RegisterAccount("alice", offered("alice", bsn.KindAccount, "alice")), RegisterAccount("bob", offered("bob", bsn.KindAccount, "bob")))
	return m
}

// running makes a network of four operators with a running chain, a1. It is made
// once and copied.
func running(t tester) *machine {
	t.Helper()
	foundOnce.Do(func() {
		m := settle(t, 4, bsn.Parameters{})
		m.pass(t, OpenChain(bsn.Chain{
			Name: "a1", Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: 9, Deploy: bsn.DeployAccounts,
			Committee: []string{"city-0", "city-1", "city-2", "city-3"},
		}))
		for _, c := range m.cities {
			m.write(t, c, PostNode("a1", map[string]string{"node": "key"}))
		}
		for _, c := range m.cities {
			m.write(t, c, ProposeGenesis("a1", fmt.Sprintf("%064x", 1)))
		}
		foundMachine, foundGenesis = m, m.export(t)
	})
	m := *foundMachine
	m.restart(t, foundGenesis)
	m.portal = m.client(t, "portal")
	m.operators, m.cities = nil, nil
	for i := range 4 {
		m.operators = append(m.operators, m.client(t, fmt.Sprintf("op%d", i)))
		m.cities = append(m.cities, m.client(t, fmt.Sprintf("city%d", i)))
	}
	return &m
}

var (
	foundOnce    sync.Once
	foundMachine *machine
	foundGenesis []byte
)

// client writes with the key of a seed, at the machine's time.
func (m *machine) client(t tester, name string) *Client {
	c, err := NewClient(m, seed(name))
	if err != nil {
		t.Fatalf("%v", err)
	}
	c.now = func() time.Time { return m.time }
	return c
}

// Writer implements Conn.
func (m *machine) Writer(ctx context.Context, address string) (Signer, error) {
	n := Node{app: m.app, network: "test-net"}
	return n.Writer(ctx, address)
}

// Submit implements Conn: a block for each transaction.
func (m *machine) Submit(_ context.Context, tx []byte) (Result, error) {
	m.height++
	m.time = m.time.Add(time.Second)
	res, err := m.finalize(tx)
	if err != nil {
		return Result{}, err
	}
	if r := res.TxResults[0]; r.Code != 0 {
		return Result{}, refused(r.Log)
	}
	return Result{Height: m.height, Data: res.TxResults[0].Data}, nil
}

func (m *machine) finalize(txs ...[]byte) (*abci.ResponseFinalizeBlock, error) {
	var commit abci.CommitInfo
	for _, address := range slices.Sorted(maps.Keys(m.validators)) {
		flag := cmtproto.BlockIDFlagCommit
		if m.absent[address] {
			flag = cmtproto.BlockIDFlagAbsent
		}
		commit.Votes = append(commit.Votes, abci.VoteInfo{Validator: m.validators[address], BlockIdFlag: flag})
	}
	evidence := m.evidence
	m.evidence = nil
	res, err := m.app.FinalizeBlock(&abci.RequestFinalizeBlock{
		Height: m.height, Time: m.time, Txs: txs, DecidedLastCommit: commit, Misbehavior: evidence,
	})
	if err != nil {
		return nil, err
	}
	if err := m.empower(res.ValidatorUpdates); err != nil {
		return nil, err
	}
	if _, err := m.app.Commit(); err != nil {
		return nil, err
	}
	m.hash = res.AppHash
	for _, c := range left(res.TxResults, res.Events) {
		m.known[string(c.Kind)+" "+c.ID] = string(c.Record)
	}
	return res, nil
}

// empower does what CometBFT does with updates of its validators: those that it
// would stop at are errors here.
func (m *machine) empower(updates []abci.ValidatorUpdate) error {
	next := maps.Clone(m.validators)
	for _, u := range updates {
		address := consensusAddress(u.PubKey.GetEd25519())
		_, has := next[address]
		switch {
		case u.Power == 0 && !has:
			return fmt.Errorf("a validator is removed that there is not")
		case u.Power == 0:
			delete(next, address)
		case has:
			return fmt.Errorf("a validator is added twice")
		default:
			next[address] = abci.Validator{Address: []byte(address), Power: u.Power}
		}
	}
	if len(next) == 0 {
		return fmt.Errorf("no validator is left")
	}
	m.validators = next
	return nil
}

func consensusAddress(key []byte) string {
	sum := sha256.Sum256(key)
	return string(sum[:20])
}

// block runs a block of these transactions.
func (m *machine) block(t tester, txs ...[]byte) *abci.ResponseFinalizeBlock {
	t.Helper()
	m.height++
	m.time = m.time.Add(time.Second)
	res, err := m.finalize(txs...)
	if err != nil {
		t.Fatalf("block %d: %v", m.height, err)
	}
	return res
}

func (m *machine) write(t tester, c *Client, messages ...Message) Result {
	t.Helper()
	res, err := c.Write(context.Background(), messages...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return res
}

func (m *machine) proposal(t tester, id uint64) bsn.Proposal {
	t.Helper()
	return read[bsn.Proposal](t, m, bsn.KindProposal, fmt.Sprintf("%08d", id))
}

// pass proposes an effect and has every operator vote for it.
func (m *machine) pass(t tester, e Effect) {
	t.Helper()
	by := m.operators
	if len(by) == 0 {
		by = []*Client{m.client(t, "op0")}
	}
	id := m.write(t, by[0], Propose("", e)).Proposal()
	for _, o := range by {
		if m.proposal(t, id).Status == bsn.ProposalOpen {
			m.write(t, o, Vote(id, true))
		}
	}
	if p := m.proposal(t, id); p.Status != bsn.ProposalPassed {
		t.Fatalf("proposal is %s: %s", p.Status, p.Reason)
	}
}

func (m *machine) context(t tester) sdk.Context {
	t.Helper()
	ctx, err := m.app.committed()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ctx
}

// records reads all that the machine holds.
func (m *machine) records(t tester) map[string]string {
	t.Helper()
	out := map[string]string{}
	for kind, table := range m.app.tables {
		for after := ""; ; {
			page, err := table.Page(m.context(t), after, maxPage)
			if err != nil {
				t.Fatalf("%v", err)
			}
			if len(page) == 0 {
				break
			}
			for _, c := range page {
				out[string(kind)+" "+c.ID] = string(c.Record)
				after = c.ID
			}
		}
	}
	return out
}

// compare fails unless a follower knows just what the machine holds.
func (m *machine) compare(t tester) {
	t.Helper()
	if want := m.records(t); !maps.Equal(m.known, want) {
		for id := range want {
			if m.known[id] != want[id] {
				t.Errorf("a follower has %s as %q, the ledger %q", id, m.known[id], want[id])
			}
		}
		t.Fatalf("a follower knows %d records, the ledger has %d", len(m.known), len(want))
	}
}

func read[T any](t tester, m *machine, kind bsn.Kind, id string) (v T) {
	t.Helper()
	b, err := m.app.tables[kind].Read(m.context(t), id)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v", err)
	}
	return v
}

// anyEffect draws an effect that changes what other writes may do.
func anyEffect(t *rapid.T, city, chain func() string) Effect {
	operator := rapid.SampledFrom([]string{"op-0", "op-1", "op-3", "nobody"}).Draw(t, "operator")
	return rapid.SampledFrom([]Effect{
		EvictCity(city()), EvictOperator(operator),
		ReinstateOperator(operator, city(), bytes.Repeat([]byte{byte(rapid.IntRange(0, 9).Draw(t, "key"))}, 32)),
		CloseChain(chain()), ReopenChain(chain()), SetDeploy(chain(), bsn.DeployAnyone),
		SetParameter(rapid.SampledFrom([]string{"votingPeriod", "openProposals", "nothing"}).Draw(t, "parameter"), int64(rapid.IntRange(0, 100).Draw(t, "value"))),
	}).Draw(t, "effect")
}

// anyWrite draws a write that may or may not be allowed, and who signs it.
func anyWrite(t *rapid.T, m *machine) (*Client, Message) {
	name := func(label string) string {
		return rapid.SampledFrom([]string{"a1", "a1", "a1", "b2", "b2", "Bad!"}).Draw(t, label)
	}
	city := func() string {
		return rapid.SampledFrom([]string{"city-0", "city-0", "city-1", "atlantis"}).Draw(t, "city")
	}
	hash := func() string { return fmt.Sprintf("%064x", rapid.IntRange(0, 1).Draw(t, "hash")) }
	i := func(label string) int { return rapid.IntRange(0, len(m.operators)-1).Draw(t, label) }
	account := m.client(t, rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "account"))
	reason := rapid.StringN(0, 20, 600).Draw(t, "reason")
	chain := func() string { return rapid.SampledFrom([]string{"a1", "a1", "b2"}).Draw(t, "chain") }
	cities := func() []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"city-0", "city-1", "city-2", "city-3"}), 1, 4, rapid.ID).Draw(t, "cities")
	}
	kinds := []func() (*Client, Message){
		func() (*Client, Message) {
			return account, SetProject(bsn.Project{Name: name("project"), Limits: bsn.Limits{RequestsPerSecond: rapid.IntRange(0, 5).Draw(t, "rate")}})
		},
		func() (*Client, Message) { return account, RevokeProject(name("project")) },
		func() (*Client, Message) {
			return account, AddKey(name("project"), bsn.Key{City: city(), Hash: hash()})
		},
		func() (*Client, Message) {
			k := bsn.Key{City: city(), Hash: hash(), Limits: bsn.Limits{UnitsPerSecond: rapid.IntRange(0, 5).Draw(t, "units")}}
			k.Restrictions.Methods = rapid.SliceOfN(rapid.SampledFrom([]string{"eth_*", "*", "bad method"}), 0, 2).Draw(t, "methods")
			return account, SetKey(name("project"), k)
		},
		func() (*Client, Message) {
			return account, SetLimits(bsn.Project{Name: name("project"), Quota: bsn.Quota{Daily: rapid.Int64Range(-1, 5).Draw(t, "daily")}})
		},
		func() (*Client, Message) { return account, RevokeKey(name("project"), hash()[:12]) },
		func() (*Client, Message) {
			account := name("account")
			return m.portal, RegisterAccount(account, offered(name("key"), bsn.KindAccount, account))
		},
		func() (*Client, Message) {
			return m.operators[i("operator")], Propose(reason[:min(len(reason), 100)], OpenChain(bsn.Chain{
				Name: chain(), Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: uint64(rapid.IntRange(0, 2).Draw(t, "id")),
				Deploy: bsn.DeployAccounts, Committee: cities(),
			}))
		},
		func() (*Client, Message) {
			return m.operators[i("operator")], Propose("", SetCommittee(chain(), cities()))
		},
		func() (*Client, Message) {
			return m.operators[i("operator")], Propose("", anyEffect(t, city, chain))
		},
		func() (*Client, Message) {
			return m.operators[i("operator")], LeaveCity(city(), time.Duration(rapid.IntRange(0, 99).Draw(t, "notice"))*time.Second)
		},
		func() (*Client, Message) { return m.cities[i("city")], EndCity(city()) },
		func() (*Client, Message) {
			return m.operators[i("operator")], Vote(uint64(rapid.IntRange(5, 12).Draw(t, "proposal")), rapid.IntRange(0, 9).Draw(t, "yes") > 0)
		},
		func() (*Client, Message) {
			return m.cities[i("city")], PostNode(chain(), map[string]string{"node": "key", "other": "key", "third": "key"})
		},
		func() (*Client, Message) { return m.cities[i("city")], ProposeGenesis(chain(), hash()) },
		func() (*Client, Message) {
			return m.cities[i("city")], AnswerGenesis(chain(), hash(), bsn.Approval{Approved: rapid.Bool().Draw(t, "yes"), Reason: reason})
		},
		func() (*Client, Message) {
			return account, PublishApp(name("app"), bsn.Version{
				Artifact: hash(), Chain: chain(), Cities: cities(),
				Roles: map[string]bsn.Role{"one": {Accounts: []string{"alice"}}, "two": {Functions: []string{"f", "g"}}},
			})
		},
		func() (*Client, Message) {
			return account, SetContracts(name("app"), 1, []bsn.Contract{{Name: "C", Address: hash(), CodeHash: hash()}})
		},
		func() (*Client, Message) {
			return m.cities[i("city")], PlaceApp(rapid.SampledFrom([]string{"alice/", "bob/"}).Draw(t, "owner")+name("app"), 1,
				bsn.Placement{Status: rapid.SampledFrom([]bsn.PlacementStatus{bsn.PlacementAccepted, bsn.PlacementServing, bsn.PlacementRefused}).Draw(t, "status"), Reason: reason})
		},
		func() (*Client, Message) {
			return account, WithdrawApp(name("app"), rapid.IntRange(0, 2).Draw(t, "version"))
		},
		func() (*Client, Message) {
			return m.cities[i("city")], UpdateCity("http://127.0.0.1:"+fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "port")), "", nil)
		},
	}
	return rapid.SampledFrom(kinds).Draw(t, "write")()
}
