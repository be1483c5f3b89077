package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
)

// caller is who calls, as the directory had it when the call came.
type caller struct {
	project *bsn.Project
	id      string  // the project's
	key     bsn.Key // zero with a token
	from    peer
	token   token.Claims
	signer  string // address of the key that signed the token
	// policy is what the restrictions of key or token come to, limits their own
	// limits, and own the name under which these are counted.
	policy *policy
	limits bsn.Limits
	own    string
	at     time.Time // when the call came
}

// name says what was shown, for errors.
func (c caller) name() string {
	if c.signer != "" {
		return "this token"
	}
	return "key " + c.key.ID
}

// peer is where a request comes from.
type peer struct {
	ip netip.Addr
	// origin is the header of that name, which browsers set: the page that calls.
	origin string
}

// authorise finds the project of a key that is good in this city, and for who shows it.
func (g *Gateway) authorise(secret string, from peer) (caller, answer, bool) {
	deny := func(reason, text string) (caller, answer, bool) {
		g.meter.refused.WithLabelValues(reason).Inc()
		return caller{}, refuse(outcomeRefused, codeKey, "%s", text).with(http.StatusUnauthorized), false
	}
	if secret == "" {
		return deny("missing", "key is missing: give it as x-api-key, as Authorization: Bearer, or at the end of the path")
	}
	roaming := token.Is(secret)
	if err := bsn.CheckKey(secret); err != nil && !roaming {
		return deny("malformed", err.Error())
	}
	if a, ok := g.together(bsn.MethodRead); !ok {
		g.meter.refused.WithLabelValues("alone").Inc()
		return caller{}, a, false
	}
	if roaming {
		c, err := g.roaming(secret)
		if err != nil {
			return deny("token", err.Error())
		}
		c.from = from
		return c, answer{}, true
	}
	entry, found, ready := g.directory.key(bsn.HashKey(secret))
	switch {
	case !ready:
		return caller{}, refuse(outcomeUnavailable, codeUnavailable,
			"gateway has not read the ledger yet: try again in a moment").with(http.StatusServiceUnavailable), false
	case !found:
		return deny("unknown", "key is not known in city "+g.cfg.City)
	}
	if reason, a := g.against(entry, from); reason != "" {
		g.meter.refused.WithLabelValues(reason).Inc()
		return caller{}, a, false
	}
	return entry.caller(from), answer{}, true
}

func (e *keyEntry) caller(from peer) caller {
	return caller{
		project: e.project, id: e.id, key: e.key, from: from,
		policy: e.policy, limits: e.key.Limits, own: e.key.Hash,
	}
}

// against tells what speaks against a key that is shown here and now: the reason, as
// metrics name it, and the answer. The reason is empty for a key that is good.
func (g *Gateway) against(e *keyEntry, from peer) (reason string, a answer) {
	text := ""
	switch {
	case e.key.City != g.cfg.City:
		reason, text = "city", "this key belongs to city "+e.key.City+", this is the gateway of "+g.cfg.City
	case e.project.Revoked:
		reason, text = "revoked", "project "+e.id+" has been revoked"
	case e.key.Revoked:
		reason, text = "revoked", "key "+e.key.ID+" has been revoked"
	case e.key.Expires != 0 && g.directory.now().Unix() >= e.key.Expires:
		reason, text = "expired", "key "+e.key.ID+" has expired"
	case e.policy != nil:
		if a, ok := e.policy.mayShow(from); !ok {
			return "restricted", a
		}
		return "", answer{}
	default:
		return "", answer{}
	}
	return reason, refuse(outcomeRefused, codeKey, "%s", text).with(http.StatusUnauthorized)
}

// recheck looks up a caller that was let in before, as the ledger has it now.
func (g *Gateway) recheck(c caller) (caller, answer, bool) {
	if c.signer != "" {
		return g.recheckToken(c)
	}
	entry, found, _ := g.directory.key(c.key.Hash)
	if !found {
		return caller{}, refuse(outcomeRefused, codeKey, "key is not known in city %s any more", g.cfg.City).with(http.StatusUnauthorized), false
	}
	if reason, a := g.against(entry, c.from); reason != "" {
		return caller{}, a, false
	}
	return entry.caller(c.from), answer{}, true
}

