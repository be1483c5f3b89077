package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"

	"github.com/openbsn/bsn"
)

const (
	// lookPause is the time between two looks at a city: whether its ports could be
	// listened at, whether it answers.
	lookPause = 5 * time.Second
	// pingTimeout is how long an answer may take before the connection counts as cut.
	pingTimeout = 15 * time.Second
	// firstRedial and maxRedial are the pauses between two tries to reach a city.
	firstRedial = 500 * time.Millisecond
	maxRedial   = 10 * time.Second
	// directPause is the time between two tries to reach directly a city that is
	// reached through another one.
	directPause = time.Minute
	// turn is how long a city leaves it to the other one to dial first, where both could.
	turn = 3 * time.Second
	// reservationTime is how long a relay keeps a place, renewed at half of it.
	reservationTime = 20 * time.Minute
	// maxRelays is how many cities one that cannot be reached has a place at.
	maxRelays = 4
	// secondDelay is how long the second choice of a transport waits for the first.
	secondDelay = 300 * time.Millisecond
)

func protocolID(name string) protocol.ID { return protocol.ID(name) }

// rank prefers TCP, whose work the kernel does, before QUIC, and anything direct
// before a relay.
func rank(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	var out []network.AddrDelay
	for _, a := range addrs {
		var delay time.Duration
		switch {
		case relayed(a):
			delay = 2 * secondDelay
		case has(a, multiaddr.P_QUIC_V1):
			delay = secondDelay
		}
		out = append(out, network.AddrDelay{Addr: a, Delay: delay})
	}
	return out
}

func has(a multiaddr.Multiaddr, code int) bool {
	_, err := a.ValueForProtocol(code)
	return err == nil
}

func relayed(a multiaddr.Multiaddr) bool { return has(a, multiaddr.P_CIRCUIT) }

// neighbour is another city and what belongs to the link with it.
type neighbour struct {
	l    *Link
	id   peer.ID
	ctx  context.Context // ends with the link, or once the city is not known any more
	end  context.CancelFunc
	wake chan struct{}
	// Only run uses these.
	listeners map[bsn.Port]net.Listener
	reserved  time.Time // until when this city has a place at the other one
	direct    time.Time // when a direct connection was last tried
	cut       time.Time // since when there has been no connection
	redial    time.Duration
	next      time.Time // not before then

	sent, received atomic.Uint64
	latency        atomic.Int64

	mu      sync.Mutex
	n       bsn.Neighbour
	carried map[*carried]bool
	unheard error // why a port is not listened at
	failed  error // why there is no connection
}

func newNeighbour(l *Link, id peer.ID, n bsn.Neighbour) *neighbour {
	p := &neighbour{l: l, id: id, n: n, wake: make(chan struct{}, 1), listeners: map[bsn.Port]net.Listener{}, carried: map[*carried]bool{}}
	p.ctx, p.end = context.WithCancel(l.ctx)
	return p
}

func (p *neighbour) get() bsn.Neighbour {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// update takes in what changed and ends what is no longer allowed.
func (p *neighbour) update(n bsn.Neighbour) {
	p.mu.Lock()
	same := p.n.Local == n.Local && slices.Equal(p.n.Ports, n.Ports) && slices.Equal(p.n.City.Link, n.City.Link) &&
		p.n.City.Name == n.City.Name && p.n.City.Index == n.City.Index
	p.n = n
	var ended []*carried
	for x := range p.carried {
		if !slices.Contains(n.Ports, x.port) {
			ended = append(ended, x)
		}
	}
	p.mu.Unlock()
	for _, x := range ended {
		x.abort()
	}
	if !same {
		p.rouse()
	}
}

func (p *neighbour) rouse() {
	select {
	case p.wake <- struct{}{}:
	default: // it is awake
	}
}

func (p *neighbour) allows(port bsn.Port) bool { return slices.Contains(p.get().Ports, port) }

// keep counts a carried connection, unless its port is closed by now.
func (p *neighbour) keep(x *carried) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || !slices.Contains(p.n.Ports, x.port) {
		return false
	}
	p.carried[x] = true
	return true
}

func (p *neighbour) drop(x *carried) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.carried, x)
}

// run keeps what belongs to the city in order until it is not known any more.
func (p *neighbour) run() {
	defer p.close()
	p.cut = time.Now()
	for p.ctx.Err() == nil {
		n := p.get()
		err := p.listen(n)
		p.mu.Lock()
		p.unheard = err
		p.mu.Unlock()
		pause := lookPause
		if !n.Local {
			pause = min(pause, p.look(n))
		}
		select {
		case <-p.ctx.Done():
		case <-p.wake:
		case <-time.After(pause):
		}
	}
}

