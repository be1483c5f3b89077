package gateway

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// socketCalls is how many calls of one connection run at once; while so many
	// do, no more is read from it.
	socketCalls = 32
	// socketQueue is how many bytes wait for a slow reader. Answers beyond it
	// wait with their call; a notification beyond it ends the connection.
	socketQueue = 8 << 20

	socketWrite = 20 * time.Second // for one message to go out
	socketPing  = 30 * time.Second // between two looks whether the client is there
)

// Reasons for which the gateway closes a WebSocket.
const (
	closeDraining = "gateway stops: connect again"
	closeReplaced = "gateway is replaced by a newer one: connect again"
	closeSlow     = "client reads too slowly"
	closeKey      = "key has been revoked"
	closeToken    = "token has ended: connect again with another"
	closeAlone    = "the ledger has not been heard of for too long: connect again later, or to another city"
	closeUpstream = "node was lost: connect and subscribe again"
)

// socket is one client's WebSocket connection.
type socket struct {
	g      *Gateway
	conn   *websocket.Conn
	caller caller
	chain  string
	out    *queue
	slots  chan struct{}

	ending sync.Once
	cancel context.CancelFunc

	mu   sync.Mutex
	feed *feed // the connection to a node; nil until the first subscription
}

// serveSocket upgrades to a WebSocket, on which each message goes the same way
// as one over HTTP. Any origin may connect: unlike a cookie, the key that makes
// the request good is nothing that a browser would add by itself.
func (g *Gateway) serveSocket(w http.ResponseWriter, r *http.Request) {
	c, p, bad, ok := g.admit(r)
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // Accept has answered
	}
	conn.SetReadLimit(g.cfg.MaxRequestBytes)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	s := &socket{
		g: g, conn: conn, caller: c, chain: p.chain.Name, cancel: cancel,
		out: newQueue(socketQueue), slots: make(chan struct{}, socketCalls),
	}
	g.open.Add(1)
	g.sockets.Store(s, nil)
	defer g.sockets.Delete(s)
	g.meter.sockets.Inc()
	defer g.open.Done()
	defer g.meter.sockets.Dec()
	stop := context.AfterFunc(g.draining, func() { s.end(websocket.StatusGoingAway, closeDraining) })
	defer stop()
	replaced := context.AfterFunc(g.replaced, func() { s.retire(ctx) })
	defer replaced()
	unheard := context.AfterFunc(g.hearing(), func() { s.end(websocket.StatusTryAgainLater, closeAlone) })
	defer unheard()
	s.run(ctx)
}

// run serves the connection until it ends.
func (s *socket) run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { s.writeAll(ctx) })
	parts.Go(func() { s.ping(ctx) })
	for {
		_, text, err := s.conn.Read(ctx)
		if err != nil {
			break
		}
		s.slots <- struct{}{}
		parts.Go(func() {
			defer func() { <-s.slots }()
			s.handle(ctx, text)
		})
	}
	s.end(websocket.StatusNormalClosure, "")
	s.cancel()
	s.out.close()
	s.mu.Lock()
	if s.feed != nil {
		s.feed.close()
	}
	s.mu.Unlock()
	parts.Wait()
}

