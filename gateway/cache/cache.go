// Package cache keeps answers of a gateway's nodes in memory, up to a number of
// bytes. It knows two kinds: what is final holds until the room is needed, and
// what depends on a chain's newest block holds as long as that is the newest one.
// Which is which is the caller's to say.
package cache

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"
)

// entryCost is what an entry takes beside its key and answer, in bytes.
const entryCost = 168

// share of the room that one answer may take, as a divisor.
const share = 16

// Entry is an answer as it is kept. Nothing in it is ever changed.
type Entry struct {
	// Answer is the result in JSON, as a node wrote it.
	Answer []byte
	// Final: it holds for ever. The fields below are then without meaning.
	Final bool
	// Version is that of the chain's newest block when it was asked for.
	Version uint64
	// Height is what the node that answered had reached.
	Height int64
	// At is when it was asked for, in Unix nanoseconds.
	At int64
	// Shows is the number of the block that the answer tells of itself, for who keeps it
	// to say; the store does not look at it.
	Shows int64
}

// Now is the state of things at which an entry is looked for.
type Now struct {
	Version uint64
	// Height is the least that the answer may be of.
	Height int64
	// Time is in Unix nanoseconds.
	Time int64
}

// Store is a cache. Its methods may be called by many goroutines at once, and on
// a nil Store, which keeps nothing.
type Store struct {
	entries *otter.Cache[string, Entry]
	head    time.Duration
	largest int
}

// New returns a store of at most so many bytes, counted with what the entries cost
// by themselves, or nil for 0. Entries that are not final hold for head at most.
func New(bytes int64, head time.Duration) (*Store, error) {
	if bytes <= 0 {
		return nil, nil
	}
	entries, err := otter.New(&otter.Options[string, Entry]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(key string, e Entry) uint32 { return uint32(len(key) + len(e.Answer) + entryCost) },
		StatsRecorder: stats.NewCounter(),
	})
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return &Store{entries: entries, head: head, largest: int(min(bytes/share, 1<<30))}, nil
}

// Get returns what is kept under a key, if it still holds.
func (s *Store) Get(key []byte, now Now) (e Entry, ok bool) {
	if s == nil || len(key) == 0 {
		return e, false
	}
	// The text is only compared, and not kept.
	e, ok = s.entries.GetIfPresent(unsafe.String(unsafe.SliceData(key), len(key)))
	return e, ok && e.holds(now, s.head)
}

func (e *Entry) holds(now Now, head time.Duration) bool {
	return e.Final || e.Version == now.Version && e.Height >= now.Height && now.Time-e.At < int64(head) && now.Time >= e.At
}

// Put keeps an answer, unless it would take too much of the room.
func (s *Store) Put(key []byte, e Entry) {
	if s == nil || len(key) == 0 || len(key)+len(e.Answer) > s.largest || !e.Final && s.head <= 0 {
		return
	}
	s.entries.Set(string(key), e)
}

// Resize has the store take at most so many bytes from now on.
func (s *Store) Resize(bytes int64) {
	if s != nil {
		s.entries.SetMaximum(uint64(max(bytes, 0)))
	}
}

// Size is about what the store takes, and how many answers it keeps.
func (s *Store) Size() (bytes uint64, entries int) {
	if s == nil {
		return 0, 0
	}
	return s.entries.WeightedSize(), s.entries.EstimatedSize()
}

// Evicted is how many bytes were given up for others.
func (s *Store) Evicted() uint64 {
	if s == nil {
		return 0
	}
	return s.entries.Stats().EvictionWeight
}
