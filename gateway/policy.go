package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/openbsn/bsn"
)

// policy is what the restrictions of one key come to. It is made when the key
// becomes known, so that a call only looks things up. A key without restrictions
// has none.
type policy struct {
	methods, denied *patterns // nil: nothing said
	// contracts are nil if any will do.
	contracts map[contract]struct{}
	ips       []netip.Prefix
	origins   *origins
	// unreadable: the record holds what this gateway does not know.
	unreadable error
}

// contract is an address on a chain; on every chain if that is empty.
type contract struct{ chain, address string }

// patterns are names and beginnings of names.
type patterns struct {
	names      map[string]struct{}
	beginnings []string
}

func newPatterns(list []string) *patterns {
	if len(list) == 0 {
		return nil
	}
	p := &patterns{names: map[string]struct{}{}}
	for _, s := range list {
		if beginning, ok := strings.CutSuffix(s, "*"); ok {
			p.beginnings = append(p.beginnings, beginning)
		} else {
			p.names[s] = struct{}{}
		}
	}
	return p
}

func (p *patterns) match(name string) bool {
	if _, ok := p.names[name]; ok {
		return true
	}
	for _, b := range p.beginnings {
		if strings.HasPrefix(name, b) {
			return true
		}
	}
	return false
}

// origins are web pages by their origin; those of one scheme and port that lie below a
// host are kept as the parts before and after their first label.
type origins struct {
	exact map[string]struct{}
	below []originBelow
}

type originBelow struct{ scheme, rest string } // "https://" and ".app.example:8443"

func newOrigins(list []string) *origins {
	if len(list) == 0 {
		return nil
	}
	o := &origins{exact: map[string]struct{}{}}
	for _, s := range list {
		if scheme, rest, ok := strings.Cut(s, "*"); ok {
			o.below = append(o.below, originBelow{scheme, rest})
		} else {
			o.exact[s] = struct{}{}
		}
	}
	return o
}

func (o *origins) match(origin string) bool {
	if _, ok := o.exact[origin]; ok {
		return true
	}
	for _, b := range o.below {
		// Something must lie between, and it must be labels of a host name.
		if middle, ok := strings.CutPrefix(origin, b.scheme); ok {
			if middle, ok = strings.CutSuffix(middle, b.rest); ok && middle != "" && !strings.ContainsAny(middle, "/:@?#[]") {
				return true
			}
		}
	}
	return false
}

// newPolicy compiles restrictions. Apps are looked up with app, which returns nil
// for one that there is not.
func newPolicy(r bsn.Restrictions, app func(id string) *bsn.App) *policy {
	if r.IsZero() {
		return nil
	}
	p := &policy{methods: newPatterns(r.Methods), denied: newPatterns(r.DeniedMethods), origins: newOrigins(r.Origins)}
	for _, s := range r.IPs {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			p.unreadable = err
		}
		p.ips = append(p.ips, prefix)
	}
	if len(r.Contracts) == 0 {
		return p
	}
	p.contracts = map[contract]struct{}{}
	for _, s := range r.Contracts {
		rule, err := bsn.ParseContractRule(s)
		switch {
		case err != nil:
			p.unreadable = err
		case rule.App == "":
			p.contracts[contract{rule.Chain, rule.Address}] = struct{}{}
		default:
			if a := app(rule.App); a != nil {
				p.permit(a)
			}
		}
	}
	return p
}

// permit adds the contracts of an app's versions that are not withdrawn.
func (p *policy) permit(a *bsn.App) {
	for _, v := range a.Versions {
		if v.Withdrawn {
			continue
		}
		for _, c := range v.Contracts {
			p.contracts[contract{v.Chain, bsn.NormalAddress(c.Address)}] = struct{}{}
		}
	}
}

// names tells whether the method is among those that are named one by one, with nothing
// that could not be checked in what it carries.
func (p *policy) names(method string) bool {
	if p == nil || p.methods == nil || p.contracts != nil {
		return false
	}
	_, ok := p.methods.names[method]
	return ok
}

func (p *policy) mayCall(method string) bool {
	return (p.methods == nil || p.methods.match(method)) && (p.denied == nil || !p.denied.match(method))
}

func (p *policy) mayTouch(chain, address string) bool {
	if p.contracts == nil {
		return true
	}
	address = bsn.NormalAddress(address)
	if _, ok := p.contracts[contract{chain, address}]; ok {
		return true
	}
	_, ok := p.contracts[contract{"", address}]
	return ok
}

