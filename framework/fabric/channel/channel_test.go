package channel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn/framework/fabric/authority"
)

// trial is a channel of four operators.
func trial(t testing.TB) Channel {
	t.Helper()
	c := Channel{Name: Name("alice", "assets"), App: "alice/assets", Time: 1_790_000_000}
	for i, name := range []string{"acme", "globex", "initech", "umbrella"} {
		dir := t.TempDir()
		a, err := authority.Open(filepath.Join(dir, "authority"), name)
		if err != nil {
			t.Fatal(err)
		}
		address := netip.AddrFrom4([4]byte{127, 66, byte(i + 1), 11})
		if _, err := a.Enrol(dir, authority.Member{Name: "orderer", Role: authority.RoleOrderer, Addresses: []netip.Addr{address}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		credentials, err := authority.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		o := Operator{Name: name, Roots: a.Roots()}
		c.Orderers = append(c.Orderers, Orderer{
			ID: uint32(i + 1), Operator: o, Address: netip.AddrPortFrom(address, 7050),
			Identity: credentials.Identity(), TLS: credentials.TLSCertificate(),
		})
		c.Members = append(c.Members, Member{Operator: o, Peers: []netip.AddrPort{netip.AddrPortFrom(address, 7051), netip.AddrPortFrom(address, 7061)}})
	}
	return c
}

func genesis(t testing.TB, c Channel) []byte {
	t.Helper()
	raw, err := c.Genesis()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestGenesisIsOne: however the records are ordered, every city makes the same bytes.
func TestGenesisIsOne(t *testing.T) {
	c := trial(t)
	want := genesis(t, c)
	rapid.Check(t, func(r *rapid.T) {
		d := c
		d.Orderers = rapid.Permutation(c.Orderers).Draw(r, "orderers")
		d.Members = rapid.Permutation(c.Members).Draw(r, "members")
		for i, m := range d.Members {
			d.Members[i].Peers = rapid.Permutation(m.Peers).Draw(r, "peers")
		}
		if got := genesis(t, d); !bytes.Equal(got, want) {
			r.Fatal("another block 0")
		}
	})
	if err := c.CheckGenesis(want); err != nil {
		t.Error(err)
	}
}

var update = flag.Bool("update", false, "make the records in testdata anew")

// TestGenesisStays: block 0 of a record that was agreed on is the same in every
// version of bsn, whatever libraries encode it.
func TestGenesisStays(t *testing.T) {
	const name = "testdata/channel.json"
	if *update {
		text, err := json.MarshalIndent(trial(t), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var c Channel
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	const want = "b6c4c81446d8e767c3dc2a1e477e6f6327bab1cf0a224d9415f9c6e00e6ed793"
	if sum := sha256.Sum256(genesis(t, c)); hex.EncodeToString(sum[:]) != want {
		t.Errorf("block 0 has the hash %x, and had %s", sum, want)
	}
}

func TestCheckGenesis(t *testing.T) {
	c := trial(t)
	for name, change := range map[string]struct {
		do   func(*Channel)
		want string
	}{
		"time":     {func(c *Channel) { c.Time++ }, "time differs"},
		"name":     {func(c *Channel) { c.Name = "bob.assets" }, `of channel "bob.assets"`},
		"app":      {func(c *Channel) { c.App = "bob/assets" }, "/Channel/Application/acme/Readers"},
		"member":   {func(c *Channel) { c.Members = c.Members[:3] }, "/Channel/Application/umbrella"},
		"anchor":   {func(c *Channel) { c.Members[2].Peers = c.Members[2].Peers[:1] }, "/Channel/Application/initech/AnchorPeers"},
		"address":  {func(c *Channel) { c.Orderers[0].Address = netip.MustParseAddrPort("127.66.1.12:7050") }, "/Channel/Orderer/Orderers"},
		"identity": {func(c *Channel) { c.Orderers[1].ID = 9 }, "/Channel/Orderer/Orderers"},
	} {
		d := c
		d.Orderers, d.Members = append([]Orderer{}, c.Orderers...), append([]Member{}, c.Members...)
		change.do(&d)
		if err := c.CheckGenesis(genesis(t, d)); err == nil || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s: %v, want %q", name, err, change.want)
		}
	}

	// The same configuration in another envelope is another block.
	var block cb.Block
	if err := proto.Unmarshal(genesis(t, c), &block); err != nil {
		t.Fatal(err)
	}
	block.Header.PreviousHash = []byte("something")
	raw, err := proto.Marshal(&block)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckGenesis(raw); err == nil || !strings.Contains(err.Error(), "what surrounds it") {
		t.Errorf("another header: %v", err)
	}
	if err := c.CheckGenesis(make([]byte, maxBlock+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too long: %v", err)
	}
}

func TestCheck(t *testing.T) {
	c := trial(t)
	for name, change := range map[string]struct {
		do   func(*Channel)
		want string
	}{
		"name":              {func(c *Channel) { c.Name = "Alice" }, "name may hold"},
		"time":              {func(c *Channel) { c.Time = 0 }, "no time"},
		"three orderers":    {func(c *Channel) { c.Orderers = c.Orderers[:3] }, "not between 4"},
		"no member":         {func(c *Channel) { c.Members = nil }, "not between 1"},
		"no peer":           {func(c *Channel) { c.Members[1].Peers = nil }, "globex has no peer"},
		"member twice":      {func(c *Channel) { c.Members[1] = c.Members[0] }, "appears twice"},
		"number twice":      {func(c *Channel) { c.Orderers[1].ID = 1 }, "appears twice"},
		"no number":         {func(c *Channel) { c.Orderers[1].ID = 0 }, "no number"},
		"address twice":     {func(c *Channel) { c.Orderers[1].Address = c.Orderers[0].Address }, "appears twice"},
		"another's orderer": {func(c *Channel) { c.Orderers[1].Identity = c.Orderers[0].Identity }, "twice"},
		"not its operator's": {func(c *Channel) {
			c.Orderers[1].Identity, c.Orderers[0].Identity = c.Orderers[0].Identity, c.Orderers[1].Identity
		}, "not of its operator"},
		"two sets of roots": {func(c *Channel) { c.Members[0].Operator.Roots = c.Members[1].Operator.Roots }, "two sets"},
		"operator's name":   {func(c *Channel) { c.Members[0].Operator.Name = "A" }, "malformed name"},
	} {
		d := c
		d.Orderers, d.Members = append([]Orderer{}, c.Orderers...), append([]Member{}, c.Members...)
		change.do(&d)
		if _, err := d.Genesis(); err == nil || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s: %v, want %q", name, err, change.want)
		}
	}
}

func TestQuorum(t *testing.T) {
	for n, want := range map[int]int{4: 3, 5: 4, 6: 4, 7: 5, 10: 7} {
		if got := Quorum(n); got != want {
			t.Errorf("of %d orderers %d sign, want %d", n, got, want)
		}
	}
}

func FuzzCheckGenesis(f *testing.F) {
	c := trial(f)
	raw := genesis(f, c)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, proposed []byte) {
		if err := c.CheckGenesis(proposed); (err == nil) != bytes.Equal(proposed, raw) {
			t.Fatalf("%d bytes: %v", len(proposed), err)
		}
	})
}
