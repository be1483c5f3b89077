// Package link carries connections between cities: libp2p over one port,
// authenticated by the node keys on the ledger. On every machine it listens at the
// virtual addresses of the cities that are elsewhere; what connects there is
// carried to the city and connected to the same address on its machine.
//
// Begin with forward.go, which is what all the rest is for; dial.go keeps the
// cities connected, gate.go says who may connect, join.go lets invited strangers
// apply.
package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openbsn/bsn"
)

// dialTimeout bounds one attempt to reach a city.
const dialTimeout = 10 * time.Second

func init() {
	// How many others must have seen this city at the same outside address before it
	// tries to be reached there. Networks may be small.
	observedaddrs.ActivationThresh = 2
}

// Config says what a link is to its city.
type Config struct {
	// Key is the city's node key.
	Key ed25519.PrivateKey
	// Net and Index place the city's own virtual addresses.
	Net   bsn.Net
	Index int
	// Listen are IP:port, for TCP and QUIC alike; Announce, host:port, is how others
	// reach them. A city that announces an address relays for those that do not.
	Listen, Announce []string
	// PortMapping asks the router to let others in (UPnP, NAT-PMP).
	PortMapping bool
	// Invited tells whether a stranger holds an invitation that this city issued. Nil:
	// strangers are not let in.
	Invited func(invitation string) error
	// Connect makes the connections to ports that other cities do not reach at the
	// virtual address: it is told which city, as the link has made sure, is at the other end.
	Connect map[bsn.Port]func(ctx context.Context, city string) (*net.UnixConn, error)
	Log     *slog.Logger
	// Metrics is where the link's figures are registered, if it is not nil.
	Metrics prometheus.Registerer
}

// Link is a city's link. It is a [bsn.Link].
type Link struct {
	cfg   Config
	host  host.Host
	relay *relay.Relay // nil where this city is none
	gate  *gate
	ctx   context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex
	peers map[peer.ID]*neighbour
}

var _ bsn.Link = (*Link)(nil)

