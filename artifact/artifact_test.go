package artifact

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"
)

func open(t testing.TB, size int64) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), size, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPut(t *testing.T) {
	content := []byte("genesis")
	broken := errors.New("cable cut")
	for name, c := range map[string]struct {
		max  int64
		want string
		err  error
		cut  bool
	}{
		"any hash":                   {max: 100},
		"right hash":                 {max: 100, want: Hash(content)},
		"exactly the size":           {max: 7},
		"too large":                  {max: 6, err: ErrTooLarge},
		"too large, with right hash": {max: 6, want: Hash(content), err: ErrTooLarge},
		"wrong hash":                 {max: 100, want: Hash(nil), err: ErrMismatch},
		"hash with a path":           {max: 100, want: strings.Repeat("../", 18) + "etc/passwd", err: ErrHash},
		"upper case":                 {max: 100, want: strings.ToUpper(Hash(content)), err: ErrHash},
		"short":                      {max: 100, want: "abc", err: ErrHash},
		"reader fails":               {max: 100, err: broken, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, c.max)
			r := iotest.OneByteReader(bytes.NewReader(content))
			if c.cut {
				r = iotest.ErrReader(broken)
			}
			hash, err := s.Put(r, c.want)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			list, listErr := s.List()
			files, _ := os.ReadDir(s.dir)
			if listErr != nil || len(files) != len(list) {
				t.Errorf("list %v, %v; files %v", list, listErr, files)
			}
			if c.err != nil {
				if len(list) != 0 {
					t.Errorf("stored all the same: %v", list)
				}
				return
			}
			if hash != Hash(content) || !slices.Equal(list, []string{hash}) || !s.Has(hash) {
				t.Errorf("hash %s, list %v", hash, list)
			}
			if got, err := s.Get(hash); err != nil || !bytes.Equal(got, content) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestDamageIsSeenAndRepaired(t *testing.T) {
	s := open(t, 20)
	hash, err := s.Put(strings.NewReader("content"), "")
	if err != nil {
		t.Fatal(err)
	}
	for damaged, want := range map[string]error{"": ErrMismatch, "conTent": ErrMismatch, "content and much more than may be": ErrTooLarge} {
		if err := os.WriteFile(s.path(hash), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(hash); !errors.Is(err, want) {
			t.Errorf("get of %q: %v", damaged, err)
		}
	}
	if _, err := s.Put(strings.NewReader("content"), hash); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(hash); err != nil || string(got) != "content" {
		t.Errorf("after the repair: %q, %v", got, err)
	}
}

func TestMissing(t *testing.T) {
	s := open(t, 20)
	if _, err := s.Get(Hash([]byte("x"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	for _, bad := range []string{"", "..", "../x", strings.Repeat("/", 64), strings.Repeat("g", 64), strings.Repeat("0", 63) + "\x00"} {
		if _, err := s.Get(bad); !errors.Is(err, ErrHash) {
			t.Errorf("get %q: %v", bad, err)
		}
		if s.Has(bad) {
			t.Errorf("has %q", bad)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, 0, 10); err == nil {
		t.Error("a store for nothing opens")
	}
	left := filepath.Join(dir, ".new-123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what was half stored stays")
	}
	hash, err := s.Put(strings.NewReader("x"), "")
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, 10, 1<<20); err != nil || !s.Has(hash) {
		t.Errorf("not kept: %v", err)
	}
}

func TestConcurrentPuts(t *testing.T) {
	s := open(t, 1<<20)
	content := bytes.Repeat([]byte("genesis "), 1000)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := s.Put(bytes.NewReader(content), Hash(content)); err != nil {
				t.Error(err)
			}
			if got, err := s.Get(Hash(content)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
}

// TestModel compares a store with a map.
func TestModel(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, 8, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		model := make(map[string][]byte)
		some := rapid.SliceOfN(rapid.ByteRange(0, 2), 0, 10)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				content := some.Draw(t, "content")
				want := rapid.SampledFrom([]string{"", Hash(content), Hash([]byte("other"))}).Draw(t, "want")
				hash, err := s.Put(bytes.NewReader(content), want)
				switch {
				case len(content) > 8:
					if !errors.Is(err, ErrTooLarge) {
						t.Fatalf("put of %d bytes: %v", len(content), err)
					}
				case want != "" && want != Hash(content):
					if !errors.Is(err, ErrMismatch) {
						t.Fatalf("put with another's hash: %v", err)
					}
				case err != nil || hash != Hash(content):
					t.Fatalf("put: %s, %v", hash, err)
				default:
					model[hash] = content
				}
			},
			"get": func(t *rapid.T) {
				hash := Hash(some.Draw(t, "content"))
				got, err := s.Get(hash)
				want, ok := model[hash]
				if s.Has(hash) != ok || ok && (err != nil || !bytes.Equal(got, want)) || !ok && !errors.Is(err, ErrNotFound) {
					t.Fatalf("get: %q, %v; want %q, %t", got, err, want, ok)
				}
			},
			"": func(t *rapid.T) {
				list, err := s.List()
				if err != nil || len(list) != len(model) || !slices.IsSorted(list) {
					t.Fatalf("list %v, %v; want %d", list, err, len(model))
				}
			},
		})
	})
}

func FuzzCheckHash(f *testing.F) {
	f.Add(Hash(nil))
	f.Add("../../etc/passwd")
	f.Add(strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, hash string) {
		if CheckHash(hash) != nil {
			return
		}
		if filepath.Base(hash) != hash || len(hash) != 64 || hash != strings.ToLower(hash) {
			t.Errorf("%q passes", hash)
		}
	})
}

