package gateway

import "time"

// saw takes in the head that a node told by itself, before anybody hears of it: what
// was answered until then is not of the newest block any more.
func (t *tail) saw(n *node, b *block) {
	p, ok := t.g.upstreams.get(t.chain)
	if !ok {
		return
	}
	if b.number < n.head.Load() {
		// One that was overtaken on its way, or a shorter branch. That a node has gone
		// back is for its watch to say.
		p.state.changed()
		return
	}
	h := head{number: b.number}
	if !p.methods.Final { // where the watch asks for no more than the number
		h.hash, h.parent = b.hash.String(), b.parent.String()
	}
	p.saw(n, h)
}

// shows notes that a caller is told of a block, which its reads are not to be older
// than from then on. Number 0 is of no block.
func (t *tail) shows(c *caller, number int64) {
	if number <= 0 {
		return
	}
	now := time.Now()
	if p, ok := t.g.upstreams.get(t.chain); ok && number <= p.credible(now) {
		p.state.floors.raise(c.who(), number, now)
	}
}

// of notes that an answer which may change with each block is of one of this height at
// least: the next one must not come from a node that has not got there.
func (q *question) of(height int64) {
	switch q.refers.scope {
	case scopeStatic, scopeNumber, scopeHash:
		return
	}
	if len(q.pool.nodes) > 1 && height > q.floor && height <= q.pool.credible(q.began) {
		q.pool.state.floors.raise(q.who, height, q.began)
	}
}
