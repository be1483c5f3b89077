package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// feed is a WebSocket connection to a node, with calls and subscriptions on it; or
// the node alone, to be asked again and again, if it offers no WebSocket.
type feed struct {
	node  *node
	conn  *websocket.Conn // nil if the node is asked
	limit int64           // of an answer
	// gone ends when the connection or the node's life does.
	gone   context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	last    uint64           // id of the newest request
	waiting map[uint64]asked // requests without an answer yet
	subs    map[string]heard // subscriptions and filters by the node's id for it, quotes included
	closed  bool
}

// asked is a request that waits for its answer.
type asked struct {
	reply chan answer
	on    heard
}

// heard takes a notification: its whole text, and the result in it.
type heard func(text, result []byte)

var errNoSocket = errors.New("no node offers a WebSocket now")

// feedClient opens the connections to nodes. It follows no redirect: a node does
// not choose where the gateway calls.
var feedClient = &http.Client{
	Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// openFeed connects to the first node of a chain that offers a WebSocket; to the
// one to avoid only if there is no other. Limit is of a message, in bytes.
func openFeed(ctx context.Context, p *pool, avoid *node, limit int64) (*feed, error) {
	var room [8]*node
	last := errNoSocket
	nodes := slices.Clone(p.candidates(room[:0]))
	slices.SortStableFunc(nodes, func(a, b *node) int { return btoi(a == avoid) - btoi(b == avoid) })
	for _, n := range nodes {
		if n.reached().WS == "" {
			continue
		}
		life, alive := n.alive()
		if !alive {
			continue
		}
		f, err := dialFeed(ctx, life, n, limit)
		if err == nil {
			return f, nil
		}
		last = fmt.Errorf("connect to the node in %s: %w", n.city, err)
	}
	return nil, last
}

// askFeed is a feed of the first node that answers at all, such as a provider's.
func askFeed(p *pool, limit int64) (*feed, bool) {
	var room [8]*node
	for _, n := range p.candidates(room[:0]) {
		if life, alive := n.alive(); alive {
			f := &feed{node: n, limit: limit}
			f.gone, f.cancel = context.WithCancel(life)
			return f, true
		}
	}
	return nil, false
}

// asks tells whether the node is asked, since it tells nothing by itself.
func (f *feed) asks() bool { return f.conn == nil }

func dialFeed(ctx, life context.Context, n *node, limit int64) (*feed, error) {
	conn, err := dialNode(ctx, n.reached().WS, n.introduction(ctx))
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(limit)
	f := &feed{node: n, conn: conn, limit: limit, waiting: map[uint64]asked{}, subs: map[string]heard{}}
	f.gone, f.cancel = context.WithCancel(life)
	go f.run()
	return f, nil
}

// dialNode opens a WebSocket. To be given: what goes with the request for it.
func dialNode(ctx context.Context, url string, header http.Header) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, feedDial)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: feedClient, HTTPHeader: header})
	return conn, err
}

// feedDial is how long a connection to a node may take.
const feedDial = 5 * time.Second

// run reads from the node until the connection or the node's life ends.
func (f *feed) run() {
	defer f.close()
	for {
		_, text, err := f.conn.Read(f.gone)
		if err != nil {
			return
		}
		r, err := parseResponse(text)
		switch {
		case err != nil:
			return
		case r.method != nil:
			f.notification(r, text)
		case r.id != nil:
			f.response(r)
		}
	}
}

func (f *feed) notification(r response, text []byte) {
	var id, result []byte
	if len(r.params) > 0 && r.params[0] == '{' {
		// The text has been scanned before, so that this walk cannot fail.
		_, _ = scanObject(r.params, 0, maxAnswerDepth, func(name, value []byte) error {
			switch string(name) {
			case `"subscription"`:
				id = value
			case `"result"`:
				result = value
			}
			return nil
		})
	}
	f.mu.Lock()
	on := f.subs[string(id)]
	f.mu.Unlock()
	if on != nil {
		on(text, result)
	}
}

func (f *feed) response(r response) {
	id, err := strconv.ParseUint(string(r.id), 10, 64)
	if err != nil {
		return
	}
	a, err := r.answer()
	if err != nil {
		a = refuse(outcomeUnavailable, codeInternal, "node's answer is malformed")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w, ok := f.waiting[id]
	if !ok {
		return
	}
	delete(f.waiting, id)
	if w.on != nil && a.failure == nil && len(a.result) > 0 && a.result[0] == '"' {
		// Entered here, before the next message of the node is looked at.
		f.subs[string(a.result)] = w.on
	}
	w.reply <- a
}

// call asks the node. If the answer is a subscription's or a filter's id, what the
// node notifies of it goes to on.
func (f *feed) call(ctx context.Context, method string, params []byte, on heard) (answer, error) {
	if f.asks() {
		return f.node.ask(ctx, appendRequest(nil, 1, method, params), f.limit)
	}
	reply := make(chan answer, 1)
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return answer{}, errClosed
	}
	f.last++
	id := f.last
	f.waiting[id] = asked{reply, on}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.waiting, id)
		f.mu.Unlock()
	}()
	if err := f.conn.Write(ctx, websocket.MessageText, appendRequest(nil, id, method, params)); err != nil {
		return answer{}, err
	}
	select {
	case a := <-reply:
		if ends(method) && string(a.result) == "true" {
			f.drop(params)
		}
		return a, nil
	case <-f.gone.Done():
		return answer{}, errClosed
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// begins and ends tell which methods of class subscribe make a node keep
// something for the client: a subscription, or a filter that is asked for changes.
func begins(method string) bool {
	_, name, _ := strings.Cut(method, "_")
	return name == "subscribe" || strings.HasPrefix(name, "new")
}

func ends(method string) bool {
	_, name, _ := strings.Cut(method, "_")
	return name == "unsubscribe" || name == "uninstallFilter"
}

// drop forgets the subscription or filter that the params of a call name.
func (f *feed) drop(params []byte) {
	if len(params) == 0 || params[0] != '[' {
		return
	}
	_, _ = scanArray(params, 0, maxRequestDepth, func(value []byte) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, string(value))
		return nil
	})
}

// count is the number of open subscriptions and filters.
func (f *feed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

// close ends the connection to the node.
func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	if f.conn != nil {
		_ = f.conn.CloseNow()
	}
}