func (p *neighbour) close() {
	for _, l := range p.listeners {
		l.Close()
	}
	p.mu.Lock()
	all := p.carried
	p.carried = map[*carried]bool{}
	p.mu.Unlock()
	for x := range all {
		x.abort()
	}
}

// look connects to the city or sees to the connection that there is, and returns
// when to look again at the latest.
func (p *neighbour) look(n bsn.Neighbour) time.Duration {
	if p.connection() == nil {
		if p.cut.IsZero() {
			p.cut, p.reserved = time.Now(), time.Time{}
			p.latency.Store(0)
		}
		if wait := time.Until(p.next); wait > 0 {
			return wait
		}
		err := p.dial(n)
		p.mu.Lock()
		p.failed = err
		p.mu.Unlock()
		if err != nil && p.ctx.Err() == nil {
			p.redial = min(max(firstRedial, 2*p.redial), maxRedial)
			p.next = time.Now().Add(p.redial/2 + rand.N(p.redial/2))
			return time.Until(p.next)
		}
	}
	if p.connection() == nil {
		return firstRedial
	}
	p.cut, p.redial, p.next = time.Time{}, 0, time.Time{}
	p.ping()
	p.reserve(n)
	if c := p.connection(); c != nil && relayed(c.RemoteMultiaddr()) && len(n.City.Link) > 0 && time.Since(p.direct) > directPause {
		p.direct = time.Now()
		p.connect(network.WithForceDirectDial(p.ctx, "a relay is for want of better"), n.City.Link) // the relayed one goes on
	}
	return lookPause
}

// connection returns the best one there is, or nil.
func (p *neighbour) connection() network.Conn {
	var best network.Conn
	for _, c := range p.l.host.Network().ConnsToPeer(p.id) {
		if !c.IsClosed() && (best == nil || relayed(best.RemoteMultiaddr())) {
			best = c
		}
	}
	return best
}

// dial makes a connection: directly where the city has an address, else through
// other cities, unless it is the other one's turn.
func (p *neighbour) dial(n bsn.Neighbour) error {
	if len(n.City.Link) > 0 {
		err := p.connect(p.ctx, n.City.Link)
		if err == nil || len(p.l.cfg.Announce) > 0 && time.Since(p.cut) < 4*turn {
			return err // it can come straight here
		}
		return errors.Join(err, p.dialThrough(n))
	}
	grace := turn
	if len(p.l.cfg.Announce) > 0 {
		grace = 4 * turn // it can come straight here
	} else if p.l.cfg.Index < n.City.Index {
		grace = 0
	}
	if wait := grace - time.Since(p.cut); wait > 0 {
		return errors.New("waiting for it to connect")
	}
	return p.dialThrough(n)
}

// connect dials the city at addresses of its link.
func (p *neighbour) connect(ctx context.Context, link []string) error {
	addrs, err := multiaddrs(link)
	if err != nil {
		return err
	}
	return p.connectAt(ctx, addrs)
}

func (p *neighbour) connectAt(ctx context.Context, addrs []multiaddr.Multiaddr) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if s, ok := p.l.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p.id) // this is the one that paces tries
	}
	p.l.host.Peerstore().ClearAddrs(p.id) // those of earlier records
	if err := p.l.host.Connect(ctx, peer.AddrInfo{ID: p.id, Addrs: addrs}); err != nil {
		return fmt.Errorf("connect: %w", brief(err))
	}
	return nil
}

// brief takes the causes out of what libp2p says in many lines.
func brief(err error) error {
	var all *swarm.DialError
	if !errors.As(err, &all) || len(all.DialErrors) == 0 {
		return err
	}
	var causes []string
	for _, e := range all.DialErrors {
		causes = append(causes, fmt.Sprintf("%s: %v", e.Address, e.Cause))
	}
	return errors.New(strings.Join(causes, "; "))
}

// dialThrough connects through a city that is connected directly.
func (p *neighbour) dialThrough(n bsn.Neighbour) error {
	var errs []error
	for _, r := range p.l.relaysOf(n.City.NodeKey) {
		if r.id == p.id {
			continue
		}
		c := r.connection()
		if c == nil || relayed(c.RemoteMultiaddr()) {
			continue
		}
		a, err := multiaddr.NewMultiaddr("/p2p/" + r.id.String() + "/p2p-circuit")
		if err == nil {
			err = p.connectAt(p.ctx, []multiaddr.Multiaddr{a})
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("through city %q: %w", r.get().City.Name, err))
	}
	if len(errs) == 0 {
		return errors.New("it has no address, and there is no city to reach it through")
	}
	return errors.Join(errs...)
}

