package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var _ = register(benchmark{"network", "four cities on this machine: start, idle, calls, Kaia, ledger", network})

// starts is how often a start is measured.
const starts = 3

// settle is how long a network is left alone after a start or a load, so that
// what is measured next is not that.
const settle = 20 * time.Second

// stage is a part of the benchmark that can be run alone.
type stage struct {
	name string
	run  func(context.Context, options, *local, *report) error
}

// stages run in this order against one network.
var stages = []stage{
	{"up", ups},
	{"idle", idle},
	{"call", calls},
	{"kaia", faults},
	{"ledger", ledgerLoad},
}

func network(ctx context.Context, o options, r *report) (err error) {
	if o.cold {
		return cold(ctx, r)
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(stages, func(s stage) bool { return s.name == name }) {
			return fmt.Errorf("there is no stage %q", name)
		}
	}
	l, err := newLocal(o.bsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if !o.wants("up") {
		say("start a network")
		if _, err := l.up(ctx); err != nil {
			return err
		}
	}
	for _, s := range stages {
		if !o.wants(s.name) {
			continue
		}
		if err := s.run(ctx, o, l, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// cold starts a network with nothing built, neither bsn nor node software nor
// any package of theirs. The modules are those that the machine has: how fast
// they come is the network's matter.
func cold(ctx context.Context, r *report) (err error) {
	folder, err := os.MkdirTemp("", "bsn-cold-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	binary := filepath.Join(folder, "bin", "bsn")
	l, err := newLocal(binary)
	if err != nil {
		return err
	}
	// Both caches lie below this one.
	l.env = []string{"XDG_CACHE_HOME=" + folder, "GOCACHE=" + filepath.Join(folder, "go-build")}
	start := time.Now()
	say("cold: build bsn, then its node software; takes minutes")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/bsn")
	build.Env = append(os.Environ(), l.env...)
	if out, err := build.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build bsn: %w\n%s", err, strings.TrimSpace(string(out))), os.RemoveAll(l.home))
	}
	built := time.Since(start)
	say("cold: bsn is built after %s", built.Round(time.Second))
	defer func() { err = errors.Join(err, l.close()) }()
	if _, err := l.up(ctx); err != nil {
		return err
	}
	r.add("up.cold.seconds", time.Since(start).Seconds(), "s", atMost(900),
		"as make up, both build caches empty, modules downloaded before; of these %.0f s for bsn itself", built.Seconds())
	return nil
}

// ups measures starts, and leaves the last network running.
func ups(ctx context.Context, _ options, l *local, r *report) error {
	var warm, again, first []float64
	for i := range starts {
		say("up with everything built, empty home (%d of %d)", i+1, starts)
		if i > 0 {
			if _, err := l.run(ctx, "reset", "--yes"); err != nil {
				return err
			}
		}
		watch, stop := context.WithCancel(ctx)
		seen := l.watchFirstBlock(watch)
		took, err := l.up(ctx)
		stop()
		if err != nil {
			return err
		}
		warm = append(warm, took.Seconds())
		block := <-seen
		if block.IsZero() {
			return errors.New("the chain's first block was not seen")
		}
		started, err := l.started(ctx, kaiaNode)
		if err != nil {
			return err
		}
		first = append(first, block.Sub(started).Seconds())
	}
	r.add("up.warm.seconds", median(warm), "s", atMost(30), "median of %s", list(warm))
	r.add("kaia.first_block.seconds", median(first), "s", atMost(5), "from the start of the first of four nodes until one has block 1; median of %s", list(first))
	for i := range starts {
		say("down, and up with its data (%d of %d)", i+1, starts)
		if err := l.down(ctx); err != nil {
			return err
		}
		took, err := l.up(ctx)
		if err != nil {
			return err
		}
		again = append(again, took.Seconds())
	}
	r.add("up.again.seconds", median(again), "s", atMost(30), "up after down; median of %s", list(again))
	return nil
}

// watchFirstBlock asks all nodes until one has block 1, and tells when that was:
// the zero time if ctx ended before.
func (l *local) watchFirstBlock(ctx context.Context) <-chan time.Time {
	seen := make(chan time.Time, 1)
	go func() {
		defer close(seen)
		for ctx.Err() == nil {
			for i := range cities {
				e, err := l.node(i + 1)
				if err != nil {
					return
				}
				h, err := e.height(ctx)
				e.client.CloseIdleConnections()
				if err == nil && h >= 1 {
					seen <- time.Now()
					return
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return seen
}

// started is when the first of a node's processes started.
func (l *local) started(ctx context.Context, id string) (first time.Time, err error) {
	pids, err := l.nodes(ctx, id)
	if err != nil {
		return first, err
	}
	for _, pid := range pids {
		_, at, err := stat(pid)
		if err != nil {
			return first, err
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first, nil
}

// kind is a kind of process that every city runs.
type kind struct {
	id, rss, cpu, about string
	pids                map[string]int     // by city
	before              map[string]float64 // processor seconds
}

// idle measures what a network costs that nobody uses.
func idle(ctx context.Context, o options, l *local, r *report) error {
	if err := sleep(ctx, settle, "let the network settle"); err != nil {
		return err
	}
	kinds := []kind{
		{id: "daemon", rss: "city.rss.mib", cpu: "ledger.idle.cpu_percent", about: "city daemon, ledger included"},
		{id: "gateway", rss: "gateway.rss.mib", cpu: "gateway.idle.cpu_percent", about: "gateway"},
		{id: kaiaNode, rss: "kaia.node.rss.mib", cpu: "kaia.node.idle.cpu_percent", about: "Kaia node, an empty block a second"},
	}
	for i := range kinds {
		if err := kinds[i].begin(ctx, l); err != nil {
			return err
		}
	}
	sizes, err := l.ledgerSizes()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, o.idle, "watch the idle network"); err != nil {
		return err
	}
	span := time.Since(start)
	now, err := l.ledgerSizes()
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if err := k.end(span, r); err != nil {
			return err
		}
	}
	perDay := float64(24*time.Hour) / float64(span)
	var growth []float64
	parts := map[string]float64{}
	for name := range now {
		sum := 0.0
		for part, size := range now[name] {
			grown := (size - sizes[name][part]) * perDay
			sum += grown
			parts[part] += grown / float64(len(now))
		}
		growth = append(growth, sum)
	}
	note := fmt.Sprintf("growth of a city's ledger data before compaction, watched for %s; median of %s;", span.Round(time.Second), list(growth))
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		if parts[part] > 0.1 {
			note += fmt.Sprintf(" %s %.1f", part, parts[part])
		}
	}
	r.add("ledger.idle.mib_per_day", median(growth), "MiB/day", versus{}, "%s", note)
	return nil
}

func (k *kind) begin(ctx context.Context, l *local) (err error) {
	if k.pids, err = l.processes(ctx, k.id); err != nil {
		return err
	}
	k.before = map[string]float64{}
	for name, pid := range k.pids {
		if k.before[name], _, err = stat(pid); err != nil {
			return err
		}
	}
	return nil
}

func (k *kind) end(span time.Duration, r *report) error {
	var cpu, resident, own []float64
	for name, pid := range k.pids {
		used, _, err := stat(pid)
		if err != nil {
			return err
		}
		all, of, err := memory(pid)
		if err != nil {
			return err
		}
		cpu = append(cpu, 100*(used-k.before[name])/span.Seconds())
		resident, own = append(resident, all), append(own, of)
	}
	r.add(k.rss, median(resident), "MiB", versus{}, "resident memory of a %s after %s idle, of which %.0f MiB are not the program itself; median of %s",
		k.about, span.Round(time.Second), median(own), list(resident))
	r.add(k.cpu, median(cpu), "% of a core", versus{}, "%s, over %s; median of %s", k.about, span.Round(time.Second), list(cpu))
	return nil
}

// processes are the ids of one kind of process in every city.
func (l *local) processes(ctx context.Context, id string) (pids map[string]int, err error) {
	if id != "daemon" {
		if pids, err = l.nodes(ctx, id); err == nil && len(pids) != len(cities) {
			err = fmt.Errorf("%s runs in %d cities", id, len(pids))
		}
		return pids, err
	}
	pids = map[string]int{}
	for _, name := range cities {
		if pids[name], err = l.daemon(name); err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// ledgerSizes are the MiB that each part of the ledger's data has, by city.
func (l *local) ledgerSizes() (map[string]map[string]float64, error) {
	sizes := map[string]map[string]float64{}
	for _, name := range cities {
		folder := filepath.Join(l.city(name).Dir(), "ledger", "data")
		entries, err := os.ReadDir(folder)
		if err != nil {
			return nil, fmt.Errorf("measure ledger: %w", err)
		}
		sizes[name] = map[string]float64{}
		for _, e := range entries {
			if sizes[name][e.Name()], err = folderMiB(filepath.Join(folder, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return sizes, nil
}
