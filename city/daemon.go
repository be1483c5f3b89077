package city

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/artifact"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/config"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/runtime/process"
)

// readyTimeout is how long a start waits for the ledger.
const readyTimeout = 20 * time.Second

// daemon is a running city.
type daemon struct {
	home       Home
	cfg        config.Config
	state      State
	own        signer
	binary     binary
	frameworks map[string]bsn.Framework
	log        *slog.Logger

	ledger    *ledger.Holder
	artifacts *artifact.Store
	runtime   bsn.Runtime
	// secret is what this city's gateway shows to read the records.
	secret  string
	mirror  mirror
	gate    api.Gate
	metrics *metrics
	nodes   nodes
	asked   asked
	// wake makes reconcile look again at once.
	wake      chan struct{}
	fetches   fetches
	dialled   dialled
	departure departure
	// settling is held by who puts receipts on the ledger.
	settling sync.Mutex
	link     linked
	// tried is when a node key was taken last.
	tried time.Time
}

// Run is a city's daemon: it returns when ctx ends, and leaves the city's nodes
// running. Ready is called once the API answers and the
// ledger has caught up, or will not for now.
func Run(ctx context.Context, h Home, cfg config.Config, frameworks map[string]bsn.Framework, log *slog.Logger, ready func()) (err error) {
	d := &daemon{home: h, cfg: cfg, frameworks: frameworks, log: log.With("city", h.Name), wake: make(chan struct{}, 1)}
	if d.state, err = h.Load(); err != nil {
		return err
	}
	if d.state.Network == "" {
		return fmt.Errorf("city %q is not part of a network: found one with `bsn city init --network NAME`, or `bsn city join INVITATION`", h.Name)
	}
	if d.state.Ended != "" {
		return fmt.Errorf("city %q %s: delete it with `bsn city delete %s`", h.Name, d.state.Ended, h.Name)
	}
	if err := h.checkNetwork(d.state); err != nil {
		return err
	}
	d.metrics = newMetrics(d)
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if d.binary, err = ownBinary(); err != nil {
		return err
	}
	if d.own.key, err = key.Load(h.keyFile()); err != nil {
		return err
	}
	if d.secret, err = secretFile(h.path("gateway.secret")); err != nil {
		return err
	}
	if d.artifacts, err = artifact.Open(h.artifacts(), cfg.Artifacts.MaxBytes, cfg.Artifacts.MaxTotalBytes); err != nil {
		return err
	}
	run, err := process.Open(h.Nodes(), d.log)
	if err != nil {
		return err
	}
	d.runtime = run
	defer func() { err = errors.Join(err, run.Close()) }()
	if err := d.vacant(ctx); err != nil {
		return err
	}
	// Before the ledger, whose nodes meet over it.
	if err := d.acquaint(d.others(), nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.link.close()) }()
	prepare, err := d.prepareLedger()
	if err != nil {
		return err
	}
	if d.ledger, err = ledger.Hold(ledger.NodeConfig{
		Home: h.ledger(), Listen: d.addr(bsn.PortLedger), Peers: d.firstPeers(), Log: d.log.With("part", "ledger"),
		History: ledger.History{SnapshotInterval: cfg.Ledger.SnapshotInterval, Snapshots: cfg.Ledger.Snapshots, Blocks: cfg.Ledger.Blocks},
		Prepare: prepare,
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.ledger.Stop()) }()
	if err := d.own.set(d.own.key, d.ledger); err != nil {
		return err
	}
	return d.serve(ctx, ready)
}

// addr is a port on the city's own virtual address.
func (d *daemon) addr(port int) string {
	return bsn.HostPort(d.state.Net.Addr(d.state.Index, bsn.ServiceCity), port)
}

// beside is a port on the city's own virtual address and the configured addresses,
// of which one for all addresses of the machine covers the virtual one too.
func (d *daemon) beside(port int, configured ...string) []string {
	out := []string{d.addr(port)}
	for _, text := range configured {
		a, err := netip.ParseAddrPort(text)
		if err != nil || text == out[0] {
			continue
		}
		if a.Addr().IsUnspecified() && int(a.Port()) == port {
			return configured
		}
		out = append(out, text)
	}
	return out
}

