package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/openbsn/bsn/gateway/http1"
)

const (
	// socketCalls is how many calls of one connection run at once; while so many
	// do, no more is read from it.
	socketCalls = 32

	socketWrite = 20 * time.Second // for one message to go out
	socketClose = 5 * time.Second  // for both sides to take leave
	socketPing  = 30 * time.Second // of silence, after which a client is asked whether it is there
	socketTick  = time.Second      // between two looks at all connections
)

// Reasons for which the gateway closes a WebSocket.
const (
	closeDraining  = "gateway stops: connect again"
	closeReplaced  = "gateway is replaced by a newer one: connect again"
	closeUncounted = "gateway cannot count what it sends: connect again later, or to another city"
	closeSlow      = "client reads too slowly"
	closeChanged   = "restrictions of the key have changed: connect again"
	closeAlone     = "the ledger has not been heard of for too long: connect again later, or to another city"
	closeMemory    = "gateway has no memory for this now: connect again later, or to another city"
	closeUpstream  = "node was lost: connect and subscribe again"
)

// socket is one client's WebSocket connection. While nothing happens on it, it is
// one goroutine that reads.
type socket struct {
	g      *Gateway
	conn   net.Conn
	in     frames
	out    queue
	caller caller
	chain  string
	slots  chan struct{}

	ctx      context.Context
	cancel   context.CancelFunc
	ending   sync.Once
	retiring sync.Once
	pinged   atomic.Bool // since the client last sent anything

	subscribing sync.Mutex

	mu     sync.Mutex
	over   bool
	subs   map[string]*subscription // by id, quotes included
	opened chan struct{}            // ends when the newest of them is level
	feed   *feed                    // the connection to a node of its own; nil unless it is needed
}

// serveSocket upgrades to a WebSocket, on which each message goes the same way
// as one over HTTP. Any origin may connect: unlike a cookie, the key that makes
// the request good is nothing that a browser would add by itself.
//
// It needs no more of w than that it can be hijacked, and returns at once: the
// connection goes on by itself, and holds nothing of the request.
func (g *Gateway) serveSocket(w http.ResponseWriter, r *http.Request) {
	c, p, bad, ok := g.admitRequest(r)
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	g.left(c).tell(w.Header())
	conn, reader, err := upgrade(w, r)
	if err != nil {
		return // upgrade has answered
	}
	s := &socket{g: g, conn: conn, caller: c, chain: p.chain.Name, slots: make(chan struct{}, socketCalls)}
	s.in.r, s.in.limit, s.in.room = reader, g.cfg.MaxRequestBytes, g.memory
	s.in.heard.Store(time.Now().UnixNano())
	s.out.init(socketQueue, g.memory)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	g.open.Add(1)
	g.sockets.Store(s, nil)
	g.meter.sockets.Inc()
	g.look(s)
	go s.run()
}

// run serves the connection until it ends.
func (s *socket) run() {
	defer s.g.open.Done()
	defer s.g.meter.sockets.Dec()
	defer s.g.sockets.Delete(s)
	var calls sync.WaitGroup
	for {
		text, err := s.in.next(s.control)
		if err != nil {
			s.leaveFor(err)
			break
		}
		s.slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-s.slots }()
			s.handle(text)
		})
	}
	s.out.settle() // the frame that closes
	s.out.close()
	s.cancel()
	s.conn.Close()
	s.mu.Lock()
	s.over = true
	subs, feed := s.subs, s.feed
	s.subs = nil
	s.mu.Unlock()
	for _, sub := range subs {
		sub.drop()
	}
	if feed != nil {
		feed.close()
	}
	calls.Wait()
}

// control takes in a frame that is no message.
func (s *socket) control(op ws.OpCode, payload []byte) error {
	switch op {
	case ws.OpPing:
		return s.push(outgoing{op: ws.OpPong, text: payload}, true)
	case ws.OpClose:
		code, _ := ws.ParseCloseFrameData(payload)
		if code == 0 || ws.CheckCloseFrameData(code, "") != nil {
			code = ws.StatusNormalClosure
		}
		s.end(websocket.StatusCode(code), "")
		return errLeft
	}
	return nil
}

