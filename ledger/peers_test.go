package ledger

import (
	"log/slog"
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

func TestOnlyCitiesNodesArePeers(t *testing.T) {
	t.Parallel()
	w := found(t, 3, bsn.Parameters{})
	peersOf := func(i int) int { return w.nodes[i].comet.Switch().Peers().Size() }
	w.until("the cities to meet", func() bool { return peersOf(0) == 2 && peersOf(1) == 2 && peersOf(2) == 2 })

	// A node that is no city's is not taken, though it knows the network and is welcome
	// to ask.
	home := w.newcomer()
	stranger := must[*Node](t)(Start(NodeConfig{
		Home: home, Listen: freePort(t), Peers: w.peers, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond,
	}))
	defer stranger.Stop()
	w.blocks(5)
	// What it takes for a peer itself lasts until it notices that it was refused.
	unknown := stranger.comet.NodeInfo().ID()
	for i := range w.nodes {
		if w.nodes[i].comet.Switch().Peers().Has(unknown) || peersOf(i) != 2 {
			t.Errorf("city-%d has the stranger among its %d peers", i, peersOf(i))
		}
	}
	if h := stranger.app.LastBlockHeight(); h > 0 {
		t.Errorf("the stranger has %d blocks", h)
	}
	// Once it is, it is.
	w.admit(home)
	w.until("the newcomer to catch up", func() bool { return stranger.app.LastBlockHeight() >= w.nodes[0].app.LastBlockHeight() })

	// A city that is put out loses its connections, and gets no new ones.
	if p := w.pass(EvictCity("city-2")); p.Status != bsn.ProposalPassed {
		t.Fatalf("eviction: %+v", p)
	}
	id := string(w.nodes[2].comet.NodeInfo().ID())
	w.until("the evicted city to be dropped", func() bool {
		for _, p := range w.nodes[0].comet.Switch().Peers().Copy() {
			if string(p.ID()) == id {
				return false
			}
		}
		return true
	})
	if err := w.nodes[0].takes(id); err == nil {
		t.Error("an evicted city's node is taken")
	}
	if err := w.nodes[0].takes(string(w.nodes[1].comet.NodeInfo().ID())); err != nil {
		t.Errorf("another city's node: %v", err)
	}
}

func TestPeersAreLetGo(t *testing.T) {
	t.Parallel()
	w := found(t, 3, bsn.Parameters{})
	has := func(i, j int) bool {
		return w.nodes[i].comet.Switch().Peers().Has(w.nodes[j].comet.NodeInfo().ID())
	}
	w.until("three nodes to be connected", func() bool { return has(0, 1) && has(1, 2) && has(2, 0) && has(0, 2) })
	id := func(i int) string { return string(w.nodes[i].comet.NodeInfo().ID()) }
	for _, pair := range [][2]int{{0, 2}, {2, 0}} {
		if err := w.nodes[pair[0]].Connect([]string{w.peers[1]}, []string{id(pair[1])}); err != nil {
			t.Fatal(err)
		}
	}
	w.until("two of them to part", func() bool { return !has(0, 2) && !has(2, 0) && has(0, 1) && has(2, 1) })
}