func (d *daemon) serve(ctx context.Context, ready func()) error {
	listeners, err := d.listen()
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC
	srv := &http.Server{
		Handler: api.Handler(api.City{
			Network: d.state.Network, Name: d.home.Name, Operator: d.state.Operator, GatewaySecret: d.secret,
			Ledger: d.ledger, Artifacts: d.artifacts.Handler(), Runtime: d.runtime, Status: d.status, Apply: d.apply,
			Fetch: d.fetchNamed, Usage: d.usage, Cordon: d.home.Cordon, MaxUpload: d.cfg.Artifacts.MaxUploadBytes, Gate: &d.gate, Observe: d.metrics.request,
		}),
		Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	d.gate.Guard(srv)
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the city's API: %w", err)
			}
			return nil
		})
		d.log.Info("city is up", "network", d.state.Network, "api", l.Addr())
	}
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
		return nil
	})
	g.Go(func() error {
		// A city whose ledger is halted is up all the same.
		wait, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		if err := d.ledger.Ready(wait); err != nil {
			d.log.Warn("started without the ledger", "error", err)
		}
		ready()
		return nil
	})
	g.Go(func() error { return d.reconcile(ctx) })
	g.Go(func() error { d.rotateLog(ctx); return nil })
	g.Go(func() error { d.tidy(ctx); return nil })
	g.Go(func() error { return d.serveMetrics(ctx) })
	if err := g.Wait(); !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// listen opens the API's ports: for other cities at the virtual address, and for
// people where the configuration says.
func (d *daemon) listen() (out []net.Listener, err error) {
	for _, addr := range d.beside(bsn.PortAPI, d.cfg.City.API) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("listen for the city's API: %w", err)
		}
		out = append(out, l)
	}
	return out, nil
}

// logPause is the time between two looks at the size of the daemon's own log.
const logPause = time.Minute

// rotateLog bounds what a daemon in the background writes down.
func (d *daemon) rotateLog(ctx context.Context) {
	for {
		d.try("log", process.RotateLog(d.home.LogFile()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(logPause):
		}
	}
}

// lockTries and lockPause are how often, and after which pauses, a daemon tries to
// be its city's only one.
const (
	lockTries = 100
	lockPause = 10 * time.Millisecond
)

// lock makes this the city's only daemon and records its pid.
func (h Home) lock() (unlock func(), err error) {
	f, err := os.OpenFile(h.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock city: %w", err)
	}
	// Who asks for the pid holds the lock for an instant: that is no daemon.
	for try := 1; unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil; try++ {
		if try == lockTries {
			f.Close()
			return nil, fmt.Errorf("city %q is running already", h.Name)
		}
		time.Sleep(lockPause)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("write lock: %w", err)
		}
	}
	return func() { f.Close() }, nil
}

// PID returns the process id of the city's running daemon, or 0.
func (h Home) PID() (int, error) {
	f, err := os.OpenFile(h.lockFile(), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read lock: %w", err)
	}
	defer f.Close()
	for try := 1; ; try++ {
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			return 0, nil // nobody holds it
		}
		var pid int
		if _, err := fmt.Fscan(io.NewSectionReader(f, 0, 20), &pid); err == nil {
			return pid, nil
		} else if try == lockTries {
			return 0, fmt.Errorf("read lock: %w", err)
		}
		time.Sleep(lockPause) // its holder is about to write
	}
}

// secretFile reads a random secret, made on first use.
func secretFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return string(b), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read secret: %w", err)
	}
	var r [32]byte
	rand.Read(r[:]) // never fails
	s := hex.EncodeToString(r[:])
	if err := renameio.WriteFile(path, []byte(s), 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return "", fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return s, nil
}

// readAll reads all records of a kind.
func readAll[T any](ctx context.Context, l bsn.Ledger, kind bsn.Kind) ([]T, error) {
	var out []T
	for after := ""; ; {
		page, _, err := l.List(ctx, kind, after, 0)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return out, nil
		}
		for _, c := range page {
			var v T
			if err := json.Unmarshal(c.Record, &v); err != nil {
				return nil, fmt.Errorf("decode %s %q: %w", kind, c.ID, err)
			}
			out = append(out, v)
			after = c.ID
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
