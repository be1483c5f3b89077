package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("BSN_JOURNAL_CHILD"); dir != "" {
		countForever(dir)
	}
	os.Exit(m.Run())
}

// clock is a ledger's time that a test sets.
type clock struct{ unix, length atomic.Int64 }

func newClock(unix, length int64) *clock {
	c := &clock{}
	c.unix.Store(unix)
	c.length.Store(length)
	return c
}

func (c *clock) config(dir string) Config {
	return Config{
		Dir: dir, Now: func() (int64, bool) { return c.unix.Load(), true }, Period: c.length.Load,
		Log: slog.New(slog.DiscardHandler),
	}
}

func row(i int) Row {
	return Row{Project: fmt.Sprintf("account-%d/main", i%7), Key: fmt.Sprintf("%012x", i), Chain: "chongqing", Class: bsn.MethodRead}
}

// total sums up what files say, by period.
func total(t testing.TB, dir string) map[int64]bsn.UsageRow {
	t.Helper()
	files, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int64]bsn.UsageRow{}
	for _, f := range files {
		if f.Damage != "" {
			t.Errorf("%s: %s", f.Name, f.Damage)
		}
		sum := out[f.Until]
		for _, r := range f.Rows {
			sum.Calls += r.Calls
			sum.Units += r.Units
		}
		out[f.Until] = sum
	}
	return out
}

// What goroutines add while periods begin and end is all there, each in one period.
func TestAllIsCounted(t *testing.T) {
	dir, c := t.TempDir(), newClock(1000, 10)
	j := New(c.config(dir))
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() { j.Run(ctx); close(running) }()
	const goroutines, calls = 8, 20_000
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range calls {
				if err := j.Add(row((g*calls+i)%3000), 3); err != nil {
					t.Error(err)
					return
				}
				if i%1000 == 0 {
					c.unix.Add(1)
					j.advance()
				}
			}
		})
	}
	all.Wait()
	sum := bsn.UsageRow{}
	for until, s := range total(t, dir) { // of files that are live, too
		if until%10 != 0 || until <= 1000 || until > c.unix.Load()+10 {
			t.Errorf("period until %d", until)
		}
		sum.Calls += s.Calls
		sum.Units += s.Units
	}
	if sum.Calls != goroutines*calls || sum.Units != 3*goroutines*calls {
		t.Errorf("%d calls of %d units, want %d", sum.Calls, sum.Units, goroutines*calls)
	}
	cancel()
	<-running
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Add(row(1), 1); !errors.Is(err, errEnded) {
		t.Errorf("after the end: %v", err)
	}
	files, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Live {
			t.Errorf("%s is live after the end", f.Name)
		}
	}
}

// Another length of periods holds from the end of the present one on.
func TestPeriods(t *testing.T) {
	dir, c := t.TempDir(), newClock(100, 3600)
	j := New(c.config(dir))
	add := func() {
		t.Helper()
		j.advance()
		if err := j.Add(row(1), 1); err != nil {
			t.Fatal(err)
		}
	}
	add()
	c.length.Store(10)
	c.unix.Store(3599)
	add()
	c.unix.Store(3600)
	add()
	// Who closes periods before this process knows of it is obeyed.
	if err := Close(dir, 4000); err != nil {
		t.Fatal(err)
	}
	c.unix.Store(3611)
	add()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	got := total(t, dir)
	for until, want := range map[int64]uint64{3600: 2, 3610: 1, 4010: 1} {
		if got[until].Calls != want {
			t.Errorf("until %d: %d calls, want %d (%v)", until, got[until].Calls, want, got)
		}
	}
	if len(got) != 3 {
		t.Errorf("periods %v", got)
	}
}

