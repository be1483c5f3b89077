package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// feedHeld is how many notifications are kept for a client that has not been
// told its subscription's id yet.
const feedHeld = 1024

// feed is a WebSocket connection to a node, which serves the subscriptions of
// one client's connection.
type feed struct {
	node   *node
	conn   *websocket.Conn
	client *socket
	cancel context.CancelFunc

	mu      sync.Mutex
	last    uint64                   // id of the newest request
	waiting map[uint64]chan reaction // requests without an answer yet
	subs    map[string]*subscription // and filters, by the node's id for it, quotes included
	closed  bool
}

// reaction is what a request on a feed brought.
type reaction struct {
	answer
	opened *subscription
}

// subscription is a stream of notifications that a client asked for.
type subscription struct {
	mu      sync.Mutex
	started bool
	held    [][]byte // what came before the client knew the id
}

// start passes on what was held. From then on notifications go out at once.
func (s *subscription) start(out *queue) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	for _, text := range s.held {
		if err := out.push(text, false); err != nil {
			return err
		}
	}
	s.held = nil
	return nil
}

// offer passes a notification on, or holds it.
func (s *subscription) offer(text []byte, client *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.started:
		client.notify(text)
	case len(s.held) < feedHeld:
		s.held = append(s.held, text)
	default:
		client.end(websocket.StatusPolicyViolation, closeSlow)
	}
}

// openFeed connects a client to the first node that offers a WebSocket.
func openFeed(ctx context.Context, p *pool, client *socket) (*feed, error) {
	var room [8]*node
	last := errors.New("no node offers a WebSocket now")
	for _, n := range p.candidates(room[:0]) {
		if n.endpoint.WS == "" {
			continue
		}
		life, alive := n.alive()
		if !alive {
			continue
		}
		conn, _, err := websocket.Dial(ctx, n.endpoint.WS, &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: n.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		})
		if err != nil {
			last = fmt.Errorf("connect to the node in %s: %w", n.city, err)
			continue
		}
		conn.SetReadLimit(client.g.cfg.MaxResponseBytes)
		reading, cancel := context.WithCancel(life)
		f := &feed{
			node: n, conn: conn, client: client, cancel: cancel,
			waiting: map[uint64]chan reaction{}, subs: map[string]*subscription{},
		}
		go f.run(reading)
		return f, nil
	}
	return nil, last
}

// run reads from the node until the connection or the node's life ends, which
// ends the client's connection too: it has to subscribe again.
func (f *feed) run(ctx context.Context) {
	defer f.close()
	for {
		_, text, err := f.conn.Read(ctx)
		if err != nil {
			f.client.end(websocket.StatusServiceRestart, closeUpstream)
			return
		}
		r, err := parseResponse(text)
		switch {
		case err != nil:
			f.client.end(websocket.StatusServiceRestart, closeUpstream)
			return
		case r.method != nil:
			f.notification(r, text)
		case r.id != nil:
			f.response(r)
		}
	}
}

func (f *feed) notification(r response, text []byte) {
	var id []byte
	if len(r.params) > 0 && r.params[0] == '{' {
		// The text has been scanned before, so that this walk cannot fail.
		_, _ = scanObject(r.params, 0, maxAnswerDepth, func(name, value []byte) error {
			if string(name) == `"subscription"` {
				id = value
			}
			return nil
		})
	}
	f.mu.Lock()
	sub := f.subs[string(id)]
	f.mu.Unlock()
	if sub != nil {
		sub.offer(text, f.client)
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
	waiting, ok := f.waiting[id]
	if !ok {
		return
	}
	delete(f.waiting, id)
	re := reaction{answer: a}
	if a.failure == nil && len(a.result) > 0 && a.result[0] == '"' {
		// Entered here, before the next message of the node is looked at.
		re.opened = &subscription{}
		f.subs[string(a.result)] = re.opened
	}
	waiting <- re
}

// call asks the node to begin or end a subscription.
func (f *feed) call(ctx context.Context, m message) (opened *subscription, a answer, err error) {
	reply := make(chan reaction, 1)
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, a, errClosed
	}
	f.last++
	id := f.last
	f.waiting[id] = reply
	f.mu.Unlock()
	if err := f.conn.Write(ctx, websocket.MessageText, appendRequest(nil, id, m.method, m.params)); err != nil {
		return nil, a, err
	}
	select {
	case r := <-reply:
		if ends(m.method) && string(r.result) == "true" {
			f.drop(m.params)
		}
		return r.opened, r.answer, nil
	case <-ctx.Done():
		return nil, a, ctx.Err()
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
	_ = f.conn.CloseNow()
}
