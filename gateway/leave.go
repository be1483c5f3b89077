package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

// Headers of a gateway whose city is on its way out: the city's status and, while
// it is leaving, the ledger time until which it answers at least.
const (
	statusHeader = "Bsn-City-Status"
	untilHeader  = "Bsn-City-Until"
)

// leavePause is the time between two looks at whether open connections are to move.
const leavePause = time.Second

// going returns this city's record if it leaves, left or was evicted.
func (g *Gateway) going() (bsn.City, bool) {
	c, known := g.directory.city(g.cfg.City)
	return c, known && (c.Status == bsn.CityLeaving || c.Status == bsn.CityLeft || c.Status == bsn.CityEvicted)
}

// moved tells whether calls to a chain are sent to other cities: this one leaves
// and its own node of the chain runs no more, or it is out of the network. Calls
// of an app go to cities that serve it.
func (g *Gateway) moved(chain string, serves func(city string) bool) (text string, to bsn.City, moved bool) {
	self, going := g.going()
	if !going {
		return "", to, false
	}
	p, known := g.upstreams.get(chain)
	if !known {
		return "", to, false // whoever answers says so
	}
	own := slices.ContainsFunc(p.nodes, func(n *node) bool {
		_, alive := n.alive()
		return n.city == g.cfg.City && alive && n.headAt.Load() > 0
	})
	if own && self.Status == bsn.CityLeaving {
		return "", to, false
	}
	var others []string
	for _, name := range p.chain.Committee {
		c, ok := g.directory.city(name)
		if !ok || name == g.cfg.City || c.Status != bsn.CityActive || c.Gateway == "" || serves != nil && !serves(name) {
			continue
		}
		if others = append(others, name+" ("+c.Gateway+")"); to.Name == "" {
			to = c
		}
	}
	word := "is leaving the network"
	switch self.Status {
	case bsn.CityLeft:
		word = "has left the network"
	case bsn.CityEvicted:
		word = "was evicted from the network"
	}
	text = fmt.Sprintf("city %s %s and does not serve chain %s any more", g.cfg.City, word, clipName(chain))
	if len(others) == 0 {
		return text + ", and no other city does", to, true
	}
	return text + "; these do: " + strings.Join(others, ", ") + ". A key is good in one city: make one there (bsn key create --city " + to.Name + ")", to, true
}

// elsewhere sends a request for a chain to another city if this one has moved it.
func (g *Gateway) elsewhere(w http.ResponseWriter, r *http.Request) bool {
	chain, path := r.PathValue("chain"), r.URL.Path
	var serves func(city string) bool
	if chain == "" {
		app, number, ok := g.appOf(r)
		if !ok {
			return false
		}
		v, ok := app.Serving(g.cfg.City, number)
		if !ok {
			return false
		}
		chain = v.Chain
		serves = func(city string) bool { _, ok := app.Serving(city, v.Number); return ok }
	} else {
		path = "/rpc/" + chain // a key in the path, or a project, is not for another operator's eyes
	}
	text, to, moved := g.moved(chain, serves)
	if !moved {
		return false
	}
	status := http.StatusServiceUnavailable
	if to.Name != "" {
		status = http.StatusTemporaryRedirect
		location := to.Gateway + path
		if r.URL.RawQuery != "" {
			location += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", location)
	}
	if serves != nil {
		g.replyApp(w, nil, failApp(status, "%s", text))
	} else {
		g.reply(w, nil, refuse(outcomeRefused, codeChain, "%s", text).with(status))
	}
	return true
}

// here serves with next what this city does not send elsewhere.
func (g *Gateway) here(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, going := g.going(); !going || !g.elsewhere(w, r) {
			next(w, r)
		}
	}
}

// watchLeaving closes the open connections to chains that have moved, until ctx ends.
func (g *Gateway) watchLeaving(ctx context.Context) {
	tick := time.NewTicker(leavePause)
	defer tick.Stop()
	for {
		if _, going := g.going(); going {
			g.sockets.Range(func(key, _ any) bool {
				s := key.(*socket)
				if _, to, moved := g.moved(s.chain, nil); moved {
					s.end(websocket.StatusServiceRestart, leavingReason(g.cfg.City, to))
				}
				return true
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// leavingReason is the reason in a close frame, which holds at most 123 bytes.
func leavingReason(city string, to bsn.City) string {
	text := "city " + city + " is leaving the network"
	if more := text + "; go to " + to.Gateway; to.Name != "" && len(more) <= 123 {
		return more
	}
	return text
}