// relaysOf orders the cities that can relay for the holder of a node key. All cities
// come to the same order, so that they look where the city has a place.
func (l *Link) relaysOf(nodeKey []byte) []*neighbour {
	var out []*neighbour
	for _, p := range l.neighbours() {
		if n := p.get(); len(n.City.Link) > 0 && !bytes.Equal(n.City.NodeKey, nodeKey) {
			out = append(out, p)
		}
	}
	order := func(p *neighbour) []byte {
		sum := sha256.Sum256(slices.Concat(nodeKey, p.get().City.NodeKey))
		return sum[:]
	}
	slices.SortFunc(out, func(a, b *neighbour) int { return bytes.Compare(order(a), order(b)) })
	return out
}

// reserve takes a place at the city, if this one cannot be reached and that one is
// among those where others look for it.
func (p *neighbour) reserve(n bsn.Neighbour) {
	if len(p.l.cfg.Announce) > 0 || len(n.City.Link) == 0 || time.Until(p.reserved) > reservationTime/2 {
		return
	}
	if c := p.connection(); c == nil || relayed(c.RemoteMultiaddr()) {
		return
	}
	before := 0
	for _, r := range p.l.relaysOf(p.l.nodeKey()) {
		if r == p {
			break
		}
		if c := r.connection(); c != nil && !relayed(c.RemoteMultiaddr()) {
			before++
		}
	}
	if before >= maxRelays {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	r, err := client.Reserve(ctx, p.l.host, peer.AddrInfo{ID: p.id})
	if err != nil {
		p.l.cfg.Log.Debug("no place at another city's relay", "city", n.City.Name, "error", err)
		return
	}
	p.reserved = r.Expiration
}

// ping measures the way to the city, and ends connections that lead nowhere.
func (p *neighbour) ping() {
	ctx, cancel := context.WithTimeout(p.ctx, pingTimeout)
	defer cancel()
	select {
	case r := <-ping.Ping(ctx, p.l.host, p.id):
		if r.Error == nil {
			p.latency.Store(int64(max(r.RTT, 1)))
			return
		}
		if p.ctx.Err() != nil {
			return
		}
		p.l.cfg.Log.Info("city does not answer, connecting anew", "to", p.get().City.Name, "error", r.Error)
	case <-ctx.Done():
		if p.ctx.Err() != nil {
			return
		}
		p.l.cfg.Log.Info("city does not answer, connecting anew", "to", p.get().City.Name)
	}
	p.l.host.Network().ClosePeer(p.id)
}

// await waits until there is a connection.
func (p *neighbour) await(ctx context.Context) error {
	for {
		if p.connection() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			return errors.Join(fmt.Errorf("no link to city %q", p.n.City.Name), p.failed)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// connected is told of each new connection.
func (l *Link) connected(_ network.Network, c network.Conn) {
	if p, ok := l.known(c.RemotePeer()); ok {
		p.rouse()
		return
	}
	l.gate.watch(c)
}

func (l *Link) disconnected(_ network.Network, c network.Conn) {
	l.gate.forget(c)
	if p, ok := l.known(c.RemotePeer()); ok {
		p.rouse()
	}
}

// nodeKey is this city's own.
func (l *Link) nodeKey() []byte { return l.cfg.Key[32:] }

// state shows how the link stands.
func (p *neighbour) state() bsn.LinkState {
	c := p.connection()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := bsn.LinkState{
		City: p.n.City.Name, Local: p.n.Local, Connected: c != nil, Latency: time.Duration(p.latency.Load()),
		Sent: p.sent.Load(), Received: p.received.Load(), Streams: len(p.carried),
	}
	switch {
	case s.Local:
		return bsn.LinkState{City: s.City, Local: true}
	case c == nil:
		s.Latency = 0
		if p.failed != nil {
			s.Error = p.failed.Error()
		}
	default:
		s.Relayed, s.Address = relayed(c.RemoteMultiaddr()), c.RemoteMultiaddr().String()
	}
	if s.Error == "" && p.unheard != nil {
		s.Error = p.unheard.Error()
	}
	return s
}
