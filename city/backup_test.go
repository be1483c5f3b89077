package city

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// filled makes a city with something of every kind in its folder.
func filled(t *testing.T) Home {
	t.Helper()
	h := Home{Root: t.TempDir(), Name: "paris"}
	if err := h.Found("france", "test-net", 77, bsn.Parameters{}); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"bsn.yaml": "log:\n  level: info\n", "gateway.secret": "secret", "daemon.log": "noise", "daemon.lock": "1\n",
		"artifacts/abc": "package", "nodes/gateway/records.json": "{}", "nodes/gateway/gateway.json": "secret",
		"receipts/000000000010.json": "rows", "nodes/gateway/journal/000000000020-0.journal": "calls", "nodes/gateway/journal/closed": "10", "nodes/gateway/journal/lock": "",
		"nodes/kaia-x/nodekey": "secret", "nodes/kaia-x/spec.json": "{}", "nodes/kaia-x/data/chain/1.ldb": "blocks",
		"nodes/kaia-x/log/node.log": "noise", "ledger/data/cs.wal/wal": "log", "ledger/sync/x": "half",
	} {
		path := h.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBackupAndRestore(t *testing.T) {
	h := filled(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "paris.bsn")
	if _, err := h.Backup(t.Context(), file, BackupOptions{Keys: true}); err == nil {
		t.Fatal("keys were backed up in the clear")
	}
	sealed := BackupOptions{Keys: true, To: []age.Recipient{identity.Recipient()}}
	m, err := h.Backup(t.Context(), file, sealed)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the backup: %v %v", info.Mode(), err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("secret")) {
		t.Error("a key can be read from the backup")
	}
	open := RestoreOptions{Identities: []age.Identity{identity}}
	root := t.TempDir()
	if _, err := Restore(t.Context(), root, file, open); err != nil {
		t.Fatal(err)
	}
	got, want := files(t, root), files(t, h.Root)
	maps.DeleteFunc(want, func(name, _ string) bool {
		for _, out := range []string{"daemon.l", "artifacts/", "spec.json", "/data/chain", "node.log", "cs.wal", "ledger/sync", "journal/lock"} {
			if strings.Contains(name, out) {
				return true
			}
		}
		return false
	})
	delete(got, "cities/paris/ledger/restored.json") // the mark that keeps it from signing
	if !maps.Equal(got, want) {
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%s: %q, want %q", name, got[name], want[name])
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s was restored", name)
			}
		}
	}
	if len(m.Files) != len(want) {
		t.Errorf("the list names %d files of %d", len(m.Files), len(want))
	}
	if _, err := os.Stat(filepath.Join(root, "cities", "paris", "ledger", "restored.json")); err != nil {
		t.Errorf("it may sign at once: %v", err)
	}
	if _, err := Restore(t.Context(), root, file, open); err == nil || !strings.Contains(err.Error(), "does not overwrite") {
		t.Errorf("restored over a city: %v", err)
	}

	// What cannot be read leaves nothing behind.
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		open   RestoreOptions
		want   string
	}{
		"no key":    {func(b []byte) []byte { return b }, RestoreOptions{}, "it is encrypted"},
		"wrong key": {func(b []byte) []byte { return b }, RestoreOptions{Identities: []age.Identity{other}}, "wrong passphrase"},
		"cut off":   {func(b []byte) []byte { return b[:len(b)-100] }, open, ""},
		"one bit":   {func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }, open, ""},
		"empty":     {func([]byte) []byte { return nil }, open, "no backup of a city"},
		"nonsense":  {func([]byte) []byte { return []byte("nonsense, and more of it") }, open, "no backup of a city"},
	} {
		root, file := t.TempDir(), filepath.Join(t.TempDir(), "b")
		if err := os.WriteFile(file, c.change(b), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Restore(t.Context(), root, file, c.open)
		if !errors.Is(err, ErrBackup) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left := files(t, root); len(left) != 0 {
			t.Errorf("%s: it left %v", name, left)
		}
	}
	// Another key of the operator is not overwritten either.
	root = t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "operators"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(OperatorKey(root, "france"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), root, file, open); err == nil || !strings.Contains(err.Error(), "another key of operator") {
		t.Errorf("over another operator's key: %v", err)
	}
}

