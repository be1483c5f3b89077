package city

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

// book is a ledger in memory, which changes while it is read and may fail.
type book struct {
	height  int64
	records map[bsn.Kind]map[string]json.RawMessage
	blocks  []bsn.Block
	// during is called before each page.
	during func() error
}

func (b *book) put(kind bsn.Kind, id string, record any) {
	raw, err := json.Marshal(record)
	if err != nil {
		panic(err)
	}
	if b.records[kind] == nil {
		b.records[kind] = map[string]json.RawMessage{}
	}
	b.records[kind][id] = raw
	b.height++
	b.blocks = append(b.blocks, bsn.Block{Height: b.height, Time: time.Unix(b.height, 0), Changes: []bsn.Change{{Kind: kind, ID: id, Record: raw}}})
}

func (b *book) Get(context.Context, bsn.Kind, string) (json.RawMessage, error) {
	return nil, bsn.ErrNoRecord
}

func (b *book) List(_ context.Context, kind bsn.Kind, after string, _ int) ([]bsn.Change, int64, error) {
	if err := b.during(); err != nil {
		return nil, 0, err
	}
	var out []bsn.Change
	for _, id := range slices.Sorted(maps.Keys(b.records[kind])) {
		if id > after && len(out) < 2 { // short pages, as those of large records are
			out = append(out, bsn.Change{Kind: kind, ID: id, Record: b.records[kind][id]})
		}
	}
	return out, b.height, nil
}

func (b *book) Follow(_ context.Context, from int64) iter.Seq2[bsn.Block, error] {
	return func(yield func(bsn.Block, error) bool) {
		for _, block := range b.blocks {
			if block.Height >= from && !yield(block, nil) {
				return
			}
		}
	}
}

// TestMirrorIsTheLedger: read while the ledger changes, then following it.
func TestMirrorIsTheLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &book{height: 1, records: map[bsn.Kind]map[string]json.RawMessage{}}
		count := 0
		change := func() {
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				count++
				id := fmt.Sprintf("r%d", rapid.IntRange(0, 6).Draw(t, "id"))
				switch rapid.IntRange(0, 3).Draw(t, "kind") {
				case 0:
					b.put(bsn.KindCity, id, bsn.City{Name: id, Index: count})
				case 1:
					b.put(bsn.KindChain, id, bsn.Chain{Name: id, Index: count})
				case 2:
					b.put(bsn.KindApp, id, bsn.App{Name: id, Account: fmt.Sprint(count)})
				default:
					b.put(bsn.KindProject, id, bsn.Project{Name: id})
				}
			}
		}
		cut := errors.New("cut off")
		b.during = func() error {
			change()
			if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
				return cut
			}
			return nil
		}
		var m mirror
		for range 3 {
			before := m.view()
			height, err := m.load(t.Context(), b)
			if err != nil {
				if !errors.Is(err, cut) || !reflect.DeepEqual(before, m.view()) {
					t.Fatalf("a load that failed (%v) changed what was known", err)
				}
				continue
			}
			change()
			for block := range b.Follow(t.Context(), height+1) {
				if _, err := m.apply(block); err != nil {
					t.Fatal(err)
				}
			}
			v := m.view()
			same(t, b.records[bsn.KindCity], v.cities)
			same(t, b.records[bsn.KindChain], v.chains)
			same(t, b.records[bsn.KindApp], v.apps)
			if v.height != b.height && height != b.height {
				t.Fatalf("the mirror is at %d, the ledger at %d", v.height, b.height)
			}
		}
	})
}

func same[T any](t *rapid.T, want map[string]json.RawMessage, got map[string]T) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for id, v := range got {
		if b, err := json.Marshal(v); err != nil || string(b) != string(want[id]) {
			t.Fatalf("%s is %s, want %s", id, b, want[id])
		}
	}
}

func TestAsked(t *testing.T) {
	var a asked
	if !a.changed("error", "x", "broken") || a.changed("error", "x", "broken") || !a.changed("error", "x", "otherwise") {
		t.Error("a text is told again, or not at all")
	}
	if !a.changed("peer", "x", "otherwise") {
		t.Error("two kinds share a text")
	}
	a.forget("error", "x")
	if !a.changed("error", "x", "otherwise") {
		t.Error("what was forgotten is not told")
	}
}

// TestFetchesBackOffAndGiveUp plays any course of failing fetches.
func TestFetchesBackOffAndGiveUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f fetches
		now := time.Unix(1, 0)
		begun := map[string]int{}
		var running []string
		for range 300 {
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "pause")) * time.Second)
			if len(running) > 0 && rapid.Bool().Draw(t, "end") {
				f.end(running[0], errors.New("no"), now)
				running = running[1:]
				continue
			}
			hash := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "hash"))
			switch err := f.begin(hash, now); {
			case err == nil:
				begun[hash]++
				if running = append(running, hash); len(running) > maxFetches || begun[hash] > maxTries {
					t.Fatalf("%d at a time, %d tries", len(running), begun[hash])
				}
			case errors.Is(err, errUnavailable):
				if begun[hash] != maxTries {
					t.Fatalf("given up after %d tries", begun[hash])
				}
			case !errors.Is(err, errFetching):
				t.Fatal(err)
			}
		}
	})
	var f fetches
	now := time.Unix(1, 0)
	if err := f.begin("a", now); err != nil {
		t.Fatal(err)
	}
	if err := f.begin("a", now); !errors.Is(err, errFetching) {
		t.Errorf("twice at a time: %v", err)
	}
	f.end("a", nil, now)
	if len(f.tries) != 0 || f.running != 0 {
		t.Errorf("left: %+v", f.tries)
	}
}

// What the file holds starts nodes, but is no reason to stop one or to say something.
func TestMirrorFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.json")
	b := &book{records: map[bsn.Kind]map[string]json.RawMessage{}, during: func() error { return nil }}
	b.put(bsn.KindCity, "paris", bsn.City{Name: "paris", Index: 3})
	b.put(bsn.KindChain, "chongqing", bsn.Chain{Name: "chongqing", Status: bsn.ChainRunning})
	var m mirror
	if err := m.restore(path); err != nil || m.view().height != 0 {
		t.Fatalf("no file: %v", err)
	}
	if _, err := m.load(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if m.view().fresh {
		t.Error("fresh, though nobody knows how old it is")
	}
	if _, err := m.apply(bsn.Block{Height: 3, Time: time.Now()}); err != nil || !m.view().fresh {
		t.Errorf("not fresh with a new block (%v)", err)
	}
	if err := m.save(path); err != nil {
		t.Fatal(err)
	}
	var again mirror
	if err := again.restore(path); err != nil {
		t.Fatal(err)
	}
	v := again.view()
	if v.fresh || v.height != 3 || v.cities["paris"].Index != 3 || v.chains["chongqing"].Status != bsn.ChainRunning {
		t.Errorf("restored %+v", v)
	}
	// The ledger's word counts more.
	if err := m.restore(path); err != nil || !m.view().fresh {
		t.Errorf("a file replaced what the ledger said (%v)", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var broken mirror
	if err := broken.restore(path); err == nil || broken.view().height != 0 {
		t.Error("a broken file was taken")
	}
}