// route finds the nodes of a chain that is in service.
func (g *Gateway) route(chain string) (*pool, answer, bool) {
	p, ok := g.upstreams.get(chain)
	switch {
	case !ok:
		return nil, refuse(outcomeRefused, codeChain, "there is no chain %q in this network", clipName(chain)).with(http.StatusNotFound), false
	case !p.chain.Runs():
		return nil, refuse(outcomeUnavailable, codeUnavailable, "chain %s is not running yet (%s)", chain, p.chain.Status).with(http.StatusServiceUnavailable), false
	case p.framework == nil:
		return nil, refuse(outcomeUnavailable, codeUnavailable, "this gateway does not know framework %s of chain %s: upgrade it",
			p.chain.Framework, chain).with(http.StatusServiceUnavailable), false
	}
	return p, answer{}, true
}

func clipName(s string) string {
	if len(s) > 2*bsn.MaxName {
		return s[:2*bsn.MaxName] + "…"
	}
	return s
}

// subscriber takes the calls that need a connection that stays; nil over HTTP.
type subscriber func(ctx context.Context, p *pool, m message) answer

// call takes one message all the way: limit, policy, node, count. All protocols
// come through here.
func (g *Gateway) call(ctx context.Context, c caller, p *pool, m message, subscribe subscriber) answer {
	c.at = time.Now()
	p.touch(c.at)
	ctx, span := g.traces.call(ctx, p, systemJSON, m.method)
	a, class, units := g.dispatch(ctx, &c, p, m, subscribe)
	span.done(class, units, a.outcome)
	err := g.meter.record(&c, p.chain.Name, class, units, a.outcome, time.Since(c.at))
	g.quotaDone(&c, units, err == nil && a.outcome.served())
	if err != nil {
		g.memory.letGo(a.held)
		return unmetered(err)
	}
	if a.outcome.served() { // else not charged
		a.spent.units = units
	}
	return a
}

func (g *Gateway) dispatch(ctx context.Context, c *caller, p *pool, m message, subscribe subscriber) (answer, bsn.MethodClass, int) {
	method, known := p.methods.Methods[m.method]
	class := method.Class
	// The wording is go-ethereum's: ethers and others look for it, and then do
	// without a method, such as filters.
	if !known && m.method == usageMethod {
		return g.tellUsage(*c, p, m), bsn.MethodLocal, 0
	}
	if !known {
		return refuse(outcomeRefused, codeMethod, "the method %s does not exist/is not available: chain %s does not offer it here", clipName(m.method), p.chain.Name), classNone, 0
	}
	if a, ok := g.together(class); !ok {
		return a, class, 0
	}
	if a, ok := g.allow(c, p, m, method); !ok {
		return a, class, 0
	}
	taken, ok := g.limit(c, method.Units)
	if !ok {
		return taken, class, 0
	}
	units := method.Units
	a, ok := g.quota(c, units)
	if ok {
		a = g.answer(ctx, c, p, m, method, subscribe)
	} else {
		units = 0
	}
	a.spent = taken.spent
	return a, class, units
}

// answer takes a call that may pass to the nodes.
func (g *Gateway) answer(ctx context.Context, c *caller, p *pool, m message, method bsn.Method, subscribe subscriber) answer {
	if a, ok := g.meterable(c, p.chain.Name, method.Class); !ok {
		return a
	}
	if p.methods.Final {
		m.params = rewriteTags(method, m.params)
	}
	switch method.Class {
	case bsn.MethodSend:
		return g.send(ctx, *c, p, m)
	case bsn.MethodLocal:
		if a, ok := p.local(method); ok {
			return a
		}
	case bsn.MethodSubscribe:
		if subscribe == nil {
			return refuse(outcomeRefused, codeMethod, "the method %s does not exist/is not available over HTTP: connect to the same address with ws://", m.method)
		}
		return subscribe(ctx, p, m)
	}
	bounded := within(ctx, c.at.Add(g.cfg.UpstreamTimeout))
	defer bounded.end()
	return p.read(bounded, c, m, method, g.cfg.MaxResponseBytes)
}

func quote(s string) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil { // a string always encodes
		return []byte(`""`)
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}