// retire lets the calls that were sent finish, and then has the client connect anew.
func (s *socket) retire(ctx context.Context) {
	for range socketCalls {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
	s.out.settle()
	s.end(websocket.StatusServiceRestart, closeReplaced)
}

// end closes the connection, once, with a reason that the client sees. The
// reading then fails, and with it everything ends.
func (s *socket) end(code websocket.StatusCode, reason string) {
	s.ending.Do(func() {
		go func() {
			_ = s.conn.Close(code, reason) // the client may be gone
			s.cancel()
		}()
	})
}

// handle answers one message.
func (s *socket) handle(ctx context.Context, text []byte) {
	defer func() {
		// As in an HTTP handler, one bad call must not end all others.
		if r := recover(); r != nil {
			s.g.log.Error("call failed", "chain", s.chain, "panic", r, "stack", string(debug.Stack()))
			s.end(websocket.StatusInternalError, "internal error")
		}
	}()
	var opened []*subscription
	reply := s.answer(ctx, text, &opened)
	if reply != nil && s.out.push(reply, true) != nil {
		return
	}
	// Only now does the client know the subscription's id.
	for _, sub := range opened {
		if sub.start(s.out) != nil {
			s.end(websocket.StatusPolicyViolation, closeSlow)
		}
	}
}

func (s *socket) answer(ctx context.Context, text []byte, opened *[]*subscription) []byte {
	// The key and the chain are looked up anew for each message, so that what the
	// ledger changed holds for connections that are already open.
	c, ok := s.g.recheck(s.caller)
	if !ok {
		s.end(websocket.StatusPolicyViolation, s.refusal())
		return nil
	}
	p, bad, ok := s.g.route(s.chain)
	if !ok {
		return appendReply(nil, nil, bad)
	}
	subscribe := func(ctx context.Context, p *pool, m message) answer { return s.subscribe(ctx, p, m, opened) }
	if start := skipSpace(text, 0); start < len(text) && text[start] == '[' {
		out, _ := s.g.batch(ctx, c, p, text, subscribe)
		return out
	}
	m, bad, ok := parseMessage(text)
	if !ok {
		return appendReply(nil, m.id, bad)
	}
	a := s.g.call(ctx, c, p, m, subscribe)
	if m.id == nil {
		return nil
	}
	return appendReply(nil, m.id, a)
}

// subscribe takes the calls of class subscribe to the connection's node.
func (s *socket) subscribe(ctx context.Context, p *pool, m message, opened *[]*subscription) answer {
	s.mu.Lock()
	defer s.mu.Unlock() // one at a time, so that the limit holds
	ctx, cancel := context.WithTimeout(ctx, s.g.cfg.UpstreamTimeout)
	defer cancel()
	if s.feed == nil {
		f, err := openFeed(ctx, p, s)
		if err != nil {
			return unavailable(ctx, p.chain, err)
		}
		s.feed = f
	}
	if begins(m.method) && s.feed.count() >= s.g.cfg.MaxSubscriptions {
		return refuse(outcomeLimited, codeLimit, "connection has %d subscriptions and filters, which is the most", s.g.cfg.MaxSubscriptions)
	}
	sub, a, err := s.feed.call(ctx, m)
	if err != nil {
		return unavailable(ctx, p.chain, err)
	}
	if sub != nil {
		*opened = append(*opened, sub)
	}
	return a
}

// refusal is why the caller is not let in any more.
func (s *socket) refusal() string {
	if s.caller.signer != "" {
		return closeToken
	}
	return closeKey
}

func (s *socket) good() bool {
	_, ok := s.g.recheck(s.caller)
	return ok
}

// notify passes a notification of a node to the client.
func (s *socket) notify(text []byte) {
	switch {
	case !s.good():
		s.end(websocket.StatusPolicyViolation, s.refusal())
	case errors.Is(s.out.push(text, false), errSlow):
		s.end(websocket.StatusPolicyViolation, closeSlow)
	}
}

// writeAll writes what is queued until the connection ends.
func (s *socket) writeAll(ctx context.Context) {
	for {
		text, ok := s.out.pop()
		if !ok {
			return
		}
		writing, cancel := context.WithTimeout(ctx, socketWrite)
		err := s.conn.Write(writing, websocket.MessageText, text)
		cancel()
		if err != nil {
			s.end(websocket.StatusPolicyViolation, closeSlow)
			s.cancel()
			return
		}
	}
}

// ping notices clients that went away without a word.
func (s *socket) ping(ctx context.Context) {
	tick := time.NewTicker(socketPing)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// While all slots are taken nothing is read, the pong neither.
		waiting, cancel := context.WithTimeout(ctx, s.g.cfg.UpstreamTimeout+socketWrite)
		err := s.conn.Ping(waiting)
		cancel()
		if err != nil {
			s.cancel()
			return
		}
	}
}

var (
	errSlow   = errors.New("reader is too slow")
	errClosed = errors.New("connection has ended")
)

// queue holds messages that wait to be written, up to a number of bytes. A
// message larger than that passes when it is alone.
type queue struct {
	limit int

	mu     sync.Mutex
	change sync.Cond
	items  [][]byte
	bytes  int
	closed bool
}

func newQueue(limit int) *queue {
	q := &queue{limit: limit}
	q.change.L = &q.mu
	return q
}

// itemCost is added to a message's length, so that small ones are bounded too.
const itemCost = 64

// push adds a message. If there is no room it waits, or returns errSlow.
func (q *queue) push(text []byte, wait bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	cost := len(text) + itemCost
	for !q.closed && q.bytes > 0 && q.bytes+cost > q.limit {
		if !wait {
			return errSlow
		}
		q.change.Wait()
	}
	if q.closed {
		return errClosed
	}
	q.items = append(q.items, text)
	q.bytes += cost
	q.change.Broadcast()
	return nil
}

// pop removes the oldest message and waits for one if there is none. Not ok
// means that the queue was closed.
func (q *queue) pop() (text []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && len(q.items) == 0 {
		q.change.Wait()
	}
	if q.closed {
		return nil, false
	}
	text = q.items[0]
	q.items[0] = nil
	q.items = q.items[1:]
	q.bytes -= len(text) + itemCost
	q.change.Broadcast()
	return text, true
}

// settle waits until nothing is left in the queue.
func (q *queue) settle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && len(q.items) > 0 {
		q.change.Wait()
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.items = nil
	q.change.Broadcast()
}
