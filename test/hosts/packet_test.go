package hosts

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sum is the internet checksum (RFC 1071) of some bytes.
func sum(parts ...[]byte) uint16 {
	all := bytes.Join(parts, nil)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	total := uint32(0)
	for i := 0; i < len(all); i += 2 {
		total += uint32(binary.BigEndian.Uint16(all[i:]))
	}
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	return ^uint16(total)
}

// checked tells whether both checksums of a packet are right.
func checked(p packet) bool {
	body := p[p.header():]
	pseudo := append(bytes.Clone(p[12:20]), 0, p.protocol(), byte(len(body)>>8), byte(len(body)))
	return sum(p[:p.header()]) == 0 && sum(pseudo, body) == 0
}

func generate(t *rapid.T) packet {
	body := rapid.SliceOfN(rapid.Byte(), 20, 60).Draw(t, "body")
	p := append(packet{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0}, rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "addresses")...)
	p[9] = rapid.SampledFrom([]byte{protocolTCP, protocolUDP}).Draw(t, "protocol")
	p = append(p, body...)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	at := 36
	if p[9] == protocolUDP {
		at = 26
	}
	p[at], p[at+1] = 0, 0
	body = p[20:]
	pseudo := append(bytes.Clone(p[12:20]), 0, p[9], byte(len(body)>>8), byte(len(body)))
	s := sum(pseudo, body)
	if s == 0 && p[9] == protocolUDP {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(p[at:], s)
	binary.BigEndian.PutUint16(p[10:], sum(p[:20]))
	return p
}

func TestChecksumsStayRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := generate(t)
		if !p.valid() || !checked(p) {
			t.Fatal("the generated packet is wrong already")
		}
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "from"))), rapid.Uint16().Draw(t, "port"))
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "to"))), rapid.Uint16().Draw(t, "port"))
		p.setFrom(from)
		p.setTo(to)
		if p.from() != from || p.to() != to {
			t.Fatalf("from %s to %s", p.from(), p.to())
		}
		if !checked(p) {
			t.Fatal("a checksum is wrong")
		}
	})
}

func TestRouterForgets(t *testing.T) {
	inside, outside, other := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("11.99.0.1"), netip.MustParseAddr("11.99.0.2")
	n := newNAT(inside, outside)
	udp := func(from, to netip.AddrPort) packet {
		p := packet{0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocolUDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0}
		p.setFrom(from)
		p.setTo(to)
		return p
	}
	now := time.Now()
	out := udp(netip.AddrPortFrom(inside, 5), netip.AddrPortFrom(other, 6))
	if !n.out(out, now) {
		t.Fatal("it does not pass")
	}
	back := udp(netip.AddrPortFrom(other, 6), out.from())
	if !n.in(bytes.Clone(back), now.Add(rememberUDP)) {
		t.Error("an answer is refused")
	}
	if n.in(bytes.Clone(back), now.Add(2*rememberUDP+1)) {
		t.Error("an answer passes long after")
	}
}

func TestRouterPortsRunOut(t *testing.T) {
	n := newNAT(netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("11.99.0.1"))
	now := time.Now()
	for port := range uint16(lastPort - firstPort + 1) {
		m := n.open(flow{protocolUDP, port}, now)
		if m == nil {
			t.Fatalf("no port for number %d", port)
		}
		m.called[netip.AddrPort{}] = now
	}
	if n.open(flow{protocolUDP, 65000}, now) != nil {
		t.Error("a port that is in use was given away")
	}
	if n.open(flow{protocolUDP, 65000}, now.Add(rememberUDP+1)) == nil {
		t.Error("no port though all are forgotten")
	}
}

// No packet that a host sends can break the wire.
func FuzzPacket(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocolUDP, 0, 0, 10, 1, 0, 2, 11, 99, 0, 1, 0, 5, 0, 6, 0, 8, 0, 0})
	f.Add([]byte{0x4f, 0, 0, 28, 0, 0, 0, 0, 64, protocolTCP})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := packet(b)
		if !p.valid() {
			return
		}
		n := newNAT(netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("11.99.0.1"))
		if n.out(p, time.Now()) && p.source() != n.outside {
			t.Error("it left with another address than the router's")
		}
		n.in(p, time.Now())
	})
}
