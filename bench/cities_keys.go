package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

const (
	// manyKeys is how many keys are registered, keysEach how many of them a project has
	// and a transaction brings.
	manyKeys = 20_000
	keysEach = 50
)

// keys measures what keys cost a city in memory and on disk.
func (g *grown) keys(ctx context.Context, w *ledger.Client, r *report) error {
	say("%d keys", manyKeys)
	daemon, gateway, disk, err := g.weight(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	for i := range manyKeys / keysEach {
		project := fmt.Sprintf("keys-%d", i)
		m := []ledger.Message{ledger.SetProject(bsn.Project{Name: project})}
		for range keysEach {
			_, k := bsn.NewKey(g.cities[0].city)
			m = append(m, ledger.AddKey(project, k))
		}
		if _, err := w.Write(ctx, m...); err != nil {
			return err
		}
	}
	took := time.Since(start)
	if err := sleep(ctx, settle, "let the network settle"); err != nil {
		return err
	}
	daemonNow, gatewayNow, diskNow, err := g.weight(ctx)
	if err != nil {
		return err
	}
	const kib = 1024
	per := func(before, after float64) float64 { return (after - before) * kib / manyKeys }
	note := fmt.Sprintf("one city before and after %d keys of %d projects, written one transaction after the other in %s", manyKeys, manyKeys/keysEach, took.Round(time.Second))
	r.add("keys.gateway_kib", per(gateway, gatewayNow), "KiB/key", versus{}, "resident memory of a gateway; %s", note)
	r.add("keys.daemon_kib", per(daemon, daemonNow), "KiB/key", versus{}, "resident memory of a daemon, caches and database buffers included; %s", note)
	r.add("keys.disk_kib", per(disk, diskNow), "KiB/key", versus{}, "a city's ledger data before compaction and pruning; %s", note)
	return nil
}

// weight is what the first city has in MiB: memory of daemon and gateway, and the
// ledger's data.
func (g *grown) weight(ctx context.Context) (daemon, gateway, disk float64, err error) {
	name := g.cities[0].city
	pid, err := g.daemon(name)
	if err != nil {
		return 0, 0, 0, err
	}
	if daemon, _, err = memory(pid); err != nil {
		return 0, 0, 0, err
	}
	pids, err := g.nodes(ctx, "gateway")
	if err != nil {
		return 0, 0, 0, err
	}
	if gateway, _, err = memory(pids[name]); err != nil {
		return 0, 0, 0, err
	}
	disk, err = folderMiB(filepath.Join(g.city(name).Dir(), "ledger", "data"))
	return daemon, gateway, disk, err
}
