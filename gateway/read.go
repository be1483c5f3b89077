package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/cache"
)

const (
	// readTries is how many nodes a read is given to that answer with errors.
	readTries = 4
	// levelPatience is for how long a read waits for a node to get to the block that
	// its caller was shown last, and levelPause the time between two looks.
	levelPatience = 2 * time.Second
	levelPause    = 20 * time.Millisecond
)

// question is one read on its way.
type question struct {
	pool   *pool
	who    string
	method bsn.Method
	refers reference
	key    []byte // tells it from all others of the gateway
	hash   uint64 // of the key
	floor  int64  // height that a node must have to answer
	limit  int64  // of the answer, in bytes
	began  time.Time
}

// keys are buffers for the keys of questions.
var keys = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

func appendKey(b []byte, chain, method string, params []byte) []byte {
	b = append(append(b, chain...), 0)
	b = append(append(b, method...), 0)
	return append(b, params...)
}

// read answers a read: from the cache, together with others who ask the same at the
// same time, or by the first node that can. It keeps nothing that m points to.
func (p *pool) read(ctx context.Context, c *caller, m message, method bsn.Method, limit int64) answer {
	s := p.state
	q := question{pool: p, who: c.who(), method: method, refers: refer(method, m.params), limit: limit, began: c.at}
	buffer := keys.Get().(*[]byte)
	*buffer = appendKey((*buffer)[:0], p.chain.Name, m.method, m.params)
	defer keys.Put(buffer)
	q.key = *buffer
	q.hash = s.flights.hash(q.key)
	// In this order: what is learnt after it makes another version.
	version := s.version.Load()
	q.floor = q.needs(s.floors.get(q.who, q.began))
	if q.refers.scope != scopeNode {
		if e, ok := p.cache.Get(q.key, cache.Now{Version: version, Height: q.floor, Time: q.began.UnixNano()}); ok {
			p.counts.hit.Inc()
			p.traces.answeredFrom(ctx, "cached")
			if e.Shows >= 0 {
				q.saw(e.Shows)
			}
			q.of(e.Height)
			return answer{result: e.Answer, outcome: outcomeOK, held: p.memory.hold(e.Answer)}
		}
	}
	f, first := s.flights.join(q.hash, q.key, version, q.floor)
	if !first {
		p.counts.joined.Inc()
		p.traces.answeredFrom(ctx, "joined")
		select {
		case <-f.done:
			a := f.answer
			a.held = p.memory.hold(a.large())
			q.of(f.height)
			q.show(a)
			return a
		case <-ctx.Done():
			return without(ctx, p)
		}
	}
	var a answer
	asked := false
	defer func() {
		if !asked { // something has gone very wrong
			a = unavailable(ctx, p.chain, nil)
		}
		s.flights.land(q.hash, f, a)
	}()
	e := s.newErrand(ctx, c.id, p.forwards(), q.hash, f)
	defer e.finish()
	if e.client == nil {
		defer context.AfterFunc(beneath(ctx), e.Interrupt)()
	}
	request := appendRequest(make([]byte, 0, 64+len(m.method)+len(m.params)), 1, m.method, m.params)
	t := p.ask(e, &q, request)
	a, asked = t.answer, true
	if e.left.Load() && !t.good() {
		p.memory.letGo(a.held)
		return without(e, p)
	}
	if t.node != nil {
		f.height = t.head
		q.keep(t, version)
		q.of(t.head)
		q.show(a)
	}
	return a
}

// needs returns the height that a node must have for this question, of which the
// caller was shown a block of the given height.
func (q *question) needs(shown int64) int64 {
	switch q.refers.scope {
	case scopeStatic:
		return 0
	case scopeNumber:
		return min(shown, q.refers.number)
	}
	return shown
}

// show notes what block the answer tells its caller of.
func (q *question) show(a answer) {
	if q.method.Shows == "" || a.failure != nil {
		return
	}
	if n, ok := showsBlock(q.method.Shows, a.result); ok {
		q.saw(n)
	}
}

// saw notes that the caller is shown a block.
func (q *question) saw(n int64) {
	if n <= q.pool.credible(q.began) {
		q.pool.state.floors.raise(q.who, n, q.began)
	}
}

