package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// tailRing is how many of the newest blocks a tail keeps, and tailGone how many
	// that were abandoned.
	tailRing = 128
	tailGone = 256
	// tailPast is how many blocks below the newest one a tail begins with, so that
	// what is abandoned soon after is known.
	tailPast = 64
	// tailIdle is how long a tail goes on without subscribers: a client that
	// connects again finds its blocks in memory.
	tailIdle = time.Minute
	// tailTick is the time between two looks whether its node is still good.
	tailTick = time.Second
	// tailRetry is the pause before another node is tried.
	tailRetry = 250 * time.Millisecond
	// tailReturn is after how many ticks a tail goes back to the nearest node.
	tailReturn = 60
	// tailTries is after how many that failed new subscribers are told so.
	tailTries = 4
	// tailParallel is how many blocks are fetched at once.
	tailParallel = 16
	// tailAsk is how long a node may take for one answer.
	tailAsk = 10 * time.Second
)

// Reasons for which a tail cannot be continued without a loss.
const (
	closeFar  = "more blocks were missed than are back-filled: subscribe again"
	closeDeep = "chain was reorganised deeper than is remembered: subscribe again"
)

var (
	errFar     = errors.New(closeFar)
	errDeep    = errors.New(closeDeep)
	errUnknown = errors.New("the node does not know the block")
	errMove    = errors.New("another node is better")
)

// tail is the newest part of a chain, block by block as one node after another
// tells it. It is shared by all subscribers of the gateway: one subscription at
// one node serves them all. If that node is lost, the next one is asked for the
// blocks that came meanwhile.
//
// One goroutine, run, asks the nodes and changes the blocks.
type tail struct {
	g         *Gateway
	chain     string
	namespace string // of the methods: eth, or a framework's own
	headers   bool   // nodes give heads alone, as newHeads has them
	avoid     *node  // that was followed before; of run

	// Under the lock of all tails.
	users  int
	unused time.Time // since when users is 0
	ended  bool

	mu      sync.Mutex
	feed    *feed    // nil while no node is connected
	blocks  []*block // each the parent of the next one, the newest last
	gone    map[hash]*block
	order   []hash // of gone, the oldest first
	groups  map[string]*group
	trouble error         // why no node could be followed, the last time
	logging bool          // all blocks have their logs
	wanted  bool          // that logging begins
	changed chan struct{} // closed when anything above changes
	nudge   chan struct{} // wakes run
	heads   []*block      // that the node told of and run has not taken in yet
	dropped []string      // ids of subscriptions at the node that nobody needs any more
}

type tailKey struct{ chain, namespace string }

// tails are those of all chains that have subscribers.
type tails struct {
	mu   sync.Mutex
	open map[tailKey]*tail
}

// tail returns the tail of a chain, which goes on until the caller lets it go.
func (g *Gateway) tail(p *pool, namespace string) *tail {
	chain := p.chain.Name
	g.tails.mu.Lock()
	defer g.tails.mu.Unlock()
	k := tailKey{chain, namespace}
	t := g.tails.open[k]
	if t == nil {
		t = &tail{
			g: g, chain: chain, namespace: namespace, headers: p.offers(namespace+"_getHeaderByHash") && p.offers(namespace+"_getHeaderByNumber"), gone: map[hash]*block{}, groups: map[string]*group{},
			changed: make(chan struct{}), nudge: make(chan struct{}, 1),
		}
		g.tails.open[k] = t
		go t.run(g.draining)
	}
	t.users++
	return t
}

func (t *tail) letGo() {
	t.g.tails.mu.Lock()
	defer t.g.tails.mu.Unlock()
	if t.users--; t.users == 0 {
		t.unused = time.Now()
	}
}

// over ends a tail that nobody has used for a while.
func (t *tail) over() bool {
	t.g.tails.mu.Lock()
	defer t.g.tails.mu.Unlock()
	if t.ended || t.users > 0 || time.Since(t.unused) < tailIdle {
		return t.ended
	}
	t.ended = true
	delete(t.g.tails.open, tailKey{t.chain, t.namespace})
	return true
}

// run follows the chain from node to node.
func (t *tail) run(ctx context.Context) {
	for tries := 0; ctx.Err() == nil && !t.over(); {
		err := t.follow(ctx)
		if ctx.Err() != nil || err == nil {
			continue
		}
		if tries++; tries >= tailTries {
			t.set(func() { t.trouble = err })
		}
		t.g.log.Debug("subscriptions look for another node", "chain", t.chain, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(tailRetry):
		}
	}
}