// leaveFor ends the connection, because nothing more can be read.
func (s *socket) leaveFor(err error) {
	var c *closing
	if errors.As(err, &c) {
		s.end(c.code, c.reason)
		// What the client still sends has to be taken, or else the kernel resets the
		// connection and the reason is lost. The end has set a deadline.
		_, _ = io.Copy(io.Discard, s.in.r)
		return
	}
	s.end(websocket.StatusNormalClosure, "")
}

// end closes the connection, once, with a reason that the client sees. What waits
// is dropped. The client is given a moment to take leave; then the reading ends,
// and with it everything.
func (s *socket) end(code websocket.StatusCode, reason string) {
	s.endFor(&ending{code: code, reason: reason})
}

// endFor is end. With a last message what waits goes out before it, since it has been
// paid for.
func (s *socket) endFor(e *ending) {
	s.ending.Do(func() {
		if s.out.finish(e.code, e.reason, e.last) {
			go s.writeAll()
		}
		_ = s.conn.SetDeadline(time.Now().Add(socketClose)) // it fails if the connection is gone
	})
}

// retire lets the calls that were sent finish, and then has the client connect anew.
func (s *socket) retire() {
	for range socketCalls {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
	}
	s.out.settle()
	s.end(websocket.StatusServiceRestart, closeReplaced)
}

// handle answers one message.
func (s *socket) handle(text []byte) {
	defer func() {
		// As in an HTTP handler, one bad call must not end all others.
		if r := recover(); r != nil {
			s.g.log.Error("call failed", "chain", s.chain, "panic", r, "stack", string(debug.Stack()))
			s.end(websocket.StatusInternalError, "internal error")
		}
	}()
	var opened []opening
	if s.reply(text, &opened) != nil {
		return
	}
	// Only now does the client know the subscription's id.
	for _, begin := range opened {
		if err := begin(s.ctx); err != nil && s.ctx.Err() == nil {
			s.end(websocket.StatusServiceRestart, closeReason(err))
		}
	}
}

// reply answers one message, if there is memory for that.
func (s *socket) reply(text []byte, opened *[]opening) error {
	taken, bad, ok := s.g.memory.enter(len(text))
	var reply []byte
	if ok {
		defer s.g.memory.Give(taken)
		reply = s.answer(s.ctx, text, opened)
	} else {
		m, _, _ := parseMessage(text)
		reply = appendReply(nil, m.id, bad)
	}
	if reply == nil {
		return nil
	}
	defer s.g.memory.letGo(s.g.memory.hold(reply))
	return s.push(outgoing{op: ws.OpText, text: reply}, true)
}

// closeReason is an error as a close frame holds it, which has room for 123 bytes.
func closeReason(err error) string {
	text := "subscription cannot go on: " + err.Error()
	return text[:min(len(text), 120)]
}

func (s *socket) answer(ctx context.Context, text []byte, opened *[]opening) []byte {
	// The key and the chain are looked up anew for each message, so that what the
	// ledger changed holds for connections that are already open.
	c, bad, ok := s.g.recheck(s.caller)
	if !ok {
		s.endFor(endRefused(bad))
		return nil
	}
	p, bad, ok := s.g.route(s.chain)
	if !ok {
		return appendReply(nil, nil, bad)
	}
	subscribe := func(ctx context.Context, p *pool, m message) answer { return s.subscribe(ctx, p, m, opened) }
	if start := skipSpace(text, 0); start < len(text) && text[start] == '[' {
		out, _, _ := s.g.batch(ctx, c, p, text, subscribe)
		return out
	}
	m, bad, ok := parseMessage(text)
	if !ok {
		return appendReply(nil, m.id, bad)
	}
	a := s.g.call(ctx, c, p, m, subscribe)
	defer s.g.memory.letGo(a.held)
	if m.id == nil {
		return nil
	}
	return appendReply(nil, m.id, a)
}

