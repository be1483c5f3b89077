package process

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
)

func TestNodeEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_DAEMON", "1")
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "look")
	spec.MemoryMiB = 512
	spec.Env = append(spec.Env, "COLOUR=blue")
	spec.Files = []bsn.File{{Path: "conf/node.toml", Mode: 0o640, Content: []byte("x")}, {Path: "key", Content: []byte("k")}}
	start(t, r, spec)
	says(t, r, "node", "ready")
	dir, err := r.Dir("node")
	if err != nil {
		t.Fatal(err)
	}
	out := output(t, r, "node")
	for _, want := range []string{
		"wd=" + dir + " stdin=/dev/null session=true\n", "env HOME=" + dir + "\n", "env GOMEMLIMIT=512MiB\n",
		"env COLOUR=blue\n", "env PATH=", "env BSN_NODE=" + dir + "#",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the node does not see %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "SECRET") {
		t.Errorf("the node sees the daemon's environment:\n%s", out)
	}
	for path, mode := range map[string]fs.FileMode{"conf/node.toml": 0o640, "key": 0o600, "spec.json": 0o600, "state.json": 0o600, "log/node.log": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, mode)
		}
	}
}

func TestStartIsIdempotent(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "serve")
	start(t, r, spec)
	first := status(t, r, "node")
	if first.State != bsn.NodeRunning || first.Adopted || !lives(first.PID) {
		t.Fatalf("after the start: %+v", first)
	}
	start(t, r, spec)
	if s := status(t, r, "node"); s != first {
		t.Errorf("a second start changed %+v to %+v", first, s)
	}
	spec.Env = append(spec.Env, "COLOUR=red")
	start(t, r, spec)
	if s := status(t, r, "node"); s.PID == first.PID || lives(first.PID) {
		t.Errorf("another specification did not replace process %d: %+v", first.PID, s)
	}
	for range 2 {
		if err := r.Stop(t.Context(), "node"); err != nil {
			t.Fatal(err)
		}
		if s := status(t, r, "node"); s.State != bsn.NodeStopped || s.PID != 0 {
			t.Errorf("after the stop: %+v", s)
		}
	}
	if err := r.Stop(t.Context(), "nobody"); err != nil {
		t.Errorf("stopping an unknown node: %v", err)
	}
	start(t, r, spec)
	if s := status(t, r, "node"); s.State != bsn.NodeRunning {
		t.Errorf("after start, stop, start: %+v", s)
	}
}

func TestStopTellsTheNodeFirst(t *testing.T) {
	r := open(t, t.TempDir())
	start(t, r, nodeSpec(t, "node", "serve"))
	says(t, r, "node", "ready")
	if err := r.Stop(t.Context(), "node"); err != nil {
		t.Fatal(err)
	}
	if out := output(t, r, "node"); !strings.Contains(out, "bye") {
		t.Errorf("the node was not told to end:\n%s", out)
	}
}

func TestStopEndsTheWholeFamily(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "family")
	spec.StopTimeout = 100 * time.Millisecond
	start(t, r, spec)
	says(t, r, "node", "ready")
	pids := children(t, output(t, r, "node"))
	if len(pids) != 3 {
		t.Fatalf("children: %v", pids)
	}
	if err := r.Stop(t.Context(), "node"); err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		if lives(pid) {
			t.Errorf("child %d still lives", i)
		}
	}
}

func TestCrashLeavesNoFamily(t *testing.T) {
	r := open(t, t.TempDir())
	start(t, r, nodeSpec(t, "node", "family"))
	says(t, r, "node", "ready")
	first := status(t, r, "node").PID
	pids := children(t, output(t, r, "node"))
	unix.Kill(first, unix.SIGKILL)
	eventually(t, "a restart", func() bool {
		s := status(t, r, "node")
		return s.State == bsn.NodeRunning && s.Restarts == 1 && s.PID != first
	})
	for i, pid := range pids {
		if lives(pid) {
			t.Errorf("child %d of the crashed node lives beside the new one's", i)
		}
	}
	if s := status(t, r, "node"); !strings.Contains(s.Error, "SIGKILL") {
		t.Errorf("error %q does not say how it ended", s.Error)
	}
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "deaf")
	spec.StopTimeout = time.Hour
	start(t, r, spec)
	says(t, r, "node", "ready")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Stop(ctx, "node"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("stop: %v", err)
	}
	s := status(t, r, "node")
	if s.State != bsn.NodeRunning || !lives(s.PID) {
		t.Fatalf("after the interrupted stop: %+v", s)
	}
	unix.Kill(s.PID, unix.SIGKILL)
	eventually(t, "the node is seen to end, and not started again", func() bool {
		return status(t, r, "node").State == bsn.NodeStopped
	})
}

func TestRestart(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "crash")
	start(t, r, spec)
	eventually(t, "three restarts", func() bool {
		start(t, r, spec) // a reconciling daemon asks all the time
		return status(t, r, "node").Restarts >= 3
	})
	if s := status(t, r, "node"); s.Error != "exit status 3:\nboom: no such genesis" {
		t.Errorf("error %q", s.Error)
	}
	if err := r.Stop(t.Context(), "node"); err != nil {
		t.Fatal(err)
	}
	if s := status(t, r, "node"); s.State != bsn.NodeStopped {
		t.Errorf("after the stop: %+v", s)
	}
}

