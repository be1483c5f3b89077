package bsn

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRestrictions(t *testing.T) {
	address := "0x" + strings.Repeat("aB", 20)
	for _, c := range []struct {
		in   Restrictions
		want Restrictions
		fail string
	}{
		{in: Restrictions{Methods: []string{"eth_call", "eth_*", "*"}}, want: Restrictions{Methods: []string{"eth_call", "eth_*", "*"}}},
		{in: Restrictions{Methods: []string{""}}, fail: `method ""`},
		{in: Restrictions{Methods: []string{"eth_*Call"}}, fail: `method "eth_*Call"`},
		{in: Restrictions{Methods: []string{"eth_call "}}, fail: `method "eth_call "`},
		{in: Restrictions{DeniedMethods: []string{"**"}}, fail: `method "**"`},
		{in: Restrictions{Methods: slices.Repeat([]string{"a"}, 33)}, fail: "33 methods: the most is 32"},
		{
			in:   Restrictions{Contracts: []string{address, "lab:" + address, "alice/shop", "lab:bsn1xyz"}},
			want: Restrictions{Contracts: []string{strings.ToLower(address), "lab:" + strings.ToLower(address), "alice/shop", "lab:bsn1xyz"}},
		},
		{in: Restrictions{Contracts: []string{address[:41]}}, fail: "40 hex digits"},
		{in: Restrictions{Contracts: []string{"Lab:" + address}}, fail: "malformed name"},
		{in: Restrictions{Contracts: []string{"alice/"}}, fail: "malformed name"},
		{in: Restrictions{Contracts: []string{"a b"}}, fail: `contract "a b"`},
		{in: Restrictions{Contracts: []string{"lab:"}}, fail: `contract "lab:"`},
		{
			in:   Restrictions{IPs: []string{"10.1.2.3/8", "192.0.2.7", "2001:DB8::1/32", "::1"}},
			want: Restrictions{IPs: []string{"10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::1/128"}},
		},
		{in: Restrictions{IPs: []string{"10.0.0.0/33"}}, fail: "IP range"},
		{in: Restrictions{IPs: []string{"fe80::1%eth0"}}, fail: "IP range"},
		{in: Restrictions{IPs: []string{"::ffff:10.0.0.1"}}, fail: "IP range"},
		{in: Restrictions{IPs: []string{"localhost"}}, fail: "IP range"},
		{
			in:   Restrictions{Origins: []string{"https://App.example", "http://localhost:3000", "https://*.app.example:8443", "https://a.example:443", "http://[::1]:80", "capacitor://localhost"}},
			want: Restrictions{Origins: []string{"https://app.example", "http://localhost:3000", "https://*.app.example:8443", "https://a.example", "http://[::1]", "capacitor://localhost"}},
		},
		{in: Restrictions{Origins: []string{"app.example"}}, fail: "origin"},
		{in: Restrictions{Origins: []string{"https://app.example/"}}, fail: "origin"},
		{in: Restrictions{Origins: []string{"https://*"}}, fail: "origin"},
		{in: Restrictions{Origins: []string{"https://a.*.example"}}, fail: "origin"},
		{in: Restrictions{Origins: []string{"https://a.example:70000"}}, fail: "no such port"},
		{in: Restrictions{Origins: []string{"null"}}, fail: "origin"},
	} {
		got, err := c.in.Normal()
		switch {
		case c.fail != "":
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%+v: %v, want %q", c.in, err, c.fail)
			}
		case err != nil || !same(got, c.want):
			t.Errorf("%+v: %+v, %v", c.in, got, err)
		}
	}
}

func same(a, b Restrictions) bool {
	return slices.Equal(a.Methods, b.Methods) && slices.Equal(a.DeniedMethods, b.DeniedMethods) &&
		slices.Equal(a.Contracts, b.Contracts) && slices.Equal(a.IPs, b.IPs) && slices.Equal(a.Origins, b.Origins)
}

// What is stored is in its normal form, is not empty where what was asked for is not,
// and is of bounded size.
func FuzzRestrictions(f *testing.F) {
	for _, s := range []string{"eth_*", "lab:0x" + strings.Repeat("Ab", 20), "alice/shop", "10.1.1.1/8", "::1", "HTTPS://*.a.example:443", "http://[::1]:8080"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range []Restrictions{{Methods: []string{s}}, {DeniedMethods: []string{s}}, {Contracts: []string{s}}, {IPs: []string{s}}, {Origins: []string{s}}} {
			normal, err := r.Normal()
			if err != nil {
				continue
			}
			if normal.IsZero() {
				t.Errorf("%q restricts nothing", s)
			}
			for _, list := range [][]string{normal.Methods, normal.DeniedMethods, normal.Contracts, normal.IPs, normal.Origins} {
				for _, entry := range list {
					if len(entry) > 160 || strings.ContainsAny(entry, "\"\\\x00\n ") {
						t.Errorf("%q is stored as %q", s, entry)
					}
				}
			}
			again, err := normal.Normal()
			if err != nil || !same(again, normal) {
				t.Errorf("%q: %+v becomes %+v, %v", s, normal, again, err)
			}
		}
	})
}

func TestLimitsAndQuotas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{rapid.IntRange(-2, 2*MaxRequestsPerSecond).Draw(t, "requests"), rapid.IntRange(-2, 2*MaxUnitsPerSecond).Draw(t, "units")}
		good := l.RequestsPerSecond >= 0 && l.RequestsPerSecond <= MaxRequestsPerSecond && l.UnitsPerSecond >= 0 && l.UnitsPerSecond <= MaxUnitsPerSecond
		if err := l.Check(); (err == nil) != good {
			t.Errorf("%+v: %v", l, err)
		}
		q := Quota{rapid.Int64Range(-2, 2*MaxQuota).Draw(t, "daily"), rapid.Int64Range(-2, 2*MaxQuota).Draw(t, "monthly")}
		if err := q.Check(); (err == nil) != (q.Daily >= 0 && q.Daily <= MaxQuota && q.Monthly >= 0 && q.Monthly <= MaxQuota) {
			t.Errorf("%+v: %v", q, err)
		}
	})
}
