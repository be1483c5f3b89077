package gateway

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapRoom is how much garbage may gather, in bytes, before it is collected. Calls
// leave garbage by the megabyte a second, and little of what a gateway holds ever
// changes: with the room that Go gives a small heap by itself, it would be walked many
// times a second.
const heapRoom = 64 << 20

// TendHeap has the garbage collector of this process run when heapRoom of garbage
// may have gathered, or as much as is in use if that is more. The environment
// variable GOGC overrules it.
func TendHeap() {
	if os.Getenv("GOGC") == "" {
		tendHeap()
	}
}

// collected is garbage from the beginning: its finalizer tells of each collection.
type collected struct{ _ *byte }

func tendHeap() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	percent := 100
	var again func(*collected)
	again = func(*collected) {
		metrics.Read(live)
		// Setting it stops the process for a moment: small changes are left out.
		if now := heapPercent(live[0].Value.Uint64()); now < percent || now > percent+percent/4 {
			percent = now
			debug.SetGCPercent(percent)
		}
		runtime.SetFinalizer(&collected{}, again)
	}
	again(nil)
}

// heapPercent is by how much a heap with so much in use may grow, in percent.
func heapPercent(live uint64) int {
	const most = 1600
	return int(min(max(heapRoom*100/max(live, 1), 100), most))
}
