package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/http1"
)

const (
	// headMethod tells a node's newest block on every chain that speaks the
	// Ethereum JSON-RPC; its result is a hex quantity.
	headMethod = "eth_blockNumber"

	pollBusy    = time.Second     // between two looks at a node while its chain is used
	pollIdle    = 5 * time.Second // and while it is not
	pollTimeout = 2 * time.Second
	busyFor     = 10 * time.Second // how long after a call a chain counts as used
	// headMemory is how long the height that a node had reached counts in telling
	// whether others lag.
	headMemory = time.Minute
)

// upstreams are the nodes of all chains.
type upstreams struct {
	cfg        *Config
	frameworks map[string]bsn.Framework
	transport  *http.Transport
	log        *slog.Logger
	pools      atomic.Pointer[map[string]*pool]
}

func newUpstreams(cfg *Config, frameworks map[string]bsn.Framework, log *slog.Logger) *upstreams {
	u := &upstreams{cfg: cfg, frameworks: frameworks, log: log, transport: newTransport()}
	u.pools.Store(&map[string]*pool{})
	return u
}

// pool are the nodes of one chain, as one state of its record has them.
type pool struct {
	chain     bsn.Chain
	framework bsn.Framework // nil if this gateway does not know the chain's
	methods   bsn.Methods
	nodes     []*node // this city's own first
	maxLag    int64
	used      *atomic.Int64 // Unix nanoseconds of the last call
}

// get returns the pool of a chain.
func (u *upstreams) get(chain string) (*pool, bool) {
	p, ok := (*u.pools.Load())[chain]
	return p, ok
}

