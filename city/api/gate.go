package api

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	"golang.org/x/time/rate"

	"github.com/openbsn/bsn"
)

// What one caller, and all callers of one operator or portal together, may take of
// a city at a time. The city's own gateway is not bound by it.
const (
	callerPerSecond = 400 // requests, averaged over ten seconds
	callerRunning   = 256 // requests at a time, streams among them
	callerStreams   = 16  // that go on until the caller ends them
	callerBytes     = 16 << 20
	callerConns     = 2 * callerRunning
	// groupFactor is how many times that all callers of a group may take together.
	groupFactor = 8

	// Requests that nobody signed: applications to join.
	unsignedPerSecond = 10
	unsignedRunning   = 16
	maxUnsigned       = 64 << 10

	// maxStrangers is how many connections may be open on which nobody has shown yet
	// who they are. One more ends the oldest of them: an honest one is a stranger for
	// some milliseconds only.
	maxStrangers = 256
)

// Gate bounds what callers take of a city's API, so that one of them, or anyone
// who finds the port, does not take what the others need.
type Gate struct {
	mu        sync.Mutex
	callers   map[string]*taken
	conns     map[net.Conn]*conn
	unsigned  taken
	strangers list.List // of *conn, oldest first
}

// taken is what a caller, or a group of them, has now.
type taken struct {
	rate             *rate.Limiter
	running, streams int
	bytes            int64
	conns            list.List // of *conn, oldest first
}

// conn is one connection: of a stranger until a request on it was proven to be
// somebody's.
type conn struct {
	net.Conn
	in    *list.List // strangers, or a caller's
	place *list.Element
}

type connKey struct{}

// Guard makes a server keep to the gate.
func (g *Gate) Guard(s *http.Server) {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, g.open(c))
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			g.closed(c)
		}
	}
}

// open takes in a new connection.
func (g *Gate) open(c net.Conn) *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.strangers.Len() >= maxStrangers {
		g.end(&g.strangers)
	}
	n := &conn{Conn: c, in: &g.strangers}
	n.place = g.strangers.PushBack(n)
	if g.conns == nil {
		g.conns = map[net.Conn]*conn{}
	}
	g.conns[c] = n
	return n
}

// end closes the oldest connection of a list. It needs mu.
func (g *Gate) end(of *list.List) {
	oldest := of.Front().Value.(*conn)
	g.forget(oldest)
	go oldest.Close() // which may take as long as it takes
}

// forget needs mu.
func (g *Gate) forget(n *conn) {
	if n.in != nil {
		n.in.Remove(n.place)
		n.in = nil
	}
	delete(g.conns, n.Conn)
}

// closed forgets a connection.
func (g *Gate) closed(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.conns[c]; n != nil {
		g.forget(n)
	}
}

// known notes whose a connection is. Who has too many loses the oldest.
func (g *Gate) known(ctx context.Context, c Caller) {
	n, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.in != &g.strangers { // known already, or ended
		return
	}
	g.strangers.Remove(n.place)
	t := g.of(c.id(), 1)
	n.in = &t.conns
	n.place = t.conns.PushBack(n)
	if t.conns.Len() > callerConns && !c.Gateway {
		g.end(&t.conns)
	}
}

// Connections counts the open ones, of callers that have shown who they are and of
// others.
func (g *Gate) Connections() (known, strangers int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns) - g.strangers.Len(), g.strangers.Len()
}

// id names a caller.
func (c Caller) id() string {
	if c.Gateway {
		return "gateway"
	}
	return string(c.Kind) + "/" + c.Name
}

// group names those who share what they may take: an operator with its cities, a
// portal with its accounts.
func (c Caller) group() string {
	switch c.Kind {
	case bsn.KindCity:
		return "operator " + c.Parent
	case bsn.KindAccount:
		return "portal " + c.Parent
	}
	return string(c.Kind) + " " + c.Name
}

// of needs mu. Callers are few: those of the ledger.
func (g *Gate) of(id string, factor int) *taken {
	t := g.callers[id]
	if t == nil {
		t = &taken{rate: rate.NewLimiter(rate.Limit(callerPerSecond*factor), 10*callerPerSecond*factor)}
		if g.callers == nil {
			g.callers = map[string]*taken{}
		}
		g.callers[id] = t
	}
	return t
}

// enter lets a caller's request in, or says why not. Leave is to be called once
// it has been answered.
func (g *Gate) enter(c Caller, bytes int64, stream bool) (leave func(), err error) {
	if c.Gateway {
		return func() {}, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if bytes < 0 {
		bytes = maxBody
	}
	own, all := g.of(c.id(), 1), g.of(c.group(), groupFactor)
	for _, b := range []struct {
		*taken
		who    string
		factor int
	}{{own, fmt.Sprintf("%s %q", c.Kind, c.Name), 1}, {all, "those of " + c.group() + " together", groupFactor}} {
		switch {
		case b.running >= callerRunning*b.factor:
			return nil, fmt.Errorf("%w: %s may have %d at a time", errTooMany, b.who, callerRunning*b.factor)
		case stream && b.streams >= callerStreams*b.factor:
			return nil, fmt.Errorf("%w: %s may have %d streams at a time", errTooMany, b.who, callerStreams*b.factor)
		case b.bytes+bytes > int64(callerBytes*b.factor):
			return nil, fmt.Errorf("%w: %s may have %d bytes of them at a time", errTooMany, b.who, callerBytes*b.factor)
		case !b.rate.Allow():
			return nil, fmt.Errorf("%w: %s may make %d a second", errTooMany, b.who, callerPerSecond*b.factor)
		}
	}
	count := func(by int) {
		for _, t := range []*taken{own, all} {
			t.running += by
			t.bytes += int64(by) * bytes
			if stream {
				t.streams += by
			}
		}
	}
	count(1)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		count(-1)
	}, nil
}

// enterUnsigned lets a request in that nobody signed.
func (g *Gate) enterUnsigned() (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unsigned.rate == nil {
		g.unsigned.rate = rate.NewLimiter(unsignedPerSecond, 10*unsignedPerSecond)
	}
	if g.unsigned.running >= unsignedRunning || !g.unsigned.rate.Allow() {
		return nil, fmt.Errorf("%w: there are many applications", errTooMany)
	}
	g.unsigned.running++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.unsigned.running--
	}, nil
}
