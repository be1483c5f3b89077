package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

const (
	callPairs   = 8000
	callers     = 16
	callSpan    = 5 * time.Second
	callRounds  = 3
	callsPerSec = 1_000_000 // the project's limit while calls are measured
)

// calls measures what a gateway adds to a call.
func calls(ctx context.Context, _ options, l *local, r *report) error {
	w, err := l.writer()
	if err != nil {
		return err
	}
	say("raise the project's limit")
	if _, err := w.Write(ctx, ledger.SetProject(bsn.Project{Name: "default", Limits: bsn.Limits{RequestsPerSecond: callsPerSec}})); err != nil {
		return err
	}
	if err := sleep(ctx, 5*time.Second, "let the gateways read it"); err != nil {
		return err
	}
	through, err := l.gateway(cities[0])
	if err != nil {
		return err
	}
	direct, err := l.node(1)
	if err != nil {
		return err
	}
	if err := pairs(ctx, through, direct, r); err != nil {
		return err
	}
	var a, b []float64
	for i := range callRounds {
		say("calls over %d connections (%d of %d)", callers, i+1, callRounds)
		n, err := rate(ctx, through)
		if err != nil {
			return err
		}
		m, err := rate(ctx, direct)
		if err != nil {
			return err
		}
		a, b = append(a, n), append(b, m)
	}
	r.add("call.gateway.rps", median(a), "calls/s", against("straight to the node", median(b)),
		"eth_blockNumber over %d connections, the caller on the same machine; median of %s", callers, list(a))
	return nil
}

// pairs asks gateway and node in turn, each over one connection that stays.
func pairs(ctx context.Context, through, direct endpoint, r *report) error {
	say("%d pairs of calls over one connection each", callPairs)
	const warmUp = callPairs / 10
	var took [2][]float64
	for i := range warmUp + callPairs {
		for j := range 2 {
			which := (i + j) % 2 // neither is always the first
			start := time.Now()
			_, err := []endpoint{through, direct}[which].height(ctx)
			if err != nil {
				return err
			}
			if i >= warmUp {
				took[which] = append(took[which], float64(time.Since(start).Nanoseconds())/1e3)
			}
		}
	}
	for _, q := range []struct {
		name string
		at   float64
	}{{"call.added.p50_us", 0.5}, {"call.added.p95_us", 0.95}} {
		g, n := quantile(took[0], q.at), quantile(took[1], q.at)
		r.add(q.name, g-n, "µs", against("straight to the node", n),
			"eth_blockNumber through the gateway takes %.0f µs, straight to the node %.0f µs; %d interleaved pairs", g, n, callPairs)
	}
	return nil
}

// rate is how many calls are answered per second.
func rate(ctx context.Context, e endpoint) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	end := time.Now().Add(callSpan)
	var answered atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Now().Before(end) {
				if _, err := e.height(ctx); err != nil {
					failed.Store(&err)
					return
				}
				answered.Add(1)
			}
		})
	}
	start := time.Now()
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, fmt.Errorf("after %d calls: %w", answered.Load(), *err)
	}
	return float64(answered.Load()) / time.Since(start).Seconds(), nil
}
