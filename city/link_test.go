package city

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

// TestCityWaitsForItsAddresses: another one held them for it and lets go.
func TestCityWaitsForItsAddresses(t *testing.T) {
	d := alone(t)
	d.state.Net, d.state.Index = 98, 201
	if err := d.vacant(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", d.addr(bsn.PortAPI))
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := d.vacant(short); err == nil {
		t.Error("an address that is taken passes for free")
	}
	time.AfterFunc(300*time.Millisecond, func() { l.Close() })
	if err := d.vacant(t.Context()); err != nil {
		t.Error(err)
	}
}
