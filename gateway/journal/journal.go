// Package journal counts what is called so that it can be billed: a call is in the
// journal before its answer leaves.
//
// The journal is a folder of files that are mapped into memory: adding to a row is
// two atomic additions in a page that is the kernel's, not the process's. kill -9
// loses none of it. What was counted is brought to the disk every [SyncPause]; a
// machine that loses power loses at most what was counted since the last time.
//
// Each process has files of its own, so that two gateways can overlap, and each
// period (a span of ledger time) has. Who bills closes the period first (Close),
// reads what was counted (Read), and deletes it when it is billed (Remove).
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/table"
)

// SyncPause is the time between two times that what was counted is brought to the
// disk.
const SyncPause = 100 * time.Millisecond

// maxSegments bounds what one process writes in one period: a million rows, 256 MiB.
const maxSegments = 1024

var errEnded = errors.New("journal has ended")

// Row names what is counted together.
type Row struct {
	Project string // its id
	Key     string // id of its key; empty with a token
	Chain   string
	Class   bsn.MethodClass
}

func (r Row) texts() [4]string { return [4]string{r.Project, r.Key, r.Chain, string(r.Class)} }

// check tells whether a row fits into a slot.
func (r Row) check() error {
	total := 0
	for _, text := range r.texts() {
		if len(text) > 255 {
			return fmt.Errorf("%.40q… is too long for the journal", text)
		}
		total += len(text)
	}
	if total > checksumAt-textsAt {
		return fmt.Errorf("names of %d bytes are too long for the journal", total)
	}
	return nil
}

// Config says where and when a journal counts.
type Config struct {
	// Dir is the journal's folder, made if it is not there; empty: it is kept in
	// memory only, and in one period.
	Dir string
	// Now is the ledger's time, in Unix seconds; not known: nothing can be counted.
	Now func() (unix int64, known bool)
	// Period is the length of a period, in seconds. Another length holds from its first
	// period on; what was counted before stays in the period that it was counted in.
	Period func() int64
	Log    *slog.Logger
}

// Journal counts for one process. Its methods may be called by many goroutines at once.
type Journal struct {
	cfg     Config
	current atomic.Pointer[period]
	failed  atomic.Pointer[error] // why what was counted cannot be brought to the disk

	mu      sync.Mutex // of what follows, and of changing current
	ended   []*period  // that are to be let go of
	synced  time.Time  // when all was on the disk last
	longest time.Duration
}

// New makes a journal. Nothing is written before the first call.
func New(cfg Config) *Journal { return &Journal{cfg: cfg, synced: time.Now()} }

// period is what this process counts in one period.
type period struct {
	until  int64
	length int64
	dir    string
	rows   table.Table[Row, *counters]
	// users is how many are adding now; far below zero once the period is sealed.
	users atomic.Int64
	dirty atomic.Bool

	mu       sync.Mutex
	segments []*segment
}

const sealed = -1 << 62

func (p *period) enter() bool {
	if p.users.Add(1) > 0 {
		return true
	}
	p.users.Add(-1)
	return false
}

func (p *period) leave() { p.users.Add(-1) }

// counters finds the row's, or makes them.
func (p *period) counters(r Row) (*counters, error) {
	if c, known := p.rows.Get(r); known {
		return c, nil
	}
	return p.rows.Add(r, func() (*counters, error) {
		if err := r.check(); err != nil {
			return nil, err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := len(p.segments); n == 0 || p.segments[n-1].full() {
			if n == maxSegments {
				return nil, fmt.Errorf("journal has its %d rows for this period", maxSegments*segmentSlots)
			}
			s, err := p.grow()
			if err != nil {
				return nil, err
			}
			p.segments = append(p.segments, s)
		}
		p.dirty.Store(true)
		return p.segments[len(p.segments)-1].take(r), nil
	})
}

func (p *period) grow() (*segment, error) {
	if p.dir == "" {
		return imagine(p.until), nil
	}
	return create(p.dir, p.until)
}

// Ready makes sure that a row can be counted, before the work is done. The error
// says why not.
func (j *Journal) Ready(r Row) error {
	if why := j.failed.Load(); why != nil {
		return *why
	}
	return j.with(r, func(*period, *counters) {})
}

// Add counts a call of so many compute units. It is counted when Add has returned
// without an error.
func (j *Journal) Add(r Row, units uint64) error {
	return j.with(r, func(p *period, c *counters) {
		c.units.Add(units)
		c.calls.Add(1)
		if !p.dirty.Load() {
			p.dirty.Store(true)
		}
	})
}

func (j *Journal) with(r Row, do func(*period, *counters)) error {
	for {
		p := j.current.Load()
		if p == nil {
			if err := j.roll(nil); err != nil {
				return err
			}
			continue
		}
		if !p.enter() {
			if j.current.Load() == p { // or another is current by now
				return errEnded
			}
			continue
		}
		c, err := p.counters(r)
		if err == nil {
			do(p, c)
		}
		p.leave()
		if !errors.Is(err, errClosed) {
			return err
		}
		if err := j.roll(p); err != nil {
			return err
		}
	}
}

// roll begins another period if the current one is still the given one.
func (j *Journal) roll(old *period) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.current.Load() != old {
		return nil
	}
	fresh := &period{dir: j.cfg.Dir}
	if j.cfg.Dir != "" {
		now, known := j.cfg.Now()
		if !known {
			return errors.New("the ledger's time is not known yet")
		}
		// Of a period that is closed nothing is counted: the ledger's time may be
		// known later here than to who closed it.
		closed, err := Closed(j.cfg.Dir)
		if err != nil {
			return err
		}
		fresh.length = j.cfg.Period()
		fresh.until = (max(now, closed)/fresh.length + 1) * fresh.length
	}
	j.current.Store(fresh)
	if old != nil {
		j.ended = append(j.ended, old)
	}
	return nil
}

