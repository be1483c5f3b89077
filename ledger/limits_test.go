package ledger

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

// TestLimitsOfKeysAndProjects: what an account says of its keys and projects is
// recorded in its normal form, and nobody else says it.
func TestLimitsOfKeysAndProjects(t *testing.T) {
	t.Parallel()
	m := settle(t, 2, bsn.Parameters{})
	alice, bob := m.client(t, "alice"), m.client(t, "bob")
	address := "0x" + strings.Repeat("Ab", 20)
	_, k := bsn.NewKey("city-0")
	k.Limits = bsn.Limits{RequestsPerSecond: 20, UnitsPerSecond: 400}
	k.Restrictions = bsn.Restrictions{
		Methods: []string{"eth_*"}, DeniedMethods: []string{"eth_getLogs"}, Contracts: []string{"lab:" + address, "alice/shop"},
		IPs: []string{"10.1.2.3/8"}, Origins: []string{"https://App.example:443"},
	}
	k.Expires = m.time.Unix() + 3600
	m.write(t, alice, SetProject(bsn.Project{Name: "web", Limits: bsn.Limits{RequestsPerSecond: 5}}), SetKey("web", k))
	want := k
	want.Restrictions.Contracts = []string{"lab:" + strings.ToLower(address), "alice/shop"}
	want.Restrictions.IPs, want.Restrictions.Origins = []string{"10.0.0.0/8"}, []string{"https://app.example"}
	project := func() bsn.Project { t.Helper(); return read[bsn.Project](t, m, bsn.KindProject, "alice/web") }
	if p := project(); len(p.Keys) != 1 || !reflect.DeepEqual(p.Keys[0], want) {
		t.Errorf("key: %+v, want %+v", p.Keys, want)
	}

	// It is changed without another key, and what is not given any more is gone.
	bare := bsn.Key{City: k.City, Hash: k.Hash, Expires: k.Expires}
	m.write(t, alice, SetKey("web", bare))
	if p := project(); len(p.Keys) != 1 || p.Keys[0].Restricted() && p.Keys[0].Expires == 0 || !p.Keys[0].Restrictions.IsZero() || p.Keys[0].Limits != (bsn.Limits{}) {
		t.Errorf("key: %+v", p.Keys)
	}

	with := func(change func(*bsn.Key)) Message {
		c := k
		change(&c)
		return SetKey("web", c)
	}
	m.refuses(t, alice, `method "*x"`, with(func(k *bsn.Key) { k.Restrictions.Methods = []string{"*x"} }))
	m.refuses(t, alice, "the most is 32", with(func(k *bsn.Key) { k.Restrictions.IPs = slices.Repeat([]string{"10.0.0.1"}, 33) }))
	m.refuses(t, alice, "40 hex digits", with(func(k *bsn.Key) { k.Restrictions.Contracts = []string{"0x12"} }))
	m.refuses(t, alice, "origin", with(func(k *bsn.Key) { k.Restrictions.Origins = []string{"example"} }))
	m.refuses(t, alice, "requests per second", with(func(k *bsn.Key) { k.Limits.RequestsPerSecond = bsn.MaxRequestsPerSecond + 1 }))
	m.refuses(t, alice, "compute units per second", with(func(k *bsn.Key) { k.Limits.UnitsPerSecond = bsn.MaxUnitsPerSecond + 1 }))
	m.refuses(t, alice, "would expire", with(func(k *bsn.Key) { k.Expires = 1 }))
	m.refuses(t, alice, "would expire", with(func(k *bsn.Key) { k.Expires = -1 }))
	m.refuses(t, alice, "64 lower-case", with(func(k *bsn.Key) { k.Hash = "ab" }))
	m.refuses(t, alice, "is of city", with(func(k *bsn.Key) { k.City = "city-1" }))
	m.refuses(t, bob, "no such record", with(func(*bsn.Key) {}))
	m.refuses(t, bob, "another project has this key", SetProject(bsn.Project{Name: "own"}), SetKey("own", k))
	_, lost := bsn.NewKey("atlantis")
	m.refuses(t, alice, "atlantis", SetKey("web", lost))

	// A key whose time is over can still be changed, but for its expiry into the past.
	m.time = m.time.Add(2 * 3600 * 1e9)
	m.block(t)
	m.write(t, alice, with(func(*bsn.Key) {}))
	m.write(t, alice, with(func(k *bsn.Key) { k.Expires = 0 }))
	if p := project(); p.Keys[0].Expires != 0 {
		t.Errorf("key: %+v", p.Keys)
	}
	m.write(t, alice, RevokeKey("web", k.ID))
	m.refuses(t, alice, "revoked", with(func(k *bsn.Key) { k.Expires = 0 }))

	m.write(t, alice, SetLimits(bsn.Project{Name: "web", Limits: bsn.Limits{RequestsPerSecond: 7, UnitsPerSecond: 70}, Quota: bsn.Quota{Daily: 700, Monthly: 7000}}))
	m.write(t, alice, SetProject(bsn.Project{Name: "web", Limits: bsn.Limits{RequestsPerSecond: 8}})) // takes nothing else away
	if p := project(); p.Limits != (bsn.Limits{RequestsPerSecond: 8, UnitsPerSecond: 70}) || p.Quota != (bsn.Quota{Daily: 700, Monthly: 7000}) {
		t.Errorf("project: %+v", p)
	}
	m.refuses(t, alice, "quotas of", SetLimits(bsn.Project{Name: "web", Quota: bsn.Quota{Daily: -1}}))
	m.refuses(t, alice, "quotas of", SetLimits(bsn.Project{Name: "web", Quota: bsn.Quota{Monthly: bsn.MaxQuota + 1}}))
	m.refuses(t, alice, "no such record", SetLimits(bsn.Project{Name: "nothing"}))
	m.refuses(t, bob, "no such record", SetLimits(bsn.Project{Name: "web"}))
	m.write(t, alice, RevokeProject("web"))
	m.refuses(t, alice, "revoked", SetLimits(bsn.Project{Name: "web"}))
	m.refuses(t, alice, "revoked", with(func(k *bsn.Key) { k.Hash = strings.Repeat("ab", 32) }))
	m.compare(t)
	m.restart(t, m.export(t))
}

