package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

const (
	commitSamples = 60
	loadRamp      = 5 * time.Second
	loadSpan      = 30 * time.Second
	// loadWriters is how many writers wait for their transaction at once, all
	// cities together: a block is half a second, so that the ledger can be asked to
	// commit twice as many per second as it has writers.
	loadWriters = 512
	// perClient is how many of them share a client at most: as many connections are
	// kept by it.
	perClient = 8
)

// conns hands each transaction to the city that was left alone longest. It holds
// every client perClient times.
type conns chan *api.Client

var _ ledger.Conn = conns(nil)

// Writer implements ledger.Conn.
func (c conns) Writer(ctx context.Context, address string) (ledger.Signer, error) {
	city := <-c
	defer func() { c <- city }()
	return city.Writer(ctx, address)
}

// Submit implements ledger.Conn.
func (c conns) Submit(ctx context.Context, tx []byte) (ledger.Result, error) {
	city := <-c
	defer func() { c <- city }()
	return city.Submit(ctx, tx)
}

// writer is a client of the ledger that writes as the demo account through all
// cities in turn.
func (l *local) writer() (*ledger.Client, error) {
	c, err := l.context()
	if err != nil {
		return nil, err
	}
	k, err := key.Load(filepath.Join(l.home, "accounts", c.Account+".key"))
	if err != nil {
		return nil, err
	}
	var clients []*api.Client
	for range loadWriters / perClient / len(cities) {
		for _, name := range cities {
			clients = append(clients, api.Dial(c.Cities[name].API, c.Network, name, k))
		}
	}
	all := make(conns, len(clients)*perClient)
	for range perClient {
		for _, client := range clients {
			all <- client
		}
	}
	return ledger.NewClient(all, k)
}

// ledgerLoad measures the ledger of four operators, first alone, then busy.
func ledgerLoad(ctx context.Context, _ options, l *local, r *report) error {
	w, err := l.writer()
	if err != nil {
		return err
	}
	if err := commits(ctx, w, r); err != nil {
		return err
	}
	return load(ctx, l, w, r)
}

func setProject(i int64) ledger.Message {
	return ledger.SetProject(bsn.Project{
		Name: fmt.Sprintf("bench-%d", i%1000), Limits: bsn.Limits{RequestsPerSecond: 1 + int(i%100)},
	})
}

// commits measures one write at a time, at moments that follow no rhythm.
func commits(ctx context.Context, w *ledger.Client, r *report) error {
	const least, most = 500 * time.Millisecond, 2500 * time.Millisecond
	say("%d single writes, about %s", commitSamples, commitSamples*(least+most)/2)
	var took []float64
	for i := range commitSamples {
		if err := pause(ctx, least+rand.N(most-least)); err != nil {
			return err
		}
		if i > 0 && i%20 == 0 {
			say("%d of %d", i, commitSamples)
		}
		start := time.Now()
		if _, err := w.Write(ctx, setProject(int64(i))); err != nil {
			return err
		}
		took = append(took, float64(time.Since(start).Microseconds())/1e3)
	}
	r.add("ledger.4.commit.p50_ms", median(took), "ms", versus{},
		"from submitting to the answer that a block holds it, over the API of one city after the other; p95 %.0f ms, most %.0f ms of %d",
		quantile(took, 0.95), quantile(took, 1), len(took))
	return nil
}

// load measures how many transactions of one message are committed per second
// while many writers wait for theirs.
func load(ctx context.Context, l *local, w *ledger.Client, r *report) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sent, committed atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	say("%d writers over four cities: %s", loadWriters, loadRamp+loadSpan)
	for range loadWriters {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := w.Write(ctx, setProject(sent.Add(1))); err != nil {
					if ctx.Err() == nil {
						failed.CompareAndSwap(nil, &err)
					}
					return
				}
				committed.Add(1)
			}
		})
	}
	if err := sleep(ctx, loadRamp, "until the load is even"); err != nil {
		return err
	}
	start, before := time.Now(), committed.Load()
	cpu, err := l.cpu(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, loadSpan, "load"); err != nil {
		return err
	}
	n, span := committed.Load()-before, time.Since(start)
	used, err := l.cpu(ctx)
	if err := failed.Load(); err != nil {
		return errors.Join(errors.New("a write failed"), *err)
	}
	r.add("ledger.4.tps", float64(n)/span.Seconds(), "tx/s", versus{},
		"SetProject of one account, signed as it goes by %d writers on the same machine; over %s; the four daemons used %.2f cores",
		loadWriters, loadSpan, (used-cpu)/span.Seconds())
	return err
}

// cpu is the processor time of all daemons so far, in seconds.
func (l *local) cpu(ctx context.Context) (sum float64, err error) {
	pids, err := l.processes(ctx, "daemon")
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		used, _, err := stat(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