func FuzzPut(f *testing.F) {
	s := open(f, 64)
	f.Add([]byte("x"), Hash([]byte("x")))
	f.Add([]byte("x"), "")
	f.Fuzz(func(t *testing.T, content []byte, want string) {
		hash, err := s.Put(bytes.NewReader(content), want)
		if err != nil {
			return
		}
		if hash != Hash(content) || want != "" && want != hash || len(content) > 64 {
			t.Errorf("%d bytes as %q: %s", len(content), want, hash)
		}
		if got, err := s.Get(hash); err != nil || !bytes.Equal(got, content) {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A store takes what it has room for, and has room again once that is deleted.
func TestTotal(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, 10, 20)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) error {
		_, err := s.Put(strings.NewReader(text), "")
		return err
	}
	if err := errors.Join(put("abcdefgh"), put("abcdefgh"), put("0123456789")); err != nil {
		t.Fatal(err)
	}
	if err := put("xyz"); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the total: %v", err)
	}
	if err := put("xy"); err != nil {
		t.Errorf("up to the total: %v", err)
	}
	if _, err := s.Put(strings.NewReader("q"), Hash([]byte("other"))); !errors.Is(err, ErrFull) {
		t.Errorf("full: %v", err)
	}
	if s, err = Open(dir, 10, 20); err != nil {
		t.Fatal(err)
	}
	if err := put("z"); !errors.Is(err, ErrFull) {
		t.Errorf("after a restart: %v", err)
	}
	keep := Hash([]byte("0123456789"))
	if n, err := s.Tidy(time.Now().Add(-time.Hour), func(string) bool { return false }); n != 0 || err != nil {
		t.Errorf("deleted %d that are young (%v)", n, err)
	}
	if n, err := s.Tidy(time.Now().Add(time.Hour), func(hash string) bool { return hash == keep }); n != 2 || err != nil || !s.Has(keep) {
		t.Errorf("deleted %d (%v)", n, err)
	}
	if err := put("abcdefghij"); err != nil {
		t.Errorf("after some were deleted: %v", err)
	}
	if _, err := s.Put(strings.NewReader("longer than ten"), ""); err == nil || s.held != 20 {
		t.Errorf("what was not kept holds room: %d (%v)", s.held, err)
	}
}
