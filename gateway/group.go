package gateway

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/coder/websocket"
)

// group are the subscribers of one tail that hear the same: heads, logs of the
// same filter, or what a node is asked to tell in the same words.
type group struct {
	tail   *tail
	key    string
	filter *filter // of logs
	// relay are the params with which a node is asked for what is passed on as it
	// comes, without a place in the chain; nil for heads and logs. Upstream is the
	// id, quotes included, once it has been asked.
	relay    []byte
	upstream string
	refusal  []byte          // the node's error, if it does not
	units    int             // of each notification
	members  int             // those who are not level yet included
	subs     []*subscription // those who are level
	payers   map[payerKey]*payer
}

// payer is who is charged for the notifications of so many of a group.
type payer struct {
	caller *caller
	count  int
}

type payerKey struct{ project, key string }

func (s *subscription) payer() payerKey {
	return payerKey{s.socket.caller.id, s.socket.caller.key.Hash}
}

// catchUp is how many blocks are handed to a subscriber at once that is not level.
const catchUp = 16

// join enters a subscription in its group, whose key says what it hears.
func (t *tail) join(s *subscription, g group) {
	t.mu.Lock()
	in := t.groups[g.key]
	if in == nil {
		g.tail = t
		in = &g
		t.groups[g.key] = in
	}
	in.members++
	s.group, s.index = in, -1
	t.wanted = t.wanted || g.filter != nil
	t.mu.Unlock()
	t.wake()
}

// leave takes a subscription out.
func (t *tail) leave(s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	g := s.group
	if i := s.index; i >= 0 {
		last := len(g.subs) - 1
		g.subs[i] = g.subs[last]
		g.subs[i].index = i
		g.subs[last] = nil
		g.subs = g.subs[:last]
		if p := g.payers[s.payer()]; p.count > 1 {
			p.count--
		} else {
			delete(g.payers, s.payer())
		}
	}
	if g.members--; g.members == 0 {
		delete(t.groups, g.key)
		if g.upstream != "" {
			t.dropped = append(t.dropped, g.upstream)
			t.wake()
		}
	}
}

// attach makes a subscription hear everything from now on.
func (g *group) attach(s *subscription) {
	s.index = len(g.subs)
	g.subs = append(g.subs, s)
	if g.payers == nil {
		g.payers = map[payerKey]*payer{}
	}
	if p := g.payers[s.payer()]; p != nil {
		p.count++
	} else {
		g.payers[s.payer()] = &payer{&s.socket.caller, 1}
	}
}

// charge counts notifications before they go out: one row for all of a key.
// What cannot be counted, or is beyond the quota, must not go out.
func (g *group) charge(c *caller, notifications int) *ending {
	return g.tail.g.chargeNotices(c, g.tail.chain, notifications*g.units)
}

// refuse notes that the node does not tell this group anything.
func (g *group) refuse(failure []byte) {
	g.refusal = failure
	for _, s := range g.subs { // to whom another node had told it
		s.socket.end(websocket.StatusServiceRestart, closeUpstream)
	}
}

// relay asks the node for what is passed on as it comes, and ends what nobody
// needs any more.
func (t *tail) relay(ctx context.Context, f *feed) error {
	var ask []*group
	t.mu.Lock()
	dropped := t.dropped
	t.dropped = nil
	for _, g := range t.groups {
		if g.relay != nil && g.upstream == "" && g.refusal == nil {
			ask = append(ask, g)
		}
	}
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, tailAsk)
	defer cancel()
	for _, id := range dropped {
		if f.asks() {
			break
		}
		if _, err := f.call(ctx, t.namespace+"_unsubscribe", []byte("["+id+"]"), nil); err != nil {
			return err
		}
	}
	for _, g := range ask {
		if f.asks() {
			none := refuse(outcomeUnavailable, codeUnavailable, "no node of chain %s tells of this by itself now", t.chain)
			t.set(func() { g.refuse(none.failure) })
			continue
		}
		a, err := f.call(ctx, t.namespace+"_subscribe", g.relay, func(_, result []byte) {
			t.mu.Lock()
			defer t.mu.Unlock()
			g.send([][]byte{append(append([]byte(nil), result...), "}}"...)}, 0)
		})
		if err != nil {
			return err
		}
		t.set(func() {
			if a.failure != nil {
				g.refuse(a.failure)
				return
			}
			if g.upstream = string(a.result); g.members == 0 {
				t.dropped = append(t.dropped, g.upstream)
			}
		})
	}
	return nil
}

