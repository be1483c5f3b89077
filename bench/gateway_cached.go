package main

import (
	"context"
	"fmt"
)

const (
	// cachedShare and cachedTimes are the goals of a cached read: so much of what the
	// stand-in does when it is asked directly, or so many times what a Kaia node does,
	// whichever is less.
	cachedShare = 0.9
	cachedTimes = 3
)

// finalBlock is an old block with all its transactions, the same in every call.
var finalBlock = call{method: "eth_getBlockByNumber", before: `["0x10",true]`}

// cached measures answers that never change, of the stand-in and of a real node.
func cached(ctx context.Context, g *rig, r *report) error {
	ours, direct := &side{target: g.ours, process: g.gateway}, &side{target: g.direct, process: g.standIn}
	if err := sides(ctx, finalBlock, 32, ours, direct); err != nil {
		return err
	}
	// The node is started after that, so that it takes nothing from it.
	k, err := g.startKaia(ctx)
	if err != nil {
		return err
	}
	throughBlock, nodeBlock, err := k.sides(ctx, k.block)
	if err != nil {
		return err
	}
	throughCall, nodeCall, err := k.sides(ctx, k.call)
	if err != nil {
		return err
	}
	goal, which := cachedShare*median(direct.rps), fmt.Sprintf("%.1f of that", cachedShare)
	if times := cachedTimes * median(nodeBlock.rps); times < goal {
		goal, which = times, fmt.Sprintf("%d times a Kaia node, which is less than %.1f of that", cachedTimes, cachedShare)
	}
	r.add("cached.c32.rps", median(ours.rps), "calls/s", against("direct", median(direct.rps)).goal("at least %s, %s", plain(goal), which),
		"eth_getBlockByNumber of one final block with %d transactions; median of %s; stand-in asked directly %s", blockTransactions, list(ours.rps), list(direct.rps))
	r.add("cached.c32.cpu_us", median(ours.cpuUS), "µs", atMost(25), "processor time of the gateway per call: %s; of the stand-in, which only writes the same bytes: %s", list(ours.cpuUS), list(direct.cpuUS))
	r.add("cached.kaia.c32.rps", median(throughBlock.rps), "calls/s", against("a Kaia node asked directly", median(nodeBlock.rps)).goal("%d times", cachedTimes),
		"eth_getBlockByNumber of a final block of Kaia with %d transactions; median of %s; node %s", k.transactions, list(throughBlock.rps), list(nodeBlock.rps))
	r.add("cached.kaia.call.c32.rps", median(throughCall.rps), "calls/s", against("a Kaia node asked directly", median(nodeCall.rps)).goal("%d times", cachedTimes),
		"eth_call at a final height; median of %s; node %s", list(throughCall.rps), list(nodeCall.rps))
	resident, _, err := memory(g.gateway.cmd.Process.Pid)
	if err != nil {
		return err
	}
	r.add("cached.rss_mib", resident, "MiB", versus{}, "resident memory after the run")
	return nil
}
