package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
)

// roaming finds the project of a token that is good here and now.
func (g *Gateway) roaming(text string) (caller, error) {
	if !g.directory.state().known {
		return caller{}, errors.New("gateway has not read the ledger yet: try again in a moment")
	}
	at := token.Where{Network: g.cfg.Network, City: g.cfg.City, Now: g.directory.now()}
	claims, key, err := token.Verify(text, at, func(account string) ([]token.Key, error) {
		a, ok := g.directory.account(account)
		if !ok {
			return nil, fmt.Errorf("there is no account %q (iss)", clipName(account))
		}
		return tokenKeys(a)
	})
	if err != nil {
		return caller{}, err
	}
	p, err := g.tokenProject(claims)
	if err != nil {
		return caller{}, err
	}
	c := caller{project: p, id: bsn.ID(claims.Account, claims.Project), token: claims, signer: key.Address}
	return c, c.narrow(text, claims)
}

// narrow takes over what a token says that it is not good for.
func (c *caller) narrow(text string, claims token.Claims) error {
	c.limits = bsn.Limits{RequestsPerSecond: claims.RequestsPerSecond, UnitsPerSecond: claims.UnitsPerSecond}
	if err := c.limits.Check(); err != nil {
		return fmt.Errorf("token: its limits (rps, cups): %w", err)
	}
	if c.limits != (bsn.Limits{}) {
		c.own = bsn.HashKey(text)
	}
	r, err := bsn.Restrictions{Methods: claims.Methods}.Normal()
	if err != nil {
		return fmt.Errorf("token: its methods: %w", err)
	}
	c.policy = newPolicy(r, nil)
	return nil
}

// tokenKeys are the keys of an account that may sign tokens.
func tokenKeys(a bsn.Account) ([]token.Key, error) {
	var out []token.Key
	for _, s := range a.Signers {
		if a.MaySignTokens(s) {
			out = append(out, token.Key{Address: s.Address, Public: s.PublicKey})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("account %s writes with several keys together, and none may sign tokens by itself: bsn account key set KEY --tokens", a.Name)
	}
	return out, nil
}

func (g *Gateway) tokenProject(c token.Claims) (*bsn.Project, error) {
	p, ok := g.directory.project(bsn.ID(c.Account, c.Project))
	switch {
	case !ok:
		return nil, fmt.Errorf("account %s has no project %q (project)", c.Account, clipName(c.Project))
	case p.Revoked:
		return nil, fmt.Errorf("project %s has been revoked", p.ID())
	}
	return p, nil
}

// recheckToken looks at a token that was let in before: whether it still lasts, and
// whether its key and project are still what they were.
func (g *Gateway) recheckToken(c caller) (caller, answer, bool) {
	a, ok := g.directory.account(c.token.Account)
	s, has := a.Signer(c.signer)
	p, err := g.tokenProject(c.token)
	switch {
	case !ok || !has || !a.MaySignTokens(s):
		err = errors.New("the key that signed this token may do so no more")
	case !g.directory.now().Before(c.token.Expires):
		err = errors.New("token has expired")
	}
	if err != nil {
		return caller{}, refuse(outcomeRefused, codeKey, "%v", err).with(http.StatusUnauthorized), false
	}
	c.project = p
	return c, answer{}, true
}

// now is ledger time: that of the newest block, and what has passed since.
func (d *directory) now() time.Time {
	age, _ := d.clock.Age()
	return d.clock.Newest().Add(age)
}

func (d *directory) project(id string) (*bsn.Project, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p, ok := d.known().Projects[id]
	return p, ok
}
