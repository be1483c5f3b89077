package hosts

import (
	"net/netip"
	"sync"
	"time"
)

// How long a router remembers who was called from inside: the least that RFC 4787
// (UDP) and RFC 5382 (TCP) allow.
const (
	rememberUDP = 2 * time.Minute
	rememberTCP = 2*time.Hour + 4*time.Minute
)

// The ports that a router uses on its outer address.
const firstPort, lastPort = 20000, 59999

// nat is a router with one outer address. It maps an inner port to the same outer
// port whoever is called (endpoint-independent mapping), and lets in only what
// comes from an address and port that was called from that inner port (address-
// and port-dependent filtering): the terms are RFC 4787's.
type nat struct {
	inside, outside netip.Addr

	mu       sync.Mutex
	mappings map[flow]*mapping // by the inner port
	ports    map[flow]*mapping // by the outer port
	next     uint16
}

// flow is a port of a protocol.
type flow struct {
	protocol byte
	port     uint16
}

type mapping struct {
	inner, outer flow
	called       map[netip.AddrPort]time.Time // and when last
}

func newNAT(inside, outside netip.Addr) *nat {
	return &nat{inside: inside, outside: outside, mappings: map[flow]*mapping{}, ports: map[flow]*mapping{}, next: firstPort}
}

// out changes a packet from inside to one from the router, and remembers whom it
// is for. False: it does not pass.
func (n *nat) out(p packet, now time.Time) bool {
	if !translates(p) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	inner := flow{p.protocol(), p.from().Port()}
	m := n.mappings[inner]
	if m == nil || m.idle(now) {
		if m = n.open(inner, now); m == nil {
			return false
		}
	}
	m.called[p.to()] = now
	p.setFrom(netip.AddrPortFrom(n.outside, m.outer.port))
	return true
}

// in changes a packet to the router to one for the host inside. False: nothing
// inside called who sends it.
func (n *nat) in(p packet, now time.Time) bool {
	if !translates(p) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.ports[flow{p.protocol(), p.to().Port()}]
	if m == nil {
		return false
	}
	last, ok := m.called[p.from()]
	if !ok || now.Sub(last) > m.remember() {
		return false
	}
	m.called[p.from()] = now
	p.setTo(netip.AddrPortFrom(n.inside, m.inner.port))
	return true
}

func translates(p packet) bool {
	return !p.fragment() && (p.protocol() == protocolTCP || p.protocol() == protocolUDP)
}

// open maps an inner port to the next free outer one; nil if there is none.
func (n *nat) open(inner flow, now time.Time) *mapping {
	for range lastPort - firstPort + 1 {
		outer := flow{inner.protocol, n.next}
		if n.next++; n.next > lastPort {
			n.next = firstPort
		}
		old := n.ports[outer]
		if old != nil && !old.idle(now) {
			continue
		}
		if old != nil && n.mappings[old.inner] == old {
			delete(n.mappings, old.inner)
		}
		m := &mapping{inner, outer, map[netip.AddrPort]time.Time{}}
		n.mappings[inner], n.ports[outer] = m, m
		return m
	}
	return nil
}

func (m *mapping) remember() time.Duration {
	if m.inner.protocol == protocolUDP {
		return rememberUDP
	}
	return rememberTCP
}

// idle tells whether nothing has passed for so long that it may be forgotten.
func (m *mapping) idle(now time.Time) bool {
	for _, last := range m.called {
		if now.Sub(last) <= m.remember() {
			return false
		}
	}
	return true
}
