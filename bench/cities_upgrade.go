package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// upgradeCallers call each gateway while its city gets another binary.
const upgradeCallers = 4

// upgradeCities measures calls that fail while a network of four cities goes onto
// another binary, city by city. Both binaries are of this source: what another one
// does otherwise is for the upgrade's scenario.
func upgradeCities(ctx context.Context, o options, r *report) (err error) {
	folder, err := os.MkdirTemp("", "bsn-upgrade-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	present, next := filepath.Join(folder, "bsn"), filepath.Join(folder, "next")
	b, err := os.ReadFile(o.bsn)
	if err != nil {
		return fmt.Errorf("read binary: %w", err)
	}
	if err := os.WriteFile(present, b, 0o755); err != nil {
		return fmt.Errorf("copy binary: %w", err)
	}
	say("build another binary")
	if out, err := exec.CommandContext(ctx, "go", "build", "-ldflags=-buildid=upgrade", "-o", next, "./cmd/bsn").CombinedOutput(); err != nil {
		return fmt.Errorf("build bsn: %w\n%s", err, out)
	}
	l, err := newLocal(present)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	say("start a network")
	if _, err := l.up(ctx); err != nil {
		return err
	}
	if err := sleep(ctx, settle, "let it settle"); err != nil {
		return err
	}
	calling, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var calls, failed atomic.Int64
	for _, name := range cities {
		g, err := l.gateway(name)
		if err != nil {
			return err
		}
		for range upgradeCallers {
			wg.Go(func() {
				for calling.Err() == nil {
					// A call that was begun is seen to its end.
					if _, err := g.height(ctx); err != nil {
						failed.Add(1)
						say("a call at %s failed: %v", name, err)
					}
					calls.Add(1)
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
	}
	say("upgrade under %d callers", upgradeCallers*len(cities))
	start := time.Now()
	_, err = l.run(ctx, "upgrade", "--binary", next)
	took := time.Since(start)
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	r.add("upgrade.calls_failed", float64(failed.Load()), "calls", atMost(0),
		"of %d calls through the gateways of four cities while `bsn upgrade` put them onto another binary one after another, in %.0f s", calls.Load(), took.Seconds())
	return nil
}