// Nothing new is counted in a period once it is closed, whoever is faster.
func TestCloseRaces(t *testing.T) {
	for range 50 {
		dir, c := t.TempDir(), newClock(5, 10)
		var all sync.WaitGroup
		journals := make([]*Journal, 4)
		for i := range journals {
			j := New(c.config(dir))
			journals[i] = j
			all.Go(func() {
				if err := j.Add(row(i), 1); err != nil {
					t.Error(err)
				}
			})
		}
		if err := Close(dir, 10); err != nil {
			t.Fatal(err)
		}
		before, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		all.Wait()
		after, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		count := func(files []File) (n int) {
			for _, f := range files {
				if f.Until <= 10 {
					n++
				}
			}
			return n
		}
		if count(before) != count(after) || len(after) != len(journals) {
			t.Fatalf("%d segments when it was closed, %d later, %d in all", count(before), count(after), len(after))
		}
		for _, j := range journals {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestRefusesWhatItCannotKeep(t *testing.T) {
	dir, c := t.TempDir(), newClock(5, 10)
	j := New(c.config(dir))
	long := Row{Project: strings.Repeat("p", 200), Key: strings.Repeat("k", 100)}
	for _, r := range []Row{long, {Project: strings.Repeat("p", 300)}} {
		if err := j.Ready(r); err == nil {
			t.Error("a row that is too long is taken")
		}
	}
	// A folder that cannot be written to.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := New(c.config(file)).Ready(row(1)); err == nil {
		t.Error("a journal without a folder counts")
	}
	unknown := c.config(dir)
	unknown.Now = func() (int64, bool) { return 0, false }
	if err := New(unknown).Add(row(1), 1); err == nil {
		t.Error("a journal without the time counts")
	}
}

// A disk that is full is an error that the caller sees, not a fault; and when there
// is room again the journal goes on.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root: mounts a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=600k"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	c := newClock(5, 10)
	j := New(c.config(filepath.Join(dir, "journal")))
	i := 0
	var err error
	for ; err == nil && i < 10_000; i++ {
		err = j.Ready(row(i))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%v after %d rows", err, i)
	}
	if err := j.Add(row(0), 1); err != nil {
		t.Errorf("a row that has its place: %v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	if err := j.Ready(row(i)); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestAddTakesNoMemory(t *testing.T) {
	j := New(newClock(5, 10).config(t.TempDir()))
	r := row(1)
	if n := testing.AllocsPerRun(100, func() {
		if err := errors.Join(j.Ready(r), j.Add(r, 2)); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// countForever counts and says so after each call, as a gateway answers.
func countForever(dir string) {
	c := newClock(time.Now().Unix(), 1)
	j := New(c.config(dir))
	go j.Run(context.Background())
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for {
				c.unix.Store(time.Now().Unix())
				if err := j.Add(row(g), 5); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
					os.Exit(1)
				}
			}
		})
	}
	all.Wait()
}

// A process that is killed at any moment has counted all that it had said it did.
func TestKilled(t *testing.T) {
	for round := range 5 {
		dir := t.TempDir()
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "BSN_JOURNAL_CHILD="+dir)
		child.Stderr = os.Stderr
		said, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		want := 20_000 + round*7001
		if _, err := io.ReadFull(said, make([]byte, want)); err != nil {
			t.Fatal(err)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(said)
		if err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		answered := uint64(want + len(rest))
		sum := bsn.UsageRow{}
		for _, s := range total(t, dir) {
			sum.Calls += s.Calls
			sum.Units += s.Units
		}
		// Of each of the four, one call may be counted and not yet said.
		if sum.Calls < answered || sum.Calls > answered+4 || sum.Units < 5*sum.Calls || sum.Units > 5*(answered+4) {
			t.Errorf("%d answers, %d calls of %d units in the journal", answered, sum.Calls, sum.Units)
		}
	}
}

// filled is a segment with rows, and what they were.
func filled(t testing.TB, until int64, rows int) ([]byte, map[Row]uint64) {
	t.Helper()
	s, want := imagine(until), map[Row]uint64{}
	putHeader(s.memory[:slotSize], until)
	for i := range rows {
		c := s.take(row(i))
		c.calls.Add(uint64(i + 1))
		c.units.Add(uint64(2 * (i + 1)))
		want[row(i)] = uint64(i + 1)
	}
	return bytes.Clone(s.memory), want
}

// Whatever is torn, cut off or flipped outside of the counters: a row is read as it
// was written, or not at all.
func TestDamage(t *testing.T) {
	good, want := filled(t, 7200, 40)
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(good)
		b = b[:rapid.IntRange(0, 60*slotSize).Draw(t, "length")]
		flips := rapid.IntRange(0, 5).Draw(t, "flips")
		for range flips {
			if len(b) == 0 {
				break
			}
			at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			if at%slotSize < 16 && at >= slotSize {
				continue // a counter
			}
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		}
		if rapid.Bool().Draw(t, "torn") && len(b) >= 4*slotSize { // a slot of which half reached the disk
			half := rapid.IntRange(1, slotSize-1).Draw(t, "half")
			clear(b[3*slotSize+half : 4*slotSize])
		}
		until, rows, damage := decode(b)
		if until != 7200 && (until != 0 || len(rows) > 0) {
			t.Fatalf("until %d, %d rows", until, len(rows))
		}
		for _, r := range rows {
			if r.Calls > want[Row{r.Project, r.Key, r.Chain, r.Class}] {
				t.Fatalf("row %+v was never written", r)
			}
		}
		if len(rows) < len(want) && damage == "" {
			t.Fatalf("%d of %d rows, and no damage", len(rows), len(want))
		}
	})
	until, rows, damage := decode(good)
	if until != 7200 || len(rows) != len(want) || damage != "" {
		t.Errorf("undamaged: until %d, %d rows, %q", until, len(rows), damage)
	}
}

