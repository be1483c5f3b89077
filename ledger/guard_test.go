package ledger

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	cmttypes "github.com/cometbft/cometbft/types"

	"github.com/openbsn/bsn"
)

// restore makes a home with a node's keys and what it had signed some time ago.
func (w *network) restore(from string, gone bool) string {
	w.t.Helper()
	home := w.newcomer()
	for _, name := range []string{"config/priv_validator_key.json", "config/node_key.json", "data/priv_validator_state.json"} {
		b := must[[]byte](w.t)(os.ReadFile(filepath.Join(from, name)))
		if err := os.WriteFile(filepath.Join(home, name), b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := MarkRestored(home, gone); err != nil {
		w.t.Fatal(err)
	}
	return home
}

func (w *network) blocks(n int) {
	w.t.Helper()
	for i := range n {
		must[Result](w.t)(w.cities[0].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", 2000+i), "", nil)))
	}
}

func TestRestoredNodeWaitsForItsFormerSelf(t *testing.T) {
	t.Parallel()
	w := found(t, 4, bsn.Parameters{})
	w.blocks(2)
	former := w.nodes[3]
	home := w.restore(w.homes[3], false)
	os.Remove(filepath.Join(home, "config", "node_key.json")) // one peer id is in one place only
	must[Identity](t)(InitNode(home))
	n := w.start(home, History{})
	if err := n.Ready(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.until("a block", func() bool { return !n.comet.ConsensusReactor().WaitSync() })
	w.blocks(quietBlocks + 5)
	w.until("the restored node", func() bool { return n.app.LastBlockHeight() == w.nodes[0].app.LastBlockHeight() })
	if !n.guard.watching() {
		t.Error("the restored node signs beside its former self")
	}
	// The former self ends; the restored one takes its place after some blocks.
	if err := former.Stop(); err != nil {
		t.Fatal(err)
	}
	last := n.app.LastBlockHeight()
	w.until("the restored node to sign", func() bool {
		w.blocks(1)
		return !n.guard.watching()
	})
	if now := w.nodes[0].app.LastBlockHeight(); now < last+quietBlocks-2 {
		t.Errorf("it signs at %d, and its former self may have at %d", now, last)
	}
	w.until("its signature", func() bool {
		w.blocks(1)
		height := n.app.LastBlockHeight()
		b, err := n.local.Block(w.ctx, &height)
		return err == nil && signs(b.Block, n.guard.GetAddress())
	})
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if again := w.start(home, History{}); again.guard.watching() {
		t.Error("it forgot that it was released")
	}
}

func signs(b *cmttypes.Block, address []byte) bool {
	for _, s := range b.LastCommit.Signatures {
		if s.BlockIDFlag == cmttypes.BlockIDFlagCommit && bytes.Equal(s.ValidatorAddress, address) {
			return true
		}
	}
	return false
}

// TestRestoredNodeThatIsNeeded has a ledger that stands still without the restored node.
func TestRestoredNodeThatIsNeeded(t *testing.T) {
	t.Parallel()
	w := found(t, 3, bsn.Parameters{})
	w.blocks(2)
	home := w.restore(w.homes[2], true)
	w.blocks(2)
	if err := w.nodes[2].Stop(); err != nil {
		t.Fatal(err)
	}
	h := must[*Holder](t)(Hold(NodeConfig{Home: home, Listen: freePort(t), Peers: w.peers[:2], Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond}))
	t.Cleanup(func() { h.Stop() })
	w.until("the ledger to go on", func() bool {
		s, err := h.Status(w.ctx)
		return err == nil && s.Height > 0 && !s.Restarting
	})
	w.blocks(3)
	if _, err := os.Stat(filepath.Join(home, restoredFile)); !os.IsNotExist(err) {
		t.Errorf("it is still marked as restored: %v", err)
	}
	for i := range 3 {
		if o := get[bsn.Operator](t, w.nodes[0], bsn.KindOperator, fmt.Sprintf("op-%d", i)); o.Suspended != nil {
			t.Errorf("operator %+v", o)
		}
	}
}