func (p *policy) mayComeFrom(ip netip.Addr) bool {
	if p.ips == nil {
		return true
	}
	for _, prefix := range p.ips {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// mayShow tells whether a key with these restrictions is good where it comes from.
func (p *policy) mayShow(from peer) (answer, bool) {
	switch {
	case p.unreadable != nil:
		return refuse(outcomeRefused, codeKey, "restrictions of this key cannot be read by this gateway, so that it is refused: %v", p.unreadable).with(http.StatusUnauthorized), false
	case !p.mayComeFrom(from.ip):
		return refuseKind(kindIP, "this key may not be used from %s", from.ip), false
	case p.origins != nil && from.origin == "":
		return refuseKind(kindOrigin, "this key is for web pages of certain origins, and the request names none (header Origin): use another key, or a token"), false
	case p.origins != nil && !p.origins.match(from.origin):
		return refuseKind(kindOrigin, "this key may not be used by pages of %s", clipName(from.origin)), false
	}
	return answer{}, true
}

// allow tells whether the restrictions of the caller's key let a call pass. Of a
// transaction it is told when it has been read: see [Gateway.mayReceive].
func (g *Gateway) allow(c *caller, p *pool, m message, method bsn.Method) (answer, bool) {
	if method.Restricted && !c.policy.names(m.method) {
		return refuseKind(kindMethod, "%s may not call %s: only a key whose methods name it may, and that is not for certain contracts only", c.name(), clipName(m.method)), false
	}
	if c.policy == nil {
		return answer{}, true
	}
	if !c.policy.mayCall(m.method) {
		return refuseKind(kindMethod, "%s may not call %s", c.name(), clipName(m.method)), false
	}
	if c.policy.contracts == nil || method.Contract == 0 {
		return answer{}, true
	}
	err := addressed(m.params, method, func(address string) error {
		if !c.policy.mayTouch(p.chain.Name, address) {
			return fmt.Errorf("%s is not among the contracts that it is for on chain %s", clipName(address), p.chain.Name)
		}
		return nil
	})
	if err != nil {
		return refuseKind(kindContract, "%s may not make this call: %v", c.name(), err), false
	}
	return answer{}, true
}

// allowQuery is allow for a read of an app's function.
func (c caller) allowQuery(t target, contract string) (answer, bool) {
	if c.policy == nil {
		return answer{}, true
	}
	if !c.policy.mayCall(queryMethod) {
		return refuseKind(kindMethod, "%s may not call %s, which reading a function is", c.name(), queryMethod), false
	}
	for _, one := range t.version.Contracts {
		if one.Name == contract && !c.policy.mayTouch(t.version.Chain, one.Address) {
			return refuseKind(kindContract, "%s is not for contract %s of app %s", c.name(), contract, t.id), false
		}
	}
	return answer{}, true
}

// mayReceive tells whether the restrictions of the caller's key let a transaction pass.
func (g *Gateway) mayReceive(c caller, chain bsn.Chain, tx bsn.Transaction) (answer, bool) {
	switch {
	case c.policy == nil || c.policy.contracts == nil:
		return answer{}, true
	case tx.Creates:
		return refuseKind(kindContract, "%s is for certain contracts, so that it creates none", c.name()), false
	case tx.To == "":
		return refuseKind(kindContract, "%s is for certain contracts, and this transaction is sent to none", c.name()), false
	case !c.policy.mayTouch(chain.Name, tx.To):
		return refuseKind(kindContract, "%s may not send to %s on chain %s: it is not among the contracts that the key is for", c.name(), tx.To, chain.Name), false
	}
	return answer{}, true
}

var (
	errNoContract = errors.New("it must name the contract that it asks")
	errTwoWays    = errors.New("the contract must be named once, in a member with exactly this name")
)

// silent are the subscriptions of the EVM family that show no contract's data.
func silent(topic string) bool {
	return topic == "newHeads" || topic == "newPendingTransactions" || topic == "syncing"
}

// addressed calls visit with each contract that the params of a call name, at the
// position that the method's row gives: an address, a call's member to, or a log
// filter's member address. That none is named, or that nodes could read it in two
// ways, is an error: the nodes get the params as the client wrote them.
func addressed(params []byte, method bsn.Method, visit func(address string) error) error {
	if len(params) == 0 || params[0] != '[' {
		return errNoContract
	}
	position, found, spared := 0, false, false
	_, err := scanArray(params, 0, maxRequestDepth, func(value []byte) error {
		position++
		if position == 1 && method.Class == bsn.MethodSubscribe && method.Contract > 1 {
			spared = value[0] == '"' && silent(unquote(value))
		}
		if position != method.Contract || spared {
			return nil
		}
		found = true
		switch {
		case value[0] == '"':
			return visit(unquote(value))
		case value[0] != '{':
			return errNoContract
		case method.Contract == method.Filter:
			return addressedIn(value, "address", true, visit)
		}
		return addressedIn(value, "to", false, visit)
	})
	if err == nil && !found && !spared {
		err = errNoContract
	}
	return err
}

// addressedIn visits what the named member of an object holds: an address or, if
// several are possible, an array of them. Names are compared as the most lenient
// node does, so that no other spelling passes unseen.
func addressedIn(object []byte, name string, several bool, visit func(address string) error) error {
	found := false
	_, err := scanObject(object, 0, maxRequestDepth, func(n, value []byte) error {
		written := unquote(n)
		if !strings.EqualFold(written, name) {
			return nil
		}
		if found || written != name {
			return errTwoWays
		}
		found = true
		switch {
		case value[0] == '"':
			return visit(unquote(value))
		case value[0] != '[' || !several:
			return errNoContract
		}
		any := false
		_, err := scanArray(value, 0, maxRequestDepth, func(element []byte) error {
			if element[0] != '"' {
				return errNoContract
			}
			any = true
			return visit(unquote(element))
		})
		if err == nil && !any {
			err = errNoContract
		}
		return err
	})
	if err == nil && !found {
		err = errNoContract
	}
	return err
}