func FuzzDecode(f *testing.F) {
	good, _ := filled(f, 7200, 3)
	f.Add(good[:8*slotSize])
	f.Add(good)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		until, rows, damage := decode(b)
		if len(rows) > segmentSlots || until == 0 && len(rows) > 0 {
			t.Errorf("%d rows until %d", len(rows), until)
		}
		if damage == "" && len(b) < segmentSize {
			t.Error("what is cut off is not damaged")
		}
		for _, r := range rows {
			if r.Calls > maxCount || r.Units > maxCount || len(r.Project) > slotSize {
				t.Errorf("row %+v", r)
			}
		}
	})
}

func TestReadsWhatItFinds(t *testing.T) {
	dir, c := t.TempDir(), newClock(5, 10)
	j := New(c.config(dir))
	if err := j.Add(row(1), 2); err != nil {
		t.Fatal(err)
	}
	good, _ := filled(t, 30, 2)
	for name, b := range map[string][]byte{
		"000000000030-a" + extension: good,
		"000000000040-b" + extension: good, // of another period
		"000000000020-c" + extension: {},
		temporary + "1":              nil,
		"notes.txt":                  nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var names []string
	for _, f := range files {
		got = append(got, fmt.Sprintf("%d live=%v rows=%d damaged=%v", f.Until, f.Live, len(f.Rows), f.Damage != ""))
		names = append(names, f.Name)
	}
	want := []string{"10 live=true rows=1 damaged=false", "20 live=false rows=0 damaged=true", "30 live=false rows=2 damaged=false", "40 live=false rows=0 damaged=true"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir, names); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, temporary+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if files, err := Read(dir); err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
	if err := Remove(dir, []string{"../x" + extension}); err == nil {
		t.Error("deletes outside of its folder")
	}
	if files, err := Read(filepath.Join(dir, "none")); err != nil || files != nil {
		t.Errorf("no folder: %v, %v", files, err)
	}
}

// BenchmarkAdd is what one call costs.
func BenchmarkAdd(b *testing.B) {
	j := New(newClock(5, 10).config(b.TempDir()))
	rows := make([]Row, 100)
	for i := range rows {
		rows[i] = row(i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			r := rows[i%len(rows)]
			if err := j.Ready(r); err != nil {
				b.Fatal(err)
			}
			if err := j.Add(r, 2); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
