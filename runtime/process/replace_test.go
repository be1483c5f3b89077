package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

func TestHandover(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "relay")
	spec.Handover = true
	generation := func(g string) bsn.NodeSpec {
		s := spec
		s.Env = append(append([]string{}, spec.Env...), "GENERATION="+g)
		return s
	}
	taken := func(g string) {
		t.Helper()
		eventually(t, "generation "+g+" runs", func() bool {
			_, err := os.Stat(filepath.Join(r.dir, "node", "taken-"+g))
			return err == nil
		})
	}
	start(t, r, generation("1"))
	taken("1")
	first := status(t, r, "node")
	start(t, r, generation("2"))
	second := status(t, r, "node")
	if second.PID == first.PID || lives(first.PID) || !lives(second.PID) || second.State != bsn.NodeRunning {
		t.Errorf("replaced %+v by %+v", first, second)
	}

	// One that cannot take over leaves the other in its place, watched as before.
	unfit := filepath.Join(r.dir, "node", "unfit")
	if err := os.WriteFile(unfit, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), generation("3")); err == nil || !strings.Contains(err.Error(), "cannot take over") {
		t.Errorf("an unfit one: %v", err)
	}
	if s := status(t, r, "node"); s.PID != second.PID || !lives(second.PID) || s.State != bsn.NodeRunning {
		t.Errorf("after an unfit one: %+v", s)
	}
	if err := os.Remove(unfit); err != nil {
		t.Fatal(err)
	}
	start(t, r, generation("2")) // as it is specified now
	if s := status(t, r, "node"); s.PID != second.PID {
		t.Errorf("the same again: %+v", s)
	}
	start(t, r, generation("3"))
	if s := status(t, r, "node"); s.PID == second.PID || lives(second.PID) {
		t.Errorf("replaced by %+v", s)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, r.dir) // a later daemon
	third := status(t, again, "node")
	start(t, again, generation("4"))
	if s := status(t, again, "node"); s.PID == third.PID || lives(third.PID) {
		t.Errorf("replaced by %+v", s)
	}
}
