// Package gateway is what applications call: it lets native protocols pass to
// the nodes of the network's chains, for those who hold a key.
//
// One call goes straight through: key and chain (rpc.go, socket.go, app.go),
// limit and method policy (call.go), then the nearest node that is level with
// the chain (upstream.go, forward.go) or, for a transaction, two nodes
// (send.go), and the meter (meter.go). What may be done is read from the ledger
// (follow.go) into memory (directory.go), so that calls go on without it.
//
// The package is a process of its own: it holds no signing key and shares no
// memory with the city's daemon.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/cache"
	"github.com/openbsn/bsn/gateway/http1"
	"golang.org/x/sync/errgroup"
)

// Config says how a gateway runs. The zero value of each optional field stands
// for the default named with it.
type Config struct {
	// City is the name of the city whose keys are good here. Required.
	City string `yaml:"city"`
	// Network is the network's name, which tokens must give.
	Network string `yaml:"network"`
	// Net is the network's number in virtual addresses; default [bsn.DefaultNet].
	Net bsn.Net `yaml:"net"`
	// Listen are the host:port addresses to serve on: HTTP/1.1, HTTP/2 and WebSocket on
	// each. Required for Run.
	Listen []string `yaml:"listen"`
	// TLS is the certificate for those that are no loopback addresses; these take
	// both HTTPS and plain HTTP. Without it all take plain HTTP only.
	TLS TLS `yaml:"tls"`
	// TrustedProxies are addresses and networks (CIDR) of proxies whose word counts on
	// whom they stand for: what the header field ProxyHeader says, x-forwarded-for
	// (the default) or forwarded.
	TrustedProxies []string `yaml:"trustedProxies"`
	ProxyHeader    string   `yaml:"proxyHeader"`
	// Metrics is the loopback host:port for /metrics (Prometheus), /usage (what
	// each project used and is in no receipt yet) and /health; empty for none.
	Metrics string `yaml:"metrics"`
	// State is the path of the file that holds the last known records, so that a
	// gateway can start while the ledger does not answer; empty for none. Beside it
	// a file ending in .age says how old they are.
	State string `yaml:"state"`

	// Journal is the folder in which it is counted what each project called, to be
	// billed; empty: it is counted in memory only.
	Journal string `yaml:"journal"`

	// Handover is the path of the Unix socket over which a gateway hands its sockets to
	// the one that replaces it; empty for none.
	Handover string `yaml:"handover"`

	// Forward is the path of the Unix socket at which the city's daemon brings the calls
	// of other cities' gateways; empty for none. Its folder must be closed to others.
	Forward string `yaml:"forward"`

	// MaxRequestBytes bounds a request's body and a WebSocket message; default 1 MiB.
	MaxRequestBytes int64 `yaml:"maxRequestBytes"`
	// MaxResponseBytes bounds an answer, and all answers of a batch together;
	// default 32 MiB.
	MaxResponseBytes int64 `yaml:"maxResponseBytes"`
	// CompressBytes is the size from which on answers are compressed for clients that
	// take gzip; default 16 KiB, negative for never.
	CompressBytes int `yaml:"compressBytes"`
	// MaxMemoryBytes is the most that all calls hold together, in requests, answers and
	// what waits for subscribers; default 512 MiB. Answers in the cache make room for
	// them. Past it calls are refused.
	MaxMemoryBytes int64 `yaml:"maxMemoryBytes"`
	// MaxConnections is the most open connections, MaxConnectionsPerClient the most of
	// one IPv4 address or IPv6 /64 network. The second does not hold for loopback
	// addresses and trusted proxies. Default 16384 and 1024.
	MaxConnections          int `yaml:"maxConnections"`
	MaxConnectionsPerClient int `yaml:"maxConnectionsPerClient"`
	// MaxBatch is the most requests in one batch; default 100.
	MaxBatch int `yaml:"maxBatch"`
	// MaxSubscriptions is the most subscriptions of one WebSocket; default 100.
	MaxSubscriptions int `yaml:"maxSubscriptions"`
	// MaxBackfill is how many blocks a subscription is back-filled with at most;
	// default 1024.
	MaxBackfill int `yaml:"maxBackfill"`
	// RequestsPerSecond is what a project may call, averaged over ten seconds,
	// unless its record says otherwise; default 50.
	RequestsPerSecond int `yaml:"requestsPerSecond"`
	// UnitsPerSecond is what a project may use in compute units, averaged over ten
	// seconds, unless its record says otherwise; default without limit.
	UnitsPerSecond int `yaml:"unitsPerSecond"`
	// AppRequestsPerSecond is how often one app's functions may be called at /app,
	// averaged over ten seconds, unless its record says otherwise; default 500.
	AppRequestsPerSecond int `yaml:"appRequestsPerSecond"`
	// MaxLag is how many blocks a node may be behind the others and still answer;
	// default 4.
	MaxLag int64 `yaml:"maxLag"`
	// Alone says for how long the gateway goes on without the ledger.
	Alone Alone `yaml:"alone"`
	// Outside is the path of the file that names public chains and providers outside of
	// the network (see [Outside]), for its owner alone; empty for none. It is read anew
	// when it changes.
	Outside string `yaml:"outside"`
	// Cordons is the path of the file that says which nodes are asked nothing (see
	// [Cordons]); empty for none. It is read anew when it changes.
	Cordons string `yaml:"cordons"`
	// Protocols are what public chains may speak beside the frameworks' own, by name.
	Protocols map[string]Protocol `yaml:"-" json:"-"`
	// Traces says where traces go, if anywhere.
	Traces Traces `yaml:"traces"`
	// Cache bounds what is kept of nodes' answers.
	Cache Cache `yaml:"cache"`

	// ReadTimeout is how long a request may take to arrive; default 30 s.
	ReadTimeout time.Duration `yaml:"readTimeout"`
	// HeaderTimeout is how long its header may take, and the first request of a
	// connection to come; default 10 s.
	HeaderTimeout time.Duration `yaml:"headerTimeout"`
	// WriteTimeout is how long an answer may take to go out; default 2 min.
	WriteTimeout time.Duration `yaml:"writeTimeout"`
	// IdleTimeout is how long a connection is kept between two requests; default 2 min.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
	// UpstreamTimeout is how long nodes have to answer a call, all tries
	// together; default 30 s.
	UpstreamTimeout time.Duration `yaml:"upstreamTimeout"`
	// DrainTimeout is how long calls in progress may take when the gateway stops;
	// default 10 s.
	DrainTimeout time.Duration `yaml:"drainTimeout"`
}

