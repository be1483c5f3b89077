package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// subscription is a stream of notifications that a client asked for.
type subscription struct {
	prefix []byte // of every notification, up to the result
	socket *socket
	group  *group

	// What follows is the tail's, under its lock.
	at    position // how far it has come; of no meaning once it is level
	index int      // in the group; -1 while it is not level
	ended bool

	held [][]byte // what is sent before anything else
	// turn ends when the one that the client opened before is level, and level when
	// this one is: so a client that opens logs and then heads has all logs up to a head.
	turn, level chan struct{}
}

// opening begins what a client was told the id of.
type opening func(ctx context.Context) error

// cursorWait is how long a chain may take to reach the block of a cursor, which
// another city's node may have had a moment before.
const cursorWait = 10 * time.Second

// wish is what the params of a call to subscribe ask for.
type wish struct {
	group group
	from  *position // nil: from now on
}

// errNotShared means that what is asked for is left to a node.
var errNotShared = errors.New("not shared")

// parseWish reads the params of a call to subscribe: what to hear of, for logs a
// filter, and an object with a cursor at which to continue.
func parseWish(params []byte) (wish, error) {
	var list [][]byte
	if len(params) > 0 && params[0] == '[' {
		_, _ = scanArray(params, 0, maxRequestDepth, func(value []byte) error { // it has been scanned before
			list = append(list, value)
			return nil
		})
	}
	if len(list) == 0 || list[0][0] != '"' {
		return wish{}, errNotShared
	}
	kind, list := unquote(list[0]), list[1:]
	var w wish
	switch kind {
	case "newHeads":
		w.group.key = kind
	case "logs":
		var text []byte
		if len(list) > 0 {
			if string(list[0]) != "null" {
				text = list[0]
			}
			list = list[1:]
		}
		f, err := parseFilter(text)
		if err != nil {
			return wish{}, err
		}
		w.group.key, w.group.filter = f.key(), f
	case "newPendingTransactions":
		full := len(list) > 0 && string(list[0]) == "true"
		w.group.relay = []byte(`["newPendingTransactions"]`)
		if full {
			w.group.relay = []byte(`["newPendingTransactions",true]`)
		}
		w.group.key = string(w.group.relay)
		return w, nil
	default:
		return wish{}, errNotShared
	}
	if len(list) == 0 || string(list[0]) == "null" {
		return w, nil
	}
	var options struct {
		Cursor string `json:"cursor"`
	}
	d := json.NewDecoder(bytes.NewReader(list[0]))
	d.DisallowUnknownFields()
	if len(list) > 1 || d.Decode(&options) != nil {
		return wish{}, fmt.Errorf(`the last parameter of a subscription to %s may be {"cursor":"…"}, and nothing else`, kind)
	}
	if options.Cursor != "" {
		at, err := parseCursor(options.Cursor)
		if err != nil {
			return wish{}, err
		}
		w.from = &at
	}
	return w, nil
}

// offers tells whether a method is in the chain's table.
func (p *pool) offers(method string) bool {
	_, ok := p.methods.Methods[method]
	return ok
}

// shares tells whether the table has what a tail needs.
func shares(p *pool, namespace string) bool {
	return p.offers(namespace+"_getBlockByHash") && p.offers(namespace+"_getBlockByNumber") && p.offers(namespace+"_getLogs")
}