// Run begins new periods and brings to the disk what was counted, until ctx ends.
// Then Close is to be called.
func (j *Journal) Run(ctx context.Context) {
	tick := time.NewTicker(SyncPause)
	defer tick.Stop()
	for {
		j.advance()
		j.settle()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// advance begins the next period when the current one is over, or is of another length
// than periods are now.
func (j *Journal) advance() {
	p := j.current.Load()
	if p == nil || p.dir == "" {
		return
	}
	if now, known := j.cfg.Now(); known && (now >= p.until || j.cfg.Period() != p.length) {
		_ = j.roll(p) // who counts next tries again, and is told
	}
}

// settle brings to the disk what was counted, and lets go of periods that ended.
func (j *Journal) settle() {
	j.mu.Lock()
	ended := j.ended
	j.ended = nil
	j.mu.Unlock()
	var failed error
	for _, p := range ended {
		failed = errors.Join(failed, p.end())
	}
	if p := j.current.Load(); p != nil {
		failed = errors.Join(failed, p.sync())
	}
	was := j.failed.Load()
	if failed != nil {
		failed = fmt.Errorf("what is called cannot be brought to the disk: %w", failed)
		if was == nil {
			j.cfg.Log.Error("journal fails: calls are refused until it can be written", "error", failed)
		}
		j.failed.Store(&failed)
		return
	}
	if was != nil {
		j.cfg.Log.Info("journal can be written again")
		j.failed.Store(nil)
	}
	j.mu.Lock()
	now := time.Now()
	j.longest = max(j.longest, now.Sub(j.synced))
	j.synced = now
	j.mu.Unlock()
}

// Gap is the longest time between two times when all that was counted lay on the
// disk, the one that passes now included: what was counted in so much time a loss
// of power loses.
func (j *Journal) Gap() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(j.longest, time.Since(j.synced))
}

// Close ends the counting: what comes after is refused. All lies on the disk then,
// unless there is an error.
func (j *Journal) Close() error {
	over := errEnded
	j.failed.Store(&over)
	j.mu.Lock()
	defer j.mu.Unlock()
	ended := j.ended
	if p := j.current.Load(); p != nil {
		ended = append(ended, p)
	}
	j.ended = nil
	var failed error
	for _, p := range ended {
		failed = errors.Join(failed, p.end())
	}
	return failed
}

func (p *period) copy() []*segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*segment(nil), p.segments...)
}

func (p *period) sync() error {
	if !p.dirty.Swap(false) || p.dir == "" {
		return nil
	}
	var failed error
	for _, s := range p.copy() {
		failed = errors.Join(failed, s.sync())
	}
	if failed = errors.Join(failed, syncFolder(p.dir)); failed != nil {
		p.dirty.Store(true)
	}
	return failed
}

// end waits for those who are adding, and lets go of the period.
func (p *period) end() error {
	if p.users.Load() > sealed/2 {
		p.users.Add(sealed)
	}
	for p.users.Load() != sealed {
		time.Sleep(time.Millisecond)
	}
	p.dirty.Store(true)
	failed := p.sync()
	for _, s := range p.copy() {
		s.release()
	}
	return failed
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync journal's folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync journal's folder: %w", err)
	}
	return nil
}

// Rows are what is counted and not removed yet: by all processes if the journal is in
// a folder, else by this one.
func (j *Journal) Rows() ([]bsn.UsageRow, error) {
	if j.cfg.Dir != "" {
		files, err := Read(j.cfg.Dir)
		return Rows(files), err
	}
	p := j.current.Load()
	if p == nil {
		return []bsn.UsageRow{}, nil
	}
	var out []bsn.UsageRow
	for r, c := range p.rows.All() {
		if calls := c.calls.Load(); calls > 0 {
			out = append(out, bsn.UsageRow{Project: r.Project, Key: r.Key, Chain: r.Chain, Class: r.Class, Calls: calls, Units: c.units.Load()})
		}
	}
	return Merge(out), nil
}