// TestFullProject: however much is said of its keys, a project's record stays within its size.
func TestFullProject(t *testing.T) {
	t.Parallel()
	m := settle(t, 1, bsn.Parameters{AccountWrites: 1_000_000})
	alice := m.client(t, "alice")
	m.write(t, alice, SetProject(bsn.Project{Name: "web"}))
	var large bsn.Restrictions
	for range bsn.MaxRestrictions {
		large.Contracts = append(large.Contracts, "lab:0x"+strings.Repeat("ab", 20))
		large.Origins = append(large.Origins, "https://"+strings.Repeat("a", 100)+".example")
	}
	for i := 0; ; i++ {
		_, k := bsn.NewKey("city-0")
		k.Restrictions = large
		if _, err := alice.Write(context.Background(), SetKey("web", k)); err != nil {
			if !strings.Contains(err.Error(), "the most is") || i < 20 {
				t.Errorf("after %d keys: %v", i, err)
			}
			return
		}
	}
}

// TestLimitsAreOfTheSecondVersion: before it the messages are ones that nobody can read.
func TestLimitsAreOfTheSecondVersion(t *testing.T) {
	for _, name := range []string{"SetKey", "SetLimits"} {
		url := "/bsn.ledger.account.v1.Msg" + name
		if _, err := must[coder](t)(newCoder(1)).registry.Resolve(url); err == nil {
			t.Errorf("version 1 knows %s", url)
		}
		if _, err := must[coder](t)(newCoder(2)).registry.Resolve(url); err != nil {
			t.Error(err)
		}
	}
}
