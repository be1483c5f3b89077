package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/cache"
)

// headMemory is how long the height that a node had reached counts in telling
// whether others lag.
const headMemory = time.Minute

// upstreams are the nodes of all chains.
type upstreams struct {
	cfg        *Config
	frameworks map[string]bsn.Framework
	transport  *http.Transport
	grpc       *http.Transport
	cache      *cache.Store
	counts     *readCounts
	traces     *tracer
	memory     *memory
	log        *slog.Logger
	pools      atomic.Pointer[map[string]*pool]

	mu      sync.Mutex // held by who changes the pools
	ledger  []bsn.Chain
	outside Outside
	cordons Cordons
}

// Protocol is what a gateway needs of a framework to serve a chain.
type Protocol interface {
	Methods() bsn.Methods
	Inspect(method string, params json.RawMessage) (bsn.Transaction, error)
	Query(ctx context.Context, e bsn.Endpoint, v bsn.Version, pkg []byte, contract, function string, args []json.RawMessage) (json.RawMessage, error)
	Describe(pkg []byte) ([]bsn.Interface, error)
}

func newUpstreams(cfg *Config, frameworks map[string]bsn.Framework, store *cache.Store, m *memory, log *slog.Logger) *upstreams {
	u := &upstreams{memory: m, cfg: cfg, frameworks: frameworks, log: log, transport: newTransport(), grpc: newGRPCTransport(), cache: store, counts: newReadCounts(store)}
	u.pools.Store(&map[string]*pool{})
	return u
}

// pool are the nodes of one chain, as one state of its record has them.
type pool struct {
	chain     bsn.Chain
	framework Protocol // nil if this gateway does not know the chain's
	methods   bsn.Methods
	names     *names  // of gRPC; nil without a framework
	paths     *paths  // of REST; nil without a framework
	nodes     []*node // this city's own first
	maxLag    int64
	state     *chainState
	memory    *memory
	cache     *cache.Store
	counts    chainCounts
	traces    *tracer
}

// get returns the pool of a chain.
func (u *upstreams) get(chain string) (*pool, bool) {
	p, ok := (*u.pools.Load())[chain]
	return p, ok
}

// all returns the pools in order of the chains' names.
func (u *upstreams) all() []*pool {
	pools := *u.pools.Load()
	list := make([]*pool, 0, len(pools))
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		list = append(list, pools[name])
	}
	return list
}

// update makes the pools those of the given chains, the ledger's, and of the public
// ones. Nodes that stay keep their connections and what is known of their health.
// Nodes are watched until they are gone from the records or ctx ends.
func (u *upstreams) update(ctx context.Context, chains []bsn.Chain) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ledger = chains
	u.rebuild(ctx)
}

// reach takes over what lies outside of the network.
func (u *upstreams) reach(ctx context.Context, o Outside) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.outside = o
	u.rebuild(ctx)
}

// cordon takes the named nodes out of service, and all others back.
func (u *upstreams) cordon(c Cordons) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cordons = c
	for _, p := range *u.pools.Load() {
		for _, n := range p.nodes {
			u.applyCordon(n)
		}
	}
}

// applyCordon needs mu.
func (u *upstreams) applyCordon(n *node) {
	cordoned := slices.Contains(u.cordons[n.chain], n.city)
	if n.cordoned.Swap(cordoned) != cordoned {
		u.log.Info("node is cordoned or not any more", "chain", n.chain, "city", n.city, "cordoned", cordoned)
	}
}

// rebuild needs mu.
func (u *upstreams) rebuild(ctx context.Context) {
	old := *u.pools.Load()
	chains := u.outside.records(u.ledger)
	pools := make(map[string]*pool, len(chains))
	for _, c := range chains {
		p := &pool{chain: c, maxLag: u.cfg.MaxLag, traces: u.traces, memory: u.memory, cache: u.cache}
		if f := u.protocol(c); f != nil {
			p.framework, p.methods = f, f.Methods()
			if c.Kind == bsn.ChainPublic {
				p.methods.Final = p.methods.Final || u.outside.Chains[c.Name].Final
			}
			p.names, p.paths, _ = tablesOf(p.methods) // they were checked before
		}
		before := old[c.Name]
		if before != nil {
			p.state, p.counts = before.state, before.counts
		} else {
			p.state, p.counts = newChainState(), u.counts.of(c.Name)
		}
		if p.framework != nil && c.Runs() {
			p.nodes = append(u.nodes(ctx, p, before), u.providers(ctx, p, before)...)
			for _, n := range p.nodes {
				u.applyCordon(n)
			}
		}
		pools[c.Name] = p
	}
	u.pools.Store(&pools)
	for name, p := range old {
		for _, n := range p.nodes {
			if now := pools[name]; now == nil || !slices.Contains(now.nodes, n) {
				n.forget()
			}
		}
	}
}