// tell sends what a block brings, or takes back, to all who are level.
func (t *tail) tell(b *block, removed bool) {
	texts := map[int][]byte{} // of logs, shared between the groups
	var heads *group
	for _, g := range t.groups {
		switch {
		case g.relay != nil:
		case g.filter == nil:
			heads = g
		case removed:
			g.send(g.taken(b, len(b.entries), texts), 0)
		default:
			g.send(g.brought(b, 0, texts), b.number)
		}
	}
	// The head comes after the logs, so that who has heard it has heard of all.
	if heads != nil && !removed {
		heads.send(heads.brought(b, 0, nil), b.number)
	}
}

// brought lists what a subscriber hears of a block of which it has heard of the
// first so many logs.
func (g *group) brought(b *block, from int, texts map[int][]byte) [][]byte {
	if g.filter == nil {
		return [][]byte{notice(b.head, b.after())}
	}
	if !g.filter.covers(b.number) {
		return nil
	}
	var out [][]byte
	for i := range b.entries {
		e := &b.entries[i]
		if e.index >= from && g.filter.match(e) {
			out = append(out, shared(texts, i, func() []byte { return notice(e.text, position{b.number, b.hash, e.index + 1}) }))
		}
	}
	return out
}

// taken lists what is taken back of a block that is abandoned, and of which a
// subscriber has heard of the first so many logs, or of all.
func (g *group) taken(b *block, logs int, texts map[int][]byte) [][]byte {
	if g.filter == nil || !g.filter.covers(b.number) {
		return nil
	}
	var out [][]byte
	for i := len(b.entries) - 1; i >= 0; i-- {
		e := &b.entries[i]
		if (logs == whole || e.index < logs) && g.filter.match(e) {
			out = append(out, shared(texts, i, func() []byte { return notice(e.removed(), position{b.number, b.hash, e.index}) }))
		}
	}
	return out
}

func shared(texts map[int][]byte, i int, make func() []byte) []byte {
	text := texts[i]
	if text == nil {
		if text = make(); texts != nil {
			texts[i] = text
		}
	}
	return text
}

// notice is what follows the subscription's id in a notification.
func notice(result []byte, p position) []byte {
	c := p.cursor()
	b := make([]byte, 0, len(result)+len(c)+16)
	b = append(append(b, result...), `,"cursor":"`...)
	return append(append(b, c...), `"}}`...)
}

// sendTurn is after how many subscribers the writers get their turn, so that they
// do not pile up.
const sendTurn = 64

// send notifies all who are level of what the block of this number brought, 0 for
// what is of no block. The bytes are shared by all of them.
func (g *group) send(texts [][]byte, number int64) {
	if len(texts) == 0 || len(g.subs) == 0 {
		return
	}
	g.tail.g.meter.notices.WithLabelValues(g.tail.chain).Add(float64(len(texts) * len(g.subs)))
	var refused map[payerKey]*ending
	for k, p := range g.payers {
		if e := g.charge(p.caller, p.count*len(texts)); e != nil {
			if refused == nil {
				refused = map[payerKey]*ending{}
			}
			refused[k] = e
		}
		g.tail.shows(p.caller, number)
	}
	for i, s := range g.subs {
		if refused != nil {
			if e := refused[s.payer()]; e != nil {
				s.socket.endFor(e)
				continue
			}
		}
		for _, text := range texts {
			s.socket.notify(s, text)
		}
		if i%sendTurn == sendTurn-1 {
			runtime.Gosched()
		}
	}
}

// serve hands a subscriber what it has not heard of yet, as fast as it reads, until
// it is level with the chain.
func (t *tail) serve(ctx context.Context, s *subscription) error {
	for {
		texts, level, err := t.more(ctx, s, true)
		if err != nil {
			return err
		}
		if e := s.group.charge(&s.socket.caller, len(texts)); e != nil {
			s.socket.endFor(e)
			return errClosed
		}
		if len(texts) > 0 {
			t.shows(&s.socket.caller, s.at.number)
		}
		for _, text := range texts {
			if err := s.socket.pass(s, text, true); err != nil {
				return err
			}
		}
		if level {
			return nil
		}
	}
}