// push queues a message, and starts the writer if there is none.
func (s *socket) push(o outgoing, wait bool) error {
	start, err := s.out.push(o, wait)
	if start {
		go s.writeAll()
	}
	return err
}

// recheckSockets ends the connections of callers that are not let in any more.
func (g *Gateway) recheckSockets() {
	g.sockets.Range(func(one, _ any) bool {
		s := one.(*socket)
		if against := s.against(); against != nil {
			s.endFor(against)
		}
		return true
	})
	g.lookAtStreams()
}

// against is why the caller would not be let in any more, or not as before: what was
// subscribed to under other restrictions does not go on. Nil: nothing.
func (s *socket) against() *ending { return s.g.againstOpen(s.caller) }

func (g *Gateway) againstOpen(before caller) *ending {
	c, bad, ok := g.recheck(before)
	switch {
	case !ok:
		return endRefused(bad)
	case c.project != before.project && !reflect.DeepEqual(c.key.Restrictions, before.key.Restrictions):
		return &ending{code: websocket.StatusPolicyViolation, reason: closeChanged}
	}
	return nil
}

// pass queues a notification, whose bytes others may have too.
func (s *socket) pass(sub *subscription, text []byte, wait bool) error {
	return s.push(outgoing{op: ws.OpText, text: text, sub: sub}, wait)
}

// notify passes a notification to a client that keeps up, and lets go of one that
// does not. Whether the client may still be told is looked at when the ledger says
// something new, and every second.
func (s *socket) notify(sub *subscription, text []byte) {
	switch err := s.pass(sub, text, false); {
	case errors.Is(err, errSlow):
		s.end(websocket.StatusPolicyViolation, closeSlow)
	case errors.Is(err, errMemory):
		s.end(websocket.StatusTryAgainLater, closeMemory)
	}
}

// writeBuffers hold what is written at once.
var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 2*writeChunk); return &b }}

// writeAll writes what waits, and ends when nothing does.
func (s *socket) writeAll() {
	buffer := writeBuffers.Get().(*[]byte)
	defer writeBuffers.Put(buffer)
	for {
		text, large, last, ok := s.out.take((*buffer)[:0])
		if !ok {
			return
		}
		allowed := socketWrite
		if last {
			allowed = socketClose
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(allowed)) // what follows fails too, then
		_, err := s.conn.Write(text)
		if err == nil && large != nil {
			_, err = s.conn.Write(large)
		}
		if err != nil {
			s.out.close()
			s.conn.Close()
			return
		}
	}
}

// tend looks after all connections until ctx ends: whether the clients are there,
// and whether they may be.
func (g *Gateway) tend(ctx context.Context) {
	tick := time.NewTicker(socketTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.lookAll()
			g.memory.relax()
		}
	}
}

func (g *Gateway) lookAll() {
	g.sockets.Range(func(s, _ any) bool { g.look(s.(*socket)); return true })
	g.lookAtStreams()
}

// look is one look at one connection.
func (g *Gateway) look(s *socket) {
	if g.replaced.Err() != nil {
		s.retiring.Do(func() { go s.retire() })
	}
	silent := time.Since(time.Unix(0, s.in.heard.Load()))
	against := s.against()
	switch {
	case g.draining.Err() != nil:
		s.end(websocket.StatusGoingAway, closeDraining)
	case g.hearing().Err() != nil:
		s.end(websocket.StatusTryAgainLater, closeAlone)
	case against != nil:
		s.endFor(against)
	case len(s.slots) == cap(s.slots) && http1.Gone(s.conn):
		s.cancel() // nothing is read that would tell
	case silent > socketPing+g.cfg.UpstreamTimeout+socketWrite:
		// While all slots are taken nothing is read, the pong neither.
		s.conn.Close()
	case silent > socketPing:
		if !s.pinged.Swap(true) {
			_ = s.push(outgoing{op: ws.OpPing}, false)
		}
	default:
		s.pinged.Store(false)
	}
}
