package fabric

import (
	"context"

	"github.com/openbsn/bsn/software"
)

//go:generate go run github.com/openbsn/bsn/software/pin -module github.com/hyperledger/fabric -dir node -out pin.go

// upstream is where the programs' source lies in the Go module proxy.
const upstream = "github.com/hyperledger/fabric"

func program(name string) software.Program {
	return software.Program{
		Name: "fabric", Version: Version, Sum: nodeSum,
		Folder: "framework/fabric/node", Package: upstream + "/cmd/" + name, Binary: name,
		Flags: []string{"-ldflags=-s -w"},
	}
}

// Programs are the absolute paths of Fabric's two programs.
type Programs struct {
	Peer    string
	Orderer string
}

// Config says where the programs are found and kept. The zero value is good.
type Config struct {
	// Peer and Orderer are the operator's own programs, used instead of building them.
	Peer, Orderer string
	// Source and Cache are those of [software.Config].
	Source, Cache string
}

// Build returns the programs, built first if this machine does not have them yet;
// see [software.Build]. Progress may be nil.
func Build(ctx context.Context, c Config, progress func(done, total int)) (Programs, error) {
	var p Programs
	for _, b := range []struct {
		name, own string
		path      *string
	}{{"peer", c.Peer, &p.Peer}, {"orderer", c.Orderer, &p.Orderer}} {
		path, err := software.Build(ctx, program(b.name), software.Config{Binary: b.own, Source: c.Source, Cache: c.Cache}, progress)
		if err != nil {
			return Programs{}, err
		}
		*b.path = path
	}
	return p, nil
}