// follow takes in what one node tells until it is lost or the tail is over.
func (t *tail) follow(ctx context.Context) error {
	p, _, ok := t.g.route(t.chain)
	if !ok {
		return errors.New("chain is not in service")
	}
	p.touch(time.Now())
	f, err := openFeed(ctx, p, t.avoid, t.g.cfg.MaxResponseBytes)
	if err != nil {
		var ok bool
		if f, ok = askFeed(p, t.g.cfg.MaxResponseBytes); !ok {
			return err
		}
	}
	defer f.close()
	t.avoid = f.node // once it is lost, if there is another
	if err := t.begin(ctx, f); err != nil {
		return err
	}
	defer t.set(func() { t.feed = nil })
	tick := time.NewTicker(tailTick)
	defer tick.Stop()
	behind, away := 0, 0
	for {
		if err := t.step(ctx, f); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.gone.Done():
			return errClosed
		case <-t.nudge:
		case <-tick.C:
			if t.over() {
				return nil
			}
			nearest, level := t.nearest(f.node)
			if !level {
				return errMove
			}
			if away++; nearest == f.node || nearest == nil {
				away = 0
			}
			if away > tailReturn {
				t.avoid = nil
				return errMove
			}
			// A node that tells nothing by itself is asked, and one whose subscription
			// fell silent while it goes on.
			if behind++; f.node.head.Load() <= t.height() {
				behind = 0
			}
			if behind > 1 || behind > 0 && f.asks() {
				if err := t.look(ctx, f); err != nil {
					return err
				}
			}
		}
	}
}

// await waits until the tail is as asked.
func (t *tail) await(ctx context.Context, ok func() bool) error {
	for {
		t.mu.Lock()
		done, changed := ok(), t.changed
		t.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// begin subscribes at a node and takes in its newest block.
func (t *tail) begin(ctx context.Context, f *feed) error {
	ctx, cancel := context.WithTimeout(ctx, tailAsk)
	defer cancel()
	if !f.asks() {
		if err := t.subscribe(ctx, f); err != nil {
			return err
		}
	}
	t.set(func() {
		t.feed, t.heads, t.dropped, t.trouble = f, nil, nil, nil
		for _, g := range t.groups {
			g.upstream, g.refusal = "", nil
		}
	})
	return t.look(ctx, f)
}

// subscribe has a node tell of new heads.
func (t *tail) subscribe(ctx context.Context, f *feed) error {
	a, err := f.call(ctx, t.namespace+"_subscribe", []byte(`["newHeads"]`), func(_, result []byte) {
		b, err := parseBlock(result)
		if err != nil {
			f.close()
			return
		}
		t.hear(f, b)
	})
	if err == nil && a.failure != nil {
		err = fmt.Errorf("node refuses a subscription: %s", clip(a.failure))
	}
	return err
}

// look asks a node for its newest block.
func (t *tail) look(ctx context.Context, f *feed) error {
	b, err := t.block(ctx, f, "ByNumber", `"latest"`)
	if err != nil {
		return err
	}
	t.hear(f, b)
	return nil
}

// hear notes a head for run.
func (t *tail) hear(f *feed, b *block) {
	t.saw(f.node, b)
	t.mu.Lock()
	if t.heads = append(t.heads, b); len(t.heads) > tailRing {
		t.heads = t.heads[1:] // back-filled from the next one
	}
	t.mu.Unlock()
	t.wake()
}

func (t *tail) wake() {
	select {
	case t.nudge <- struct{}{}:
	default:
	}
}

// set changes the tail and tells those who wait for it.
func (t *tail) set(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	close(t.changed)
	t.changed = make(chan struct{})
}

// nearest returns the node that is best now, and whether n may still be followed.
func (t *tail) nearest(n *node) (best *node, level bool) {
	p, _, ok := t.g.route(t.chain)
	if !ok {
		return nil, false
	}
	p.touch(time.Now())
	var room [8]*node
	for _, c := range p.candidates(room[:0]) {
		if _, alive := c.alive(); alive && c.reached().WS != "" && best == nil {
			best = c
		}
		level = level || c == n
	}
	return best, level
}

// height is that of the newest block.
func (t *tail) height() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.blocks) == 0 {
		return -1
	}
	return t.blocks[len(t.blocks)-1].number
}

// step takes in what the node told of, and does what was asked for.
func (t *tail) step(ctx context.Context, f *feed) error {
	for {
		t.mu.Lock()
		var head *block
		if len(t.heads) > 0 {
			head, t.heads = t.heads[0], t.heads[1:]
		}
		begin := t.wanted && !t.logging && len(t.blocks) > 0
		t.mu.Unlock()
		switch {
		case head != nil:
			if err := t.advance(ctx, f, head); err != nil {
				return err
			}
		case begin:
			if err := t.log(ctx, f); err != nil {
				return err
			}
		default:
			return t.relay(ctx, f)
		}
	}
}

// log gets the logs of all blocks that are kept. From then on each block comes
// with its logs.
func (t *tail) log(ctx context.Context, f *feed) error {
	// Only this goroutine changes blocks.
	if err := t.fill(ctx, f, t.blocks); err != nil {
		return err
	}
	t.set(func() { t.logging = true })
	return nil
}

