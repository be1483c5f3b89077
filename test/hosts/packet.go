package hosts

import (
	"encoding/binary"
	"net/netip"
)

// Protocols that an IPv4 header names.
const (
	protocolTCP = 6
	protocolUDP = 17
)

// packet is an IPv4 packet (RFC 791). Its methods but valid may be called only if
// it is valid.
type packet []byte

// valid tells whether the header is whole, and with it the ports of TCP and UDP
// and their checksum.
func (p packet) valid() bool {
	if len(p) < 20 || p[0]>>4 != 4 || p.header() < 20 || len(p) < p.header() {
		return false
	}
	switch p.protocol() {
	case protocolTCP:
		return p.fragment() || len(p) >= p.header()+20
	case protocolUDP:
		return p.fragment() || len(p) >= p.header()+8
	}
	return true
}

func (p packet) header() int             { return int(p[0]&15) * 4 }
func (p packet) protocol() byte          { return p[9] }
func (p packet) source() netip.Addr      { return netip.AddrFrom4([4]byte(p[12:16])) }
func (p packet) destination() netip.Addr { return netip.AddrFrom4([4]byte(p[16:20])) }

// fragment tells whether it is a part of a packet.
func (p packet) fragment() bool { return binary.BigEndian.Uint16(p[6:8])&0x3fff != 0 }

// from and to are the ends of a TCP or UDP packet that is no fragment.
func (p packet) from() netip.AddrPort {
	return netip.AddrPortFrom(p.source(), binary.BigEndian.Uint16(p[p.header():]))
}

func (p packet) to() netip.AddrPort {
	return netip.AddrPortFrom(p.destination(), binary.BigEndian.Uint16(p[p.header()+2:]))
}

// setFrom and setTo change the ends, and the checksums with them.
func (p packet) setFrom(a netip.AddrPort) { p.set(12, p.header(), a) }

func (p packet) setTo(a netip.AddrPort) { p.set(16, p.header()+2, a) }

func (p packet) set(addr, port int, a netip.AddrPort) {
	was := [6]byte(append(append([]byte(nil), p[addr:addr+4]...), p[port:port+2]...))
	ip := a.Addr().As4()
	copy(p[addr:], ip[:])
	binary.BigEndian.PutUint16(p[port:], a.Port())
	is := [6]byte(append(append([]byte(nil), ip[:]...), p[port:port+2]...))
	adjust(p[10:12], was[:4], is[:4])
	switch sum := p.header() + 16; {
	case p.protocol() == protocolTCP:
		adjust(p[sum:sum+2], was[:], is[:])
	default:
		sum -= 10
		if p[sum]|p[sum+1] == 0 {
			return // UDP without a checksum
		}
		adjust(p[sum:sum+2], was[:], is[:])
		if p[sum]|p[sum+1] == 0 {
			p[sum], p[sum+1] = 255, 255
		}
	}
}

// adjust changes a checksum for words that change, by RFC 1624.
func adjust(sum, was, is []byte) {
	total := uint32(^binary.BigEndian.Uint16(sum))
	for i := 0; i < len(was); i += 2 {
		total += uint32(^binary.BigEndian.Uint16(was[i:])) + uint32(binary.BigEndian.Uint16(is[i:]))
	}
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	binary.BigEndian.PutUint16(sum, ^uint16(total))
}
