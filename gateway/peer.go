package gateway

import (
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"strings"

	"github.com/openbsn/bsn/gateway/http1"
)

// proxyHeader is the header field in which trusted proxies say whom they stand for.
type proxyHeader string

const (
	forwardedFor proxyHeader = "x-forwarded-for"
	forwarded    proxyHeader = "forwarded" // RFC 7239
)

// peerOf tells where a request comes from.
func (g *Gateway) peerOf(r *http.Request) peer {
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer{
		origin: r.Header.Get("Origin"),
		ip: g.proxies.client(at.Addr().Unmap(), func(yield func([]byte) bool) {
			for _, v := range r.Header.Values(string(g.proxies.header)) {
				if !yield([]byte(v)) {
					return
				}
			}
		}),
	}
}

// peerOfFast tells the same of a request that serveFast answers.
func (g *Gateway) peerOfFast(q *http1.Request) peer {
	p := peer{ip: q.Peer().Addr(), origin: string(q.Field("origin"))}
	if len(g.proxies.networks) > 0 {
		p.ip = g.proxies.client(p.ip, q.Fields(string(g.proxies.header)))
	}
	return p
}

// proxies are the proxies whose word on a client's address counts.
type proxies struct {
	networks []netip.Prefix
	header   proxyHeader
}

func newProxies(networks []string, header string) (p proxies, err error) {
	for _, text := range networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			a, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return p, fmt.Errorf("gateway configuration: trustedProxies: %q is no address and no network such as 10.0.0.0/8", text)
			}
			network = netip.PrefixFrom(a, a.BitLen())
		}
		p.networks = append(p.networks, network.Masked())
	}
	p.header = forwardedFor
	switch h := proxyHeader(strings.ToLower(header)); h {
	case "":
	case forwardedFor, forwarded:
		p.header = h
	default:
		return p, fmt.Errorf("gateway configuration: proxyHeader %q must be %s or %s", header, forwardedFor, forwarded)
	}
	return p, nil
}

func (p proxies) trusts(a netip.Addr) bool {
	for _, n := range p.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// client returns the address of the client of a request that came from peer: the
// last one in the header's values that no trusted proxy has. Proxies append, so what
// stands before it is the client's own word.
func (p proxies) client(peer netip.Addr, values iter.Seq[[]byte]) netip.Addr {
	if len(p.networks) == 0 || !p.trusts(peer) {
		return peer
	}
	var all []string
	for v := range values {
		for element := range strings.SplitSeq(string(v), ",") {
			all = append(all, element)
		}
	}
	for i := len(all) - 1; i >= 0 && p.trusts(peer); i-- {
		a, ok := p.read(all[i])
		if !ok {
			break // an unknown or hidden one: the last that is known counts
		}
		peer = a
	}
	return peer
}

// read reads one element of the header.
func (p proxies) read(element string) (netip.Addr, bool) {
	element = strings.TrimSpace(element)
	if p.header == forwarded {
		found := ""
		for pair := range strings.SplitSeq(element, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if strings.EqualFold(name, "for") {
				found = strings.Trim(value, `"`)
			}
		}
		element = found
	}
	if a, err := netip.ParseAddrPort(element); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(element, "["), "]"))
	return a.Unmap().WithZone(""), err == nil
}
