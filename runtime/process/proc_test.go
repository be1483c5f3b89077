package process

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	rest := " S 7 41 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n"
	for _, name := range []string{"sleep", "a b", "))", "x) S 1 1 1 (", "\n"} {
		s, err := parseStat([]byte("42 (" + name + ")" + rest))
		want := stat{pid: 42, state: 'S', parent: 7, group: 41, session: 42, start: 987654}
		if err != nil || s != want {
			t.Errorf("name %q: %+v, %v", name, s, err)
		}
	}
	for _, bad := range []string{"", "42", "42 (x)", "42 (x) S 1 2", "x (x)" + rest, "42 (x)" + strings.Replace(rest, "987654", "soon", 1)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
	self, err := readStat(os.Getpid())
	if err != nil || self.pid != os.Getpid() || self.parent != os.Getppid() || !self.alive() {
		t.Errorf("own status: %+v, %v", self, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (sleep) S 7 41 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n"))
	f.Add([]byte("1 () ("))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStat(b)
		if err == nil && !strings.HasPrefix(string(b), fmt.Sprint(s.pid)) && b[0] != '+' && b[0] != '0' && b[0] != '-' {
			t.Errorf("%q: pid %d", b, s.pid)
		}
	})
}
