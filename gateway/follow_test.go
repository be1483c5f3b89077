package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startFollowing follows a ledger until the test ends.
func startFollowing(t *testing.T, l bsn.Ledger) *directory {
	t.Helper()
	d := &directory{}
	f := &follower{ledger: l, directory: d, chains: func([]bsn.Chain) {}, rights: func() {}, log: quiet()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f.run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

func testProject(account string, keys ...bsn.Key) bsn.Project {
	return bsn.Project{Account: account, Name: "main", Keys: keys}
}

func TestFollow(t *testing.T) {
	l := newMemoryLedger()
	_, key := bsn.NewKey("paris")
	var records []any
	for i := range pageSize + 3 { // more than one page
		records = append(records, testProject(fmt.Sprintf("account-%d", i)))
	}
	l.put(records...)
	l.put(testProject("alice", key))
	d := startFollowing(t, l)
	at := func(height int64) func() bool { return func() bool { return d.state().height == height } }
	eventually(t, "read", at(2))
	if e, ok, _ := d.key(key.Hash); !ok || e.id != "alice/main" {
		t.Fatalf("key belongs to %q (%v)", e.id, ok)
	}
	if n := len(d.records.Projects); n != pageSize+4 {
		t.Errorf("%d projects", n)
	}

	// Another project does not take a key over by copying its hash.
	l.put(testProject("aaron", key))
	eventually(t, "copy", at(3))
	if e, _, _ := d.key(key.Hash); e.id != "alice/main" {
		t.Errorf("key belongs to %q", e.id)
	}

	revoked := testProject("alice", key)
	revoked.Revoked = true
	l.put(revoked)
	eventually(t, "revoked", at(4))
	if e, _, _ := d.key(key.Hash); !e.project.Revoked {
		t.Error("project is not revoked")
	}

	// A record that cannot be read takes its rights with it.
	l.put(bsn.Change{Kind: bsn.KindProject, ID: "alice/main", Record: []byte(`{"keys":7}`)})
	eventually(t, "broken record", at(5))
	if _, ok, _ := d.key(key.Hash); ok {
		t.Error("key of a dropped project is still known")
	}

	// While the ledger is away all stays, and then the rest follows.
	l.set(true)
	l.put(testProject("bob", bsn.Key{City: "paris", Hash: "b"}))
	if _, _, ready := d.key("b"); !ready {
		t.Error("directory was lost with the ledger")
	}
	l.set(false)
	eventually(t, "ledger is back", at(6))
	if _, ok, _ := d.key("b"); !ok {
		t.Error("missed a block")
	}
	if l.lists != 1 {
		t.Errorf("all records were read %d times", l.lists)
	}
}

func TestFollowReadsAfreshWhenPruned(t *testing.T) {
	l := newMemoryLedger()
	l.put(testProject("alice", bsn.Key{City: "paris", Hash: "a"}))
	d := startFollowing(t, l)
	eventually(t, "read", func() bool { return d.state().height == 1 })
	l.set(true)
	l.put(testProject("bob", bsn.Key{City: "paris", Hash: "b"}))
	l.put(testProject("carol", bsn.Key{City: "paris", Hash: "c"}))
	l.mu.Lock()
	l.pruned = 2
	l.mu.Unlock()
	l.set(false)
	eventually(t, "read afresh", func() bool { return d.state().height == 3 })
	for _, hash := range []string{"a", "b", "c"} {
		if _, ok, _ := d.key(hash); !ok {
			t.Errorf("key %s is not known", hash)
		}
	}
}

// Pages are read at different heights; what comes of them is used only at the
// height of the newest.
func TestFollowWhileListing(t *testing.T) {
	l := newMemoryLedger()
	l.put(testProject("alice", bsn.Key{City: "paris", Hash: "a"}))
	l.between = func() { l.put() }
	d := &directory{}
	f := &follower{ledger: l, directory: d, chains: func([]bsn.Chain) {}, rights: func() {}, log: quiet()}
	r, level, err := f.list(t.Context())
	// A page of each kind, and one more of the kind that has a record: only an empty
	// page is the end.
	if err != nil || r.Height != 1 || level != int64(len(followed))+1 {
		t.Fatalf("height %d, level %d, %v", r.Height, level, err)
	}
	l.mu.Lock()
	l.between = nil
	l.mu.Unlock()
	followed := startFollowing(t, l)
	eventually(t, "level", func() bool { return followed.state().height == l.height() })
}

func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if r, _, err := loadState(path); r != nil || err != nil {
		t.Fatalf("no file: %v %v", r, err)
	}
	secret, key := bsn.NewKey("paris")
	l := newMemoryLedger()
	l.put(bsn.City{Name: "paris"}, bsn.Chain{Name: "chongqing"}, testProject("alice", key))
	d := startFollowing(t, l)
	eventually(t, "read", func() bool { return d.state().height == 1 })

	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what has changed is still saved at the end
	keepState(ctx, d, path, quiet())
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), strings.TrimPrefix(secret, "bsn_")) {
		t.Error("state holds a key")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("state has mode %v", info.Mode())
	}
	r, counted, err := loadState(path)
	if err != nil {
		t.Fatal(err)
	}
	again := &directory{}
	again.restore(r, counted)
	if e, ok, ready := again.key(key.Hash); !ok || !ready || e.id != "alice/main" {
		t.Errorf("key belongs to %q (%v, %v)", e.id, ok, ready)
	}
	if s := again.state(); s.height != 1 || !s.contact.IsZero() {
		t.Errorf("state %+v", s)
	}
	if err := os.WriteFile(path, []byte(`{"height":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadState(path); err == nil {
		t.Error("a broken state was taken")
	}
}
