package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

const (
	// knownSamples is how many records are timed, blockSpan how long blocks are.
	knownSamples = 60
	blockSpan    = time.Minute
	scaleIdle    = time.Minute
)

// scale measures the ledger of a network of n cities.
func scale(n int) func(context.Context, options, *report) error {
	return func(ctx context.Context, o options, r *report) (err error) {
		began := time.Now()
		g, err := grow(ctx, o, n)
		if g != nil {
			defer func() { err = errors.Join(err, g.close()) }()
		}
		if err != nil {
			return err
		}
		r.add(name(n, "grow.seconds"), time.Since(began).Seconds(), "s", versus{},
			"%d cities of %d operators on this machine, founded and joined in rounds", n, n-secondCities(n))
		k, err := g.signUp(ctx)
		if err != nil {
			return err
		}
		if err := sleep(ctx, settle, "let the network settle"); err != nil {
			return err
		}
		if err := g.rest(ctx, n, r); err != nil {
			return err
		}
		conn, _, err := g.client(0, g.cities[0].operator)
		if err != nil {
			return err
		}
		w, err := ledger.NewClient(conn, k)
		if err != nil {
			return err
		}
		if err := g.known(ctx, w, n, r); err != nil {
			return err
		}
		if err := g.blocks(ctx, w, n, r); err != nil || n > 4 {
			return err
		}
		return g.keys(ctx, w, r)
	}
}

func name(n int, what string) string { return fmt.Sprintf("ledger.%d.%s", n, what) }

func secondCities(n int) int {
	seen := map[string]bool{}
	for _, m := range members(n) {
		seen[m.operator] = true
	}
	return n - len(seen)
}

// rest measures what all daemons together cost while nobody writes.
func (g *grown) rest(ctx context.Context, n int, r *report) error {
	before, err := g.used()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, scaleIdle, "watch the idle ledger"); err != nil {
		return err
	}
	after, err := g.used()
	if err != nil {
		return err
	}
	resident := 0.0
	for _, m := range g.cities {
		pid, err := g.daemon(m.city)
		if err != nil {
			return err
		}
		all, _, err := memory(pid)
		if err != nil {
			return err
		}
		resident += all
	}
	r.add(name(n, "rss_total_mib"), resident, "MiB", versus{}, "resident memory of all %d daemons, %.0f MiB each", n, resident/float64(n))
	r.add(name(n, "idle.cpu_percent"), 100*(after-before)/time.Since(start).Seconds(), "% of a core", versus{},
		"all %d daemons together while nobody writes, over %s", n, scaleIdle)
	return nil
}

// used is the processor time of all daemons so far, in seconds.
func (g *grown) used() (sum float64, err error) {
	for _, m := range g.cities {
		pid, err := g.daemon(m.city)
		if err != nil {
			return 0, err
		}
		cpu, _, err := stat(pid)
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// arrivals are when cities showed a record, by its id.
type arrivals struct {
	mu   sync.Mutex
	seen map[string][]time.Time
}

func (a *arrivals) add(b bsn.Block) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range b.Changes {
		a.seen[c.ID] = append(a.seen[c.ID], now)
	}
}

func (a *arrivals) of(id string) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[id]
}

// known measures the time from writing a record until every city shows it to
// those who follow.
func (g *grown) known(ctx context.Context, w *ledger.Client, n int, r *report) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &arrivals{seen: map[string][]time.Time{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range g.cities {
		c, _, err := g.client(i, g.cities[i].operator)
		if err != nil {
			return err
		}
		_, height, err := c.List(ctx, bsn.KindPortal, "", 1)
		if err != nil {
			return err
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				for b, err := range c.Follow(ctx, height+1) {
					if err != nil {
						break
					}
					height = b.Height
					a.add(b)
				}
			}
		})
	}
	say("%d records, one at a time", knownSamples)
	var all []float64
	for i := range knownSamples {
		if err := pause(ctx, 500*time.Millisecond+rand.N(time.Second)); err != nil {
			return err
		}
		project := fmt.Sprintf("known-%d-%d", n, i)
		start := time.Now()
		if _, err := w.Write(ctx, ledger.SetProject(bsn.Project{Name: project})); err != nil {
			return err
		}
		var times []time.Time
		for id := bsn.ID("bench", project); len(times) < len(g.cities); times = a.of(id) {
			if time.Since(start) > 2*time.Minute {
				return fmt.Errorf("%d of %d cities know %s after %s", len(times), len(g.cities), project, time.Since(start))
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
		var last time.Time
		for _, t := range times {
			if t.After(last) {
				last = t
			}
		}
		all = append(all, float64(last.Sub(start).Microseconds())/1e3)
	}
	r.add(fmt.Sprintf("record.all_known.%d.p99_ms", n), quantile(all, 0.99), "ms", versus{},
		"from submitting a record until the last of %d cities shows it to its followers; p50 %.0f, p95 %.0f, most %.0f ms of %d",
		n, median(all), quantile(all, 0.95), quantile(all, 1), len(all))
	return nil
}

// blocks measures the time between blocks while there is always something to write.
func (g *grown) blocks(ctx context.Context, w *ledger.Client, n int, r *report) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range 4 {
		wg.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				_, _ = w.Write(ctx, setProject(int64(100*i+j%100))) // one that is late is as good
			}
		})
	}
	c, _, err := g.client(len(g.cities)-1, g.cities[0].operator)
	if err != nil {
		return err
	}
	if err := sleep(ctx, loadRamp, "until blocks follow each other"); err != nil {
		return err
	}
	_, first, err := c.List(ctx, bsn.KindPortal, "", 1)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, blockSpan, "count blocks"); err != nil {
		return err
	}
	_, last, err := c.List(ctx, bsn.KindPortal, "", 1)
	if err != nil {
		return err
	}
	if last == first {
		return fmt.Errorf("no block in %s", blockSpan)
	}
	r.add(name(n, "block_ms"), float64(time.Since(start).Milliseconds())/float64(last-first), "ms", versus{},
		"time between blocks while four writers wait for theirs, over %s; %d validators and %d further cities", blockSpan, n-secondCities(n), secondCities(n))
	return nil
}