// keep puts the answer of a node into the cache, for as long as it holds.
func (q *question) keep(t turn, version uint64) {
	a := t.answer
	if a.failure != nil || a.outcome != outcomeOK {
		return
	}
	n, shown := showsBlock(q.method.Shows, a.result)
	if shown && n > t.head {
		if t.node.raise(n) {
			q.pool.state.changed()
		}
	}
	if q.refers.scope == scopeNode || string(a.result) == "null" {
		return
	}
	e := cache.Entry{Answer: a.result, Version: version, Height: t.head, At: q.began.UnixNano(), Shows: -1}
	if shown {
		e.Shows = n
	}
	final := t.node.final.Load()
	if q.pool.methods.Final {
		final = t.head
		if shown {
			final = max(final, n)
		}
	}
	switch q.refers.scope {
	case scopeStatic:
		e.Final = true
	case scopeNumber:
		e.Final = q.refers.number <= final
	case scopeHash:
		switch {
		case q.method.Shows != "" && !shown:
			return // in no block yet
		case q.method.Shows != "":
			e.Final = n <= final
		default:
			e.Final = q.pool.methods.Final
		}
	}
	e.Final = e.Final && !emptyResult(a.result)
	if e.Final || q.pool.state.twice.again(q.hash) {
		q.pool.cache.Put(q.key, e)
	}
}

// turn is what came of asking one node.
type turn struct {
	node *node // nil: none was asked
	head int64 // that the node was known to have before
	answer
	verdict verdict
	err     error
	took    time.Duration
}

// good tells whether no other node needs to be asked.
func (t *turn) good() bool {
	return t.err == nil && (t.failure == nil || t.verdict == verdictAnswer) ||
		errors.Is(t.err, errTooLarge) || errors.Is(t.err, errNoRoom)
}

func (p *pool) turn(ctx context.Context, n *node, request []byte, limit int64, why tryReason) turn {
	t := turn{node: n, head: n.head.Load()}
	ctx, span := p.traces.try(ctx, n, why)
	t.answer, t.err = n.fetch(ctx, request, limit)
	span.tried(t.err, t.failure != nil)
	if t.err == nil {
		if t.failure != nil {
			t.verdict = judge(t.failure)
		}
		n.judged(t.verdict)
	}
	return t
}

// ask has a question answered by the first node that can. If the nodes that were
// asked have only errors that another node might not have, it is one of those.
func (p *pool) ask(ctx context.Context, q *question, request []byte) turn {
	p.state.pace.earn()
	var best turn
	var last error
	tries := 0
	// settle takes in a turn and tells whether it ends the matter.
	settle := func(t turn) bool {
		switch {
		case t.good():
			p.memory.letGo(best.held)
			best = t
			return true
		case t.err != nil:
			last = t.err
		default:
			tries++
			p.counts.retried.Inc()
			if best.node == nil || best.verdict == verdictLimited {
				t, best = best, t
			}
			p.memory.letGo(t.held)
		}
		return ctx.Err() != nil || tries >= readTries
	}
	// When the nodes fail that were level, another may be by then.
	var room, done [8]*node
	asked := done[:0]
	for first := true; best.node == nil && (first || ctx.Err() == nil); first = false {
		nodes := p.untried(ctx, q.floor, room[:0], &asked)
		if len(nodes) == 0 {
			break
		}
		why := tryFirst
		if !first {
			why = tryRetry
		}
		if len(p.nodes) == 1 {
			settle(p.turn(ctx, nodes[0], request, q.limit, why))
		} else {
			p.race(ctx, nodes, &asked, q, request, why, settle)
		}
	}
	switch {
	case best.node == nil:
		return turn{answer: p.nobody(ctx, q, last)}
	case errors.Is(best.err, errTooLarge):
		best.answer = exceed(kindSize, 0, "answer is larger than %d bytes: ask for less at once", q.limit)
	case errors.Is(best.err, errNoRoom):
		best.answer = noMemory()
	}
	return best
}

