package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
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
	// blockMethod tells of a block by its number or a tag; it is asked where blocks
	// can be replaced.
	blockMethod = "eth_getBlockByNumber"

	pollBusy = time.Second     // between two looks at a node while its chain is used
	pollIdle = 5 * time.Second // and while it is not
	// Providers charge for each look. A read that wants a fresher head asks for one.
	pollProvider     = 5 * time.Second
	pollProviderIdle = time.Minute
	pollTimeout      = 2 * time.Second
	busyFor          = 10 * time.Second // how long after a call a chain counts as used
	// pollLeast is the least time between two looks, however much is asked for.
	pollLeast = 50 * time.Millisecond
	// finalPause is the time between two looks at a node's newest final block.
	finalPause = 2 * time.Second
	// maxHeader bounds an answer with a block, whose transactions come as hashes.
	maxHeader = 4 << 20
)

// node is one node that can answer calls.
type node struct {
	upstreams *upstreams
	city      string // or providerPrefix and the name of a provider
	chain     string
	endpoint  bsn.Endpoint
	header    http.Header // of a provider: goes with every request
	url       *url.URL    // of its JSON-RPC; nil if it has none
	grpc      *url.URL    // nil if it does not speak that
	restful   *url.URL    // nil if it has no REST interface
	transport *http.Transport
	direct    *http1.Client // if the node speaks plain HTTP, and nothing goes with a request
	log       *slog.Logger
	tells     bsn.Head           // how it tells its newest block
	forget    context.CancelFunc // ends the watch

	// via is where the gateway of the node's city takes calls for it, nil for the own
	// city's; forwards tells that the node is reached there.
	via      *url.URL
	forwards atomic.Bool

	head   atomic.Int64 // the newest block that it is known to have; 0: not asked yet
	headAt atomic.Int64 // when it said so, Unix nanoseconds
	final  atomic.Int64 // its newest final block, where not every one is final

	// cordoned: its operator wants it to be asked nothing.
	cordoned atomic.Bool
	// restUntil is until when it is left alone, since it limits us or failed often, in
	// Unix nanoseconds; rests counts how often in a row, faults what failed in a row.
	restUntil     atomic.Int64
	rests, faults atomic.Int32

	wake chan struct{} // asks the watch for a look

	mu    sync.Mutex
	told  head // as it told itself last
	lower bool // it told of a lower head than before
	// life ends when the node is found dead, and with it whatever waits for the
	// node. A dead node has a life that has ended.
	life context.Context
	end  context.CancelFunc
	dead atomic.Bool // the same, without a lock
}

func newNode(u *upstreams, p *pool, city string, endpoint bsn.Endpoint, header http.Header) (*node, error) {
	n := &node{
		upstreams: u, city: city, chain: p.chain.Name, endpoint: endpoint, header: header,
		transport: u.transport, log: u.log, wake: make(chan struct{}, 1),
	}
	var err error
	if n.grpc, err = baseURL(endpoint.GRPC); err != nil {
		return nil, fmt.Errorf("node address of gRPC %q: %w", endpoint.GRPC, err)
	}
	if n.restful, err = baseURL(endpoint.REST); err != nil {
		return nil, fmt.Errorf("node address of REST %q: %w", endpoint.REST, err)
	}
	if endpoint.HTTP != "" || n.grpc == nil && n.restful == nil {
		address, err := url.Parse(endpoint.HTTP)
		if err == nil && (address.Scheme != "http" && address.Scheme != "https" || address.Host == "") {
			err = errors.New("no http address")
		}
		if err != nil {
			return nil, fmt.Errorf("node address %q: %w", endpoint.HTTP, err)
		}
		n.url = address
		if header == nil {
			if n.direct = newDirect(address); n.direct != nil {
				n.direct.Room = u.memory
			}
		}
	}
	n.life, n.end = context.WithCancel(context.Background())
	return n, nil
}

