// Package channel makes the configuration of Fabric channels: block 0, with which
// every orderer and peer joins. It writes Fabric's own messages, without Fabric's
// tools: those know no BFT ordering or leave out anchor peers, and what they write
// differs each time. Here equal records give equal bytes, so that each city makes
// the block by itself and compares.
package channel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
)

// MinOrderers is the fewest that tolerate one that fails or lies. Five tolerate no
// more than four; seven tolerate two.
const MinOrderers = 4

const (
	maxOrderers = 64
	maxMembers  = 254
)

// namePattern is Fabric's rule for the id of a channel.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,248}$`)

// Channel is all that block 0 is made of. The order within the lists does not matter.
type Channel struct {
	// Name is the channel's id; see [Name].
	Name string
	// App is the organisational unit of certificates that may call the channel.
	// Without it nobody may but the peers and the administrators of the members.
	App string
	// Time is the ledger's, in Unix seconds: the one time that all cities know.
	Time int64
	// Orderers order the channel's transactions, by SmartBFT.
	Orderers []Orderer
	// Members are the operators whose peers hold the channel.
	Members []Member
}

// Operator is an organisation in a channel. Its name is the id of its MSP.
type Operator struct {
	Name  string
	Roots authority.Roots
}

// Orderer is one ordering node.
type Orderer struct {
	// ID is its number in the channel, from 1; it never names another.
	ID       uint32
	Operator Operator
	Address  netip.AddrPort
	// Identity and TLS are the node's certificates, as PEM.
	Identity, TLS []byte
}

// Member is an operator with its peers.
type Member struct {
	Operator Operator
	// Peers are where other operators' peers find its own: its anchor peers.
	Peers []netip.AddrPort
}

// Name is the id of the channel of an app.
func Name(account, app string) string { return account + "." + app }

// Quorum is how many of n orderers must sign a block.
func Quorum(n int) int { return (n + (n-1)/3 + 2) / 2 }

// Check tells whether a channel can be made of it.
func (c Channel) Check() error {
	if err := c.check(); err != nil {
		return fmt.Errorf("channel %.64q: %w", c.Name, err)
	}
	return nil
}

func (c Channel) check() error {
	switch {
	case !namePattern.MatchString(c.Name):
		return errors.New("the name may hold a-z, 0-9, dots and hyphens, and begins with a letter")
	case c.Time <= 0:
		return errors.New("it has no time")
	case len(c.Orderers) < MinOrderers || len(c.Orderers) > maxOrderers:
		return fmt.Errorf("%d orderers are not between %d and %d", len(c.Orderers), MinOrderers, maxOrderers)
	case len(c.Members) == 0 || len(c.Members) > maxMembers:
		return fmt.Errorf("%d members are not between 1 and %d", len(c.Members), maxMembers)
	}
	roots := make(map[string]authority.Roots)
	known := func(o Operator) error {
		if err := bsn.CheckName("operator", o.Name); err != nil {
			return err
		}
		if r, ok := roots[o.Name]; ok {
			if string(r.Identity) != string(o.Roots.Identity) || string(r.TLS) != string(o.Roots.TLS) {
				return fmt.Errorf("operator %s has two sets of roots", o.Name)
			}
			return nil
		}
		roots[o.Name] = o.Roots
		return o.Roots.Check(o.Name)
	}
	seen := make(map[any]bool)
	once := func(what any) error {
		if seen[what] {
			return fmt.Errorf("%v appears twice", what)
		}
		seen[what] = true
		return nil
	}
	for _, o := range c.Orderers {
		if err := known(o.Operator); err != nil {
			return err
		}
		if o.ID == 0 || !o.Address.IsValid() || o.Address.Port() == 0 {
			return fmt.Errorf("orderer %d of %s has no number or no address", o.ID, o.Operator.Name)
		}
		if err := errors.Join(once(o.ID), once(o.Address), once(string(o.Identity))); err != nil {
			return fmt.Errorf("orderers: %w", err)
		}
		for _, signed := range []struct{ root, cert []byte }{{o.Operator.Roots.Identity, o.Identity}, {o.Operator.Roots.TLS, o.TLS}} {
			if err := signedBy(signed.root, signed.cert); err != nil {
				return fmt.Errorf("orderer %d of %s: %w", o.ID, o.Operator.Name, err)
			}
		}
	}
	for _, m := range c.Members {
		if err := errors.Join(known(m.Operator), once(m.Operator.Name)); err != nil {
			return fmt.Errorf("members: %w", err)
		}
		if len(m.Peers) == 0 {
			return fmt.Errorf("member %s has no peer", m.Operator.Name)
		}
		for _, p := range m.Peers {
			if !p.IsValid() || p.Port() == 0 {
				return fmt.Errorf("member %s has a peer without an address", m.Operator.Name)
			}
			if err := once(p); err != nil {
				return fmt.Errorf("members: %w", err)
			}
		}
	}
	return nil
}

// signedBy checks a certificate against its root, whose own form was checked.
func signedBy(root, cert []byte) error {
	r, err := authority.ParseCertificate(root)
	if err != nil {
		return err
	}
	c, err := authority.ParseCertificate(cert)
	if err != nil {
		return err
	}
	if err := c.CheckSignatureFrom(r); err != nil {
		return fmt.Errorf("its certificate is not of its operator: %w", err)
	}
	return nil
}

// sorted is the channel with its lists in the one order that goes into the block.
func (c Channel) sorted() Channel {
	c.Orderers = slices.SortedFunc(slices.Values(c.Orderers), func(a, b Orderer) int { return cmp.Compare(a.ID, b.ID) })
	c.Members = slices.SortedFunc(slices.Values(c.Members), func(a, b Member) int { return strings.Compare(a.Operator.Name, b.Operator.Name) })
	for i, m := range c.Members {
		c.Members[i].Peers = slices.SortedFunc(slices.Values(m.Peers), netip.AddrPort.Compare)
	}
	return c
}