// race asks the nodes one after the other, and the next one already when an answer
// is late, if few enough were late before. Whoever is slower is not waited for. Nodes
// that were not known to be level are looked at by then, and added to those asked.
func (p *pool) race(ctx context.Context, nodes []*node, asked *[]*node, q *question, request []byte, why tryReason, settle func(turn) bool) {
	ctx, cancel := context.WithCancel(ctx)
	turns := make(chan turn, len(p.nodes))
	next, pending, looks, limit := 0, 0, 0, q.limit
	ask := func(why tryReason) {
		n := nodes[next]
		next, pending = next+1, pending+1
		go func() {
			began := time.Now()
			t := p.turn(ctx, n, request, limit, why)
			t.took = time.Since(began)
			turns <- t
		}()
	}
	defer func() {
		cancel()
		if pending > 0 { // what still comes is nobody's
			go func() {
				for range pending {
					t := <-turns
					p.memory.letGo(t.held)
				}
			}()
		}
	}()
	ask(why)
	late := time.NewTimer(p.state.pace.after(q.method.Units))
	defer late.Stop()
	for pending > 0 {
		select {
		case t := <-turns:
			pending--
			if t.good() {
				// Of one that came in second it says how long the first has taken so far.
				took := t.took
				if t.node != nodes[0] {
					took = time.Since(q.began)
				}
				p.state.pace.took(q.method.Units, took)
			}
			if settle(t) {
				return
			}
			if next < len(nodes) {
				ask(tryRetry)
			}
		case <-late.C:
			if next == len(nodes) {
				for _, n := range p.at(q.floor, nil) {
					if !slices.Contains(*asked, n) {
						nodes, *asked = append(nodes, n), append(*asked, n)
					}
				}
			}
			switch {
			case next < len(nodes):
				if p.state.pace.spend() {
					p.counts.hedged.Inc()
					ask(tryHedge)
				}
			case looks < maxLooks:
				looks++
				p.lookAt(*asked)
				late.Reset(levelPause)
			}
		}
	}
}

// level returns the nodes that may answer and have a block of the given height, best
// first. If none is known to, it has them looked at, and waits a little for one, before
// it turns to those that are down.
func (p *pool) level(ctx context.Context, height int64, room []*node) []*node {
	nodes := p.at(height, room)
	if len(nodes) > 0 {
		return nodes
	}
	until := time.Now().Add(levelPatience)
	for len(nodes) == 0 && ctx.Err() == nil && p.lives() && time.Now().Before(until) {
		for _, n := range p.nodes {
			if n.lives() {
				n.look()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(levelPause):
		}
		nodes = p.at(height, room)
	}
	if len(nodes) == 0 {
		nodes = p.fallen(height, room)
	}
	return nodes
}

// maxLooks is how often a read that is late has other nodes looked at.
const maxLooks = 20

// lookAt has the nodes looked at that are alive and were not asked.
func (p *pool) lookAt(asked []*node) {
	for _, n := range p.nodes {
		if n.lives() && !slices.Contains(asked, n) {
			n.look()
		}
	}
}

// untried returns what level does without those that were asked, and adds them there.
func (p *pool) untried(ctx context.Context, height int64, room []*node, asked *[]*node) []*node {
	nodes := slices.DeleteFunc(p.level(ctx, height, room), func(n *node) bool { return slices.Contains(*asked, n) })
	*asked = append(*asked, nodes...)
	return nodes
}

// forwards tells whether a node of the chain is reached through another city's gateway.
func (p *pool) forwards() bool {
	for _, n := range p.nodes {
		if n.forwards.Load() {
			return true
		}
	}
	return false
}

// lives tells whether there is a node that only lacks the height to be asked.
func (p *pool) lives() bool {
	now := time.Now().UnixNano()
	return slices.ContainsFunc(p.nodes, func(n *node) bool { return n.lives() && n.may(now) })
}

// nobody says why no node answered; last is the error of the last one that was asked.
func (p *pool) nobody(ctx context.Context, q *question, last error) answer {
	a := unavailable(ctx, p.chain, last)
	if ctx.Err() != nil || len(p.nodes) == 0 {
		return a
	}
	if wait := p.resting(); wait > 0 {
		a = refuse(outcomeUnavailable, codeUnavailable, "all nodes of chain %s limit this gateway now: wait %d s",
			p.chain.Name, retrySeconds(wait)).with(http.StatusServiceUnavailable)
		a.retryAfter = wait
	} else if last == nil && q.floor > 0 && len(p.candidates(nil)) > 0 {
		a = refuse(outcomeUnavailable, codeUnavailable, "no node of chain %s that can be asked now has block %d, which this key was shown before: try again",
			p.chain.Name, q.floor).with(http.StatusServiceUnavailable)
	}
	return a
}

// credible is the height above which nobody is believed: a node that claims more must
// not keep callers from all others, which never get there.
func (p *pool) credible(now time.Time) int64 {
	top := p.floor(now) + p.maxLag
	if top <= 0 {
		return math.MaxInt64
	}
	return top + credibleLead
}

// credibleLead is how many blocks a chain may have made since its nodes were asked
// for their heads.
const credibleLead = 256

// who names the caller where it matters what they were shown.
func (c *caller) who() string {
	if c.key.Hash != "" {
		return c.key.Hash
	}
	return c.id
}