// Cache bounds a gateway's cache.
type Cache struct {
	// MaxBytes is the most memory that cached answers take; default 128 MiB, -1 for
	// no cache.
	MaxBytes int64 `yaml:"maxBytes"`
	// Head is for how long an answer that depends on the newest block is given again
	// while no node is known to have a newer one; default 200 ms, -1 for not at all.
	Head time.Duration `yaml:"head"`
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) complete() error {
	orDefault(&c.Net, bsn.DefaultNet)
	orDefault(&c.MaxRequestBytes, 1<<20)
	orDefault(&c.MaxResponseBytes, 32<<20)
	orDefault(&c.MaxMemoryBytes, 512<<20)
	orDefault(&c.CompressBytes, 16<<10)
	orDefault(&c.MaxConnections, 16384)
	orDefault(&c.MaxConnectionsPerClient, 1024)
	orDefault(&c.MaxBatch, 100)
	orDefault(&c.MaxSubscriptions, 100)
	orDefault(&c.MaxBackfill, 1024)
	orDefault(&c.RequestsPerSecond, 50)
	orDefault(&c.AppRequestsPerSecond, 500)
	orDefault(&c.MaxLag, 4)
	orDefault(&c.Alone.Reads, time.Hour)
	orDefault(&c.Alone.Writes, time.Minute)
	orDefault(&c.Cache.MaxBytes, 128<<20)
	orDefault(&c.Cache.Head, 200*time.Millisecond)
	orDefault(&c.ReadTimeout, 30*time.Second)
	orDefault(&c.HeaderTimeout, 10*time.Second)
	orDefault(&c.WriteTimeout, 2*time.Minute)
	orDefault(&c.IdleTimeout, 2*time.Minute)
	orDefault(&c.UpstreamTimeout, 30*time.Second)
	orDefault(&c.DrainTimeout, 10*time.Second)
	if err := bsn.CheckName("city", c.City); err != nil {
		return fmt.Errorf("gateway configuration: %w", err)
	}
	for name, n := range map[string]int64{
		"maxRequestBytes": c.MaxRequestBytes, "maxResponseBytes": c.MaxResponseBytes, "maxMemoryBytes": c.MaxMemoryBytes, "maxBatch": int64(c.MaxBatch),
		"maxConnections": int64(c.MaxConnections), "maxConnectionsPerClient": int64(c.MaxConnectionsPerClient),
		"maxSubscriptions": int64(c.MaxSubscriptions), "maxBackfill": int64(c.MaxBackfill), "requestsPerSecond": int64(c.RequestsPerSecond), "unitsPerSecond": int64(c.UnitsPerSecond),
		"appRequestsPerSecond": int64(c.AppRequestsPerSecond), "maxLag": c.MaxLag, "readTimeout": int64(c.ReadTimeout),
		"headerTimeout": int64(c.HeaderTimeout),
		"writeTimeout":  int64(c.WriteTimeout), "idleTimeout": int64(c.IdleTimeout),
		"upstreamTimeout": int64(c.UpstreamTimeout), "drainTimeout": int64(c.DrainTimeout),
		"alone.reads": int64(c.Alone.Reads), "alone.writes": int64(c.Alone.Writes),
	} {
		if n < 0 {
			return fmt.Errorf("gateway configuration: %s must not be negative", name)
		}
	}
	if c.Alone.Writes > c.Alone.Reads {
		return fmt.Errorf("gateway configuration: alone.writes (%v) must not be above alone.reads (%v)", c.Alone.Writes, c.Alone.Reads)
	}
	if c.Metrics != "" {
		if at, err := netip.ParseAddrPort(c.Metrics); err != nil || !at.Addr().IsLoopback() {
			return fmt.Errorf("gateway configuration: metrics address %q must be a loopback address and a port: it shows what projects use", c.Metrics)
		}
	}
	return nil
}

