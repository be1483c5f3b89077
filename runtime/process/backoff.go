package process

import "time"

// Restarts wait firstDelay at first, then twice as long each time up to
// maxDelay; a run of at least stableAfter begins anew.
const (
	firstDelay  = 200 * time.Millisecond
	maxDelay    = 30 * time.Second
	stableAfter = time.Minute
)

// backoff is the delay before the latest restart; zero is none so far.
type backoff time.Duration

// next returns how long to wait after a run that lasted so long.
func (b *backoff) next(ran time.Duration) time.Duration {
	if *b == 0 || ran >= stableAfter {
		*b = backoff(firstDelay)
	} else {
		*b = min(2**b, backoff(maxDelay))
	}
	return time.Duration(*b)
}
