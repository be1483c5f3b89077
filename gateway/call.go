package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
)

// caller is who calls, as the directory had it when the call came.
type caller struct {
	project *bsn.Project
	id      string // the project's
	hash    string // of the key; empty with a token
	token   token.Claims
	signer  string // address of the key that signed the token
}

// authorise finds the project of a key that is good in this city.
func (g *Gateway) authorise(secret string) (caller, answer, bool) {
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
		return c, answer{}, true
	}
	hash := bsn.HashKey(secret)
	entry, found, ready := g.directory.key(hash)
	switch {
	case !ready:
		return caller{}, refuse(outcomeUnavailable, codeUnavailable,
			"gateway has not read the ledger yet: try again in a moment").with(http.StatusServiceUnavailable), false
	case !found:
		return deny("unknown", "key is not known in city "+g.cfg.City)
	case entry.key.City != g.cfg.City:
		return deny("city", "this key belongs to city "+entry.key.City+", this is the gateway of "+g.cfg.City)
	case entry.project.Revoked:
		return deny("revoked", "project "+entry.id+" has been revoked")
	case entry.key.Revoked:
		return deny("revoked", "key "+entry.key.ID+" has been revoked")
	}
	return caller{project: entry.project, id: entry.id, hash: hash}, answer{}, true
}

// recheck looks up a caller that was let in before, as the ledger has it now.
func (g *Gateway) recheck(c caller) (caller, bool) {
	if c.signer != "" {
		return g.recheckToken(c)
	}
	entry, found, _ := g.directory.key(c.hash)
	if !found || entry.key.City != g.cfg.City || entry.project.Revoked || entry.key.Revoked {
		return caller{}, false
	}
	return caller{project: entry.project, id: entry.id, hash: c.hash}, true
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
	began := time.Now()
	p.touch()
	a, class, units := g.dispatch(ctx, c, p, m, subscribe)
	g.meter.record(c.id, p.chain.Name, class, units, a.outcome, time.Since(began))
	return a
}

func (g *Gateway) dispatch(ctx context.Context, c caller, p *pool, m message, subscribe subscriber) (answer, bsn.MethodClass, int) {
	method, known := p.methods.Methods[m.method]
	class := method.Class
	if !known {
		class = classNone
	}
	if a, ok := g.limit(c); !ok {
		return a, class, 0
	}
	// The wording is go-ethereum's: ethers and others look for it, and then do
	// without a method, such as filters.
	if !known {
		return refuse(outcomeRefused, codeMethod, "the method %s does not exist/is not available: chain %s does not offer it here", clipName(m.method), p.chain.Name), class, 0
	}
	if a, ok := g.together(class); !ok {
		return a, class, 0
	}
	if p.methods.Final {
		m.params = rewriteTags(method, m.params)
	}
	switch class {
	case bsn.MethodSend:
		return g.send(ctx, c, p, m), class, method.Units
	case bsn.MethodSubscribe:
		if subscribe == nil {
			return refuse(outcomeRefused, codeMethod, "the method %s does not exist/is not available over HTTP: connect to the same address with ws://", m.method), class, 0
		}
		return subscribe(ctx, p, m), class, method.Units
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.UpstreamTimeout)
	defer cancel()
	return p.read(ctx, appendRequest(make([]byte, 0, 64+len(m.method)+len(m.params)), 1, m.method, m.params), g.cfg.MaxResponseBytes), class, method.Units
}

// limit takes a call from what the project may use.
func (g *Gateway) limit(c caller) (answer, bool) {
	perSecond := c.project.Limits.RequestsPerSecond
	if perSecond <= 0 {
		perSecond = g.cfg.RequestsPerSecond
	}
	wait, ok := g.projects.take(c.id, perSecond)
	if ok {
		return answer{}, true
	}
	a := refuse(outcomeLimited, codeLimit, "project %s has used up its %d calls per second (averaged over %d s) at this gateway: wait %d s",
		c.id, perSecond, limitWindow, retrySeconds(wait)).with(http.StatusTooManyRequests)
	a.retryAfter = wait
	return a, false
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
