package gateway

import (
	"errors"
	"fmt"
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
	return caller{project: p, id: bsn.ID(claims.Account, claims.Project), token: claims, signer: key.Address}, err
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
func (g *Gateway) recheckToken(c caller) (caller, bool) {
	a, ok := g.directory.account(c.token.Account)
	s, has := a.Signer(c.signer)
	if !ok || !has || !a.MaySignTokens(s) || !g.directory.now().Before(c.token.Expires) {
		return caller{}, false
	}
	p, err := g.tokenProject(c.token)
	c.project = p
	return c, err == nil
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