func TestStartFailure(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "serve")
	spec.Binary = filepath.Join(t.TempDir(), "missing")
	if err := r.Start(t.Context(), spec); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("start: %v", err)
	}
	if s := status(t, r, "node"); s.State != bsn.NodeStopped || s.Error == "" {
		t.Errorf("status: %+v", s)
	}
	spec.Binary = testBinary(t)
	start(t, r, spec)
}

func TestPrepare(t *testing.T) {
	r := open(t, t.TempDir())
	spec := nodeSpec(t, "node", "prepare")
	spec.Prepare = []string{"init"}
	spec.Files = []bsn.File{{Path: "bad", Content: []byte("genesis is for another chain")}}
	err := r.Start(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "exit status 1:\ncannot init: genesis is for another chain") {
		t.Fatalf("start: %v", err)
	}
	dir, _ := r.Dir("node")
	os.Remove(filepath.Join(dir, "bad"))
	count := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "prepared"))
		return strings.Count(string(b), "once")
	}
	for i, change := range []struct {
		do   func()
		want int
	}{
		{func() { spec.Files = nil }, 1},
		{func() { spec.Args = []string{"serve"} }, 1},
		{func() { r.Stop(t.Context(), "node") }, 1},
		{func() { spec.Files = []bsn.File{{Path: "genesis.json"}} }, 2},
		{func() { spec.Prepare = []string{"init", "--again"} }, 3},
	} {
		change.do()
		start(t, r, spec)
		if got := count(); got != change.want {
			t.Errorf("after change %d: prepared %d times, want %d", i, got, change.want)
		}
	}
	// Stopped first, so that the time runs out in the preparation, not in the stop.
	if err := r.Stop(t.Context(), "node"); err != nil {
		t.Fatal(err)
	}
	spec.Files = []bsn.File{{Path: "slow"}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Start(ctx, spec); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("start with a preparation that hangs: %v", err)
	}
	noneLeft(t, r.dir)
}

func TestAdoptionAfterKill(t *testing.T) {
	dir := t.TempDir()
	same, other, unwanted := nodeSpec(t, "same", "serve"), nodeSpec(t, "other", "serve"), nodeSpec(t, "unwanted", "family")
	unwanted.StopTimeout = 100 * time.Millisecond
	killedDaemon(t, dir, same, other, unwanted)

	r := open(t, dir)
	before := r.List()
	for _, s := range before {
		if s.State != bsn.NodeRunning || !s.Adopted || !lives(s.PID) || s.Started.IsZero() {
			t.Fatalf("not adopted: %+v", s)
		}
	}
	start(t, r, same)
	if s := status(t, r, "same"); s != before[1] {
		t.Errorf("start of what runs changed %+v to %+v", before[1], s)
	}
	other.Env = append(other.Env, "COLOUR=red")
	start(t, r, other)
	if s := status(t, r, "other"); s.PID == before[0].PID || s.Adopted || lives(before[0].PID) {
		t.Errorf("another specification did not replace %+v: %+v", before[0], s)
	}
	if err := r.Stop(t.Context(), "unwanted"); err != nil {
		t.Fatal(err)
	}
	unix.Kill(before[1].PID, unix.SIGKILL)
	eventually(t, "an adopted node is restarted", func() bool {
		s := status(t, r, "same")
		return s.State == bsn.NodeRunning && s.PID != before[1].PID && !s.Adopted
	})
}

func TestCloseLeavesNodesRunning(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	spec := nodeSpec(t, "node", "serve")
	start(t, r, spec)
	pid := status(t, r, "node").PID
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), spec); err == nil {
		t.Error("a closed runtime starts nodes")
	}
	r = open(t, dir)
	if s := status(t, r, "node"); s.PID != pid || !s.Adopted {
		t.Fatalf("not adopted: %+v", s)
	}
	r.Close()

	// A zombie, here a child that nobody has reaped, is not a running node.
	unix.Kill(pid, unix.SIGKILL)
	eventually(t, "the node is a zombie", func() bool { return !lives(pid) })
	r = open(t, dir)
	if s := status(t, r, "node"); s.State != bsn.NodeStopped {
		t.Errorf("a zombie was adopted: %+v", s)
	}
	start(t, r, spec)
}

func TestKilledBeforeTheRecordWasComplete(t *testing.T) {
	dir := t.TempDir()
	killedDaemon(t, dir, nodeSpec(t, "node", "serve"))
	edit(t, filepath.Join(dir, "node"), func(c *record) { c.PID, c.Start = 0, 0 })
	r := open(t, dir)
	if s := status(t, r, "node"); s.State != bsn.NodeRunning || !lives(s.PID) {
		t.Errorf("the process is not found: %+v", s)
	}
}

