package evm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openbsn/bsn/manifest"
)

// buildText builds an app of a manifest's text and files.
func buildText(t *testing.T, text string, files map[string]string) ([]byte, string, error) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, manifest.File, text)
	for name, content := range files {
		write(t, dir, name, content)
	}
	m, err := manifest.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	pkg, err := Build(long(t), dir, m, &said)
	return pkg, said.String(), err
}

const (
	artifactManifest = "name: app\ncontracts: [{name: One, artifact: One.json, args: [7]}]\n"
	artifactABI      = `[ {"type":"constructor","inputs":[{"name":"n","type":"uint8"}]} ]`
)

func TestBuildArtifacts(t *testing.T) {
	for _, c := range []struct{ name, artifact, compiler, err string }{
		{"hardhat", `{"_format":"hh-sol-artifact-1","abi":` + artifactABI + `,"bytecode":"0x6001","deployedBytecode":"0x02","linkReferences":{}}`, "hardhat (hh-sol-artifact-1)", ""},
		{"foundry", `{"abi":` + artifactABI + `,"bytecode":{"object":"0x6001","linkReferences":{}},"deployedBytecode":{"object":"0x02"},"metadata":{"compiler":{"version":"0.8.30"}}}`, "foundry, solc 0.8.30", ""},
		{"neither", `{"abi":` + artifactABI + `,"bytecode":"6001","deployedBytecode":"02"}`, "", ""},
		{"hardhat, not linked", `{"abi":` + artifactABI + `,"bytecode":"0x60__$aaaa$__","linkReferences":{"contracts/M.sol":{"M":[{"start":1}]}}}`, "", "address of a library (contracts/M.sol:M)"},
		{"foundry, not linked", `{"abi":` + artifactABI + `,"bytecode":{"object":"0x60__$aaaa$__","linkReferences":{"src/M.sol":{"M":[]}}}}`, "", "src/M.sol:M"},
		{"no hex", `{"abi":` + artifactABI + `,"bytecode":"0x6z"}`, "", "no hex"},
		{"interface", `{"abi":` + artifactABI + `,"bytecode":"0x"}`, "", "abstract contract"},
		{"build info", `{"input":{},"output":{}}`, "", "no abi or no bytecode"},
		{"no JSON", `abi`, "", "artifact One.json"},
		{"bytecode of another kind", `{"abi":` + artifactABI + `,"bytecode":7}`, "", "artifact One.json: bytecode"},
		{"other constructor", `{"abi":[],"bytecode":"0x6001"}`, "", "contract One: constructor: 1 arguments given, 0 wanted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pkg, _, err := buildText(t, artifactManifest, map[string]string{"One.json": c.artifact})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			contracts, err := Contracts(pkg)
			if err != nil {
				t.Fatal(err)
			}
			got := contracts[0]
			want := append([]byte{0x60, 0x01}, number(7)...)
			if !bytes.Equal(got.Bytecode, want) || !bytes.Equal(got.Runtime, []byte{2}) || got.Compiler != c.compiler {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestBuildStaysInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "One.json")
	if err := os.WriteFile(outside, []byte(`{"abi":`+artifactABI+`,"bytecode":"0x6001"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "One.json")); err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse([]byte(artifactManifest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build(long(t), dir, m, t.Output()); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("a link out of the folder was followed: %v", err)
	}
}

const sourceManifest = "name: app\ncontracts: [{name: App, source: src/App.sol}]\n"

func source(body string) string {
	return "// SPDX-License-Identifier: Apache-2.0\npragma solidity ^0.8.24;\n" + body
}

func TestBuildSources(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles")
	}
	secret := filepath.Join(t.TempDir(), "Secret.sol")
	if err := os.WriteFile(secret, []byte(source("contract Secret {}")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, manifest string
		files          map[string]string
		err, said      string
	}{
		{name: "one", files: map[string]string{"src/App.sol": source("contract App { function f() external pure {} }")}},
		{
			name: "imports", files: map[string]string{
				"src/App.sol":                 source(`import "./lib/B.sol"; import {C} from "pkg/C.sol"; contract App is B, C {}`),
				"src/lib/B.sol":               source(`contract B {}`),
				"node_modules/pkg/C.sol":      source(`import "./deep/D.sol"; contract C is D {}`),
				"node_modules/pkg/deep/D.sol": source(`contract D { uint256 immutable x = block.number; }`),
			},
		},
		{name: "named in the file", manifest: "name: app\ncontracts: [{name: App, source: 'src/App.sol:B'}]\n", files: map[string]string{"src/App.sol": source("contract A {} contract B { event X(); }")}},
		{name: "called like the app's", files: map[string]string{"src/App.sol": source("contract A {} contract App {}")}},
		{name: "beside an interface", files: map[string]string{"src/App.sol": source("interface I {} contract Other {}")}},
		{name: "which", files: map[string]string{"src/App.sol": source("contract A {} contract B {}")}, err: "write source: src/App.sol:A"},
		{name: "nothing to deploy", files: map[string]string{"src/App.sol": source("interface I {}")}, err: "no contract that can be deployed"},
		{name: "abstract", manifest: "name: app\ncontracts: [{name: App, source: 'src/App.sol:I'}]\n", files: map[string]string{"src/App.sol": source("interface I {}")}, err: "abstract contract"},
		{name: "not there", err: "contract App: open source"},
		{name: "no such contract", manifest: "name: app\ncontracts: [{name: App, source: 'src/App.sol:Z'}]\n", files: map[string]string{"src/App.sol": source("contract A {}")}, err: "src/App.sol has no contract Z"},
		{name: "error", files: map[string]string{"src/App.sol": source("contract App { uint x = true; }")}, err: "TypeError: Type bool is not implicitly convertible to expected type uint256.\n --> src/App.sol:3"},
		{name: "warning", files: map[string]string{"src/App.sol": "pragma solidity ^0.8.24;\ncontract App {}"}, said: "Warning: SPDX license identifier not provided"},
		{name: "import not there", files: map[string]string{"src/App.sol": source(`import "@openzeppelin/contracts/A.sol"; contract App {}`)}, err: "run npm install there"},
		{name: "import from outside", files: map[string]string{"src/App.sol": source(`import "` + secret + `"; contract App {}`)}, err: "neither in the app's folder nor in its node_modules"},
		{name: "library", files: map[string]string{"src/App.sol": source("library L { function f() external pure {} } contract App { function g() external pure { L.f(); } }")}, err: "address of a library (src/App.sol:L)"},
		{name: "too large for a transaction", files: map[string]string{"src/App.sol": source(`contract App { string constant s = "` + strings.Repeat("x", 130<<10) + `"; function f() external pure returns (string memory) { return s; } }`)}, err: "can be deployed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := c.manifest
			if text == "" {
				text = sourceManifest
			}
			pkg, said, err := buildText(t, text, c.files)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said, c.said) {
				t.Errorf("said %q, want %q", said, c.said)
			}
			again, _, err := buildText(t, text, c.files)
			if err != nil || !bytes.Equal(again, pkg) {
				t.Errorf("another folder gives another package (%v)", err)
			}
		})
	}
}

func TestBuildLinkOutside(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles")
	}
	secret := filepath.Join(t.TempDir(), "Secret.sol")
	if err := os.WriteFile(secret, []byte(source("contract Secret {}")), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "App.sol", source(`import "./Secret.sol"; contract App {}`))
	if err := os.Symlink(secret, filepath.Join(dir, "Secret.sol")); err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse([]byte("name: app\ncontracts: [{name: App, source: App.sol}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build(long(t), dir, m, t.Output()); err == nil || !strings.Contains(err.Error(), "leads out of the app's folder") {
		t.Errorf("a link out of the folder was followed: %v", err)
	}
}

func TestBuildWithoutNode(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := buildText(t, sourceManifest, map[string]string{"src/App.sol": source("contract App {}")})
	if err == nil || !strings.Contains(err.Error(), "node is not installed") {
		t.Errorf("got %v", err)
	}
}

// TestInstalled: a failed installation leaves nothing that would pass for a
// complete one, and a second process waits for the first.
func TestInstalled(t *testing.T) {
	if testing.Short() {
		t.Skip("runs npm")
	}
	dir := filepath.Join(t.TempDir(), "thing", "1.0.0")
	bad := map[string][]byte{"package.json": []byte(`{"name":"x"}`)}
	if err := installed(long(t), dir, bad, t.Output()); err == nil || !strings.Contains(err.Error(), "npm ci") {
		t.Fatalf("without a lock file: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "1.0.0*")); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	unlock, err := lock(t.Context(), dir+".lock")
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := installed(ended, dir, bad, t.Output()); !errors.Is(err, context.Canceled) {
		t.Errorf("while another installs: %v", err)
	}
	unlock()
	good := map[string][]byte{
		"package.json":      []byte(`{"name":"x","version":"1.0.0"}`),
		"package-lock.json": []byte(`{"name":"x","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{"":{"name":"x","version":"1.0.0"}}}`),
	}
	for range 2 {
		if err := installed(long(t), dir, good, t.Output()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "package.json")); err != nil {
		t.Error(err)
	}
}

func FuzzArtifact(f *testing.F) {
	f.Add([]byte(`{"abi":` + artifactABI + `,"bytecode":{"object":"0x60__$aaaa$__","linkReferences":{"src/M.sol":{"M":[]}}}}`))
	f.Add([]byte(`{"abi":[],"bytecode":"0x6001","metadata":"x","_format":"hh"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, _, err := parseArtifact("a.json", text)
		if err != nil {
			return
		}
		_, _ = out.Bytecode.decode()
		_, _ = parseABI(out.ABI)
	})
}