// New opens a link that knows nobody yet; see [Link.Know].
func New(cfg Config) (*Link, error) {
	private, err := crypto.UnmarshalEd25519PrivateKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	listen, err := listenAddrs(cfg.Listen)
	if err != nil {
		return nil, err
	}
	announce, err := multiaddrs(cfg.Announce)
	if err != nil {
		return nil, err
	}
	l := &Link{cfg: cfg, peers: map[peer.ID]*neighbour{}}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.gate = newGate(l)
	resources, err := newResources(l.gate)
	if err != nil {
		l.end()
		return nil, err
	}
	reachable := libp2p.ForceReachabilityPrivate()
	if len(announce) > 0 {
		reachable = libp2p.ForceReachabilityPublic()
	}
	options := []libp2p.Option{
		libp2p.Identity(private),
		libp2p.ListenAddrs(listen...),
		libp2p.Transport(tcp.NewTCPTransport, tcp.WithConnectionTimeout(dialTimeout)),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.ConnectionGater(l.gate),
		libp2p.ResourceManager(resources),
		// Where others reach it is on the ledger; what else it listens at is nobody's
		// concern.
		libp2p.AddrsFactory(func([]multiaddr.Multiaddr) []multiaddr.Multiaddr { return announce }),
		libp2p.EnableRelay(),
		libp2p.EnableHolePunching(),
		reachable, // no stranger is asked
		libp2p.WithDialTimeout(dialTimeout),
		// An outage must not make it give up an address for good.
		libp2p.SwarmOpts(swarm.WithDialRanker(rank), swarm.WithUDPBlackHoleSuccessCounter(nil), swarm.WithIPv6BlackHoleSuccessCounter(nil)),
		libp2p.UserAgent("bsn"),
		libp2p.DisableMetrics(),
	}
	if cfg.PortMapping {
		options = append(options, libp2p.NATPortMap())
	}
	if l.host, err = libp2p.New(options...); err != nil {
		l.end()
		return nil, fmt.Errorf("open link at %s: %w", strings.Join(cfg.Listen, ", "), err)
	}
	if err := l.begin(len(announce) > 0); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Link) begin(relays bool) (err error) {
	l.host.Network().Notify(&network.NotifyBundle{ConnectedF: l.connected, DisconnectedF: l.disconnected})
	l.host.SetStreamHandler(forwardProtocol, l.receive)
	if l.cfg.Invited != nil {
		l.host.SetStreamHandler(joinProtocol, l.letIn)
	}
	if relays {
		if l.relay, err = relay.New(l.host, relay.WithResources(relayResources), relay.WithInfiniteLimits(), relay.WithACL(l.gate),
			relay.WithReservationAddressFilter(func(multiaddr.Multiaddr) bool { return true })); err != nil {
			return fmt.Errorf("relay for other cities: %w", err)
		}
	}
	if l.cfg.Metrics != nil {
		if err := l.cfg.Metrics.Register(collector{l}); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// Close implements [bsn.Link].
func (l *Link) Close() error {
	l.Know(nil)
	l.end()
	if l.cfg.Metrics != nil {
		l.cfg.Metrics.Unregister(collector{l})
	}
	var err error
	if l.relay != nil {
		err = l.relay.Close()
	}
	err = errors.Join(err, l.host.Close())
	l.wg.Wait()
	return err
}

// PeerID is how libp2p calls the holder of a node key.
func peerID(nodeKey []byte) (peer.ID, error) {
	public, err := crypto.UnmarshalEd25519PublicKey(nodeKey)
	if err != nil {
		return "", fmt.Errorf("read node key: %w", err)
	}
	return peer.IDFromPublicKey(public)
}

// Know implements [bsn.Link].
func (l *Link) Know(all []bsn.Neighbour) {
	l.mu.Lock()
	wanted := map[peer.ID]bool{}
	for _, n := range all {
		id, err := peerID(n.City.NodeKey)
		if err != nil || id == l.host.ID() {
			continue // the ledger admits no such city, but for this one itself
		}
		wanted[id] = true
		if p := l.peers[id]; p != nil {
			p.update(n)
			continue
		}
		p := newNeighbour(l, id, n)
		l.peers[id] = p
		l.wg.Go(p.run)
	}
	var gone []*neighbour
	for id, p := range l.peers {
		if !wanted[id] {
			gone = append(gone, p)
			delete(l.peers, id)
		}
	}
	l.mu.Unlock()
	for _, p := range gone {
		p.end()
		l.host.Network().ClosePeer(p.id) // those that fail to close are closed already
	}
}

// known returns the neighbour of an id.
func (l *Link) known(id peer.ID) (*neighbour, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.peers[id]
	return p, ok
}

// neighbours returns all, in order of the cities' names.
func (l *Link) neighbours() []*neighbour {
	l.mu.Lock()
	out := slices.Collect(maps.Values(l.peers))
	l.mu.Unlock()
	slices.SortFunc(out, func(a, b *neighbour) int { return strings.Compare(a.get().City.Name, b.get().City.Name) })
	return out
}

// State implements [bsn.Link].
func (l *Link) State() []bsn.LinkState {
	out := []bsn.LinkState{}
	for _, p := range l.neighbours() {
		out = append(out, p.state())
	}
	return out
}

// listenAddrs are the TCP and QUIC addresses of IP:port texts.
func listenAddrs(texts []string) (out []multiaddr.Multiaddr, err error) {
	for _, text := range texts {
		if _, err := netip.ParseAddrPort(text); err != nil {
			return nil, fmt.Errorf("link: %q must be an IP address and a port, such as 0.0.0.0:%d", text, bsn.PortLink)
		}
	}
	return multiaddrs(texts)
}

// multiaddrs are the TCP and QUIC addresses of host:port texts.
func multiaddrs(texts []string) (out []multiaddr.Multiaddr, err error) {
	for _, text := range texts {
		name, port, err := net.SplitHostPort(text)
		if err != nil {
			return nil, fmt.Errorf("address of a link: %q must be host:port: %w", text, err)
		}
		kind := "dns"
		if ip, err := netip.ParseAddr(name); err == nil {
			kind = "ip6"
			if ip.Unmap().Is4() {
				kind, name = "ip4", ip.Unmap().String()
			}
		}
		for _, format := range []string{"/%s/%s/tcp/%s", "/%s/%s/udp/%s/quic-v1"} {
			a, err := multiaddr.NewMultiaddr(fmt.Sprintf(format, kind, name, port))
			if err != nil {
				return nil, fmt.Errorf("address of a link: %q: %w", text, err)
			}
			out = append(out, a)
		}
	}
	return out, nil
}