// update makes the pools those of the given chains. Nodes that stay keep their
// connections and what is known of their health. Nodes are watched until they
// are gone from the records or ctx ends. Only one goroutine may call it.
func (u *upstreams) update(ctx context.Context, chains []bsn.Chain) {
	old := *u.pools.Load()
	pools := make(map[string]*pool, len(chains))
	for _, c := range chains {
		p := &pool{chain: c, maxLag: u.cfg.MaxLag, used: new(atomic.Int64)}
		if f := u.frameworks[c.Framework]; f != nil {
			p.framework, p.methods = f, f.Methods()
		}
		before := old[c.Name]
		if before != nil {
			p.used = before.used
		}
		if p.framework != nil && c.Runs() {
			p.nodes = u.nodes(ctx, p, before)
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

func (u *upstreams) nodes(ctx context.Context, p *pool, before *pool) []*node {
	var nodes []*node
	for _, member := range p.chain.Nodes {
		endpoint := p.framework.Endpoint(u.cfg.Net, p.chain, member.CityIndex)
		var n *node
		if before != nil {
			for _, known := range before.nodes {
				if known.city == member.City && known.endpoint == endpoint {
					n = known
				}
			}
		}
		if n == nil {
			var err error
			if n, err = newNode(ctx, u, p, member.City, endpoint); err != nil {
				u.log.Error("node left out", "chain", p.chain.Name, "city", member.City, "error", err)
				continue
			}
		}
		nodes = append(nodes, n)
	}
	// The record lists cities in order of name; the own one is the nearest.
	slices.SortStableFunc(nodes, func(a, b *node) int {
		return btoi(b.city == u.cfg.City) - btoi(a.city == u.cfg.City)
	})
	return nodes
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// node is one node that can answer calls.
type node struct {
	city      string
	chain     string
	endpoint  bsn.Endpoint
	url       *url.URL
	transport *http.Transport
	direct    *http1.Client // if the node speaks plain HTTP
	log       *slog.Logger
	forget    context.CancelFunc // ends the watch

	head   atomic.Int64 // the newest block that it is known to have; 0: not asked yet
	headAt atomic.Int64 // when it said so, Unix nanoseconds

	mu sync.Mutex
	// life ends when the node is found dead, and with it whatever waits for the
	// node. A dead node has a life that has ended.
	life context.Context
	end  context.CancelFunc
}

func newNode(ctx context.Context, u *upstreams, p *pool, city string, endpoint bsn.Endpoint) (*node, error) {
	address, err := url.Parse(endpoint.HTTP)
	if err == nil && (address.Scheme != "http" && address.Scheme != "https" || address.Host == "") {
		err = errors.New("no http address")
	}
	if err != nil {
		return nil, fmt.Errorf("node address %q: %w", endpoint.HTTP, err)
	}
	ctx, forget := context.WithCancel(ctx)
	n := &node{
		city: city, chain: p.chain.Name, endpoint: endpoint, url: address,
		transport: u.transport, direct: newDirect(address), log: u.log, forget: forget,
	}
	if n.direct != nil {
		context.AfterFunc(ctx, n.direct.Close)
	}
	n.life, n.end = context.WithCancel(context.Background())
	if _, ok := p.methods.Methods[headMethod]; ok {
		go n.watch(ctx, p.used)
	}
	return n, nil
}

// alive returns the node's present life, and whether it goes on.
func (n *node) alive() (life context.Context, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life, n.life.Err() == nil
}

// setAlive takes in what was found of the node.
func (n *node) setAlive(alive bool, reason error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch was := n.life.Err() == nil; {
	case was && !alive:
		n.end()
		if n.direct != nil {
			n.direct.Abort()
		}
		n.log.Warn("node does not answer", "chain", n.chain, "city", n.city, "error", reason)
	case alive && !was:
		n.life, n.end = context.WithCancel(context.Background())
		if n.direct != nil {
			n.direct.Revive()
		}
		n.log.Info("node answers again", "chain", n.chain, "city", n.city)
	}
}

// watch keeps the node's head and health known until ctx ends. It is what
// brings a dead node back.
func (n *node) watch(ctx context.Context, used *atomic.Int64) {
	timeouts := 0
	for ctx.Err() == nil {
		head, err := n.askHead(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			timeouts = 0
			n.head.Store(head)
			n.headAt.Store(time.Now().UnixNano())
			n.setAlive(true, nil)
		case errors.Is(err, context.DeadlineExceeded):
			// A busy machine may miss one; a stopped process misses all.
			if timeouts++; timeouts > 1 {
				n.setAlive(false, err)
			}
		default:
			n.setAlive(false, err)
		}
		pause := pollIdle
		if _, alive := n.alive(); !alive || timeouts > 0 || time.Since(time.Unix(0, used.Load())) < busyFor {
			pause = pollBusy
		}
		// All nodes are asked at the same moments of the clock, so that their heads
		// can be compared.
		now := time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(now.Truncate(pause).Add(pause).Sub(now)):
		}
	}
}

func (n *node) askHead(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	text, err := n.post(ctx, appendRequest(nil, 1, headMethod, nil), 1<<16, false)
	if err != nil {
		return 0, err
	}
	a, err := parseAnswer(text)
	if err != nil {
		return 0, err
	}
	if a.failure != nil {
		return 0, fmt.Errorf("node answers %s with %s", headMethod, clip(a.failure))
	}
	return parseQuantity(a.result)
}

var quantity = regexp.MustCompile(`^"0x[0-9a-fA-F]{1,15}"$`)

// parseQuantity reads a hex quantity of the Ethereum JSON-RPC.
func parseQuantity(text []byte) (int64, error) {
	if !quantity.Match(text) {
		return 0, fmt.Errorf("%s is no hex quantity", clip(text))
	}
	return strconv.ParseInt(string(text[3:len(text)-1]), 16, 64)
}

func clip(text []byte) string {
	if len(text) > 200 {
		return string(text[:200]) + "…"
	}
	return string(text)
}

// touch notes that the chain is in use.
func (p *pool) touch() { p.used.Store(time.Now().UnixNano()) }

// floor is the height that a node must have reached to answer.
func (p *pool) floor() int64 {
	// With three nodes or more the second highest counts, so that one node that
	// claims a height that does not exist cannot shut out all others.
	var first, second int64
	known := 0
	since := time.Now().Add(-headMemory).UnixNano()
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

// candidates appends to room the nodes that may answer, best first: those that
// are alive and level with the chain. If all of those are down, it gives the
// nodes that were level when last heard of: one of them may have come back.
func (p *pool) candidates(room []*node) []*node {
	floor := p.floor()
	for _, n := range p.nodes {
		if _, alive := n.alive(); alive && n.head.Load() >= floor {
			room = append(room, n)
		}
	}
	if len(room) > 0 {
		return room
	}
	for _, n := range p.nodes {
		if n.head.Load() >= floor {
			room = append(room, n)
		}
	}
	return room
}
