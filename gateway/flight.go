package gateway

import (
	"bytes"
	"hash/maphash"
	"sync"
)

// flights are the reads of a chain that nodes have been asked for and have not
// answered yet. Who asks for the same meanwhile waits for that answer.
type flights struct {
	seed   maphash.Seed
	shards [32]flightShard
}

type flightShard struct {
	mu      sync.Mutex
	flights map[uint64]*flight
	_       [40]byte // each on a cache line of its own
}

type flight struct {
	// key is the first caller's, who is there until the end.
	key []byte
	// version and floor are what holds for the answer: what was known of the chain
	// when it was asked for, and the height that its node must have.
	version uint64
	floor   int64

	done   chan struct{} // nil while nobody follows
	answer answer
	height int64 // that the node which answered had at least
}

// idleFlights are those that nobody followed, to be used again.
var idleFlights = sync.Pool{New: func() any { return new(flight) }}

func (f *flights) hash(key []byte) uint64 { return maphash.Bytes(f.seed, key) }

// join enters a read. First means that the caller has to ask, and then to land what
// came of it. Else the caller waits until done is closed, and takes the answer.
func (f *flights) join(hash uint64, key []byte, version uint64, floor int64) (x *flight, first bool) {
	s := &f.shards[hash%uint64(len(f.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if x = s.flights[hash]; x != nil && x.version == version && x.floor >= floor && bytes.Equal(x.key, key) {
		if x.done == nil {
			x.done = make(chan struct{})
		}
		return x, false
	}
	x = idleFlights.Get().(*flight)
	x.key, x.version, x.floor = key, version, floor
	if s.flights == nil {
		s.flights = map[uint64]*flight{}
	}
	s.flights[hash] = x // an older one is not followed any more
	return x, true
}

// abandon gives up a read whose caller has gone, and tells whether it did: not if
// somebody else waits for the answer.
func (f *flights) abandon(hash uint64, x *flight) bool {
	s := &f.shards[hash%uint64(len(f.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.done != nil {
		return false
	}
	if s.flights[hash] == x {
		delete(s.flights, hash)
	}
	return true
}

// land ends a read with its answer. The flight is not the caller's any more.
func (f *flights) land(hash uint64, x *flight, a answer) {
	s := &f.shards[hash%uint64(len(f.shards))]
	s.mu.Lock()
	if s.flights[hash] == x {
		delete(s.flights, hash)
	}
	done := x.done
	x.answer = a
	s.mu.Unlock()
	if done == nil { // nobody can come by it any more
		*x = flight{}
		idleFlights.Put(x)
		return
	}
	close(done)
}
