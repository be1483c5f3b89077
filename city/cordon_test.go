package city

import (
	"os"
	"testing"
)

func TestCordon(t *testing.T) {
	h := Home{t.TempDir(), "paris"}
	if err := os.MkdirAll(h.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		chain, node string
		cordoned    bool
		changed     bool
		file        string
	}{
		{"lab", "lyon", false, false, ""},
		{"lab", "lyon", true, true, `{"lab":["lyon"]}` + "\n"},
		{"lab", "lyon", true, false, `{"lab":["lyon"]}` + "\n"},
		{"main", "outside/acme", true, true, `{"lab":["lyon"],"main":["outside/acme"]}` + "\n"},
		{"lab", "lyon", false, true, `{"main":["outside/acme"]}` + "\n"},
	} {
		changed, err := h.Cordon(c.chain, c.node, c.cordoned)
		text, _ := os.ReadFile(h.cordonFile())
		if err != nil || changed != c.changed || string(text) != c.file {
			t.Errorf("%+v: changed %v, %s (%v)", c, changed, text, err)
		}
	}
}