// begin starts the node's watch, which ends with ctx.
func (n *node) begin(ctx context.Context, p *pool) {
	ctx, n.forget = context.WithCancel(ctx)
	if n.direct != nil {
		context.AfterFunc(ctx, n.direct.Close)
	}
	n.tells = p.methods.Head
	method := n.tells.Method
	if method == "" {
		method = headMethod
	}
	if _, ok := p.methods.Methods[method]; ok && n.url != nil {
		go n.watch(ctx, p.state, p.methods.Final)
	}
}

// alive returns the node's present life, and whether it goes on.
func (n *node) alive() (life context.Context, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life, n.life.Err() == nil
}

// lives tells whether the node is thought alive.
func (n *node) lives() bool { return !n.dead.Load() }

// may tells whether the node may be asked at a time, if it is alive.
func (n *node) may(now int64) bool { return !n.cordoned.Load() && n.restUntil.Load() <= now }

// setAlive takes in what was found of the node.
func (n *node) setAlive(alive bool, reason error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch was := n.life.Err() == nil; {
	case was && !alive:
		n.end()
		n.dead.Store(true)
		if n.direct != nil {
			n.direct.Abort()
		}
		n.log.Warn("node does not answer", "chain", n.chain, "city", n.city, "error", reason)
	case alive && !was:
		n.life, n.end = context.WithCancel(context.Background())
		n.dead.Store(false)
		if n.direct != nil {
			n.direct.Revive()
		}
		n.log.Info("node answers again", "chain", n.chain, "city", n.city)
	}
}

// lost notes that the node did not answer a call. Without a watch nothing would
// bring it back, so that it stays as it is.
func (n *node) lost(err error) {
	if n.headAt.Load() != 0 {
		n.setAlive(false, err)
	}
}

// judged takes in how the node answered a read.
func (n *node) judged(v verdict) {
	switch v {
	case verdictLimited:
		n.rest("limits", 0)
	case verdictFault:
		if n.faults.Add(1) >= faultsOpen {
			n.rest("faults", 0)
		}
	default:
		if n.faults.Load() != 0 {
			n.faults.Store(0)
		}
		if n.rests.Load() != 0 {
			n.rests.Store(0)
		}
	}
}

// rest leaves the node alone, for the time that it asked for, or longer each time.
func (n *node) rest(why string, asked time.Duration) {
	now := time.Now()
	if n.restUntil.Load() > now.UnixNano() && asked == 0 {
		return // told already, by a call that was on its way
	}
	pause := max(asked, rest(n.rests.Add(1)))
	n.restUntil.Store(now.Add(pause).UnixNano())
	n.log.Warn("node is left alone for a while", "chain", n.chain, "city", n.city, "why", why, "seconds", pause.Seconds())
}

// raise notes that the node has a block of this number, and tells whether that is news.
func (n *node) raise(number int64) bool {
	for {
		old := n.head.Load()
		if number <= old || n.headAt.Load() == 0 {
			return false
		}
		if n.head.CompareAndSwap(old, number) {
			return true
		}
	}
}

// saw takes in the head that the node told, and tells whether it is another one than
// before. A lower number counts when it comes twice: it may have been on its way
// while an answer showed a higher one.
func (n *node) saw(h head) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.headAt.Store(time.Now().UnixNano())
	before := n.told
	n.told = h
	if h.number < n.head.Load() && !n.lower {
		n.lower = true
		return h != before
	}
	n.lower = false
	return n.head.Swap(h.number) != h.number || h.hash != before.hash
}

