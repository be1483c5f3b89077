package ledger

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/operator"
)

// edKey makes the same Ed25519 key from the same text, and its offer to a city.
func edKey(text, city string, purpose bsn.KeyPurpose) Offer {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte(text)[:1], 32))
	public := private.Public().(ed25519.PublicKey)
	return Offer{PublicKey: public, Proof: ed25519.Sign(private, operator.RotationProof("test-net", city, purpose, public))}
}

// TestKeysOfACity: who may give a city which key, and what follows.
func TestKeysOfACity(t *testing.T) {
	t.Parallel()
	m := settle(t, 2, bsn.Parameters{})
	city, op, stranger := m.cities[1], m.operators[1], m.operators[0]
	consensus, node := edKey("c", "city-1", bsn.KeyConsensus), edKey("n", "city-1", bsn.KeyNode)

	m.refuses(t, stranger, "is of operator", RotateKey("city-1", bsn.KeyConsensus, consensus))
	m.refuses(t, op, "does not prove", RotateKey("city-1", bsn.KeyNode, consensus))
	m.refuses(t, op, "does not prove", RotateKey("city-1", bsn.KeyConsensus, edKey("c", "city-0", bsn.KeyConsensus)))
	m.refuses(t, op, "does not prove", RotateKey("city-1", bsn.KeyConsensus, Offer{PublicKey: consensus.PublicKey}))
	m.refuses(t, op, "Ed25519", RotateKey("city-1", bsn.KeyNode, Offer{PublicKey: node.PublicKey[1:], Proof: node.Proof}))
	m.refuses(t, op, "a city has keys for", RotateKey("city-1", "attestor", consensus))
	m.refuses(t, op, "does not prove", RotateKey("city-1", bsn.KeyCity, offered("other", bsn.KindOperator, "city-1")))
	m.refuses(t, op, "already belongs", RotateKey("city-1", bsn.KeyCity, offered("op0", bsn.KindCity, "city-1")))

	before := m.city(t, 1)
	m.write(t, op, RotateKey("city-1", bsn.KeyConsensus, consensus))
	m.write(t, city, RotateKey("city-1", bsn.KeyConsensus, consensus)) // the same again
	if c := m.city(t, 1); !bytes.Equal(c.ConsensusKey, consensus.PublicKey) {
		t.Errorf("consensus key: %x", c.ConsensusKey)
	}
	m.rest(t)
	if _, has := m.validators[consensusAddress(before.ConsensusKey)]; has || m.validators[consensusAddress(consensus.PublicKey)].Power == 0 {
		t.Errorf("validators: %v", m.validators)
	}
	m.write(t, city, RotateKey("city-1", bsn.KeyConsensus, edKey("d", "city-1", bsn.KeyConsensus)))
	m.refuses(t, op, "has or had", RotateKey("city-1", bsn.KeyConsensus, consensus))

	m.write(t, city, RotateKey("city-1", bsn.KeyNode, node))
	if c := m.city(t, 1); !bytes.Equal(c.NodeKey, node.PublicKey) {
		t.Errorf("node key: %x", c.NodeKey)
	}
	m.refuses(t, m.operators[0], "has this node key", RotateKey("city-0", bsn.KeyNode, edKey("n", "city-0", bsn.KeyNode)))

	m.write(t, op, RotateKey("city-1", bsn.KeyCity, offered("fresh", bsn.KindCity, "city-1")))
	m.refusedWrite(t, city, "not registered", UpdateCity("http://127.0.0.1:1", "", nil))
	fresh := m.client(t, "fresh")
	m.write(t, fresh, UpdateCity("http://127.0.0.1:1", "", nil))
	if c := m.city(t, 1); c.Address != fresh.Address() || c.API != "http://127.0.0.1:1" {
		t.Errorf("city: %+v", c)
	}
	m.compare(t)
	m.restart(t, m.export(t))
	m.write(t, m.client(t, "fresh"), UpdateCity("http://127.0.0.1:2", "", nil))
}

// TestRotationIsOfTheSecondVersion: before it the message is one that nobody can
// read, as to those who do not know it.
func TestRotationIsOfTheSecondVersion(t *testing.T) {
	c := must[coder](t)(newCoder(1))
	if _, err := c.registry.Resolve("/bsn.ledger.operator.v1.MsgRotateKey"); err == nil {
		t.Error("version 1 knows the message")
	}
	if _, err := must[coder](t)(newCoder(2)).registry.Resolve("/bsn.ledger.operator.v1.MsgRotateKey"); err != nil {
		t.Error(err)
	}
}

