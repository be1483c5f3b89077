package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cmtjson "github.com/cometbft/cometbft/libs/json"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmttypes "github.com/cometbft/cometbft/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
)

// contents reads every store of an application, raw.
func contents(t tester, a *application) map[string]string {
	t.Helper()
	ctx, err := a.committed()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return contentsAt(a, ctx)
}

func contentsAt(a *application, ctx sdk.Context) map[string]string {
	out := map[string]string{}
	for name, key := range a.stores {
		it := ctx.KVStore(key).Iterator(nil, nil)
		for ; it.Valid(); it.Next() {
			out[fmt.Sprintf("%s %q", name, it.Key())] = string(it.Value())
		}
		it.Close()
	}
	return out
}

// newcomer makes the home of a node that has the network's genesis only.
func (w *network) newcomer() string {
	w.t.Helper()
	home := w.t.TempDir()
	must[Identity](w.t)(InitNode(home))
	if err := WriteGenesis(home, must[[]byte](w.t)(os.ReadFile(GenesisFile(w.homes[0])))); err != nil {
		w.t.Fatal(err)
	}
	return home
}

func (w *network) sources() map[string]Source {
	out := map[string]Source{}
	for i, n := range w.nodes {
		out[fmt.Sprintf("city-%d", i)] = n
	}
	return out
}

// start runs a node of the network at home.
func (w *network) start(home string, h History) *Node {
	w.t.Helper()
	w.admit(home)
	n := must[*Node](w.t)(Start(NodeConfig{
		Home: home, Listen: freePort(w.t), Peers: w.peers, History: h, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond,
	}))
	w.t.Cleanup(func() { n.Stop() })
	return n
}

// admit makes the node at home one of a further city of the first operator, unless it
// is one of a city.
func (w *network) admit(home string) {
	w.t.Helper()
	id := must[Identity](w.t)(InitNode(home))
	if w.nodes[0].takes(bsn.NodeID(id.NodeKey)) == nil {
		return
	}
	if slices.ContainsFunc(w.homes, func(h string) bool {
		return bytes.Equal(must[Identity](w.t)(InitNode(h)).ConsensusKey, id.ConsensusKey)
	}) {
		id.ConsensusKey = bytes.Clone(key.New().Public()[1:]) // a second node of one city
	}
	if p := w.pass(AdmitCity(Admission{
		Operator: "op-0", OperatorKey: w.operators[0].key.Public(), City: fmt.Sprintf("more-%d", time.Now().UnixNano()), CityKey: key.New().Public(), ConsensusKey: id.ConsensusKey, NodeKey: id.NodeKey,
	})); p.Status != bsn.ProposalPassed {
		w.t.Fatalf("admission is %s: %s", p.Status, p.Reason)
	}
}

