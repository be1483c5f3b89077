package ledger

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
)

// TestEquivocation: a second node has a city's consensus key, and no memory of what
// was signed with it. The operator loses its power, the ledger goes on, and with a
// new key the operator is taken back.
func TestEquivocation(t *testing.T) {
	if os.Getenv("BSN_LONG") == "" {
		t.Skip("a network of several nodes, too slow beside all other tests: BSN_LONG=1 runs it")
	}
	w := found(t, 4, bsn.Parameters{})
	thief := t.TempDir()
	id := must[Identity](t)(InitNode(thief))
	// Only nodes of cities are peers: the second one is of another city of the operator.
	if p := w.pass(AdmitCity(Admission{
		Operator: "op-3", OperatorKey: w.operators[3].key.Public(), City: "second", CityKey: key.New().Public(),
		ConsensusKey: id.ConsensusKey, NodeKey: id.NodeKey,
	})); p.Status != bsn.ProposalPassed {
		t.Fatalf("proposal: %+v", p)
	}
	copyFile(t, filepath.Join(w.homes[3], "config", "priv_validator_key.json"), filepath.Join(thief, "config", "priv_validator_key.json"))
	copyFile(t, GenesisFile(w.homes[3]), GenesisFile(thief))
	second := must[*Node](t)(Start(NodeConfig{Home: thief, Listen: freePort(t), Peers: w.peers, Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond}))
	stopped := false
	defer func() {
		if !stopped {
			second.Stop()
		}
	}()
	operator := func() bsn.Operator { return get[bsn.Operator](t, w.nodes[0], bsn.KindOperator, "op-3") }
	for i := 0; operator().Suspended == nil; i++ {
		if w.ctx.Err() != nil {
			t.Fatal("nobody found two votes for one height")
		}
		// With work at hand the two make different blocks when it is their turn.
		must[Result](t)(w.cities[i%3].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", 1+i%9), "", nil)))
	}
	o := operator()
	t.Logf("suspended at height %d: %s", o.Suspended.Height, o.Suspended.Reason)
	if o.ValidatingCity != "" || o.Suspended.City != "city-3" {
		t.Errorf("operator: %+v", o)
	}
	stopped = true
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	validators := func(want int) {
		t.Helper()
		for {
			must[Result](t)(w.cities[0].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", time.Now().UnixNano()%1000+1), "", nil)))
			if s := must[Status](t)(w.nodes[0].Status(w.ctx)); s.Validators == want {
				return
			}
		}
	}
	validators(3)

	// Its operator makes a new key; the thief has the old one only.
	if err := w.nodes[3].Stop(); err != nil {
		t.Fatal(err)
	}
	fresh := must[Identity](t)(RenewConsensusKey(w.homes[3]))
	again := must[*Node](t)(Start(NodeConfig{Home: w.homes[3], Listen: freePort(t), Peers: w.peers[:3], Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond}))
	defer again.Stop()
	if p := w.pass(ReinstateOperator("op-3", "city-3", fresh.ConsensusKey)); p.Status != bsn.ProposalPassed {
		t.Fatalf("proposal: %+v", p)
	}
	validators(4)
	if o := operator(); o.Suspended != nil || o.ValidatingCity != "city-3" {
		t.Errorf("operator: %+v", o)
	}
	// With one of the others away its signature is needed.
	if err := w.nodes[2].Stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		must[Result](t)(w.cities[0].Write(w.ctx, UpdateCity(fmt.Sprintf("http://127.0.0.2:%d", i+1), "", nil)))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
