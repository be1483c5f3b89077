// Package age tells how old a city's knowledge of the ledger is. A city that is
// cut off goes on with what it knows for limited times, so neither a wrong clock
// of the machine nor a restart may make that knowledge look younger.
//
// The blocks' own times are the clock. A block is never seen before its time, so
// the largest difference between a block's time and the machine's uptime at its
// arrival is the best estimate of the ledger's present time, and goes on with
// the uptime: which nobody sets, and which counts while the machine sleeps.
package age

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// proof is how long blocks must come in at the pace of time before the
	// machine's clock is not asked any more.
	proof = 20 * time.Second
	// pace is how much faster than time blocks may come in for that: a node that
	// catches up with old blocks is faster.
	pace = 1.5
)

// Clock knows the newest block that a city has seen. The zero value has seen none;
// until it has watched blocks for a while it takes the machine's clock for right.
// Its methods may be called concurrently.
type Clock struct {
	uptime func() time.Duration
	boot   string // names the run of the machine whose uptime counts

	mu     sync.Mutex
	newest time.Time // of all blocks seen; zero: none
	// seen and guess are ledger times at uptime zero: as blocks told, and as the
	// machine's clock or an earlier run had it. A zero guess is none.
	seen, guess time.Time
	// Since when blocks have come in at the pace of time.
	since   time.Duration
	sinceAt time.Time
}

// State is what outlives a process.
type State struct {
	Newest time.Time `json:"newest"` // time of the newest block seen
	Now    time.Time `json:"now"`    // the ledger's time when this was written
	Boot   string    `json:"boot"`
	Uptime int64     `json:"uptime"` // when this was written, in nanoseconds
	// Proven: Now comes from blocks, not from the machine's clock.
	Proven bool `json:"proven"`
}

func newClock(uptime func() time.Duration, wall func() time.Time, boot string) *Clock {
	return &Clock{uptime: uptime, boot: boot, guess: wall().Add(-uptime())}
}

// lock takes mu and readies a zero value.
func (c *Clock) lock() {
	c.mu.Lock()
	if c.uptime == nil {
		c.uptime, c.boot = uptime, bootID()
		c.guess = time.Now().Add(-uptime())
	}
}

// uptime is the time since the machine started, sleep included.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return time.Since(started) // no Linux: sleep does not count
	}
	return time.Duration(t.Nano())
}

var started = time.Now()

// bootID names this run of the machine; empty if it cannot be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Saw takes in the time of a block. Blocks that are not the newest change nothing.
func (c *Clock) Saw(block time.Time) {
	c.lock()
	defer c.mu.Unlock()
	if !block.After(c.newest) {
		return
	}
	up := c.uptime()
	c.newest = block
	if at := block.Add(-up); at.After(c.seen) {
		c.seen = at
	}
	if c.guess.IsZero() {
		return
	}
	switch passed := up - c.since; {
	case c.sinceAt.IsZero():
		c.since, c.sinceAt = up, block
	case passed < proof:
	case float64(block.Sub(c.sinceAt)) > pace*float64(passed):
		c.since, c.sinceAt = up, block
	default:
		c.guess = time.Time{}
	}
}

// Age is the time since the newest block's own time; not known before a block
// was seen.
func (c *Clock) Age() (age time.Duration, known bool) {
	c.lock()
	defer c.mu.Unlock()
	if c.newest.IsZero() {
		return 0, false
	}
	return max(0, c.now(c.uptime()).Sub(c.newest)), true
}

// Newest is the time of the newest block seen; zero for none.
func (c *Clock) Newest() time.Time {
	c.lock()
	defer c.mu.Unlock()
	return c.newest
}

// now needs mu.
func (c *Clock) now(up time.Duration) time.Time {
	at := c.seen
	if c.guess.After(at) {
		at = c.guess
	}
	return at.Add(up)
}

// State returns what a later process needs in order to go on counting.
func (c *Clock) State() State {
	c.lock()
	defer c.mu.Unlock()
	up := c.uptime()
	return State{Newest: c.newest, Now: c.now(up), Boot: c.boot, Uptime: int64(up), Proven: c.guess.IsZero()}
}

// Restore takes in what an earlier process left.
func (c *Clock) Restore(s State) {
	if s.Newest.IsZero() {
		return
	}
	c.lock()
	defer c.mu.Unlock()
	if s.Newest.After(c.newest) {
		c.newest = s.Newest
	}
	then := s.Now.Add(-time.Duration(s.Uptime)) // ledger time at uptime zero, in that run of the machine
	switch same := s.Boot != "" && s.Boot == c.boot; {
	case same && s.Proven:
		c.guess = time.Time{}
		if then.After(c.seen) {
			c.seen = then
		}
	case same:
		if then.After(c.guess) {
			c.guess = then
		}
	default: // how long the machine was off only its clock may know
		if at := s.Now.Add(-c.uptime()); at.After(c.guess) {
			c.guess = at
		}
	}
}
