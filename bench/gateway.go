package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var _ = register(benchmark{"gateway", "one gateway beside HAProxy, before a stand-in for a node", gatewayBench})

const (
	roundSpan = 5 * time.Second
	rounds    = 3
	warmSpan  = 2 * time.Second
	// enough is how much faster than HAProxy the stand-in must be, asked directly:
	// else it is what was measured.
	enough = 1.4
)

// gatewayStage is a part of the benchmark that can be run alone.
type gatewayStage struct {
	name string
	run  func(context.Context, *rig, *report) error
}

var gatewayStages = []gatewayStage{
	{"uncached", uncached},
	{"openloop", openLoopStage},
	{"cached", cached},
	{"newheads", newHeads},
}

func gatewayBench(ctx context.Context, o options, r *report) (err error) {
	for _, name := range o.only {
		if !slices.ContainsFunc(gatewayStages, func(s gatewayStage) bool { return s.name == name }) {
			return fmt.Errorf("there is no stage %q", name)
		}
	}
	for _, s := range gatewayStages {
		if !o.wants(s.name) {
			continue
		}
		g, err := newRig(ctx, o)
		if err != nil {
			return err
		}
		if err := errors.Join(s.run(ctx, g, r), g.close()); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// side is what was measured of one target over all rounds.
type side struct {
	target
	process    *process // nil if its processor time is nobody's business
	rps, p50   []float64
	p99, cpuUS []float64
}

// sides measures targets in turn, so that what the machine does besides meets all.
func sides(ctx context.Context, c call, n int, all ...*side) error {
	for _, s := range all {
		if _, err := closedLoop(ctx, s.target, c, n, warmSpan); err != nil {
			return err
		}
	}
	for i := range rounds {
		for _, s := range all {
			if i == 0 {
				s.process.profile(ctx, fmt.Sprintf("%s.%s.c%d", s.name, c.method, n))
			}
			say("%s over %d connections (%d of %d)", s.name, n, i+1, rounds)
			var before, after float64
			var err error
			if s.process != nil {
				if before, err = s.process.spent(); err != nil {
					return err
				}
			}
			m, err := closedLoop(ctx, s.target, c, n, roundSpan)
			if err != nil {
				return err
			}
			if s.process != nil {
				if after, err = s.process.spent(); err != nil {
					return err
				}
			}
			s.rps = append(s.rps, m.rps)
			s.p50, s.p99 = append(s.p50, median(m.took)), append(s.p99, quantile(m.took, 0.99))
			s.cpuUS = append(s.cpuUS, (after-before)*1e6/float64(len(m.took)))
		}
	}
	return nil
}

// uncached measures calls that are all different, through everything.
func uncached(ctx context.Context, g *rig, r *report) error {
	for _, n := range []int{1, 32, 256} {
		ours, proxied := &side{target: g.ours, process: g.gateway}, &side{target: g.proxied, process: g.haproxy}
		direct := &side{target: g.direct}
		all := []*side{ours, proxied, direct}
		var peer *side
		if g.peer != nil && n == 32 {
			peer = &side{target: *g.peer}
			all = append(all, peer)
		}
		if err := sides(ctx, ethCall, n, all...); err != nil {
			return err
		}
		// With one connection all wait for each other, and nothing is saturated.
		if by := median(direct.rps) / median(proxied.rps); n > 1 && by < enough {
			return fmt.Errorf("the stand-in is only %.2f times as fast as HAProxy over %d connections, less than %.1f: this run is void; is the machine busy?", by, n, enough)
		}
		r.add(fmt.Sprintf("uncached.c%d.rps", n), median(ours.rps), "calls/s", against("haproxy", median(proxied.rps)).goal("at least 0.8 of it"),
			"eth_call, every one different, with key, limits and meter; median of %s; HAProxy %s; stand-in asked directly %s",
			list(ours.rps), list(proxied.rps), list(direct.rps))
		added := func(name string, of func(*side) []float64) {
			base := median(of(direct))
			r.add(fmt.Sprintf("uncached.c%d.added_%s_ms", n, name), median(of(ours))-base, "ms", against("haproxy", median(of(proxied))-base),
				"what comes to a call of the stand-in's %.3f ms; gateway %s, HAProxy %s", base, list(of(ours)), list(of(proxied)))
		}
		added("p50", func(s *side) []float64 { return s.p50 })
		added("p99", func(s *side) []float64 { return s.p99 })
		if n == 32 {
			r.add("uncached.c32.cpu_us", median(ours.cpuUS), "µs", atMost(45),
				"processor time of the gateway per call: %s; HAProxy %s", list(ours.cpuUS), list(proxied.cpuUS))
		}
		if peer != nil {
			r.add("peer.c32.rps", median(peer.rps), "calls/s", against("gateway", median(ours.rps)), "the gateway at PEER_URL, median of %s", list(peer.rps))
		}
	}
	resident, _, err := memory(g.gateway.cmd.Process.Pid)
	if err != nil {
		return err
	}
	proxy, _, err := memory(g.haproxy.cmd.Process.Pid)
	if err != nil {
		return err
	}
	r.add("uncached.rss_mib", resident, "MiB", against("haproxy", proxy), "resident memory after the run")
	ms, missing, err := g.metric("bsn_gateway_journal_sync_gap_seconds")
	if err != nil || missing {
		return err
	}
	r.add("journal.power_loss_ms", ms*1e3, "ms", versus{}, "longest time between two completed syncs of the journal under load")
	return nil
}

// openLoopStage measures answers at half of what HAProxy can do.
func openLoopStage(ctx context.Context, g *rig, r *report) error {
	say("how much HAProxy can do")
	top, err := closedLoop(ctx, g.proxied, ethCall, 32, roundSpan)
	if err != nil {
		return err
	}
	var ours, proxied []float64
	for i := range rounds {
		say("%.0f calls a second, whatever comes back (%d of %d)", top.rps/2, i+1, rounds)
		a, err := openLoop(ctx, g.ours, ethCall, 64, top.rps/2, roundSpan)
		if err != nil {
			return err
		}
		b, err := openLoop(ctx, g.proxied, ethCall, 64, top.rps/2, roundSpan)
		if err != nil {
			return err
		}
		ours, proxied = append(ours, quantile(a.took, 0.99)), append(proxied, quantile(b.took, 0.99))
	}
	r.add("uncached.openloop.p99_ms", median(ours), "ms", against("haproxy", median(proxied)).goal("at most twice"),
		"from the moment a call was due, at %.0f calls/s over 64 connections, half of what HAProxy answered at most; median of %s; HAProxy %s", top.rps/2, list(ours), list(proxied))
	return nil
}
