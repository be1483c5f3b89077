package gateway

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// head is a chain's newest block as a node told of it.
type head struct {
	number int64
	// hash and parent are 0x and hex; empty if the node was not asked for them, as on
	// chains where every block is final.
	hash, parent string
}

// chainState is what a gateway knows of a chain as it runs. It outlives changes of
// the chain's record.
type chainState struct {
	used atomic.Int64 // Unix nanoseconds of the last call

	// version is another one whenever an answer that depends on the newest block may
	// have become another one: a node told of a new head, or took a transaction.
	version atomic.Uint64
	floors  floors
	flights flights
	pace    pace
	twice   twice
}

func newChainState() *chainState {
	return &chainState{flights: flights{seed: maphash.MakeSeed()}}
}

// changed notes that answers at the newest block may differ from now on.
func (s *chainState) changed() { s.version.Add(1) }

// saw takes in the head that a node told of, in whatever way.
func (p *pool) saw(n *node, h head) {
	if n.saw(h) {
		p.state.changed()
	}
}

// floors remember the newest block that each caller was shown, so that no node
// answers that has not got there.
type floors struct {
	m     sync.Map // who calls, as caller.who says, to *floor
	count atomic.Int64
}

type floor struct{ height, at atomic.Int64 }

const (
	// floorMemory is for how long it counts what a caller was shown.
	floorMemory = 10 * time.Minute
	// maxFloors is how many callers are remembered before those that have not called
	// for longer than that are forgotten.
	maxFloors = 1 << 16
)

// get returns the height that an answer to this caller must be of, 0 for any.
func (f *floors) get(who string, now time.Time) int64 {
	v, ok := f.m.Load(who)
	if !ok {
		return 0
	}
	x := v.(*floor)
	if now.UnixNano()-x.at.Load() > int64(floorMemory) {
		return 0
	}
	return x.height.Load()
}

// raise notes that a caller was shown a block of this height.
func (f *floors) raise(who string, height int64, now time.Time) {
	v, ok := f.m.Load(who)
	if !ok {
		v, ok = f.m.LoadOrStore(who, &floor{})
		if !ok && f.count.Add(1) > maxFloors {
			f.sweep(now)
		}
	}
	x := v.(*floor)
	for {
		old := x.height.Load()
		if height < old && now.UnixNano()-x.at.Load() <= int64(floorMemory) {
			return
		}
		if x.height.CompareAndSwap(old, height) {
			x.at.Store(now.UnixNano())
			return
		}
	}
}

func (f *floors) sweep(now time.Time) {
	f.m.Range(func(who, v any) bool {
		if now.UnixNano()-v.(*floor).at.Load() > int64(floorMemory) {
			f.m.Delete(who)
			f.count.Add(-1)
		}
		return true
	})
}

// pace knows how long reads take on a chain, so that it can be told when one is late,
// and how many were asked a second time for that.
type pace struct {
	// late are estimates of the 95th percentile of reads that cost about the same, in
	// nanoseconds, by the length of their price in bits.
	late   [8]atomic.Int64
	credit atomic.Int64
}

const (
	// lateFirst is what is late before anything is known, lateLeast the least ever.
	lateFirst = 250 * time.Millisecond
	lateLeast = 2 * time.Millisecond
	lateMost  = 10 * time.Second
	// hedgeCost is how many reads earn one that is asked twice: one in twenty at most.
	hedgeCost = 20
	hedgeSave = 10 * hedgeCost // reads whose earnings are kept
)

func band(units int) int { return min(bits.Len(uint(max(units, 0))), 7) }

// after returns how long to wait for an answer before another node is asked, too.
func (p *pace) after(units int) time.Duration {
	if d := p.late[band(units)].Load(); d > 0 {
		return time.Duration(d)
	}
	return lateFirst
}

// took takes in how long a read took, or has taken until another node was faster. Of
// twenty reads one is to be above the estimate: it then goes up by a sixteenth, and
// with each other one down by a nineteenth of that. Lost updates do no harm.
func (p *pace) took(units int, d time.Duration) {
	x := &p.late[band(units)]
	q := x.Load()
	if q == 0 {
		q = int64(lateFirst)
	}
	if int64(d) > q {
		q += q / 16
	} else {
		q -= q / (16 * 19)
	}
	x.Store(min(max(q, int64(lateLeast)), int64(lateMost)))
}

// earn counts a read.
func (p *pace) earn() {
	if p.credit.Load() < hedgeSave {
		p.credit.Add(1)
	}
}

// spend tells whether another node may be asked for a read that is late.
func (p *pace) spend() bool {
	if p.credit.Add(-hedgeCost) >= 0 {
		return true
	}
	p.credit.Add(hedgeCost)
	return false
}

// twice tells, with small errors, which of the recent requests come again: answers
// that hold only until the next block are not worth keeping for others.
type twice struct{ seen [4096]atomic.Uint64 }

// again notes a request by its hash, and tells whether it was noted before.
func (t *twice) again(hash uint64) bool { return t.seen[hash%uint64(len(t.seen))].Swap(hash) == hash }
