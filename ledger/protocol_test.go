package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/cosmos/cosmos-sdk/types"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/ledger/writer"
)

// second is the second version with one more store, in which its migration counts.
var second = []protocol{{}, {
	stores: append([]string{"bsn-test"}, protocols[1].stores...),
	migrate: func(ctx sdk.Context, a *application) error {
		s := ctx.KVStore(a.stores["bsn-test"])
		s.Set([]byte("ran"), append(s.Get([]byte("ran")), 1))
		return protocols[1].migrate(ctx, a)
	},
}}

// atFirst makes a genesis one of protocol version 1.
func atFirst(genesis []byte) []byte {
	return regexp.MustCompile(`("bsn-upgrade":\s*\{\s*"version":\s*)\d+`).ReplaceAll(genesis, []byte("${1}1"))
}

// held is a network whose nodes can be restarted.
type held struct {
	*network
	holders []*Holder
}

// holdAll restarts the nodes of a network in holders, which know these versions.
func holdAll(t *testing.T, w *network, known ...[]protocol) held {
	t.Helper()
	for _, n := range w.nodes {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	// A busy machine takes its time for so many starts.
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	w.ctx = ctx
	out := held{network: w}
	for i, home := range w.homes {
		var others []string
		for j, p := range w.peers {
			if j != i {
				others = append(others, p)
			}
		}
		_, addr, _ := strings.Cut(w.peers[i], "@")
		h := must[*Holder](t)(Hold(NodeConfig{
			Home: home, Listen: addr, Peers: others, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond, protocols: known[i],
		}))
		t.Cleanup(func() {
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
		})
		out.holders = append(out.holders, h)
	}
	for _, h := range out.holders {
		if err := h.Ready(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i := range w.operators {
		w.operators[i] = must[*Client](t)(NewClient(out.holders[0], w.operators[i].key))
		w.cities[i] = must[*Client](t)(NewClient(out.holders[0], w.cities[i].key))
	}
	return out
}

// pass proposes an effect and has every operator vote for it.
func (w held) pass(e Effect) bsn.Proposal {
	w.t.Helper()
	res := must[Result](w.t)(w.operators[0].Write(w.ctx, Propose("", e)))
	id := fmt.Sprintf("%08d", res.Proposal())
	for _, o := range w.operators {
		if get[bsn.Proposal](w.t, w.holders[0], bsn.KindProposal, id).Status == bsn.ProposalOpen {
			must[Result](w.t)(o.Write(w.ctx, Vote(res.Proposal(), true)))
		}
	}
	return get[bsn.Proposal](w.t, w.holders[0], bsn.KindProposal, id)
}

func (w held) height(i int) int64 { return must[Status](w.t)(w.holders[i].Status(w.ctx)).Height }

func protocolOf(t *testing.T, l bsn.Ledger) bsn.Protocol {
	t.Helper()
	return get[bsn.Protocol](t, l, bsn.KindProtocol, bsn.ProtocolID)
}

// waitFor asks until it is so.
func waitFor(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		if ctx.Err() != nil || t.Failed() {
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// migrated reads what the migration left.
func migrated(t *testing.T, h *Holder) []byte {
	t.Helper()
	return must[[]byte](t)(use(t.Context(), h, restartWait, func(_ context.Context, n *Node, _ bool) ([]byte, error) {
		ctx, err := n.app.committed()
		if err != nil {
			return nil, err
		}
		return ctx.KVStore(n.app.stores["bsn-test"]).Get([]byte("ran")), nil
	}))
}

// Three of four cities support the version that is voted for. Writes go on over the
// upgrade; the fourth city stands still, can be read from, and goes on by itself
// once it has a newer binary. A city that comes later catches up over the upgrade.
func TestUpgradeAtAHeight(t *testing.T) {
	if os.Getenv("BSN_LONG") == "" {
		t.Skip("a network of several nodes, too slow beside all other tests: BSN_LONG=1 runs it")
	}
	if testing.Short() {
		t.Skip("a network of five")
	}
	t.Parallel()
	old := protocols[:1]
	w := holdAll(t, foundWith(t, 4, bsn.Parameters{}, History{}, atFirst), second, second, second, old)
	before := get[bsn.City](t, w.holders[0], bsn.KindCity, "city-2")

	at := w.height(0) + 25
	if p := w.pass(Upgrade(bsn.Upgrade{Version: 2, Height: at, Name: "the second", URL: "https://example.org"})); p.Status != bsn.ProposalPassed {
		t.Fatalf("proposal is %s: %s", p.Status, p.Reason)
	}
	ctx, stop := context.WithCancel(w.ctx)
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	var writes atomic.Int64
	for i := range 2 {
		c := must[*Client](t)(NewClient(w.holders[i], w.cities[i].key))
		writing.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Write(w.ctx, update(int(writes.Add(1)))); err != nil && !slow(err) {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	for i := range 3 {
		waitFor(t, w.ctx, "the upgrade", func() bool {
			return w.height(i) > at+2 && protocolOf(t, w.holders[i]).Version == 2
		})
		if ran := migrated(t, w.holders[i]); !bytes.Equal(ran, []byte{1}) {
			t.Errorf("city %d: the migration left %v", i, ran)
		}
	}
	p := protocolOf(t, w.holders[0])
	if p.Next != nil || len(p.Upgrades) != 1 || p.Upgrades[0].Height != at || p.At(at-1) != 1 || p.At(at) != 2 {
		t.Errorf("protocol: %+v", p)
	}

	waitFor(t, w.ctx, "the city that cannot", func() bool { return must[Status](t)(w.holders[3].Status(w.ctx)).Error != "" })
	s := must[Status](t)(w.holders[3].Status(w.ctx))
	if s.Height != at-1 || !s.Halted || s.Protocol != 1 || s.Supported != 1 || !strings.Contains(s.Error, "version 2") || !strings.Contains(s.Error, "the second") {
		t.Errorf("the city that cannot: %+v", s)
	}
	if c := get[bsn.City](t, w.holders[3], bsn.KindCity, "city-2"); c.Name != before.Name {
		t.Errorf("read from it: %+v", c)
	}
	stranded := must[*Client](t)(NewClient(w.holders[3], w.cities[3].key))
	if _, err := stranded.Write(w.ctx, update(1)); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a write through it: %v", err)
	}
	// The daemon restarts with the old binary, then with the new one.
	if err := w.holders[3].Restart(nil); err != nil {
		t.Fatal(err)
	}
	if s := must[Status](t)(w.holders[3].Status(w.ctx)); s.Height != at-1 || s.Error == "" {
		t.Errorf("restarted, the city that cannot: %+v", s)
	}
	if err := w.holders[3].Restart(func(c *NodeConfig) { c.protocols = second }); err != nil {
		t.Fatal(err)
	}
	waitFor(t, w.ctx, "the upgraded city", func() bool {
		s := must[Status](t)(w.holders[3].Status(w.ctx))
		return s.Error == "" && s.Height > at && s.Protocol == 2
	})
	must[Result](t)(stranded.Write(w.ctx, update(2)))

	// A fifth city begins at the first block, under the first version.
	late := t.TempDir()
	id := must[Identity](t)(InitNode(late))
	if p := w.pass(AdmitCity(Admission{
		Operator: "op-late", OperatorKey: key.New().Public(), City: "city-late", CityKey: key.New().Public(),
		ConsensusKey: id.ConsensusKey, NodeKey: id.NodeKey,
	})); p.Status != bsn.ProposalPassed {
		t.Fatalf("admission is %s: %s", p.Status, p.Reason)
	}
	if err := WriteGenesis(late, must[[]byte](t)(os.ReadFile(GenesisFile(w.homes[0])))); err != nil {
		t.Fatal(err)
	}
	h := must[*Holder](t)(Hold(NodeConfig{Home: late, Listen: freePort(t), Peers: w.peers, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond, protocols: second}))
	defer h.Stop()
	waitFor(t, w.ctx, "the late city", func() bool {
		s := must[Status](t)(h.Status(w.ctx))
		return !s.Restarting && s.Height > at && s.Protocol == 2
	})
	stop()
	writing.Wait()

	// The old binary does not even read a state of the second version.
	err := w.holders[3].Restart(func(c *NodeConfig) { c.protocols = old })
	if v := new(VersionError); !errors.As(err, &v) || v.Needed != 2 || v.Supported != 1 {
		t.Errorf("the old binary after the upgrade: %v", err)
	}
	if err := w.holders[3].Restart(func(c *NodeConfig) { c.protocols = second }); err != nil {
		t.Error(err)
	}
}

// Under version 2 what was written is counted as before, and forgotten after an hour.
func TestSecondVersionForgetsUse(t *testing.T) {
	t.Parallel()
	w := holdAll(t, foundWith(t, 1, bsn.Parameters{}, History{}, atFirst), protocols)
	counts := func(store string) (n int) {
		return must[int](t)(use(t.Context(), w.holders[0], restartWait, func(_ context.Context, node *Node, _ bool) (n int, err error) {
			ctx, err := node.app.committed()
			if err != nil || node.app.stores[store] == nil {
				return 0, err
			}
			from, to := []byte{2}, []byte{3}
			if store == writer.UseKey {
				from, to = []byte{1}, []byte{2}
			}
			it := ctx.KVStore(node.app.stores[store]).Iterator(from, to)
			defer it.Close()
			for ; it.Valid(); it.Next() {
				n++
			}
			return n, nil
		}))
	}
	must[Result](t)(w.operators[0].Write(w.ctx, Propose("", SetParameter("accountWrites", 10))))
	must[Result](t)(w.cities[0].Write(w.ctx, update(1)))
	before := counts(writer.StoreKey)
	if before < 2 || counts(writer.UseKey) != 0 {
		t.Fatalf("%d counts under version 1, and %d in the other store", before, counts(writer.UseKey))
	}
	at := w.height(0) + 25
	if p := w.pass(Upgrade(bsn.Upgrade{Version: 2, Height: at})); p.Status != bsn.ProposalPassed {
		t.Fatalf("proposal is %s: %s", p.Status, p.Reason)
	}
	for i := 1; protocolOf(t, w.holders[0]).Version < 2 && i < 200; i++ {
		must[Result](t)(w.cities[0].Write(w.ctx, update(i)))
	}
	if p := protocolOf(t, w.holders[0]); p.Version != 2 || p.Upgrades[0].Height != at {
		t.Fatalf("protocol: %+v", p)
	}
	if old, now := counts(writer.StoreKey), counts(writer.UseKey); old != 0 || now != before {
		t.Errorf("%d counts before, %d left, %d moved", before, old, now)
	}
	must[Result](t)(w.cities[0].Write(w.ctx, update(1)))
	if err := w.holders[0].Restart(nil); err != nil {
		t.Fatal(err)
	}
	must[Result](t)(w.cities[0].Write(w.ctx, update(2)))
	if now := counts(writer.UseKey); now != before {
		t.Errorf("%d counts, then %d", before, now)
	}
}

func TestUpgradesAreDecidedAheadOfTime(t *testing.T) {
	t.Parallel()
	w := foundWith(t, 1, bsn.Parameters{}, History{}, atFirst)
	now := func() int64 { return must[Status](t)(w.nodes[0].Status(w.ctx)).Height }
	for _, u := range []bsn.Upgrade{
		{Version: 1, Height: now() + 1000},
		{Version: 2, Height: now()},
		{Version: 2, Height: 0},
		{Version: 2, Height: -1},
		{Version: 2, Height: 1 << 62},
		{Version: 2, Height: now() + 1000, Name: strings.Repeat("x", 100)},
	} {
		if p := w.pass(Upgrade(u)); p.Status != bsn.ProposalFailed {
			t.Errorf("%+v: %s", u, p.Status)
		}
	}
	if p := w.pass(CancelUpgrade(2)); p.Status != bsn.ProposalFailed {
		t.Errorf("nothing to cancel: %s", p.Status)
	}
	w.pass(Upgrade(bsn.Upgrade{Version: 2, Height: now() + 100_000}))
	w.pass(Upgrade(bsn.Upgrade{Version: 3, Height: now() + 200_000}))
	if p := protocolOf(t, w.nodes[0]); p.Version != 1 || p.Next == nil || p.Next.Version != 3 {
		t.Errorf("replaced: %+v", p)
	}
	if p := w.pass(CancelUpgrade(2)); p.Status != bsn.ProposalFailed {
		t.Errorf("cancelled another: %s", p.Status)
	}
	w.pass(CancelUpgrade(3))
	if p := protocolOf(t, w.nodes[0]); p.Version != 1 || p.Next != nil {
		t.Errorf("cancelled: %+v", p)
	}
	// Nobody does it alone.
	m := Message{build: func(signer string) (sdk.Msg, error) {
		return Upgrade(bsn.Upgrade{Version: 2, Height: now() + 1000}).msg, nil
	}}
	if _, err := w.operators[0].Write(w.ctx, m); !errors.Is(err, ErrRefused) {
		t.Errorf("an operator alone: %v", err)
	}
}

// Which application runs a block follows from what is decided, whatever binary it is.
func TestChooseProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		height := rapid.Int64Range(1, 100).Draw(t, "height")
		p := bsn.Protocol{Version: rapid.Uint64Range(1, 4).Draw(t, "version")}
		if rapid.Bool().Draw(t, "planned") {
			p.Next = &bsn.Upgrade{Version: p.Version + rapid.Uint64Range(1, 3).Draw(t, "steps"), Height: rapid.Int64Range(height+1, 110).Draw(t, "at")}
		}
		known := make([]protocol, rapid.IntRange(1, 6).Draw(t, "known"))
		needed := p.At(height + 1)
		version, why, err := choose(p, height, known)
		supported := uint64(len(known))
		switch {
		case p.Version > supported:
			if err == nil {
				t.Fatal("it read a state of a version that it does not know")
			}
		case needed > supported:
			if why == nil || why.Needed != needed || version != p.Version {
				t.Fatalf("version %d, %v", version, why)
			}
		case version != needed || why != nil || err != nil:
			t.Fatalf("version %d in place of %d: %v, %v", version, needed, why, err)
		}
	})
}