// advance makes head the newest block: the blocks between are back-filled, and
// those that it leaves aside abandoned.
func (t *tail) advance(ctx context.Context, f *feed, head *block) error {
	if len(t.blocks) == 0 {
		return t.start(ctx, f, head)
	}
	if i := t.find(head.number); i >= 0 && t.blocks[i].hash == head.hash {
		return nil
	}
	keep, branch, err := t.trace(ctx, f, head)
	if errors.Is(err, errFar) || errors.Is(err, errDeep) {
		t.g.log.Warn("subscriptions cannot go on", "chain", t.chain, "newest", t.height(), "head", head.number, "error", err)
		t.breakOff(err)
		return t.start(ctx, f, head)
	}
	if err == nil && t.logging {
		err = t.fill(ctx, f, branch)
	}
	if err != nil {
		return err
	}
	t.publish(keep, branch)
	return nil
}

// start begins with a block and some before it.
func (t *tail) start(ctx context.Context, f *feed, head *block) error {
	before, err := t.between(ctx, f, max(head.number-tailPast, 0), head.number-1)
	if err != nil && !errors.Is(err, errUnknown) { // a node need not keep more
		return err
	}
	blocks := []*block{head}
	for i := len(before) - 1; i >= 0 && err == nil && before[i].hash == blocks[0].parent; i-- {
		blocks = append([]*block{before[i]}, blocks...)
	}
	if t.logging {
		if err := t.fill(ctx, f, blocks); err != nil {
			return err
		}
	}
	t.set(func() { t.blocks = blocks })
	return nil
}

// find returns the index of the block of this number, or -1.
func (t *tail) find(number int64) int {
	if len(t.blocks) == 0 || number < t.blocks[0].number || number > t.blocks[len(t.blocks)-1].number {
		return -1
	}
	return int(number - t.blocks[0].number)
}

// trace finds how head is joined to the blocks: the first keep of them stay, and
// the branch comes after them.
func (t *tail) trace(ctx context.Context, f *feed, head *block) (keep int, branch []*block, err error) {
	ahead, err := t.ahead(ctx, f, head)
	if err != nil {
		return 0, nil, err
	}
	branch = []*block{head}
	for at := head; ; {
		i := t.find(at.number - 1)
		switch {
		case i >= 0 && t.blocks[i].hash == at.parent, at.before() == t.blocks[0].before():
			slices.Reverse(branch)
			return i + 1, branch, nil
		case at.number <= t.blocks[0].number:
			return 0, nil, errDeep
		case len(branch) > t.g.cfg.MaxBackfill:
			return 0, nil, errFar
		}
		parent := ahead[at.parent]
		if parent == nil {
			parent = t.remembered(at.parent)
		}
		if parent == nil {
			if parent, err = t.byHash(ctx, f, at.parent); err != nil {
				return 0, nil, err
			}
		}
		if parent.number != at.number-1 {
			return 0, nil, fmt.Errorf("node gives block %v the number %d, and its parent %d", at.hash, at.number, parent.number)
		}
		branch, at = append(branch, parent), parent
	}
}

// remembered returns a block that was abandoned, if it is still known.
func (t *tail) remembered(h hash) *block {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone[h]
}

// ahead fetches at once what lies between the newest block and a head.
func (t *tail) ahead(ctx context.Context, f *feed, head *block) (map[hash]*block, error) {
	from := t.height() + 1
	if head.number-from > int64(t.g.cfg.MaxBackfill) {
		return nil, errFar
	}
	if head.number-from < 2 {
		return nil, nil
	}
	list, err := t.between(ctx, f, from, head.number-1)
	if err != nil {
		return nil, err
	}
	m := make(map[hash]*block, len(list))
	for _, b := range list {
		m[b.hash] = b
	}
	return m, nil
}

// publish abandons all blocks but the first keep, adds the branch, and tells those
// who are level.
func (t *tail) publish(keep int, branch []*block) {
	t.set(func() {
		for i := len(t.blocks) - 1; i >= keep; i-- {
			t.abandon(t.blocks[i])
			t.tell(t.blocks[i], true)
		}
		t.blocks = append(t.blocks[:keep:keep], branch...)
		for _, b := range branch {
			delete(t.gone, b.hash)
			t.tell(b, false)
		}
		if over := len(t.blocks) - tailRing; over > 0 {
			t.blocks = append([]*block(nil), t.blocks[over:]...)
		}
	})
}

// abandon keeps a block that is not in the chain any more.
func (t *tail) abandon(b *block) {
	if t.gone[b.hash] == nil {
		t.order = append(t.order, b.hash)
	}
	t.gone[b.hash] = b
	for len(t.order) > tailGone {
		delete(t.gone, t.order[0])
		t.order = t.order[1:]
	}
}

// breakOff ends the connections of all subscribers and forgets the blocks.
func (t *tail) breakOff(reason error) {
	t.set(func() {
		for _, g := range t.groups {
			for _, s := range g.subs {
				s.socket.end(websocket.StatusServiceRestart, reason.Error())
			}
		}
		t.blocks, t.order = nil, nil
		clear(t.gone)
	})
}
