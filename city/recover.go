package city

import (
	"fmt"
	"os"
	"slices"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// stopped runs f while no daemon of the city can run.
func (h Home) stopped(f func() error) error {
	unlock, err := h.lock()
	if err != nil {
		return fmt.Errorf("%w: stop it first: bsn city stop %s --daemon-only", err, h.Name)
	}
	defer unlock()
	return f()
}

// ExportLedger reads the ledger's newest state, with the city stopped.
func (h Home) ExportLedger() (e ledger.Export, err error) {
	return e, h.stopped(func() error {
		e, err = ledger.ExportState(h.ledger())
		return err
	})
}

// Succeed makes the city, which is stopped, one of the network that a genesis
// founds in the place of its own; see [ledger.Refound]. It may be cut off and
// called again.
func (h Home) Succeed(old string, genesis []byte) error {
	return h.stopped(func() error {
		s, err := h.Load()
		if err != nil {
			return err
		}
		network, cities, err := ledger.GenesisCities(genesis)
		if err != nil {
			return err
		}
		if s.Network == network {
			return nil
		}
		if s.Network != old {
			return fmt.Errorf("city %q is part of network %q, not of %q", h.Name, s.Network, old)
		}
		i := slices.IndexFunc(cities, func(c bsn.City) bool { return c.Name == h.Name })
		if i < 0 || !cities[i].Status.Member() {
			return fmt.Errorf("city %q is not among the cities that go on: its operator is not one of those named", h.Name)
		}
		if err := ledger.Succeed(h.ledger(), old, genesis); err != nil {
			return err
		}
		s.Network, s.Trust, s.Resync, s.Cities = network, ledger.Trust{}, false, nil
		for _, c := range cities {
			if c.Name != h.Name && c.Status.Member() {
				s.Cities = append(s.Cities, c)
			}
		}
		return h.save(s)
	})
}

// Resync makes the city, which is stopped, take over the ledger's state from other
// cities with its next start, in place of the one that it has. A zero trust means
// what the city knows itself.
func (h Home) Resync(trust ledger.Trust) error {
	return h.stopped(func() error {
		s, err := h.Load()
		if err != nil {
			return err
		}
		if s.Network == "" {
			return fmt.Errorf("city %q is not part of a network yet", h.Name)
		}
		if trust.Height == 0 {
			if trust, err = ledger.LastTrust(h.ledger()); err != nil {
				return fmt.Errorf("%w: name a block to begin with, --trust HEIGHT:HASH; another city's operator is told one by `bsn ledger trust`", err)
			}
		}
		s.Trust, s.Resync = trust, true
		return h.save(s)
	})
}

// checkNetwork refuses to start a city whose change to another network was cut off.
func (h Home) checkNetwork(s State) error {
	b, err := os.ReadFile(ledger.GenesisFile(h.ledger()))
	if err != nil {
		return fmt.Errorf("read genesis: %w", err)
	}
	network, _, err := ledger.GenesisNet(b)
	if err == nil && network != s.Network {
		err = fmt.Errorf("city %q is of network %q and its ledger of %q: `bsn ledger refound` was cut off: call it again", h.Name, s.Network, network)
	}
	return err
}