// protocol is what knows how to speak with a chain's nodes, nil if nothing does.
func (u *upstreams) protocol(c bsn.Chain) Protocol {
	if f := u.frameworks[c.Framework]; f != nil {
		return f
	}
	if p := u.cfg.Protocols[c.Framework]; p != nil && c.Kind == bsn.ChainPublic {
		return p
	}
	return nil
}

func (u *upstreams) nodes(ctx context.Context, p *pool, before *pool) []*node {
	var nodes []*node
	f, ok := p.framework.(bsn.Framework)
	if !ok {
		return nil // a public chain, of which no city runs a node
	}
	for _, member := range p.chain.Nodes {
		endpoint := f.Endpoint(u.cfg.Net, p.chain, member.CityIndex)
		n := before.find(member.City, endpoint, nil)
		if n == nil {
			var err error
			if n, err = newNode(u, p, member.City, endpoint, nil); err != nil {
				u.log.Error("node left out", "chain", p.chain.Name, "city", member.City, "error", err)
				continue
			}
			if member.City != u.cfg.City && u.cfg.Forward != "" {
				n.via = forwardURL(u.cfg.Net, p.chain.Name, member.CityIndex)
			}
			n.begin(ctx, p)
		}
		nodes = append(nodes, n)
	}
	// The record lists cities in order of name; the own one is the nearest.
	slices.SortStableFunc(nodes, func(a, b *node) int {
		return btoi(b.city == u.cfg.City) - btoi(a.city == u.cfg.City)
	})
	return nodes
}

// providers are the nodes of a chain outside of the network.
func (u *upstreams) providers(ctx context.Context, p *pool, before *pool) []*node {
	var nodes []*node
	for _, provider := range u.outside.Providers[p.chain.Name] {
		name, endpoint, header := providerPrefix+provider.Name, provider.endpoint(), provider.header()
		n := before.find(name, endpoint, header)
		if n == nil {
			var err error
			if n, err = newNode(u, p, name, endpoint, header); err != nil {
				u.log.Error("provider left out", "chain", p.chain.Name, "provider", provider.Name)
				continue
			}
			n.begin(ctx, p)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// find returns a node that is known already.
func (p *pool) find(city string, endpoint bsn.Endpoint, header http.Header) *node {
	if p == nil {
		return nil
	}
	for _, n := range p.nodes {
		if n.city == city && n.endpoint == endpoint && reflect.DeepEqual(n.header, header) {
			return n
		}
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// touch notes that the chain is in use.
func (p *pool) touch(now time.Time) { p.state.used.Store(now.UnixNano()) }

// floor is the height that a node must have reached to answer.
func (p *pool) floor(now time.Time) int64 {
	// With three nodes or more the second highest counts, so that one node that
	// claims a height that does not exist cannot shut out all others.
	var first, second int64
	known := 0
	since := now.Add(-headMemory).UnixNano()
	for _, n := range p.nodes {
		if n.headAt.Load() < since {
			continue
		}
		known++
		switch head := n.head.Load(); {
		case head > first:
			first, second = head, first
		case head > second:
			second = head
		}
	}
	if known >= 3 {
		return second - p.maxLag
	}
	return first - p.maxLag
}

// candidates appends to room the nodes that may answer, best first. If all of those
// are down, it gives the ones that were level when last heard of: one of them may
// have come back.
func (p *pool) candidates(room []*node) []*node {
	if nodes := p.at(0, room); len(nodes) > 0 {
		return nodes
	}
	return p.fallen(0, room)
}

// at appends to room the nodes that may answer, best first: those that are alive,
// level with the chain and have a block of the given height.
func (p *pool) at(height int64, room []*node) []*node {
	now := time.Now()
	height = max(p.floor(now), height)
	for _, n := range p.nodes {
		if n.head.Load() >= height && n.may(now.UnixNano()) && n.lives() {
			room = append(room, n)
		}
	}
	return room
}

// fallen appends to room the nodes that could answer if they were alive.
func (p *pool) fallen(height int64, room []*node) []*node {
	now := time.Now()
	height = max(p.floor(now), height)
	for _, n := range p.nodes {
		if n.head.Load() >= height && n.may(now.UnixNano()) && !n.lives() {
			room = append(room, n)
		}
	}
	return room
}

// resting tells how long it takes until the first node may be asked again, if all
// that could be asked are left alone now; else 0.
func (p *pool) resting() time.Duration {
	now := time.Now().UnixNano()
	least := time.Duration(0)
	for _, n := range p.nodes {
		if n.cordoned.Load() {
			continue
		}
		wait := time.Duration(n.restUntil.Load() - now)
		if wait <= 0 {
			return 0
		}
		if least == 0 || wait < least {
			least = wait
		}
	}
	return least
}
