package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

// serveNeighbourSocket connects another city's gateway with the city's own node, for
// subscriptions: one for all clients that the other gateway has. It tells the node
// nothing but reads and subscriptions that are in the chain's table, and looks at what
// comes back only to stop when the other city is no member any more.
func (g *Gateway) serveNeighbourSocket(w http.ResponseWriter, r *http.Request) {
	from, ok := g.neighbour(w, r)
	if !ok {
		return
	}
	select {
	case g.neighbours.sockets <- struct{}{}:
		defer func() { <-g.neighbours.sockets }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many connections of other cities at once", http.StatusServiceUnavailable)
		return
	}
	p, bad, ok := g.route(r.PathValue("chain"))
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	n := g.ownNode(p)
	if n == nil || n.endpoint.WS == "" {
		http.Error(w, errNoOwnNode.Error(), http.StatusBadGateway)
		return
	}
	life, alive := n.alive()
	if !alive {
		http.Error(w, "the node of this city does not answer", http.StatusBadGateway)
		return
	}
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	defer context.AfterFunc(g.draining, cancel)()
	node, err := dialNode(ctx, n.endpoint.WS, nil)
	if err != nil {
		http.Error(w, "the node of this city does not answer", http.StatusBadGateway)
		return
	}
	defer node.CloseNow()
	node.SetReadLimit(g.cfg.MaxResponseBytes)
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(g.cfg.MaxRequestBytes)
	goesOn := func() bool { return g.isNeighbour(from) && !n.cordoned.Load() }
	go func() {
		defer cancel()
		for goesOn() {
			_, text, err := node.Read(ctx)
			if err != nil || !goesOn() || write(ctx, conn, text) != nil {
				return
			}
		}
	}()
	for goesOn() {
		_, text, err := conn.Read(ctx)
		if err != nil || !goesOn() {
			return
		}
		m, a, ok := parseMessage(text)
		id := uint64(0)
		if ok {
			if id, err = strconv.ParseUint(string(m.id), 10, 64); err != nil { // gateways count their requests
				a, ok = refuse(outcomeMalformed, codeRequest, "ids are numbers between cities"), false
			}
		}
		if ok {
			a, ok = g.relays(from, p, m)
		}
		if ok {
			p.touch(time.Now())
			err = write(ctx, node, appendRequest(nil, id, m.method, m.params))
		} else {
			err = write(ctx, conn, appendReply(nil, m.id, a))
		}
		if err != nil {
			return
		}
	}
}

// relays tells whether another city's gateway may ask the own node this on a WebSocket.
func (g *Gateway) relays(from string, p *pool, m message) (answer, bool) {
	method, known := p.methods.Methods[m.method]
	if !known || method.Class != bsn.MethodRead && method.Class != bsn.MethodSubscribe {
		return refuse(outcomeRefused, codeMethod, "the method %s is not forwarded between cities on a WebSocket", clipName(m.method)), false
	}
	g.neighbours.calls.WithLabelValues(from, p.chain.Name, string(method.Class)).Inc()
	return g.together(method.Class)
}

// relayTime is how long the other side may take to read a message.
const relayTime = 20 * time.Second

func write(ctx context.Context, to *websocket.Conn, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	return to.Write(ctx, websocket.MessageText, text)
}
