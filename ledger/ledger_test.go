package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
)

// network is a ledger of real nodes in this process.
type network struct {
	t         *testing.T
	ctx       context.Context
	homes     []string
	peers     []string
	nodes     []*Node
	operators []*Client
	cities    []*Client
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// found starts a network of n operators with a city each, named op-N and city-N:
// the first by genesis, the others by proposal, vote and activation.
func found(t *testing.T, n int, parameters bsn.Parameters) *network {
	t.Helper()
	return foundWith(t, n, parameters, History{})
}

func foundWith(t *testing.T, n int, parameters bsn.Parameters, history History, edits ...func(genesis []byte) []byte) *network {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &network{t: t, ctx: ctx}
	var genesis []byte
	for i := range n {
		home, addr := t.TempDir(), freePort(t)
		op, city := key.New(), key.New()
		id := must[Identity](t)(InitNode(home))
		adm := Admission{
			Operator: fmt.Sprintf("op-%d", i), OperatorKey: op.Public(), City: fmt.Sprintf("city-%d", i), CityKey: city.Public(),
			ConsensusKey: id.ConsensusKey, NodeKey: id.NodeKey,
		}
		if i == 0 {
			genesis = must[[]byte](t)(NewGenesis("test-net", 77, adm, parameters))
			for _, edit := range edits {
				genesis = edit(genesis)
			}
		} else {
			res := must[Result](t)(w.cities[0].Write(ctx, Propose("admit", AdmitCity(adm))))
			for _, o := range w.operators {
				if w.proposal(res.Proposal()).Status == bsn.ProposalOpen {
					must[Result](t)(o.Write(ctx, Vote(res.Proposal(), true)))
				}
			}
			if p := w.proposal(res.Proposal()); p.Status != bsn.ProposalPassed {
				t.Fatalf("admission is %s: %s", p.Status, p.Reason)
			}
		}
		if err := WriteGenesis(home, genesis); err != nil {
			t.Fatal(err)
		}
		node := must[*Node](t)(Start(NodeConfig{Home: home, Listen: addr, Peers: w.peers, History: history, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond}))
		t.Cleanup(func() { node.Stop() })
		if err := node.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		w.homes = append(w.homes, home)
		w.peers = append(w.peers, bsn.NodeID(id.NodeKey)+"@"+addr)
		w.nodes = append(w.nodes, node)
		w.operators = append(w.operators, must[*Client](t)(NewClient(w.nodes[0], op)))
		w.cities = append(w.cities, must[*Client](t)(NewClient(w.nodes[0], city)))
		if i > 0 {
			must[Result](t)(w.cities[i].Write(ctx, ActivateCity()))
		}
	}
	return w
}

func (w *network) proposal(id uint64) bsn.Proposal {
	w.t.Helper()
	return get[bsn.Proposal](w.t, w.nodes[0], bsn.KindProposal, fmt.Sprintf("%08d", id))
}

// pass proposes an effect and has every operator vote for it.
func (w *network) pass(e Effect) bsn.Proposal {
	w.t.Helper()
	res := must[Result](w.t)(w.operators[0].Write(w.ctx, Propose("", e)))
	for _, o := range w.operators {
		if w.proposal(res.Proposal()).Status == bsn.ProposalOpen {
			must[Result](w.t)(o.Write(w.ctx, Vote(res.Proposal(), true)))
		}
	}
	return w.proposal(res.Proposal())
}

// account registers a portal, if there is none, and an account at it.
func (w *network) account(name string) (*Client, key.Key) {
	w.t.Helper()
	portal := must[key.Key](w.t)(key.Parse(strings.Repeat("07", 32)))
	if _, err := w.nodes[0].Get(w.ctx, bsn.KindPortal, "demo"); errors.Is(err, bsn.ErrNoRecord) {
		if p := w.pass(RegisterPortal("demo", NewOffer(portal, "test-net", bsn.KindPortal, "demo"), "")); p.Status != bsn.ProposalPassed {
			w.t.Fatalf("portal: %s %s", p.Status, p.Reason)
		}
	}
	k := key.New()
	must[Result](w.t)(must[*Client](w.t)(NewClient(w.nodes[0], portal)).Write(w.ctx, RegisterAccount(name, NewOffer(k, "test-net", bsn.KindAccount, name))))
	return must[*Client](w.t)(NewClient(w.nodes[0], k)), k
}

func get[T any](t *testing.T, l bsn.Ledger, kind bsn.Kind, id string) (v T) {
	t.Helper()
	b := must[json.RawMessage](t)(l.Get(context.Background(), kind, id))
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// refuse fails the test unless the ledger refuses with this reason.
func refuse(t *testing.T, err error, reason string) {
	t.Helper()
	if !errors.Is(err, ErrRefused) && !errors.Is(err, ErrStranger) || !strings.Contains(fmt.Sprint(err), reason) {
		t.Errorf("got %v, want a refusal with %q", err, reason)
	}
}

func TestFourOperatorsHaveEqualPower(t *testing.T) {
	t.Parallel()
	w := found(t, 4, bsn.Parameters{})
	if s := must[Status](t)(w.nodes[3].Status(w.ctx)); s.Validators != 4 && s.Height > 0 {
		// Power follows two blocks after activation; the next write brings them.
		must[Result](t)(w.cities[0].Write(w.ctx, UpdateCity("", "", nil)))
		must[Result](t)(w.cities[0].Write(w.ctx, UpdateCity("", "", nil)))
	}
	s := must[Status](t)(w.nodes[0].Status(w.ctx))
	if s.Validators != 4 {
		t.Errorf("%d validators, want 4", s.Validators)
	}
	// Every node holds the same.
	for _, kind := range bsn.Kinds {
		want, _, err := w.nodes[0].List(w.ctx, kind, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range w.nodes[1:] {
			for got, _, _ := n.List(w.ctx, kind, "", 0); !reflect.DeepEqual(got, want); got, _, _ = n.List(w.ctx, kind, "", 0) {
				if w.ctx.Err() != nil {
					t.Fatalf("node %d has %v, the first %v", i+1, got, want)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	c := get[bsn.City](t, w.nodes[0], bsn.KindCity, "city-3")
	if c.Index != 4 || c.Status != bsn.CityActive || c.API != "http://127.77.4.1:7700" {
		t.Errorf("city: %+v", c)
	}
}

func TestStrangersReplaysAndMalformedAreRefused(t *testing.T) {
	t.Parallel()
	w := found(t, 1, bsn.Parameters{})
	stranger := must[*Client](t)(NewClient(w.nodes[0], key.New()))
	_, err := stranger.Write(w.ctx, SetProject(bsn.Project{Name: "web"}))
	refuse(t, err, "not registered")

	alice, _ := w.account("alice")
	must[Result](t)(alice.Write(w.ctx, SetProject(bsn.Project{Name: "web"})))
	tx := must[[]byte](t)(alice.Sign(w.ctx, SetProject(bsn.Project{Name: "replayed"})))
	must[Result](t)(w.nodes[0].Submit(w.ctx, tx))
	if _, err := w.nodes[0].Submit(w.ctx, append(tx, 0)); !errors.Is(err, ErrRefused) {
		t.Errorf("altered transaction: %v", err)
	}
	_, err = w.nodes[0].Submit(w.ctx, []byte("not a transaction"))
	refuse(t, err, "")
	_, err = w.nodes[0].Submit(w.ctx, make([]byte, maxTxBytes+1))
	refuse(t, err, "the most is")

	// What is not theirs: effects without a vote, others' projects, cities' answers.
	_, err = alice.Write(w.ctx, Message{build: AdmitCity(Admission{Operator: "mallory"}).as})
	refuse(t, err, "")
	_, err = alice.Write(w.ctx, PlaceApp("alice/x", 1, bsn.Placement{Status: bsn.PlacementServing}))
	refuse(t, err, "it takes the key of a city")
	bob, _ := w.account("bob")
	_, err = bob.Write(w.ctx, RevokeProject("web"))
	refuse(t, err, "no such record")
	_, err = bob.Write(w.ctx, SetProject(bsn.Project{Name: "Web!"}))
	refuse(t, err, "malformed name")
	_, err = bob.Write(w.ctx, RegisterAccount("carol", Offer{PublicKey: key.New().Public()}))
	refuse(t, err, "it takes the key of a portal")
}

// as signs an effect by oneself, which only an attacker would.
func (e Effect) as(string) (m sdkMsg, err error) { return e.msg, nil }

func TestReplayIsRefused(t *testing.T) {
	t.Parallel()
	w := found(t, 1, bsn.Parameters{})
	alice, _ := w.account("alice")
	tx := must[[]byte](t)(alice.Sign(w.ctx, SetProject(bsn.Project{Name: "web"})))
	must[Result](t)(w.nodes[0].Submit(w.ctx, tx))
	res := must[*checkTx](t)(w.nodes[0].check(w.ctx, tx))
	if res.Code == 0 {
		t.Error("the same transaction passed a second time")
	}
}

func TestAllowance(t *testing.T) {
	t.Parallel()
	w := found(t, 1, bsn.Parameters{AccountWrites: 3})
	alice, _ := w.account("alice")
	for i := range 3 {
		must[Result](t)(alice.Write(w.ctx, SetProject(bsn.Project{Name: fmt.Sprintf("web-%d", i)})))
	}
	_, err := alice.Write(w.ctx, SetProject(bsn.Project{Name: "one-more"}))
	refuse(t, err, "may write 3 times an hour")
	bob, _ := w.account("bob")
	must[Result](t)(bob.Write(w.ctx, SetProject(bsn.Project{Name: "web"})))
}

func TestProjectsAndKeys(t *testing.T) {
	t.Parallel()
	w := found(t, 1, bsn.Parameters{})
	alice, _ := w.account("alice")
	_, k := bsn.NewKey("city-0")
	must[Result](t)(alice.Write(w.ctx, SetProject(bsn.Project{Name: "web", Limits: bsn.Limits{RequestsPerSecond: 5}}), AddKey("web", k)))
	must[Result](t)(alice.Write(w.ctx, AddKey("web", k))) // asked twice: once
	p := get[bsn.Project](t, w.nodes[0], bsn.KindProject, "alice/web")
	if len(p.Keys) != 1 || p.Keys[0].Hash != k.Hash || p.Limits.RequestsPerSecond != 5 {
		t.Fatalf("project: %+v", p)
	}
	bob, _ := w.account("bob")
	_, err := bob.Write(w.ctx, SetProject(bsn.Project{Name: "web"}), AddKey("web", k))
	refuse(t, err, "another project has this key")
	_, elsewhere := bsn.NewKey("atlantis")
	_, err = alice.Write(w.ctx, AddKey("web", elsewhere))
	refuse(t, err, "no such record")
	must[Result](t)(alice.Write(w.ctx, RevokeKey("web", k.ID)))
	must[Result](t)(alice.Write(w.ctx, RevokeProject("web")))
	if p := get[bsn.Project](t, w.nodes[0], bsn.KindProject, "alice/web"); !p.Revoked || !p.Keys[0].Revoked {
		t.Errorf("after revocation: %+v", p)
	}
	_, another := bsn.NewKey("city-0")
	_, err = alice.Write(w.ctx, AddKey("web", another))
	refuse(t, err, "is revoked")
}

// TestFollowHasNoGap writes from many goroutines while followers come and go.
func TestFollowHasNoGap(t *testing.T) {
	t.Parallel()
	w := found(t, 1, bsn.Parameters{})
	alice, _ := w.account("alice")
	_, from, err := w.nodes[0].List(w.ctx, bsn.KindProject, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	const writes = 40
	var wg sync.WaitGroup
	for i := range writes {
		wg.Go(func() {
			if _, err := alice.Write(w.ctx, SetProject(bsn.Project{Name: fmt.Sprintf("web-%d", i)})); err != nil {
				t.Error(err)
			}
		})
	}
	seen := map[string]bool{}
	next := from + 1
	for len(seen) < writes {
		blocks := 0
		for b, err := range w.nodes[0].Follow(w.ctx, next) {
			if err != nil {
				t.Fatal(err)
			}
			if b.Height != next {
				t.Fatalf("block %d after %d", b.Height, next-1)
			}
			next++
			for _, c := range b.Changes {
				if c.Kind == bsn.KindProject {
					seen[c.ID] = true
				}
			}
			if blocks++; blocks == 2 || len(seen) == writes {
				break // and resume
			}
		}
		if w.ctx.Err() != nil {
			t.Fatalf("saw %d of %d writes", len(seen), writes)
		}
	}
	wg.Wait()
}
