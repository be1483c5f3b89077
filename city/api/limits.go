package api

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// maxRequests is the most requests of one key, and maxAllRequests those of all
	// keys, that are remembered against replay at a time: who calls oftener is
	// refused, and nobody else.
	maxRequests    = 50_000
	maxAllRequests = 500_000
)

// errTooMany means that a caller has to wait.
var errTooMany = errors.New("too many requests: wait a few minutes")

// errReplay means that the very same request came before.
var errReplay = errors.New("request was seen before")

// requests remembers signed requests for as long as their time would pass again.
type requests struct {
	mu sync.Mutex
	// Two generations, so that forgetting costs nothing: a request is remembered for
	// one to two of their lives.
	began     time.Time
	now, then generation
}

type generation struct {
	seen  map[string]bool
	count map[string]int // by key
}

// add remembers a request. Errors: errReplay, errTooMany.
func (r *requests) add(key, nonce string, at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Sub(r.began) > 2*maxSkew {
		r.then = r.now
		if at.Sub(r.began) > 4*maxSkew {
			r.then = generation{}
		}
		r.now, r.began = generation{map[string]bool{}, map[string]int{}}, at
	}
	id := key + nonce
	switch {
	case r.now.seen[id] || r.then.seen[id]:
		return errReplay
	case r.now.count[key] >= maxRequests || len(r.now.seen) >= maxAllRequests:
		return errTooMany
	}
	r.now.seen[id] = true
	r.now.count[key]++
	return nil
}

// uploads counts the bytes that callers upload.
type uploads struct {
	most  int64 // a caller's in a day; all of a group's is groupFactor times that
	mu    sync.Mutex
	began time.Time
	bytes map[string]int64
}

// take counts an upload, or refuses it.
func (u *uploads) take(c Caller, size int64, at time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at.Sub(u.began) > 24*time.Hour {
		u.began, u.bytes = at, map[string]int64{}
	}
	if u.bytes[c.id()]+size > u.most {
		return fmt.Errorf("%s %q may upload %d bytes a day to a city", c.Kind, c.Name, u.most)
	}
	if u.bytes[c.group()]+size > groupFactor*u.most {
		return fmt.Errorf("those of %s together may upload %d bytes a day to a city", c.group(), groupFactor*u.most)
	}
	u.bytes[c.id()] += size
	u.bytes[c.group()] += size
	return nil
}
