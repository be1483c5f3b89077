package process

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b backoff
		last := time.Duration(0)
		for _, ran := range rapid.SliceOf(rapid.Int64Range(0, int64(2*stableAfter))).Draw(t, "runs") {
			d := b.next(time.Duration(ran))
			want := firstDelay
			if last > 0 && time.Duration(ran) < stableAfter {
				want = min(2*last, maxDelay)
			}
			if d != want {
				t.Fatalf("after a run of %v and a delay of %v: %v, want %v", time.Duration(ran), last, d, want)
			}
			last = d
		}
	})
}