// subscribe takes the calls of class subscribe. Subscriptions to heads, logs and
// pending transactions are served by the chain's tail; filters and all else are
// left to a node, to which the client has a connection of its own.
func (s *socket) subscribe(ctx context.Context, p *pool, m message, opened *[]opening) answer {
	s.subscribing.Lock()
	defer s.subscribing.Unlock() // one at a time, so that the limit holds
	ctx, cancel := context.WithTimeout(ctx, s.g.cfg.UpstreamTimeout)
	defer cancel()
	namespace, name, _ := strings.Cut(m.method, "_")
	if begins(m.method) && s.count() >= s.g.cfg.MaxSubscriptions {
		return refuse(outcomeLimited, codeLimit, "connection has %d subscriptions and filters, which is the most", s.g.cfg.MaxSubscriptions)
	}
	switch name {
	case "subscribe":
		w, err := parseWish(m.params)
		if err == nil && shares(p, namespace) {
			w.group.units = p.methods.Methods[m.method].Notify
			sub, a := s.enter(ctx, p, namespace, w)
			if sub != nil {
				*opened = append(*opened, sub.start)
			}
			return a
		}
		if err != nil && !errors.Is(err, errNotShared) {
			return refuse(outcomeMalformed, codeParams, "%s", err)
		}
	case "unsubscribe":
		if s.leave(m.params) {
			return answer{result: []byte("true"), outcome: outcomeOK}
		}
		if !s.hasOwn() { // the wording is go-ethereum's
			return refuse(outcomeError, -32000, "subscription not found")
		}
	}
	return s.ask(ctx, p, m, opened)
}

// enter makes a subscription that the chain's tail serves.
func (s *socket) enter(ctx context.Context, p *pool, namespace string, w wish) (*subscription, answer) {
	t := s.g.tail(p, namespace)
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	id := `"0x` + hex.EncodeToString(random[:]) + `"`
	sub := &subscription{
		socket: s, level: make(chan struct{}),
		prefix: []byte(`{"jsonrpc":"2.0","method":"` + namespace + `_subscription","params":{"subscription":` + id + `,"result":`),
	}
	t.join(sub, w.group)
	a := t.place(ctx, p, sub, w.from)
	if a.failure == nil && !s.keep(id, sub) {
		a = refuse(outcomeUnavailable, codeUnavailable, "connection ends")
	}
	if a.failure != nil {
		t.leave(sub)
		t.letGo()
		return nil, a
	}
	return sub, answer{result: []byte(id), outcome: outcomeOK}
}

// place finds where a new subscription begins.
func (t *tail) place(ctx context.Context, p *pool, s *subscription, from *position) answer {
	var newest *block
	var trouble error
	var refusal []byte
	err := t.await(ctx, func() bool {
		g := s.group
		if g.relay != nil {
			refusal = g.refusal
			return g.upstream != "" || refusal != nil
		}
		if len(t.blocks) == 0 {
			trouble = t.trouble
			return trouble != nil
		}
		newest = t.blocks[len(t.blocks)-1]
		s.at = newest.after()
		return g.filter == nil || t.logging
	})
	switch {
	case err != nil || trouble != nil:
		return unavailable(ctx, p.chain, cmp.Or(trouble, err))
	case refusal != nil:
		return answer{failure: refusal, outcome: outcomeError}
	}
	if from == nil || newest == nil {
		return answer{}
	}
	if behind := newest.number - from.number; behind > int64(t.g.cfg.MaxBackfill) {
		return refuse(outcomeLimited, codeParams, "cursor is %d blocks behind block %d, and at most %d are back-filled: read on from block %d with %s_getLogs or by block, and subscribe without a cursor",
			behind, newest.number, t.g.cfg.MaxBackfill, from.number, t.namespace)
	}
	waiting, cancel := context.WithTimeout(ctx, cursorWait)
	defer cancel()
	if t.await(waiting, func() bool { return len(t.blocks) > 0 && t.blocks[len(t.blocks)-1].number >= from.number }) != nil {
		return refuse(outcomeUnavailable, codeUnavailable, "cursor is of block %d, which no node here has reached: try again", from.number)
	}
	s.at = *from
	// The first of what was missed is looked up before the client is told that it
	// can continue.
	if s.held, _, err = t.more(ctx, s, false); err != nil {
		if errors.Is(err, errLost) {
			return refuse(outcomeMalformed, codeParams, "cursor cannot be continued: %v. Subscribe without it", err)
		}
		return unavailable(ctx, p.chain, err)
	}
	return answer{}
}

