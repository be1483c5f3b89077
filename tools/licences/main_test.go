package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		path string
		want []string
	}{
		{"../../LICENSE", []string{"Apache-2.0"}},
		{"main_test.go", []string{"unknown licence"}},
	} {
		b, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := classify(b); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.path, got, c.want)
		}
	}
}

func TestPolicy(t *testing.T) {
	p, err := readPolicy("../licences.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range p.Exceptions {
		if e.Reason == "" || slices.Contains(e.Licences, "AGPL-3.0") {
			t.Errorf("exception %+v", e)
		}
	}
	for _, c := range []struct {
		mod, id string
		passes  bool
	}{
		{"example.org/a", "MIT", true},
		{"example.org/a", "GPL-3.0", false},
		{"example.org/a", "LGPL-3.0", false},
		{"example.org/a", "no licence", false},
		{"github.com/ethereum/go-ethereum", "LGPL-3.0", true},
		{"github.com/ethereum/go-ethereum", "AGPL-3.0", false},
	} {
		if err := p.check(map[string]map[string]string{c.mod: {c.id: "LICENSE"}}); (err == nil) != c.passes {
			t.Errorf("%s under %s: %v", c.mod, c.id, err)
		}
	}
	for path, passes := range map[string]bool{
		"github.com/kaiachain/kaia/node":              false,
		"github.com/ethereum/go-ethereum/cmd/utils":   false,
		"github.com/ethereum/go-ethereum/core/types":  true,
		"github.com/kaiachains/kaia":                  true,
		"github.com/openbsn/bsn/framework/kaia/nodes": true,
	} {
		if err := p.imports([]listed{{ImportPath: path}}); (err == nil) != passes {
			t.Errorf("import of %s: %v", path, err)
		}
	}
}

func TestLicencesOfPackages(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "COPYING"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "LICENSE.txt"), []byte("all rights reserved"), 0o600); err != nil {
		t.Fatal(err)
	}
	bare := t.TempDir()
	found, err := licences([]listed{
		{Dir: inner, Module: &module{Path: "m", Dir: dir}},
		{Dir: bare, Module: &module{Path: "bare", Dir: bare}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for mod, want := range map[string][]string{"m": {"Apache-2.0", "unknown licence"}, "bare": {"no licence"}} {
		if got := slices.Sorted(maps.Keys(found[mod])); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", mod, got, want)
		}
	}
}
