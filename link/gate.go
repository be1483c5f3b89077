package link

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/openbsn/bsn"
)

const (
	// maxStrangers and maxStrangersOfIP are how many connections of strangers are open
	// at a time, in all and from one address.
	maxStrangers     = 16
	maxStrangersOfIP = 4
	// strangerTime is how long a stranger may take to show an invitation; guestTime how
	// long a connection of one who has lasts: whoever waits for the operators' votes
	// comes again.
	strangerTime = 10 * time.Second
	guestTime    = 2 * time.Minute
)

// gate says who may connect: cities that the ledger knows, and few strangers for a
// short time. It is a connmgr.ConnectionGater and the relay's ACLFilter.
type gate struct {
	l *Link

	mu        sync.Mutex
	strangers map[network.Conn]*stranger
}

type stranger struct {
	ip    string
	timer *time.Timer // closes the connection
}

func newGate(l *Link) *gate { return &gate{l: l, strangers: map[network.Conn]*stranger{}} }

func (g *gate) knows(id peer.ID) bool {
	_, ok := g.l.known(id)
	return ok
}

// InterceptPeerDial implements connmgr.ConnectionGater.
func (g *gate) InterceptPeerDial(id peer.ID) bool { return g.knows(id) }

// InterceptAddrDial keeps other cities from sending this one to its own machine: an
// address of it must be in the city's record.
func (g *gate) InterceptAddrDial(id peer.ID, a multiaddr.Multiaddr) bool {
	p, ok := g.l.known(id)
	if !ok {
		return false
	}
	if ip, err := manet.ToIP(a); err != nil || !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() {
		return true
	}
	own, err := multiaddrs(p.get().City.Link)
	return err == nil && multiaddr.Contains(own, a)
}

// InterceptAccept implements connmgr.ConnectionGater.
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements connmgr.ConnectionGater.
func (g *gate) InterceptSecured(d network.Direction, id peer.ID, a network.ConnMultiaddrs) bool {
	if g.knows(id) {
		return true
	}
	if d != network.DirInbound || g.l.cfg.Invited == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.room(ipOf(a.RemoteMultiaddr()))
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// room tells whether there is room for a stranger. The caller holds g.mu.
func (g *gate) room(ip string) bool {
	same := 0
	for _, s := range g.strangers {
		if s.ip == ip {
			same++
		}
	}
	return len(g.strangers) < maxStrangers && same < maxStrangersOfIP
}

// watch counts a stranger's connection and ends it after some time.
func (g *gate) watch(c network.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ip := ipOf(c.RemoteMultiaddr())
	if !g.room(ip) {
		go c.Close() // not under the lock: its end is told to this gate
		return
	}
	g.strangers[c] = &stranger{ip, time.AfterFunc(strangerTime, func() { g.expire(c) })}
}

// expire ends a stranger's connection, unless a city by now.
func (g *gate) expire(c network.Conn) {
	if g.knows(c.RemotePeer()) {
		g.forget(c)
		return
	}
	c.Close() // tells forget
}

// guest lets a stranger who has shown an invitation stay a while.
func (g *gate) guest(c network.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.strangers[c]; s != nil && s.timer.Stop() {
		s.timer.Reset(guestTime)
	}
}

func (g *gate) forget(c network.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.strangers[c]; s != nil {
		s.timer.Stop()
		delete(g.strangers, c)
	}
}

func ipOf(a multiaddr.Multiaddr) string {
	ip, err := manet.ToIP(a)
	if err != nil {
		return "" // through a relay
	}
	return ip.String()
}

// AllowReserve implements relay.ACLFilter.
func (g *gate) AllowReserve(id peer.ID, _ multiaddr.Multiaddr) bool { return g.knows(id) }

// AllowConnect implements relay.ACLFilter.
func (g *gate) AllowConnect(src peer.ID, _ multiaddr.Multiaddr, dest peer.ID) bool {
	return g.knows(src) && g.knows(dest)
}

// relayResources are what a city gives others that cannot be reached. Data and time
// are not limited: those are cities, and a chain's traffic has no end.
var relayResources = relay.Resources{
	ReservationTTL:  reservationTime,
	MaxReservations: bsn.MaxCities, MaxReservationsPerIP: bsn.MaxCities, MaxReservationsPerASN: bsn.MaxCities,
	MaxCircuits: bsn.MaxCities, BufferSize: bufferSize,
}

// Limits of what a peer may have open, and a city all together.
const (
	maxStreams         = 1024
	maxStrangerStreams = 16
	maxConns           = 8
	maxMemory          = 256 << 20
	maxStrangerMemory  = 4 << 20
)

// limits gives cities more than strangers.
type limits struct {
	rcmgr.Limiter
	strangers rcmgr.Limiter
	g         *gate
}

// GetPeerLimits implements rcmgr.Limiter.
func (l limits) GetPeerLimits(id peer.ID) rcmgr.Limit {
	if l.g.knows(id) {
		return l.Limiter.GetPeerLimits(id)
	}
	return l.strangers.GetPeerLimits(id)
}

func newResources(g *gate) (network.ResourceManager, error) {
	of := func(streams rcmgr.LimitVal, conns rcmgr.LimitVal, memory rcmgr.LimitVal64) rcmgr.ResourceLimits {
		return rcmgr.ResourceLimits{
			Streams: streams, StreamsInbound: streams, StreamsOutbound: streams,
			Conns: conns, ConnsInbound: conns, ConnsOutbound: conns, FD: conns, Memory: memory,
		}
	}
	system := rcmgr.PartialLimitConfig{
		System:      of(32*maxStreams, bsn.MaxCities*maxConns, 4*maxMemory),
		Transient:   of(maxStreams, 128, maxMemory),
		PeerDefault: of(maxStreams, maxConns, maxMemory),
	}
	few := system
	few.PeerDefault = of(maxStrangerStreams, 2, maxStrangerMemory)
	each := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 256}}
	each6 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: 256}}
	return rcmgr.NewResourceManager(
		limits{rcmgr.NewFixedLimiter(system.Build(rcmgr.InfiniteLimits)), rcmgr.NewFixedLimiter(few.Build(rcmgr.InfiniteLimits)), g},
		rcmgr.WithLimitPerSubnet(each, each6), rcmgr.WithMetricsDisabled(),
		// Several cities may share an address, and come back all at once after an outage.
		rcmgr.WithConnRateLimiters(&rate.Limiter{SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: 10, Burst: 256}}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: rate.Limit{RPS: 10, Burst: 256}}},
			GracePeriod:      time.Minute,
		}}),
	)
}