// Gateway serves the calls of one city. Its methods may be called by many
// goroutines at once, Run only once.
type Gateway struct {
	cfg       Config
	log       *slog.Logger
	ledger    bsn.Ledger
	directory *directory
	upstreams *upstreams
	memory    *memory
	packages  *packages
	meter     *meter
	traces    *tracer // nil: none
	quotas    quotas
	// allowances of keys and projects, and of apps.
	allowances, apps *allowances
	proxies          proxies
	front            *http1.Server
	now              atomic.Pointer[present]
	stood            atomic.Pointer[stood]
	neighbours       neighbours

	// draining ends when the gateway is about to stop; open are the WebSockets.
	draining context.Context
	drain    context.CancelFunc
	// replaced ends when another gateway has taken over the sockets.
	replaced context.Context
	replace  context.CancelFunc
	open     sync.WaitGroup
	sockets  sync.Map // the same, as keys: *socket
	streams  sync.Map // open streams of gRPC, as keys: *stream
	tails    tails    // what they subscribe to

	// heard ends when the ledger has not been heard of for too long.
	aloneMu sync.Mutex
	heard   context.Context
	unhear  context.CancelFunc
}

// methodName is the form of every name in a method table; it is written into
// requests without quoting.
var methodName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.]*$`)

// New makes a gateway. The ledger may be unavailable at times: the gateway then
// goes on with what it knows. Frameworks are by the names that chains' records
// give; a chain of another framework is answered with an error.
func New(cfg Config, ledger bsn.Ledger, frameworks map[string]bsn.Framework, artifacts Artifacts, log *slog.Logger) (*Gateway, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	for name, f := range frameworks {
		for method := range f.Methods().Methods {
			if !methodName.MatchString(method) {
				return nil, fmt.Errorf("method table of framework %s: malformed method name %q", name, method)
			}
		}
	}
	if err := checkTables(cfg.Protocols, frameworks); err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, log: log, ledger: ledger,
		directory: &directory{}, packages: &packages{source: artifacts},
		allowances: newAllowances(), apps: newAllowances(), neighbours: newNeighbours(),
	}
	g.meter = newMeter(g.newJournal())
	store, err := cache.New(g.cfg.Cache.MaxBytes, g.cfg.Cache.Head)
	if err != nil {
		return nil, err
	}
	g.memory = newMemory(g.cfg.MaxMemoryBytes, store, g.cfg.Cache.MaxBytes)
	if g.traces, err = newTracer(cfg.Traces, cfg.City, log); err != nil {
		return nil, err
	}
	g.upstreams = newUpstreams(&g.cfg, frameworks, store, g.memory, log)
	g.upstreams.traces = g.traces
	g.meter.registry.MustRegister(g.upstreams.counts, g.neighbours.calls, g.memory)
	g.draining, g.drain = context.WithCancel(context.Background())
	g.replaced, g.replace = context.WithCancel(context.Background())
	g.heard, g.unhear = context.WithCancel(context.Background())
	g.tails.open = map[tailKey]*tail{}
	context.AfterFunc(g.draining, g.lookAll)
	context.AfterFunc(g.replaced, g.lookAll)
	if g.proxies, err = newProxies(cfg.TrustedProxies, cfg.ProxyHeader); err != nil {
		return nil, err
	}
	if g.front, err = g.newFront(); err != nil {
		return nil, err
	}
	g.meter.watch(g)
	return g, nil
}

// newFront makes the server of the gateway's addresses. It answers 503 until Run has
// read the ledger or the state file.
func (g *Gateway) newFront() (*http1.Server, error) {
	secure, err := newTLS(g.cfg.TLS, g.log)
	if err != nil {
		return nil, err
	}
	return &http1.Server{
		Fast: g.serveFast, Handler: g.tellReplaced(g.routes()), TLS: secure,
		MaxHeaderBytes: maxHeaderBytes, HeaderTimeout: g.cfg.HeaderTimeout, ReadTimeout: g.cfg.ReadTimeout,
		WriteTimeout: g.cfg.WriteTimeout, IdleTimeout: g.cfg.IdleTimeout,
		MaxConns: g.cfg.MaxConnections, MaxConnsPerIP: g.cfg.MaxConnectionsPerClient,
		Unbounded: func(a netip.Addr) bool { return a.IsLoopback() || g.proxies.trusts(a) },
		Room:      g.memory,
		Log:       g.log,
	}, nil
}

const maxHeaderBytes = 16 << 10

func (g *Gateway) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rpc/{chain}", g.here(g.serveRPC))
	mux.HandleFunc("POST /rpc/{chain}/{key}", g.here(g.serveRPC))
	mux.HandleFunc("GET /rpc/{chain}", g.here(g.serveSocket))
	mux.HandleFunc("GET /rpc/{chain}/{key}", g.here(g.serveSocket))
	mux.HandleFunc("/api/{project}/{path...}", g.serveBSN)
	mux.HandleFunc("/rest/{chain}/", g.here(g.serveREST))
	mux.HandleFunc("GET /app/{account}/{app}", g.here(g.serveDescription))
	mux.HandleFunc("GET /app/{account}/{app}/{contract}/{function}", g.here(g.serveQuery))
	mux.HandleFunc("POST /app/{account}/{app}/{contract}/{function}", g.here(g.serveQuery))
	mux.HandleFunc("GET /health", g.serveHealth)
	mux.HandleFunc("GET /{$}", g.serveRoot)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.commonHeaders(w.Header())
		if r.Method == http.MethodOptions {
			maps.Copy(w.Header(), preflightHeaders)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if isGRPC(r) {
			g.serveGRPC(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Run serves until ctx ends or another gateway has taken over, then lets calls in
// progress finish, closes the WebSockets and saves the state. The error says why it
// could not serve; after ctx has ended it is nil.
func (g *Gateway) Run(ctx context.Context) error {
	if len(g.cfg.Listen) == 0 {
		return errors.New("gateway configuration: listen names no address")
	}
	type served struct {
		server
		net.Listener
	}
	var servers []served
	inherited, serves, err := inherit(g.cfg.Handover)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	succeeds := len(inherited) > 0
	var addresses []string
	var sockets []net.Listener
	listen := func(address string, by server) error {
		l := inherited[address]
		if delete(inherited, address); l == nil {
			var err error
			if l, err = net.Listen("tcp", address); err != nil {
				return fmt.Errorf("gateway: %w", err)
			}
		}
		addresses, sockets = append(addresses, address), append(sockets, l)
		servers = append(servers, served{by, l})
		return nil
	}
	defer func() {
		for _, s := range servers {
			s.Listener.Close() // again, where a server has closed it already
		}
		for _, l := range inherited {
			l.Close()
		}
	}()
	for _, address := range g.cfg.Listen {
		if err := listen(address, g.front); err != nil {
			return err
		}
	}
	if g.cfg.Metrics != "" {
		if err := listen(g.cfg.Metrics, g.privateServer()); err != nil {
			return err
		}
	}
	serving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	wait, err := g.background(serving)
	if err != nil {
		return err
	}
	if succeeds {
		g.warm(serving)
	}
	endForward, err := g.serveForward()
	if err != nil {
		return err
	}
	defer endForward()
	for _, s := range servers {
		g.log.Info("gateway listens", "city", g.cfg.City, "address", s.Listener.Addr().String())
		go func() {
			if err := s.Serve(s.Listener); !errors.Is(err, http.ErrServerClosed) && g.replaced.Err() == nil {
				stop(fmt.Errorf("gateway: %w", err))
			}
		}()
	}
	if err := serves(); err != nil {
		return fmt.Errorf("gateway: take over: %w", err)
	}
	if handed, err := offer(serving, g.cfg.Handover, addresses, sockets); err != nil {
		g.log.Error("gateway cannot be replaced without a stop", "error", err)
		<-serving.Done()
	} else if handed {
		g.log.Info("another gateway has taken over", "city", g.cfg.City)
		g.replace()
		g.front.Retire()
		for _, l := range sockets {
			l.Close() // not what waits there: the other gateway has it too
		}
		select {
		case <-serving.Done():
		case <-time.After(lingerTimeout):
		}
	}
	g.drain()
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.DrainTimeout)
	defer cancel()
	var shutdown errgroup.Group
	for _, s := range servers {
		shutdown.Go(func() error { return s.Shutdown(deadline) })
	}
	closed := make(chan struct{})
	go func() { g.open.Wait(); close(closed) }()
	if err := shutdown.Wait(); err != nil {
		g.log.Warn("gateway stops before all calls were answered", "error", err)
		for _, s := range servers {
			s.server.Close()
		}
	}
	select {
	case <-closed:
	case <-deadline.Done():
	}
	stop(nil)
	wait()
	if ctx.Err() != nil || g.replaced.Err() != nil {
		return nil
	}
	return context.Cause(serving)
}

// server is what serves listeners.
type server interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Close() error
}

// privateServer serves the machine's operator.
func (g *Gateway) privateServer() *http.Server {
	return &http.Server{
		Handler:           g.tellReplaced(g.private()),
		ReadHeaderTimeout: g.cfg.HeaderTimeout,
		ReadTimeout:       g.cfg.ReadTimeout,
		WriteTimeout:      g.cfg.WriteTimeout,
		IdleTimeout:       g.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// background reads the state file and follows the ledger until ctx ends. The
// returned function waits until all that has ended.
func (g *Gateway) background(ctx context.Context) (wait func(), err error) {
	update := func(chains []bsn.Chain) { g.upstreams.update(ctx, chains) }
	var upstreamFiles files
	upstreamFiles.read(ctx, g)
	if g.cfg.State != "" {
		if err := os.MkdirAll(filepath.Dir(g.cfg.State), 0o700); err != nil {
			return nil, fmt.Errorf("gateway state: %w", err)
		}
		known, counted, err := loadState(g.cfg.State)
		switch {
		case err != nil: // the ledger has it all
			g.log.Warn("gateway state is not used", "error", err)
		case known != nil:
			update(known.chains())
			g.directory.restore(known, counted)
		}
	}
	var parts sync.WaitGroup
	f := &follower{ledger: g.ledger, directory: g.directory, chains: update, rights: g.recheckSockets, log: g.log}
	parts.Go(func() { f.run(ctx) })
	parts.Go(func() { g.watchAlone(ctx) })
	parts.Go(func() { g.tend(ctx) })
	parts.Go(func() { g.watchLeaving(ctx) })
	parts.Go(func() { g.watchQuotas(ctx) })
	if g.cfg.Outside != "" || g.cfg.Cordons != "" {
		parts.Go(func() { upstreamFiles.watch(ctx, g) })
	}
	if g.cfg.State != "" {
		parts.Go(func() { keepState(ctx, g.directory, g.cfg.State, g.log) })
	}
	counted := g.keepJournal(ctx)
	return func() { parts.Wait(); counted(); g.traces.close() }, nil
}
