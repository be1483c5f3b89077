package bsn

import (
	"fmt"
	"net/netip"
)

// Net is the second byte of a network's virtual addresses. It is fixed in the
// ledger's genesis, so that several networks share one machine without meeting.
type Net uint8

// DefaultNet is the Net of a network that does not choose another.
const DefaultNet Net = 66

// Services of a city, the last byte of a virtual address.
const (
	// ServiceCity is the city itself: ledger, API and gateway.
	ServiceCity = 1
	// serviceChain is added to a chain's index.
	serviceChain = 10
)

// MaxCities and MaxChains bound the third and the last byte of a virtual address.
const (
	MaxCities = 254
	MaxChains = 254 - serviceChain
)

// Stable ports of a city on its [ServiceCity] address.
const (
	PortLedger  = 26656 // CometBFT peer to peer
	PortAPI     = 7700  // city API
	PortGateway = 8080  // gateway, what DApps call
	PortForward = 8081  // what other cities' gateways call; only through the link
	PortLink    = 7800  // link between cities, TCP and QUIC
	PortMetrics = 9090  // Prometheus metrics of the gateway

	PortCityMetrics = 9091 // Prometheus metrics of the daemon
)

// Addr is the virtual address 127.net.city.service, the same on every machine.
// City is a city's index and service one of the Service constants or the result
// of [ChainService]; both are between 1 and 254.
func (n Net) Addr(city, service int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(n), byte(city), byte(service)})
}

// ChainService is the service number of the node of the chain with this index.
func ChainService(chain int) int { return serviceChain + chain }

// HostPort writes an address and a port as a dialable string.
func HostPort(a netip.Addr, port int) string {
	return netip.AddrPortFrom(a, uint16(port)).String()
}

// CheckNet refuses the Nets that other software on the machine uses: 127.0 (localhost).
func CheckNet(n int) error {
	if n < 1 || n > 255 {
		return fmt.Errorf("net %d: virtual addresses are 127.NET.city.n with NET between 1 and 255", n)
	}
	return nil
}