// start begins to notify, now that the client knows the subscription's id.
func (s *subscription) start(ctx context.Context) error {
	defer close(s.level)
	if s.turn != nil && s.group.relay == nil {
		select {
		case <-s.turn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.turn = nil
	if e := s.group.charge(&s.socket.caller, len(s.held)); e != nil {
		s.socket.endFor(e)
		return errClosed
	}
	if len(s.held) > 0 {
		s.group.tail.shows(&s.socket.caller, s.at.number)
	}
	for _, text := range s.held {
		if err := s.socket.pass(s, text, true); err != nil {
			return err
		}
	}
	s.held = nil
	return s.group.tail.serve(ctx, s)
}

// drop ends a subscription.
func (s *subscription) drop() {
	t := s.group.tail
	t.g.meter.streams.WithLabelValues(t.chain).Dec()
	t.leave(s)
	t.letGo()
}

// keep enters a subscription in its connection, unless that has ended.
func (s *socket) keep(id string, sub *subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	if s.subs == nil {
		s.subs = map[string]*subscription{}
	}
	s.subs[id] = sub
	s.g.meter.streams.WithLabelValues(s.chain).Inc()
	sub.turn, s.opened = s.opened, sub.level
	return true
}

// leave ends the subscription that the params of a call name, if it is one of this
// connection's that a tail serves.
func (s *socket) leave(params []byte) bool {
	var id []byte
	if len(params) > 0 && params[0] == '[' {
		_, _ = scanArray(params, 0, maxRequestDepth, func(value []byte) error {
			if id == nil {
				id = value
			}
			return nil
		})
	}
	s.mu.Lock()
	sub := s.subs[string(id)]
	delete(s.subs, string(id))
	s.mu.Unlock()
	if sub == nil {
		return false
	}
	sub.drop()
	return true
}

// count is the number of subscriptions and filters of the connection.
func (s *socket) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.subs)
	if s.feed != nil {
		n += s.feed.count()
	}
	return n
}

// private is a subscription or filter on the connection's own feed.
type private struct {
	socket *socket
	units  int // of each notification

	mu      sync.Mutex
	started bool
	held    [][]byte // what came before the client knew the id
}

// privateHeld is how many notifications are kept for a client that has not been
// told its subscription's id yet.
const privateHeld = 1024

// offer passes a notification on, or holds it.
func (p *private) offer(text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.started:
		p.pass(text)
	case len(p.held) < privateHeld:
		p.held = append(p.held, text)
	default:
		p.socket.end(websocket.StatusPolicyViolation, closeSlow)
	}
}

// start passes on what was held. From then on notifications go out at once.
func (p *private) start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = true
	for _, text := range p.held {
		p.pass(text)
	}
	p.held = nil
	return nil
}

// pass notifies the client of what it pays for.
func (p *private) pass(text []byte) {
	if e := p.socket.g.chargeNotices(&p.socket.caller, p.socket.chain, p.units); e != nil {
		p.socket.endFor(e)
		return
	}
	p.socket.notify(nil, text)
}

// ask passes a call to the connection's own node. If that is lost, the connection
// ends: what the node kept for the client is lost with it.
func (s *socket) ask(ctx context.Context, p *pool, m message, opened *[]opening) answer {
	f, err := s.own(ctx, p)
	if err != nil {
		return unavailable(ctx, p.chain, err)
	}
	sub := &private{socket: s, units: p.methods.Methods[m.method].Notify}
	a, err := f.call(ctx, m.method, m.params, func(text, _ []byte) { sub.offer(text) })
	if err != nil {
		return unavailable(ctx, p.chain, err)
	}
	*opened = append(*opened, sub.start)
	return a
}

func (s *socket) hasOwn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feed != nil
}

// own returns the connection's own feed.
func (s *socket) own(ctx context.Context, p *pool) (*feed, error) {
	s.mu.Lock()
	f, over := s.feed, s.over
	s.mu.Unlock()
	if f != nil || over {
		return f, nil
	}
	f, err := openFeed(context.WithValue(ctx, projectKey{}, s.caller.id), p, nil, s.g.cfg.MaxResponseBytes)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(f.gone, func() { s.end(websocket.StatusServiceRestart, closeUpstream) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		f.close()
		return nil, errClosed
	}
	s.feed = f
	return f, nil
}