func TestBackupWithoutKeysAndWithData(t *testing.T) {
	h := filled(t)
	file := filepath.Join(t.TempDir(), "paris.bsn")
	if _, err := h.Backup(t.Context(), file, BackupOptions{Artifacts: true, Data: true}); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if _, err := Restore(t.Context(), root, file, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	got := files(t, root)
	for name, want := range map[string]bool{
		"city.json": true, "bsn.yaml": true, "artifacts/abc": true, "nodes/kaia-x/data/chain/1.ldb": true, "ledger/config/genesis.json": true,
		"ledger/data/cs.wal/wal": true, "nodes/gateway/records.json": true,
		"receipts/000000000010.json": true, "nodes/gateway/journal/000000000020-0.journal": true, "nodes/gateway/journal/closed": true, "nodes/gateway/journal/lock": false,
		"city.key": false, "nodes/kaia-x/nodekey": false, "ledger/config/priv_validator_key.json": false, "ledger/data/priv_validator_state.json": false,
		"gateway.secret": false, "nodes/gateway/gateway.json": false, "ledger/config/node_key.json": false,
	} {
		if _, has := got["cities/paris/"+name]; has != want {
			t.Errorf("%s: %v, want %v", name, has, want)
		}
	}
	// A running city's data is not copied under its feet.
	unlock, err := h.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := h.Backup(t.Context(), file, BackupOptions{Data: true}); err == nil || !strings.Contains(err.Error(), "bsn city stop paris") {
		t.Errorf("data of a running city: %v", err)
	}
}

func TestResyncAndSuccession(t *testing.T) {
	h := filled(t)
	if err := h.Resync(ledger.Trust{}); err == nil || !strings.Contains(err.Error(), "--trust") {
		t.Errorf("without a block to trust: %v", err)
	}
	if err := h.Resync(ledger.Trust{Height: 7, Hash: "ab"}); err != nil {
		t.Fatal(err)
	}
	if s, err := h.Load(); err != nil || !s.Resync || s.Trust.Height != 7 {
		t.Errorf("state: %+v %v", s, err)
	}
	if _, err := h.ExportLedger(); err == nil {
		t.Error("exported a ledger that never ran")
	}
	b, err := os.ReadFile(ledger.GenesisFile(h.ledger()))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Succeed("test-net", b); err != nil { // its own network: nothing to do
		t.Error(err)
	}
	next := bytes.ReplaceAll(b, []byte(`"test-net"`), []byte(`"test-net-2"`))
	if err := h.Succeed("other-net", next); err == nil || !strings.Contains(err.Error(), "is part of network") {
		t.Errorf("from another network: %v", err)
	}
	// A genesis that lacks the city is not taken.
	if err := h.Succeed("test-net", next); err == nil || !strings.Contains(err.Error(), "not among the cities that go on") {
		t.Errorf("without the city: %v", err)
	}
	if err := ledger.WriteGenesis(h.ledger(), next); err != nil {
		t.Fatal(err)
	}
	s, err := h.Load()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.checkNetwork(s); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("with another network's genesis: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	h := Home{Root: f.TempDir(), Name: "paris"}
	if _, err := h.Init("france"); err != nil {
		f.Fatal(err)
	}
	file := filepath.Join(f.TempDir(), "b")
	if _, err := h.Backup(f.Context(), file, BackupOptions{}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		m, err := unpack(t.Context(), bytes.NewReader(b), filepath.Join(dir, "in"), nil)
		if err == nil && bsn.CheckName("city", m.City) != nil {
			t.Errorf("city %q", m.City)
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.Name() != "in" {
				t.Errorf("it wrote %s beside its folder", e.Name())
			}
		}
	})
}