// more returns what a subscriber hears next, and moves it on. Level says that
// there is nothing more; it hears everything from then on if attach is set.
func (t *tail) more(ctx context.Context, s *subscription, attach bool) (texts [][]byte, level bool, err error) {
	if err := t.await(ctx, func() bool { return len(t.blocks) > 0 && t.blocks[len(t.blocks)-1].number >= s.at.number }); err != nil {
		return nil, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	g := s.group
	if s.ended {
		return nil, true, nil
	}
	if g.relay != nil {
		g.attach(s)
		return nil, true, nil
	}
	if len(t.blocks) == 0 {
		return nil, false, nil
	}
	i := t.find(s.at.number)
	known := i >= 0 && t.blocks[i].hash == s.at.hash
	if !known && t.blocks[0].before() == s.at {
		i, known = -1, true
	}
	switch {
	case known && i >= 0 && s.at.logs != whole:
		b := t.blocks[i]
		texts, s.at = g.brought(b, s.at.logs, nil), b.after()
		return texts, false, nil
	case known && i == len(t.blocks)-1:
		if attach {
			g.attach(s)
		}
		return nil, true, nil
	case known:
		for _, b := range t.blocks[i+1 : min(i+1+catchUp, len(t.blocks))] {
			texts, s.at = append(texts, g.brought(b, 0, nil)...), b.after()
		}
		return texts, false, nil
	}
	if b := t.gone[s.at.hash]; b != nil && (b.loaded || g.filter == nil) {
		texts, s.at = g.taken(b, s.at.logs, nil), b.before()
		return texts, false, nil
	}
	oldest := t.blocks[0].number
	t.mu.Unlock()
	texts, err = t.past(ctx, s, oldest)
	t.mu.Lock()
	return texts, false, err
}

// past is more for a subscriber whose position is not among the blocks that are
// kept, of which oldest is the number of the first.
func (t *tail) past(ctx context.Context, s *subscription, oldest int64) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, t.g.cfg.UpstreamTimeout)
	defer cancel()
	for {
		var f *feed
		if err := t.await(ctx, func() bool { f = t.feed; return f != nil }); err != nil {
			return nil, err
		}
		texts, err := t.fetch(ctx, f, s, oldest)
		if err == nil || f.gone.Err() == nil {
			return texts, err
		}
		select { // the node was lost meanwhile
		case <-ctx.Done():
			return nil, err
		case <-time.After(tailRetry):
		}
	}
}

func (t *tail) fetch(ctx context.Context, f *feed, s *subscription, oldest int64) (texts [][]byte, err error) {
	g := s.group
	fill := func(blocks ...*block) error {
		if g.filter == nil {
			return nil
		}
		return t.fill(ctx, f, blocks)
	}
	if s.at.number < oldest {
		list, err := t.between(ctx, f, s.at.number, min(s.at.number+catchUp, oldest-1))
		if err != nil {
			return nil, err
		}
		at, list := list[0], list[1:]
		if at.hash == s.at.hash {
			if s.at.logs != whole {
				err := fill(at)
				texts, s.at = g.brought(at, s.at.logs, nil), at.after()
				return texts, err
			}
			if err := fill(list...); err != nil {
				return nil, err
			}
			for _, b := range list {
				if b.before() != s.at {
					break // reorganised meanwhile
				}
				texts, s.at = append(texts, g.brought(b, 0, nil)...), b.after()
			}
			if len(list) == 0 {
				return nil, errDeep
			}
			return texts, nil
		}
	}
	// It is not in the chain any more.
	b, err := t.byHash(ctx, f, s.at.hash)
	if err == nil && b.number != s.at.number {
		err = errUnknown
	}
	if err == nil {
		err = fill(b)
	}
	switch {
	case errors.Is(err, errUnknown):
		return nil, fmt.Errorf("%w: block %d (%v) was reorganised away, and what it held cannot be told any more", errLost, s.at.number, s.at.hash)
	case err != nil:
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.abandon(b)
	return nil, nil
}

// errLost means that a subscriber cannot be continued where it was.
var errLost = errors.New("position is lost")
