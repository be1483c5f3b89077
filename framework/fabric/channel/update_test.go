package channel

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// apply does to a configuration what an update says, as an orderer does that has
// found its signatures good: what is read must be as it is, and what is written
// counts one up.
func apply(t *rapid.T, now, read, write *cb.ConfigGroup) *cb.ConfigGroup {
	if now.GetVersion() != read.GetVersion() {
		t.Fatalf("it reads version %d of a group at %d", read.GetVersion(), now.GetVersion())
	}
	next := proto.Clone(now).(*cb.ConfigGroup)
	moved := write.GetVersion() != now.GetVersion()
	if moved {
		if write.GetVersion() != now.GetVersion()+1 {
			t.Fatalf("a group goes from version %d to %d", now.GetVersion(), write.GetVersion())
		}
		// Its members are those that are named.
		next = &cb.ConfigGroup{
			Version: write.GetVersion(), ModPolicy: write.GetModPolicy(),
			Groups: map[string]*cb.ConfigGroup{}, Values: map[string]*cb.ConfigValue{}, Policies: map[string]*cb.ConfigPolicy{},
		}
	}
	for name, v := range write.GetValues() {
		switch old := now.GetValues()[name]; {
		case old != nil && old.GetVersion() == v.GetVersion():
			next.Values[name] = old
		case old == nil && v.GetVersion() == 0 && moved, old != nil && v.GetVersion() == old.GetVersion()+1:
			next.Values[name] = v
		default:
			t.Fatalf("value %s gets version %d", name, v.GetVersion())
		}
	}
	for name, p := range write.GetPolicies() {
		switch old := now.GetPolicies()[name]; {
		case old != nil && old.GetVersion() == p.GetVersion():
			next.Policies[name] = old
		case old == nil && p.GetVersion() == 0 && moved, old != nil && p.GetVersion() == old.GetVersion()+1:
			next.Policies[name] = p
		default:
			t.Fatalf("policy %s gets version %d", name, p.GetVersion())
		}
	}
	for name, g := range write.GetGroups() {
		old := now.GetGroups()[name]
		if old == nil {
			if !moved || g.GetVersion() != 0 {
				t.Fatalf("group %s comes at version %d", name, g.GetVersion())
			}
			next.Groups[name] = g
			continue
		}
		next.Groups[name] = apply(t, old, read.GetGroups()[name], g)
	}
	return next
}

// running is a configuration block that holds a configuration.
func running(t testing.TB, c Channel, config *cb.ConfigGroup) []byte {
	t.Helper()
	e := new(encoder)
	block := e.bytes(&cb.Block{Data: &cb.BlockData{Data: [][]byte{e.bytes(&cb.Envelope{Payload: e.bytes(&cb.Payload{
		Header: &cb.Header{ChannelHeader: e.bytes(&cb.ChannelHeader{ChannelId: c.Name})},
		Data:   e.bytes(&cb.ConfigEnvelope{Config: &cb.Config{ChannelGroup: config}}),
	})})}}})
	if e.err != nil {
		t.Fatal(e.err)
	}
	return block
}

// TestUpdate changes a channel in steps that a record may take, and finds after each
// that the configuration is the record's and nothing is left to change.
func TestUpdate(t *testing.T) {
	all := trial(t)
	five := trial(t) // others of the same names: only the fifth is taken
	five.Orderers[0].Operator.Name, five.Members[0].Operator.Name = "wonka", "wonka"
	fifth := five.Orderers[0]
	fifth.ID, fifth.Address = 5, netip.MustParseAddrPort("127.66.5.11:7050")
	joiner := five.Members[0]
	joiner.Peers = []netip.AddrPort{netip.MustParseAddrPort("127.66.5.11:7051")}
	first := genesis(t, all)
	rapid.Check(t, func(r *rapid.T) {
		c := all
		now, err := parse(first)
		if err != nil {
			r.Fatal(err)
		}
		config := now.config
		for range rapid.IntRange(1, 6).Draw(r, "steps") {
			orderers, members := append([]Orderer{}, c.Orderers...), append([]Member{}, c.Members...)
			switch rapid.SampledFrom([]string{"orderer", "member", "app", "peers"}).Draw(r, "step") {
			case "orderer":
				if len(orderers) == 4 {
					orderers = append(orderers, fifth)
				} else {
					orderers = orderers[:4]
				}
			case "member":
				if len(members) == 4 {
					members = append(members, joiner)
				} else {
					members = members[:4]
				}
			case "app":
				c.App = rapid.SampledFrom([]string{"", "alice/assets", "alice/other"}).Draw(r, "app")
			case "peers":
				members[0].Peers = all.Members[0].Peers[:rapid.IntRange(1, 2).Draw(r, "peers")]
			}
			c.Orderers, c.Members = orderers, members
			block := running(t, c, config)
			update, err := c.Update(block)
			if errors.Is(err, ErrUnchanged) {
				continue
			}
			if err != nil {
				r.Fatal(err)
			}
			var u cb.ConfigUpdate
			if err := proto.Unmarshal(update, &u); err != nil {
				r.Fatal(err)
			}
			config = apply(r, config, u.GetReadSet(), u.GetWriteSet())
			if _, err := c.Update(running(t, c, config)); !errors.Is(err, ErrUnchanged) {
				r.Fatalf("after an update there is still something to change: %v", err)
			}
		}
	})
}

func TestUpdateRefuses(t *testing.T) {
	c := trial(t)
	block := genesis(t, c)
	if _, err := c.Update(block); !errors.Is(err, ErrUnchanged) {
		t.Errorf("nothing to change: %v", err)
	}
	two := c
	two.Orderers = slices.Clone(c.Orderers)
	two.Orderers[0].Address, two.Orderers[1].Address = netip.MustParseAddrPort("127.66.9.11:7050"), netip.MustParseAddrPort("127.66.8.11:7050")
	if _, err := two.Update(block); err == nil || !strings.Contains(err.Error(), "2 orderers would change") {
		t.Errorf("two orderers at once: %v", err)
	}
	two.Orderers[1] = c.Orderers[1]
	one, err := two.Update(block)
	if err != nil {
		t.Errorf("one orderer: %v", err)
	}
	slices.Reverse(two.Orderers)
	if again, err := two.Update(block); err != nil || !bytes.Equal(one, again) {
		t.Errorf("another update in another order, %v", err)
	}
	other := c
	other.Name = "bob.assets"
	if _, err := other.Update(block); err == nil || !strings.Contains(err.Error(), `of channel "alice.assets"`) {
		t.Errorf("another channel's block: %v", err)
	}
}

func FuzzUpdate(f *testing.F) {
	c := trial(f)
	raw := genesis(f, c)
	c.App = "alice/other"
	f.Add(raw)
	f.Add(raw[:len(raw)-9])
	f.Fuzz(func(t *testing.T, block []byte) {
		if update, err := c.Update(block); err == nil && len(update) == 0 {
			t.Fatal("an update of nothing")
		}
	})
}
