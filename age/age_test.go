package age

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// machine has a clock and an uptime that tests move.
type machine struct {
	up   time.Duration
	true time.Time // the time that it really is
	off  time.Duration
	boot string
}

func (m *machine) pass(d time.Duration) {
	m.up += d
	m.true = m.true.Add(d)
}

func (m *machine) clock() *Clock {
	return newClock(func() time.Duration { return m.up }, func() time.Time { return m.true.Add(m.off) }, m.boot)
}

func start(off time.Duration) *machine {
	return &machine{up: time.Hour, true: time.Unix(1_800_000_000, 0), off: off, boot: "first"}
}

// live lets blocks come in, each a little after its time.
func (m *machine) live(c *Clock, blocks int) {
	for range blocks {
		m.pass(10 * time.Second)
		c.Saw(m.true.Add(-time.Second))
	}
}

func check(t *testing.T, c *Clock, from, to time.Duration) {
	t.Helper()
	if age, known := c.Age(); !known || age < from || age > to {
		t.Errorf("age %v (known: %v), want %v to %v", age, known, from, to)
	}
}

func TestAge(t *testing.T) {
	m := start(0)
	c := m.clock()
	if age, known := c.Age(); known {
		t.Errorf("age %v of no block", age)
	}
	c.Saw(m.true.Add(-2 * time.Hour)) // the last block of a ledger that stands still
	check(t, c, 2*time.Hour, 2*time.Hour)
	m.pass(time.Minute)
	check(t, c, 2*time.Hour+time.Minute, 2*time.Hour+time.Minute)
	c.Saw(m.true.Add(-3 * time.Hour))
	check(t, c, 2*time.Hour+time.Minute, 2*time.Hour+time.Minute)
}

// A clock that is wrong, or is set while it runs, changes nothing once blocks
// have been seen for a while.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		m := start(off)
		c := m.clock()
		m.live(c, 5)
		check(t, c, 0, 2*time.Second)
		m.off = -off
		m.pass(30 * time.Minute)
		check(t, c, 30*time.Minute, 30*time.Minute+2*time.Second)

		// Nor does a restart, with another wrong clock.
		s := c.State()
		m.pass(time.Minute)
		again := m.clock()
		again.Restore(s)
		check(t, again, 31*time.Minute, 31*time.Minute+2*time.Second)
		again.Saw(s.Newest) // read afresh
		check(t, again, 31*time.Minute, 31*time.Minute+2*time.Second)
		m.live(again, 1)
		check(t, again, 0, 2*time.Second)
	}
}

// After the machine itself was restarted its clock counts, but nothing is
// younger than it was.
func TestReboot(t *testing.T) {
	m := start(0)
	c := m.clock()
	m.live(c, 5)
	m.pass(20 * time.Minute)
	s := c.State()
	m.pass(10 * time.Minute)
	m.up, m.boot = time.Second, "second"
	right := m.clock()
	right.Restore(s)
	check(t, right, 30*time.Minute, 31*time.Minute)
	m.off = -24 * time.Hour
	wrong := m.clock()
	wrong.Restore(s)
	check(t, wrong, 20*time.Minute, 21*time.Minute)
}

// A node that catches up with hours of old blocks does not prove the time.
func TestCatchingUp(t *testing.T) {
	m := start(0)
	c := m.clock()
	from := m.true.Add(-5 * time.Hour)
	for i := range 600 {
		m.pass(100 * time.Millisecond)
		c.Saw(from.Add(time.Duration(i) * 10 * time.Second))
	}
	check(t, c, 3*time.Hour, 4*time.Hour)
}

// Whatever the clock says and however often the process is restarted, an age is
// never shorter than it really is by more than the delay of the blocks.
func TestNeverTooYoung(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := start(time.Duration(rapid.Int64Range(-1e5, 1e5).Draw(t, "off")) * time.Second)
		c := m.clock()
		newest := time.Time{}
		for range 8 { // a ledger that runs
			m.pass(time.Duration(rapid.IntRange(500, 12_000).Draw(t, "pause")) * time.Millisecond)
			newest = m.true.Add(-time.Second)
			c.Saw(newest)
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			m.pass(time.Duration(rapid.IntRange(0, 1000).Draw(t, "alone")) * time.Second)
			if rapid.Bool().Draw(t, "restart") {
				s := c.State()
				m.off = time.Duration(rapid.Int64Range(-1e5, 1e5).Draw(t, "off")) * time.Second
				c = m.clock()
				c.Restore(s)
				c.Saw(newest)
			}
			if age, _ := c.Age(); age < m.true.Sub(newest)-2*time.Second {
				t.Fatalf("age %v, really %v", age, m.true.Sub(newest))
			}
		}
	})
}