// TestRotationOnRunningNodes: two operators, of which each is needed for every block,
// so that the ledger goes on only if the right key signs at the right height.
func TestRotationOnRunningNodes(t *testing.T) {
	t.Parallel()
	w := found(t, 2, bsn.Parameters{})
	w.blocks(2)
	home := w.homes[1]
	again := func(listen string, change func() error) {
		t.Helper()
		if err := w.nodes[1].Stop(); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		w.nodes[1] = must[*Node](t)(Start(NodeConfig{Home: home, Listen: listen, Peers: w.peers[:1], Log: slog.New(slog.DiscardHandler), pause: 20 * time.Millisecond}))
		node := w.nodes[1]
		t.Cleanup(func() { node.Stop() })
	}

	offer := must[Offer](t)(OfferKey(home, bsn.KeyConsensus, "test-net", "city-1"))
	if same := must[Offer](t)(OfferKey(home, bsn.KeyConsensus, "test-net", "city-1")); !bytes.Equal(same.PublicKey, offer.PublicKey) {
		t.Error("offered twice it is another key")
	}
	must[Result](t)(w.operators[1].Write(w.ctx, RotateKey("city-1", bsn.KeyConsensus, offer)))
	keys := must[Keys](t)(KeysOf(home, bsn.KeyConsensus))
	w.until("the present key to sign no more", func() bool { return !must[bool](t)(w.nodes[1].Signs(w.ctx, keys.Present)) })
	if !must[bool](t)(w.nodes[1].Signs(w.ctx, offer.PublicKey)) {
		t.Error("the new key is not to sign")
	}
	again(freePort(t), func() error { return TakeKey(home, bsn.KeyConsensus) })
	w.blocks(3)
	if err := DropFormerKey(home, bsn.KeyConsensus); err != nil {
		t.Fatal(err)
	}

	offer = must[Offer](t)(OfferKey(home, bsn.KeyNode, "test-net", "city-1"))
	must[Result](t)(w.operators[1].Write(w.ctx, RotateKey("city-1", bsn.KeyNode, offer)))
	again(freePort(t), func() error { return TakeKey(home, bsn.KeyNode) })
	w.blocks(3)
	if id := w.nodes[1].comet.NodeInfo().ID(); string(id) != bsn.NodeID(offer.PublicKey) {
		t.Errorf("the node calls itself %s", id)
	}

	// Taken back and taken again, as by a city that does not know whether the ledger
	// has the new one.
	former := must[Keys](t)(KeysOf(home, bsn.KeyNode)).Former
	for range 2 {
		if err := TakeBackKey(home, bsn.KeyNode); err != nil {
			t.Fatal(err)
		}
		if k := must[Keys](t)(KeysOf(home, bsn.KeyNode)); !bytes.Equal(k.Present, former) || !bytes.Equal(k.New, offer.PublicKey) || k.Former != nil {
			t.Errorf("taken back: %+v", k)
		}
		if err := TakeKey(home, bsn.KeyNode); err != nil {
			t.Fatal(err)
		}
	}
	if err := DropFormerKey(home, bsn.KeyNode); err != nil {
		t.Fatal(err)
	}
	for _, name := range must[[]os.DirEntry](t)(os.ReadDir(filepath.Join(home, "config"))) {
		info := must[os.FileInfo](t)(name.Info())
		if key := strings.Contains(name.Name(), "key"); key && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name.Name(), info.Mode())
		}
		if ext := filepath.Ext(name.Name()); ext == newKey || ext == formerKey {
			t.Errorf("left: %s", name.Name())
		}
	}
}

func TestDamagedKeys(t *testing.T) {
	home := t.TempDir()
	must[Identity](t)(InitNode(home))
	for _, text := range []string{"", "{", "{}", `{"priv_key":null}`, `{"priv_key":{"type":"none","value":""}}`} {
		for _, purpose := range []bsn.KeyPurpose{bsn.KeyConsensus, bsn.KeyNode} {
			if err := os.WriteFile(keyFile(home, purpose)+newKey, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OfferKey(home, purpose, "test-net", "city"); err == nil {
				t.Error(fmt.Sprint("offered a key of ", text))
			}
		}
	}
}
