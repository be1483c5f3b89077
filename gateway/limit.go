package gateway

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limitWindow is the time over which a limit in calls per second is averaged:
// a bucket holds this many seconds' worth.
const limitWindow = 10

// buckets are token buckets by name, one for each project or app that calls.
// Their number is bounded by the ledger's records.
type buckets struct {
	m sync.Map // string to *rate.Limiter
}

// take takes one token from the named bucket, which fills at perSecond. If it
// is empty, take returns how long to wait for the next one.
func (b *buckets) take(name string, perSecond int) (wait time.Duration, ok bool) {
	v, found := b.m.Load(name)
	if !found {
		v, _ = b.m.LoadOrStore(name, rate.NewLimiter(rate.Limit(perSecond), limitWindow*perSecond))
	}
	bucket := v.(*rate.Limiter)
	if bucket.Limit() != rate.Limit(perSecond) { // the record changed
		bucket.SetLimit(rate.Limit(perSecond))
		bucket.SetBurst(limitWindow * perSecond)
	}
	if bucket.Allow() {
		return 0, true
	}
	missing := max(1-bucket.Tokens(), 0)
	return time.Duration(missing / float64(perSecond) * float64(time.Second)), false
}

// retrySeconds is a wait as Retry-After states it: whole seconds, at least one.
func retrySeconds(wait time.Duration) int {
	return max(1, int(math.Ceil(wait.Seconds())))
}
