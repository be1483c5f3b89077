package cache

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHolds(t *testing.T) {
	s, err := New(1<<20, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	now := Now{Version: 7, Height: 100, Time: 1_000_000_000_000}
	s.Put([]byte("final"), Entry{Answer: []byte("1"), Final: true})
	s.Put([]byte("head"), Entry{Answer: []byte("2"), Version: 7, Height: 100, At: now.Time})
	for _, c := range []struct {
		name string
		now  Now
		want bool
	}{
		{"the same moment", now, true},
		{"a little later", Now{7, 100, now.Time + int64(time.Second) - 1}, true},
		{"too late", Now{7, 100, now.Time + int64(time.Second)}, false},
		{"a clock that was set back", Now{7, 100, now.Time - 1}, false},
		{"another head", Now{8, 100, now.Time}, false},
		{"for who was shown more", Now{7, 101, now.Time}, false},
	} {
		if _, ok := s.Get([]byte("head"), c.now); ok != c.want {
			t.Errorf("%s: %v", c.name, ok)
		}
		if e, ok := s.Get([]byte("final"), c.now); !ok || string(e.Answer) != "1" {
			t.Errorf("%s: what is final: %s %v", c.name, e.Answer, ok)
		}
	}
	if _, ok := s.Get([]byte("other"), now); ok {
		t.Error("an answer from nowhere")
	}
}

func TestNone(t *testing.T) {
	s, err := New(-1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s.Put([]byte("a"), Entry{Final: true, Answer: []byte("1")})
	if _, ok := s.Get([]byte("a"), Now{}); ok {
		t.Error("no cache keeps something")
	}
	if bytes, entries := s.Size(); bytes != 0 || entries != 0 {
		t.Error(bytes, entries)
	}
}

// What is kept stays within the bytes, and what is got is what was put last.
func TestBounded(t *testing.T) {
	const room = 64 << 10
	rapid.Check(t, func(t *rapid.T) {
		s, err := New(room, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		last := map[string][]byte{}
		for i := range rapid.IntRange(1, 300).Draw(t, "puts") {
			key := fmt.Sprint(rapid.IntRange(0, 50).Draw(t, "key"))
			answer := bytes.Repeat([]byte{byte(i)}, rapid.IntRange(0, room/10).Draw(t, "size"))
			s.Put([]byte(key), Entry{Answer: answer, Final: true})
			if len(key)+len(answer) <= room/share {
				last[key] = answer
			}
			if got, ok := s.Get([]byte(key), Now{}); ok && !bytes.Equal(got.Answer, last[key]) {
				t.Fatalf("key %s: %d bytes of %d", key, len(got.Answer), len(last[key]))
			}
		}
		s.entries.CleanUp()
		if size, _ := s.Size(); size > room {
			t.Fatalf("%d bytes are kept in room for %d", size, room)
		}
	})
}