func TestUnreadableRecord(t *testing.T) {
	dir := t.TempDir()
	spec := nodeSpec(t, "node", "serve")
	killedDaemon(t, dir, spec)
	if err := os.WriteFile(filepath.Join(dir, "node", "state.json"), []byte(`{"pid":`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	noneLeft(t, r.dir)
	start(t, r, spec)
}

// TestAnyMoment kills daemons that start and restart nodes at random moments: the
// next one finds and ends everything.
func TestAnyMoment(t *testing.T) {
	dir := t.TempDir()
	one, two, three := nodeSpec(t, "a", "serve"), nodeSpec(t, "a", "serve"), nodeSpec(t, "b", "prepare")
	two.Env = append(two.Env, "COLOUR=red")
	three.Prepare = []string{"init"}
	four := three
	four.Prepare = []string{"init", "again"}
	var running int
	for range 20 {
		cmd := daemonCommand(t, dir, one, three, two, four)
		cmd.Env = append(cmd.Env, "AGAIN=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
		cmd.Process.Kill()
		cmd.Wait()
		r := open(t, dir)
		for _, s := range r.List() {
			if s.State == bsn.NodeRunning {
				running++
			}
		}
		if err := r.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		noneLeft(t, r.dir)
		r.Close()
	}
	if running == 0 {
		t.Error("no node ever ran: the test tests nothing")
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name   string
		marker string // of the process whose pid is recorded; %s: the node's folder
		change func(*record)
	}{
		{"pid and start, but no marker", "", func(*record) {}},
		{"marker of another folder", "/elsewhere/node#run", func(*record) {}},
		{"all but the start, no marker", "", func(c *record) { c.Start++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			killedDaemon(t, dir, nodeSpec(t, "node", "serve"))
			first := open(t, dir)
			if err := first.StopAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			first.Close()
			stranger := sleeper(t, "BSN_NODE="+c.marker)
			s, err := readStat(stranger.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			edit(t, filepath.Join(dir, "node"), func(rec *record) {
				rec.Run, rec.PID, rec.Start, rec.Boot = "run", s.pid, s.start, first.boot
				c.change(rec)
			})
			r := open(t, dir)
			if s := status(t, r, "node"); s.State != bsn.NodeStopped {
				t.Errorf("a stranger was adopted: %+v", s)
			}
			if err := r.StopAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !lives(s.pid) {
				t.Error("a stranger was killed")
			}
		})
	}
}

func TestAnotherBoot(t *testing.T) {
	dir := t.TempDir()
	killedDaemon(t, dir, nodeSpec(t, "node", "serve"))
	edit(t, filepath.Join(dir, "node"), func(c *record) { c.Boot = "another" })
	r := open(t, dir)
	if s := status(t, r, "node"); s.State != bsn.NodeStopped {
		t.Errorf("adopted across a boot: %+v", s)
	}
}

func edit(t *testing.T, dir string, change func(*record)) {
	t.Helper()
	n := &node{dir: dir}
	if err := readJSON(filepath.Join(dir, "state.json"), &n.rec); err != nil {
		t.Fatal(err)
	}
	change(&n.rec)
	if err := n.save(); err != nil {
		t.Fatal(err)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	if _, err := Open(dir, r.log); !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v", err)
	}
	r.Close()
	open(t, dir)
}

func TestRefusedSpecs(t *testing.T) {
	r := open(t, t.TempDir())
	for name, change := range map[string]func(*bsn.NodeSpec){
		"empty id":         func(s *bsn.NodeSpec) { s.ID = "" },
		"id with a path":   func(s *bsn.NodeSpec) { s.ID = "../node" },
		"relative binary":  func(s *bsn.NodeSpec) { s.Binary = "sleep" },
		"env without =":    func(s *bsn.NodeSpec) { s.Env = []string{"COLOUR"} },
		"env with marker":  func(s *bsn.NodeSpec) { s.Env = []string{"BSN_NODE=x"} },
		"absolute file":    func(s *bsn.NodeSpec) { s.Files = []bsn.File{{Path: "/etc/passwd"}} },
		"file above":       func(s *bsn.NodeSpec) { s.Files = []bsn.File{{Path: "a/../../b"}} },
		"own record":       func(s *bsn.NodeSpec) { s.Files = []bsn.File{{Path: "./state.json"}} },
		"own log":          func(s *bsn.NodeSpec) { s.Files = []bsn.File{{Path: "log/node.log"}} },
		"the folder":       func(s *bsn.NodeSpec) { s.Files = []bsn.File{{Path: "."}} },
		"negative timeout": func(s *bsn.NodeSpec) { s.StopTimeout = -1 },
		"too large":        func(s *bsn.NodeSpec) { s.Files = []bsn.File{{Path: "x", Content: make([]byte, maxFiles+1)}} },
	} {
		t.Run(name, func(t *testing.T) {
			spec := nodeSpec(t, "node", "serve")
			change(&spec)
			if err := r.Start(t.Context(), spec); err == nil {
				t.Error("started")
			}
		})
	}
	if _, err := r.Dir("../x"); err == nil {
		t.Error("made a folder above")
	}
}
