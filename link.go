package bsn

import "time"

// Port is a place at which a city listens: a service of its virtual addresses (see
// [Net.Addr]) and a port of it.
type Port struct {
	Service int
	Port    int
}

// CityPorts are the ports of a city itself that other cities may reach.
var CityPorts = []Port{{ServiceCity, PortLedger}, {ServiceCity, PortAPI}, {ServiceCity, PortGateway}, {ServiceCity, PortForward}}

// Neighbour is another city as the link needs to know it.
type Neighbour struct {
	City City
	// Local: the city's state lies on this machine, and it listens there itself.
	Local bool
	// Ports are open between the two cities, in both directions.
	Ports []Port
}

// LinkState is how the link to another city stands.
type LinkState struct {
	City      string `json:"city"`
	Local     bool   `json:"local,omitempty"` // on this machine: no link is needed
	Connected bool   `json:"connected"`
	// Relayed: only through another city.
	Relayed bool `json:"relayed,omitempty"`
	// Address is the other end's, as a multiaddr.
	Address string `json:"address,omitempty"`
	// Latency is the newest round trip.
	Latency time.Duration `json:"latencyNanoseconds,omitempty"`
	// Sent and Received are bytes of the carried connections since the daemon started.
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
	Streams  int    `json:"streams"` // connections that are being carried
	// Error is why there is no connection, or why a port is not listened at.
	Error string `json:"error,omitempty"`
}

// Link connects a city with the others: on this machine it listens at the virtual
// addresses of cities that are elsewhere, and carries what arrives to them.
type Link interface {
	// Know replaces all that the link knows of other cities. Connections of cities,
	// and to ports, that are no longer named end.
	Know([]Neighbour)
	// State lists the neighbours in order of name.
	State() []LinkState
	// Close ends all connections.
	Close() error
}