// look asks the watch to look at the node now.
func (n *node) look() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// watch keeps the node's head and health known until ctx ends. It is what brings a
// dead node back.
func (n *node) watch(ctx context.Context, s *chainState, final bool) {
	timeouts := 0
	var finalAt time.Time
	for ctx.Err() == nil {
		began := time.Now()
		n.reach(ctx)
		h, err := n.askHead(ctx, final)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			timeouts = 0
			if p, ok := n.upstreams.get(n.chain); ok && p.state == s {
				p.saw(n, h)
			} else if n.saw(h) {
				s.changed()
			}
			n.setAlive(true, nil)
		case errors.Is(err, context.DeadlineExceeded):
			// A busy machine may miss one; a stopped process misses all.
			if timeouts++; timeouts > 1 {
				n.setAlive(false, err)
			}
		default:
			timeouts = 0
			n.setAlive(false, err)
		}
		if err == nil && !final && time.Since(finalAt) > finalPause {
			finalAt = time.Now()
			if f, err := n.askBlock(ctx, "finalized"); err == nil { // not every node knows the tag
				n.final.Store(f.number)
			}
		}
		pause := n.pause(!n.lives() || timeouts > 0 || time.Since(time.Unix(0, s.used.Load())) < busyFor)
		// All nodes are asked at the same moments of the clock, so that their heads
		// can be compared.
		now := time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(now.Truncate(pause).Add(pause).Sub(now)):
		case <-n.wake:
			select {
			case <-ctx.Done():
			case <-time.After(pollLeast - time.Since(began)):
			}
		}
	}
}

// pause is the time between two looks at the node.
func (n *node) pause(busy bool) time.Duration {
	switch {
	case n.header == nil && busy:
		return pollBusy
	case n.header == nil:
		return pollIdle
	case busy:
		return pollProvider
	}
	return pollProviderIdle
}

// askHead asks the node for its newest block.
func (n *node) askHead(ctx context.Context, final bool) (head, error) {
	if !final {
		return n.askBlock(ctx, "latest")
	}
	if n.tells.Method != "" {
		a, err := n.question(ctx, n.tells.Method, nil)
		if err != nil {
			return head{}, err
		}
		number, err := numberAt(a.result, n.tells.At)
		return head{number: number}, err
	}
	a, err := n.question(ctx, headMethod, nil)
	if err != nil {
		return head{}, err
	}
	number, err := parseQuantity(a.result)
	if err != nil {
		return head{}, fmt.Errorf("%s: %w", headMethod, err)
	}
	return head{number: number}, nil
}

// numberAt finds a number in a result: members with dots between.
func numberAt(result []byte, at string) (int64, error) {
	var value json.RawMessage = result
	for name := range strings.SplitSeq(at, ".") {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(value, &members); err != nil || members[name] == nil {
			return 0, fmt.Errorf("%s has no number at %s", clip(result), at)
		}
		value = members[name]
	}
	number, err := strconv.ParseInt(strings.Trim(string(value), `"`), 10, 64)
	if err != nil || number < 0 {
		return 0, fmt.Errorf("%s has no number at %s", clip(result), at)
	}
	return number, nil
}

// askBlock asks the node for the block of a tag.
func (n *node) askBlock(ctx context.Context, tag string) (h head, err error) {
	a, err := n.question(ctx, blockMethod, []byte(`["`+tag+`",false]`))
	if err != nil {
		return h, err
	}
	found := false
	if len(a.result) > 0 && a.result[0] == '{' {
		// The answer has been scanned before, so that this walk cannot fail.
		_, _ = scanObject(a.result, 0, maxAnswerDepth, func(name, value []byte) error {
			switch string(name) {
			case `"number"`:
				h.number, found = readQuantity(value)
			case `"hash"`:
				h.hash = unquoteOr(value)
			case `"parentHash"`:
				h.parent = unquoteOr(value)
			}
			return nil
		})
	}
	if !found {
		return h, fmt.Errorf("%s: %s is no block", blockMethod, clip(a.result))
	}
	return h, nil
}

// question asks the node something for the watch.
func (n *node) question(ctx context.Context, method string, params []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	text, taken, err := n.post(ctx, appendRequest(nil, 1, method, params), maxHeader, false)
	if err != nil {
		return answer{}, err
	}
	defer n.upstreams.memory.Give(taken)
	a, err := parseAnswer(text)
	if err == nil && a.failure != nil {
		err = fmt.Errorf("node answers %s with %s", method, clip(a.failure))
	}
	return a, err
}

func clip(text []byte) string {
	if len(text) > 200 {
		return string(text[:200]) + "…"
	}
	return string(text)
}
