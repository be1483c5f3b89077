package evm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/manifest"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// constant is a hand-assembled contract that always answers n: its runtime is
// PUSH1 n PUSH0 MSTORE PUSH1 32 PUSH0 RETURN, and before it stands code that copies it.
func constant(t *testing.T, name string, n byte) Contract {
	t.Helper()
	runtime := []byte{0x60, n, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3}
	size := byte(len(runtime))
	creation := []byte{0x60, size, 0x60, 10, 0x5f, 0x39, 0x60, size, 0x5f, 0xf3}
	return Contract{
		Name: name, Bytecode: append(creation, runtime...), Runtime: runtime,
		ABI: json.RawMessage(`[{"type":"function","name":"answer","stateMutability":"view","inputs":[],"outputs":[{"name":"","type":"uint8"}]}]`),
	}
}

// pack makes a package of compiled contracts.
func pack(t *testing.T, contracts ...Contract) []byte {
	t.Helper()
	m := manifest.Manifest{Name: "test"}
	for _, c := range contracts {
		m.Contracts = append(m.Contracts, manifest.Contract{Name: c.Name, Source: c.Name + ".sol"})
	}
	pkg, err := encode(m, contracts)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

const overloaded = `[
	{"type":"function","name":"f","stateMutability":"view","inputs":[{"name":"a","type":"uint256"}],"outputs":[]},
	{"type":"function","name":"f","stateMutability":"nonpayable","inputs":[{"name":"","type":"address"},{"name":"s","type":"tuple","components":[{"name":"x","type":"bool"}]}],"outputs":[]},
	{"type":"function","name":"g","stateMutability":"pure","inputs":[],"outputs":[]},
	{"type":"event","name":"E","inputs":[]}]`

func TestDescribe(t *testing.T) {
	c := constant(t, "One", 1)
	c.ABI = json.RawMessage(overloaded)
	got, err := Describe(pack(t, c))
	if err != nil {
		t.Fatal(err)
	}
	want := []bsn.Function{
		{Name: "f(address,(bool))", Inputs: []string{"address", "(bool) s"}},
		{Name: "f(uint256)", Inputs: []string{"uint256 a"}, Reads: true},
		{Name: "g", Inputs: []string{}, Reads: true},
	}
	if len(got) != 1 || got[0].Contract != "One" || !reflect.DeepEqual(got[0].Functions, want) {
		t.Errorf("got %+v", got)
	}
}

func TestFind(t *testing.T) {
	one, two := constant(t, "One", 1), constant(t, "Two", 2)
	one.ABI = json.RawMessage(overloaded)
	pkg := pack(t, one, two)
	for _, c := range []struct{ contract, function, want, err string }{
		{"One", "g", "One.g()", ""},
		{"", "g", "One.g()", ""},
		{"", "answer", "Two.answer()", ""},
		{"One", "f(uint256)", "One.f(uint256)", ""},
		{"One", "f(address, (bool))", "One.f(address,(bool))", ""},
		{"One", "f", "", "f(address,(bool)), f(uint256)"},
		{"Three", "f", "", `no contract "Three", but One, Two`},
		{"Two", "g", "", `no function "g", but answer()`},
		{"", "h", "", `none of the contracts One, Two has a function "h"`},
	} {
		contract, _, m, err := find(pkg, c.contract, c.function)
		if c.err == "" && (err != nil || contract.Name+"."+m.Sig != c.want) {
			t.Errorf("%s %s: %s.%s, %v, want %s", c.contract, c.function, contract.Name, m.Sig, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s %s: %v, want %q", c.contract, c.function, err, c.err)
		}
	}
	if _, _, _, err := find(pack(t, constant(t, "One", 1), two), "", "answer"); err == nil || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("two contracts with one function: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(pack(t, constant(t, "One", 1)))
	if _, err := Contracts([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"format", Format, "bsn.evm/2", "format"},
		{"unknown field", `{"format"`, `{"more":1,"format"`, "more"},
		{"trailing", "]}", "]}{}", "end"},
		{"other contract", `[{"name":"One","abi"`, `[{"name":"Two","abi"`, "Two"},
		{"no bytecode", `"bytecode":"0x`, `"bytecode":"0x","x":"`, "x"},
		{"huge type", `"uint8"`, `"uint8[9999][9999]"`, "more than"},
		{"unknown type", `"uint8"`, `"uint7"`, "uint7"},
		{"bad manifest", `"name":"test"`, `"name":"Test"`, "manifest"},
	} {
		bad := strings.Replace(good, c.old, c.new, 1)
		if bad == good {
			t.Fatalf("%s: nothing replaced", c.name)
		}
		if c.name == "trailing" {
			bad = good + "{}"
		}
		if _, err := Contracts([]byte(bad)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Contracts(make([]byte, MaxPackage+1)); err == nil {
		t.Error("a package over the limit was read")
	}
}

func TestParseABIBounds(t *testing.T) {
	deep := `{"name":"x","type":"uint8"}`
	for range maxDepth + 2 {
		deep = fmt.Sprintf(`{"name":"x","type":"tuple","components":[%s]}`, deep)
	}
	for name, p := range map[string]string{
		"deep tuple":    deep,
		"many brackets": `{"name":"x","type":"uint8` + strings.Repeat("[]", maxDepth+1) + `"}`,
		"many elements": `{"name":"x","type":"uint8[200][200]"}`,
		"tuples":        `{"name":"x","type":"tuple[100]","components":[{"name":"y","type":"uint8[200]"}]}`,
		"no type":       `{"name":"x","type":""}`,
		"fixed":         `{"name":"x","type":"fixed128x18"}`,
		"wide bytes":    `{"name":"x","type":"bytes33"}`,
	} {
		text := fmt.Sprintf(`[{"type":"function","name":"f","inputs":[%s],"outputs":[]}]`, p)
		if _, err := parseABI([]byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(overloaded))
	f.Add([]byte(`[{"type":"function","name":"f","inputs":[{"name":"_","type":"tuple[2][]","components":[{"name":"a b","type":"bytes32"}]}],"outputs":[]}]`))
	f.Add([]byte(`[{"type":"constructor","inputs":[{"type":"uint8[0]"}]},{"type":"error","name":"E","inputs":[]}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := parseABI(text)
		if err != nil {
			return
		}
		// Whatever the ABI, garbage from a node only makes an error.
		for _, m := range parsed.Methods {
			_, _ = formatResult(m.Outputs, text)
			_, _ = encodeArguments(m.Inputs, []json.RawMessage{text})
		}
		for _, e := range parsed.Events {
			_, _ = decodeEvent(parsed, log{Data: text, Topics: []common.Hash{e.ID}})
		}
		_ = revertText(parsed, text)
	})
}
