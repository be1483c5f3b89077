package manifest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

const full = `
name: certificates
chain: chongqing
contracts:
  - name: Certificates
    source: contracts/Certificates.sol:Registry
    args:
      - Spring school
      - 0x00000000000000000000000000000000000000aB
      - 340282366920938463463374607431768211456
      - [1, yes, "two"]
      - {to: 0x01, deep: [-5]}
  - name: Token
    artifact: out/Token.json
cities: [chongqing, paris]
roles:
  registrar:
    accounts: [school]
    functions: [issue, "revoke(uint256)"]
limits:
  requestsPerSecond: 50
`

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("empty folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, File), []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Name: "certificates", Chain: "chongqing",
		Contracts: []Contract{
			{Name: "Certificates", Source: "contracts/Certificates.sol:Registry", Args: []json.RawMessage{
				json.RawMessage(`"Spring school"`),
				json.RawMessage(`"0x00000000000000000000000000000000000000aB"`),
				json.RawMessage(`"340282366920938463463374607431768211456"`),
				json.RawMessage(`["1","yes","two"]`),
				json.RawMessage(`{"deep":["-5"],"to":"0x01"}`),
			}},
			{Name: "Token", Artifact: "out/Token.json"},
		},
		Cities: []string{"chongqing", "paris"},
		Roles:  map[string]bsn.Role{"registrar": {Accounts: []string{"school"}, Functions: []string{"issue", "revoke(uint256)"}}},
		Limits: bsn.Limits{RequestsPerSecond: 50},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const one = "name: app\ncontracts: [{name: A, source: A.sol}]\n"
	if _, err := Parse([]byte(one)); err != nil {
		t.Fatalf("the smallest manifest: %v", err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "empty"},
		{"unknown field", one + "chian: x\n", "line 3: field chian is unknown"},
		{"unknown field inside", "name: app\ncontracts:\n  - name: A\n    src: A.sol\n", "line 4: field src is unknown"},
		{"wrong type", "name: [1]\n", "line 1"},
		{"no YAML", "name: 'app\n", "line"},
		{"key twice", one + "name: app\n", "line 3"},
		{"two documents", one + "---\n" + one, "more than one"},
		{"too large", one + strings.Repeat("#", MaxSize), "64 KiB"},
		{"bad name", "name: App\ncontracts: [{name: A, source: A.sol}]\n", `name "App"`},
		{"no contract", "name: app\n", "at least one"},
		{"chain and framework", one + "chain: aa\nframework: bb\n", "one of them"},
		{"bad chain", one + "chain: A\n", "chain"},
		{"bad framework", one + "framework: 1a\n", "framework"},
		{"bad contract name", "name: app\ncontracts: [{name: a/b, source: A.sol}]\n", "contracts[0].name"},
		{"contract twice", "name: app\ncontracts: [{name: A, source: A.sol},{name: A, source: A.sol}]\n", "twice"},
		{"neither source nor artifact", "name: app\ncontracts: [{name: A}]\n", "either source"},
		{"both", "name: app\ncontracts: [{name: A, source: A.sol, artifact: A.json}]\n", "either source"},
		{"outside", "name: app\ncontracts: [{name: A, source: ../A.sol}]\n", "within the app's folder"},
		{"absolute", "name: app\ncontracts: [{name: A, artifact: /etc/A.json}]\n", "within the app's folder"},
		{"backslash", "name: app\ncontracts: [{name: A, source: 'a\\A.sol'}]\n", "within the app's folder"},
		{"roundabout", "name: app\ncontracts: [{name: A, source: a/../A.sol}]\n", `write it as "A.sol"`},
		{"kind", "name: app\ncontracts: [{name: A, source: A.vy}]\n", "must end in .sol"},
		{"bad name in file", "name: app\ncontracts: [{name: A, source: 'A.sol:1'}]\n", "after the colon"},
		{"args no list", "name: app\ncontracts: [{name: A, source: A.sol, args: 1}]\n", "line 2: args must be a list"},
		{"empty arg", "name: app\ncontracts: [{name: A, source: A.sol, args: [~]}]\n", "an argument is empty"},
		{"alias", "name: app\ncontracts: [{name: A, source: A.sol, args: [&a [1], *a]}]\n", "not followed"},
		{"city twice", one + "cities: [paris, paris]\n", "paris is there twice"},
		{"bad city", one + "cities: [Paris]\n", "cities"},
		{"empty role", one + "roles: {admin: {accounts: [alice]}}\n", "roles.admin"},
		{"bad function", one + "roles: {admin: {accounts: [alice], functions: ['a b']}}\n", "roles.admin.functions"},
		{"bad account", one + "roles: {admin: {accounts: ['0x01'], functions: [f]}}\n", "roles.admin.accounts"},
		{"limit", one + "limits: {requestsPerSecond: -1}\n", "requestsPerSecond"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "manifest.") {
				t.Errorf("the error speaks of Go: %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("name: app\ncontracts: [{name: A, source: A.sol, args: [&a [1], *a]}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		if err != nil {
			return
		}
		written, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("write: %v", err)
		}
		var again Manifest
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatalf("read back: %v", err)
		}
		if err := again.Check(); err != nil {
			t.Fatalf("the JSON form breaks the rules: %v", err)
		}
	})
}
