// Package kaia runs chains of Kaia: EVM, Istanbul BFT with one-second blocks,
// where every block is final, and gas that costs nothing.
//
// A chain's validators are the nodes of its committee's cities. They change by
// Kaia's own ballot, in which each node votes only for what the ledger decided;
// see [Kaia.Govern] for what that protects against and what not.
package kaia

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/software"
)

//go:generate go run github.com/openbsn/bsn/software/pin -module github.com/kaiachain/kaia -dir node -out pin.go

// Name of the framework in a chain's record.
const Name = "kaia"

// Ports of a node on its virtual address.
const (
	portPeers = 32323
	portHTTP  = 8551
	portWS    = 8552
)

// upstream is the module of the node software.
const upstream = "github.com/kaiachain/kaia"

var program = software.Program{
	Name:    Name,
	Version: Version,
	Sum:     nodeSum,
	Folder:  "framework/kaia/node",
	Binary:  "kaia-node",
	// The linker otherwise refuses a package of Kaia's, which is never called,
	// that reaches into the Go runtime.
	Flags: []string{"-ldflags=-s -w -checklinkname=0"},
}

// methodTable are the methods that Kaia has beside those of every EVM chain.
//
//go:embed methods.yaml
var methodTable []byte

// Kaia is the framework. It keeps no state of its own and may be used by many
// goroutines at once.
type Kaia struct {
	config  software.Config
	methods bsn.Methods
}

var _ bsn.Framework = (*Kaia)(nil)

// New returns the framework, whose node software is found or built as configured.
func New(c software.Config) (*Kaia, error) {
	methods, err := loadMethods()
	if err != nil {
		return nil, fmt.Errorf("load kaia's method table: %w", err)
	}
	return &Kaia{config: c, methods: methods}, nil
}

// Name is "kaia".
func (*Kaia) Name() string { return Name }

// PeerPorts are those of Kaia's peer-to-peer protocol.
func (*Kaia) PeerPorts() []int { return []int{portPeers} }

// Methods is the table of the methods that may pass a gateway.
func (k *Kaia) Methods() bsn.Methods { return k.methods }

// Software returns the node's binary, which is built first if need be.
func (k *Kaia) Software(ctx context.Context, progress func(done, total int)) (string, error) {
	return software.Build(ctx, program, k.config, progress)
}

// Endpoint is where a city's node serves its clients.
func (*Kaia) Endpoint(net bsn.Net, chain bsn.Chain, cityIndex int) bsn.Endpoint {
	a := net.Addr(cityIndex, bsn.ChainService(chain.Index))
	return bsn.Endpoint{
		HTTP: "http://" + bsn.HostPort(a, portHTTP),
		WS:   "ws://" + bsn.HostPort(a, portWS),
	}
}