// until waits.
func (w *network) until(what string, ok func() bool) {
	w.t.Helper()
	for !ok() {
		if w.ctx.Err() != nil {
			w.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// snapshots writes until the first node has that many and two blocks after the newest.
func (w *network) snapshots(n int) []Snapshot {
	w.t.Helper()
	var offered []Snapshot
	for i := 0; ; i++ {
		if w.ctx.Err() != nil {
			w.t.Fatal("no snapshot")
		}
		offered, _, _ = w.nodes[0].Snapshots(w.ctx)
		if len(offered) >= n && offered[0].Height+2 <= w.nodes[0].app.LastBlockHeight() {
			return offered
		}
		must[Result](w.t)(w.cities[0].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", 1000+i), "", nil)))
	}
}

func (w *network) sync(home string, trust Trust, sources map[string]Source) (int64, []string, error) {
	var said []string
	h, err := Sync(w.ctx, SyncConfig{
		Home: home, Trust: trust, Sources: sources, Log: slog.New(slog.DiscardHandler),
		Report: func(s string) { said = append(said, s) },
	})
	return h, said, err
}

// same waits until a node has caught up with the first and fails unless they hold the same.
func (w *network) same(n *Node) {
	w.t.Helper()
	if err := n.Ready(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	res := must[Result](w.t)(w.cities[0].Write(w.ctx, UpdateCity("http://127.0.0.1:9", "", nil)))
	w.until("the synced node", func() bool { return n.app.LastBlockHeight() >= res.Height })
	w.until("the same state", func() bool {
		return n.app.LastBlockHeight() == w.nodes[0].app.LastBlockHeight() && bytes.Equal(n.app.LastCommitID().Hash, w.nodes[0].app.LastCommitID().Hash)
	})
	if a, b := contents(w.t, n.app), contents(w.t, w.nodes[0].app); !maps.Equal(a, b) {
		w.t.Error("the synced node holds something else")
	}
}

func TestStateSync(t *testing.T) {
	t.Parallel()
	w := foundWith(t, 3, bsn.Parameters{}, History{SnapshotInterval: 10, Snapshots: 2})
	w.account("alice")
	trust := must[Trust](t)(TrustOf(w.ctx, "test-net", w.nodes[1]))
	offered := w.snapshots(2)

	home := w.newcomer()
	height, said, err := w.sync(home, trust, w.sources())
	if err != nil || height < offered[1].Height {
		t.Fatalf("synced to %d: %v", height, err)
	}
	if !strings.Contains(strings.Join(said, "\n"), fmt.Sprintf("snapshot at %d, chunk 1 of 1", height)) {
		t.Errorf("progress: %q", said)
	}
	n := w.start(home, History{SnapshotInterval: 10, Snapshots: 2})
	w.same(n)
	if base := n.comet.BlockStore().Base(); base != height+1 {
		t.Errorf("its first block is %d, and its state of %d", base, height)
	}
	// It follows from there, and only from there.
	for b, err := range n.Follow(w.ctx, height+1) {
		if err != nil || b.Height != height+1 {
			t.Errorf("first block: %d, %v", b.Height, err)
		}
		break
	}
	for _, err := range n.Follow(w.ctx, height) {
		if !errors.Is(err, bsn.ErrPruned) {
			t.Errorf("before the first block: %v", err)
		}
	}
	// The replay of a transaction that is in the state is refused there too.
	tx := must[[]byte](t)(w.cities[1].Sign(w.ctx, UpdateCity("http://127.0.0.1:1", "", nil)))
	res := must[Result](t)(w.nodes[0].Submit(w.ctx, tx))
	w.until("the write", func() bool { return n.app.LastBlockHeight() >= res.Height })
	if r := must[*checkTx](t)(n.check(w.ctx, tx)); r.Code == 0 {
		t.Error("a replay passed")
	}
	// A node that was far behind comes back the same way, and serves what it took.
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	w.until("a further snapshot", func() bool {
		offered = w.snapshots(2)
		must[Result](t)(w.cities[0].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", w.nodes[0].app.LastBlockHeight()), "", nil)))
		return offered[1].Height > height
	})
	if again, _, err := w.sync(home, trust, w.sources()); err != nil || again < offered[1].Height || again <= height {
		t.Fatalf("synced again, to %d after %d: %v", again, height, err)
	}
	w.same(w.start(home, History{}))
}

// liar is a city that says what is not so.
type liar struct {
	Source
	block    func(height int64, b []byte) []byte
	offer    func([]Snapshot) []Snapshot
	chunk    func([]byte) []byte
	asked    *int
	unproven error
}

func (l liar) LightBlock(ctx context.Context, height int64) ([]byte, error) {
	b, err := l.Source.LightBlock(ctx, height)
	if l.block != nil && err == nil {
		b = l.block(height, b)
	}
	return b, errors.Join(err, l.unproven)
}

func (l liar) Snapshots(ctx context.Context) ([]Snapshot, int64, error) {
	s, oldest, err := l.Source.Snapshots(ctx)
	if l.offer != nil {
		s = l.offer(s)
	}
	return s, oldest, err
}

func (l liar) SnapshotChunk(ctx context.Context, height int64, format, index uint32) ([]byte, error) {
	if l.asked != nil {
		*l.asked++
	}
	b, err := l.Source.SnapshotChunk(ctx, height, format, index)
	if l.chunk != nil {
		b = l.chunk(b)
	}
	return b, err
}

func TestSyncRefusesLies(t *testing.T) {
	t.Parallel()
	h := History{SnapshotInterval: 10, Snapshots: 2}
	w, other := foundWith(t, 2, bsn.Parameters{}, h), foundWith(t, 1, bsn.Parameters{}, h)
	offered := w.snapshots(2)
	trust := must[Trust](t)(TrustOf(w.ctx, "test-net", w.nodes[0]))
	foreign := other.snapshots(2)
	honest := w.nodes[1]
	w.until("the second city's snapshots", func() bool {
		s, _, _ := honest.Snapshots(w.ctx)
		return len(s) == 2 && s[0].Height >= offered[0].Height && s[0].Height+2 <= honest.app.LastBlockHeight()
	})
	flipped := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	foreignState := liar{
		Source: honest,
		offer: func(s []Snapshot) []Snapshot { // a state of another network, complete in itself
			for i := range s {
				f := foreign[min(i, len(foreign)-1)]
				s[i].Hash, s[i].Chunks = f.Hash, f.Chunks
			}
			return s
		},
	}
	foreignState.chunk = func([]byte) []byte {
		return must[[]byte](t)(other.nodes[0].SnapshotChunk(w.ctx, foreign[0].Height, foreign[0].Format, 0))
	}
	for name, lie := range map[string]liar{
		"other blocks":      {Source: honest, block: func(h int64, b []byte) []byte { return must[[]byte](t)(other.nodes[0].LightBlock(w.ctx, min(h, 3))) }},
		"altered blocks":    {Source: honest, block: func(h int64, b []byte) []byte { return flipped(b) }},
		"later blocks":      {Source: honest, block: func(h int64, b []byte) []byte { return must[[]byte](t)(honest.LightBlock(w.ctx, 0)) }},
		"altered later on":  {Source: honest, block: func(h int64, b []byte) []byte { return map[bool][]byte{true: b, false: flipped(b)}[h == trust.Height] }},
		"altered chunks":    {Source: honest, chunk: flipped},
		"no chunks":         {Source: honest, chunk: func([]byte) []byte { return nil }},
		"huge chunks":       {Source: honest, chunk: func([]byte) []byte { return make([]byte, maxChunk+1) }},
		"does not answer":   {Source: honest, unproven: context.DeadlineExceeded},
		"a foreign state":   foreignState,
		"snapshots to come": {Source: honest, offer: func(s []Snapshot) []Snapshot { s[0].Height += 1 << 40; return s }},
		"too many chunks":   {Source: honest, offer: func(s []Snapshot) []Snapshot { s[0].Chunks = make([][]byte, maxSnapshotChunks+1); return s }},
		"odd formats":       {Source: honest, offer: func(s []Snapshot) []Snapshot { s[0].Format = 99; s[1].Height = -1; return s }},
	} {
		t.Run(name, func(t *testing.T) {
			home := w.newcomer()
			// With the liar alone nothing is taken, or what is true.
			if height, _, err := w.sync(home, trust, map[string]Source{"liar": lie}); err == nil {
				if n := honest.app; height > n.LastBlockHeight() {
					t.Errorf("took a state at %d", height)
				}
			}
			// With an honest city beside it, all is well, whoever is asked first.
			for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
				home := w.newcomer()
				if _, _, err := w.sync(home, trust, map[string]Source{names[0]: lie, names[1]: w.nodes[0]}); err != nil {
					t.Errorf("liar %s: %v", names[0], err)
				}
				if name == "a foreign state" {
					w.same(w.start(home, History{}))
				}
			}
		})
	}
}

// TestSyncStopsAtTwoHistories has a city with the keys of more than two thirds of the
// operators, which signs another state.
func TestSyncStopsAtTwoHistories(t *testing.T) {
	t.Parallel()
	w := foundWith(t, 1, bsn.Parameters{}, History{SnapshotInterval: 10, Snapshots: 2})
	w.snapshots(1)
	trust := must[Trust](t)(TrustOf(w.ctx, "test-net", w.nodes[0]))
	w.snapshots(2)
	signer := w.nodes[0].guard.Key.PrivKey
	forge := func(height int64, b []byte) []byte {
		if height == trust.Height {
			return b
		}
		block := must[*cmttypes.LightBlock](t)(decodeLight("test-net", b))
		block.Header.AppHash = bytes.Repeat([]byte{1}, 32)
		block.Commit.BlockID.Hash = block.Header.Hash()
		block.Commit.Signatures[0].Signature = must[[]byte](t)(signer.Sign(block.Commit.VoteSignBytes("test-net", 0)))
		p := must[*cmtproto.LightBlock](t)(block.ToProto())
		return must[[]byte](t)(p.Marshal())
	}
	home := w.newcomer()
	_, _, err := w.sync(home, trust, map[string]Source{"a": w.nodes[0], "b": liar{Source: w.nodes[0], block: forge}})
	if !errors.Is(err, ErrForked) {
		t.Errorf("two proven histories: %v", err)
	}
}

func TestSyncWithoutSnapshots(t *testing.T) {
	t.Parallel()
	w := found(t, 1, bsn.Parameters{})
	trust := must[Trust](t)(TrustOf(w.ctx, "test-net", w.nodes[0]))
	home := w.newcomer()
	if _, _, err := w.sync(home, trust, w.sources()); !errors.Is(err, ErrReplay) {
		t.Errorf("no snapshots: %v", err)
	}
	if _, _, err := w.sync(home, trust, nil); !errors.Is(err, ErrNoSource) {
		t.Errorf("no sources: %v", err)
	}
	w.same(w.start(home, History{})) // block by block
}

func TestInterruptedInstallIsFinished(t *testing.T) {
	t.Parallel()
	h := History{SnapshotInterval: 5, Snapshots: 2}
	w := foundWith(t, 1, bsn.Parameters{}, h)
	w.snapshots(1)
	trust := must[Trust](t)(TrustOf(w.ctx, "test-net", w.nodes[0]))
	home := w.newcomer()
	if _, _, err := w.sync(home, trust, w.sources()); err != nil {
		t.Fatal(err)
	}
	// As if it had been cut off after the first store of three.
	for _, name := range syncedStores[1:] {
		if err := os.MkdirAll(filepath.Join(home, installed), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(home, "data", name), filepath.Join(home, installed, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.same(w.start(home, History{}))
	if _, err := os.Stat(filepath.Join(home, installed)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
}

func TestOldBlocksArePruned(t *testing.T) {
	t.Parallel()
	w := foundWith(t, 1, bsn.Parameters{}, History{SnapshotInterval: 5, Snapshots: 2, Blocks: 12}, func(genesis []byte) []byte {
		doc := must[*cmttypes.GenesisDoc](t)(cmttypes.GenesisDocFromJSON(genesis))
		doc.ConsensusParams.Evidence.MaxAgeNumBlocks = 10
		return must[[]byte](t)(cmtjson.Marshal(doc))
	})
	w.snapshots(2)
	n := w.nodes[0]
	for i := 0; n.comet.BlockStore().Base() < 10; i++ {
		must[Result](t)(w.cities[0].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", 1+i), "", nil)))
	}
	for _, err := range n.Follow(w.ctx, 2) {
		if !errors.Is(err, bsn.ErrPruned) {
			t.Errorf("follow from 2: %v", err)
		}
	}
	if _, err := n.LightBlock(w.ctx, 2); !errors.Is(err, bsn.ErrPruned) {
		t.Errorf("block 2: %v", err)
	}
	// Who comes now cannot replay, and does not have to.
	home := w.newcomer()
	if _, _, err := w.sync(home, must[Trust](t)(TrustOf(w.ctx, "test-net", n)), w.sources()); err != nil {
		t.Fatal(err)
	}
	w.same(w.start(home, History{}))
	// One that was restarted knows its snapshots, and what it still has.
	if offered, oldest, err := n.Snapshots(w.ctx); err != nil || len(offered) != 2 || oldest < 10 {
		t.Errorf("%d snapshots, oldest block %d: %v", len(offered), oldest, err)
	}
}
