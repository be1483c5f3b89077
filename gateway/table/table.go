// Package table is a map that is read without a lock and without allocation: for
// what every call looks up and few calls add to.
package table

import (
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"
)

var seed = maphash.MakeSeed()

// Table maps keys to values that are never replaced. The zero value is empty. Its
// methods may be called by many goroutines at once.
type Table[K comparable, V any] struct {
	places atomic.Pointer[[]atomic.Pointer[entry[K, V]]]

	mu    sync.Mutex
	count int // of entries; there are at least twice as many places
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// first is how many places a table has to begin with, a power of two.
const first = 16

// Get returns the value of a key.
func (t *Table[K, V]) Get(key K) (value V, found bool) {
	if p := t.places.Load(); p != nil {
		if e := place(*p, key).Load(); e != nil {
			return e.value, true
		}
	}
	return value, false
}

// place is where a key is, or is to be.
func place[K comparable, V any](places []atomic.Pointer[entry[K, V]], key K) *atomic.Pointer[entry[K, V]] {
	mask := uint64(len(places) - 1)
	for i := maphash.Comparable(seed, key); ; i++ {
		at := &places[i&mask]
		if e := at.Load(); e == nil || e.key == key {
			return at
		}
	}
}

// Add returns the value of a key and makes it first if there is none. An error of
// create leaves the table as it was.
func (t *Table[K, V]) Add(key K, create func() (V, error)) (V, error) {
	if v, found := t.Get(key); found {
		return v, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, found := t.Get(key); found {
		return v, nil
	}
	v, err := create()
	if err != nil {
		return v, err
	}
	places := t.room()
	place(places, key).Store(&entry[K, V]{key, v})
	t.count++
	return v, nil
}

// room makes sure that half of the places stay free. It needs mu.
func (t *Table[K, V]) room() []atomic.Pointer[entry[K, V]] {
	old := t.places.Load()
	size := first
	if old != nil {
		if size = len(*old); 2*(t.count+1) <= size {
			return *old
		}
		size *= 2
	}
	fresh := make([]atomic.Pointer[entry[K, V]], size)
	if old != nil {
		for i := range *old {
			if e := (*old)[i].Load(); e != nil {
				place(fresh, e.key).Store(e)
			}
		}
	}
	t.places.Store(&fresh)
	return fresh
}

// All yields all entries, in no order. Entries that are added meanwhile may be
// missing.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		p := t.places.Load()
		if p == nil {
			return
		}
		for i := range *p {
			if e := (*p)[i].Load(); e != nil && !yield(e.key, e.value) {
				return
			}
		}
	}
}
