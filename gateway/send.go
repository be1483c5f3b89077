package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/openbsn/bsn"
)

const (
	// copies is how many nodes have a transaction before it counts as accepted,
	// where there are that many: it then survives the death of one.
	copies = 2
	// transactionMethod tells whether a node knows a transaction, pending or
	// mined, on every chain that speaks the Ethereum JSON-RPC.
	transactionMethod = "eth_getTransactionByHash"
)

// send checks a transaction against the chain's policy and hands it to two nodes.
func (g *Gateway) send(ctx context.Context, c caller, p *pool, m message) answer {
	tx, err := p.framework.Inspect(m.method, m.params)
	if err != nil {
		return refuse(outcomeRefused, codeParams, "cannot read the transaction: %v", err)
	}
	if a, ok := g.mayCreate(c.project, p.chain, tx); !ok {
		return a
	}
	if a, ok := g.mayReceive(c, p.chain, tx); !ok {
		return a
	}
	// A client that goes away does not take back what it sent.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.UpstreamTimeout)
	defer cancel()
	if p.forwards() {
		ctx = context.WithValue(ctx, projectKey{}, c.id)
	}
	defer p.state.changed()
	return p.send(ctx, tx, appendRequest(nil, 1, m.method, m.params), g.cfg.MaxResponseBytes)
}

// mayCreate tells whether the chain's policy lets the transaction pass.
func (g *Gateway) mayCreate(project *bsn.Project, chain bsn.Chain, tx bsn.Transaction) (answer, bool) {
	if !tx.Creates || chain.Deploy == bsn.DeployAnyone {
		return answer{}, true
	}
	owner, _ := g.directory.account(project.Account)
	same := func(address string) bool { return strings.EqualFold(address, tx.From) }
	// Of some transactions the sender cannot be told without the chain's state.
	if tx.From != "" && (owner.Deploys(tx.From) || slices.ContainsFunc(project.Deployers, same)) {
		return answer{}, true
	}
	from := tx.From
	if from == "" {
		from = "a sender that the gateway cannot tell"
	}
	allowed := "the account " + project.Account
	var keys []string
	for _, s := range owner.Signers {
		keys = append(keys, s.Ethereum)
	}
	if len(keys) > 0 {
		allowed += " (" + strings.Join(keys, ", ") + ")"
	}
	if len(project.Deployers) > 0 {
		allowed += " and the project's deployers (" + strings.Join(project.Deployers, ", ") + ")"
	}
	return refuse(outcomeRefused, codePolicy,
		"%s may not create contracts on chain %s with a key of project %s: only %s may; sign with a key of that account, or add the signer's address to the project's deployers",
		from, chain.Name, project.ID(), allowed), false
}

// handed is what came of handing a transaction to one node.
type handed struct {
	node *node
	answer
	err error
}

// send hands a transaction to two nodes at once and waits until both have it.
// For each that does not answer, or refuses what another has accepted, it turns
// to a further one while there are any. One that has it in the end is enough.
func (p *pool) send(ctx context.Context, tx bsn.Transaction, request []byte, limit int64) answer {
	var room [8]*node
	waiting := p.level(ctx, 0, room[:0])
	results := make(chan handed, len(waiting))
	asked := 0
	next := func() {
		if len(waiting) == 0 {
			return
		}
		n := waiting[0]
		waiting = waiting[1:]
		asked++
		go func() { results <- p.hand(ctx, n, tx, request, limit) }()
	}
	for range copies {
		next()
	}
	var accepted, refused []handed
	var last error
	for ; asked > 0; asked-- {
		switch r := <-results; {
		case r.err != nil:
			last = r.err
			next()
		case r.failure != nil:
			refused = append(refused, r)
			if len(accepted) > 0 {
				next()
			}
		default:
			accepted = append(accepted, r)
			if len(accepted) == copies {
				return r.answer
			}
			// A node that refused before counts for nothing now.
			if len(refused) > 0 && len(accepted) == 1 {
				next()
			}
		}
	}
	switch {
	case len(accepted) > 0:
		return accepted[0].answer
	case len(refused) > 0:
		return refused[0].answer
	}
	a := unavailable(ctx, p.chain, last)
	if a.status == http.StatusGatewayTimeout {
		a.failure = appendError(nil, codeUnavailable, "no node of chain "+p.chain.Name+
			" confirmed in time that it has transaction "+tx.Hash+"; it may have it: look for its receipt, or send the same again")
	}
	return a
}

// hand gives a transaction to one node. A node that has it already, from an
// earlier try or from the other node and perhaps in a block, has accepted it,
// whatever the words of its refusal.
func (p *pool) hand(ctx context.Context, n *node, tx bsn.Transaction, request []byte, limit int64) handed {
	asking, span := n.upstreams.traces.try(ctx, n, tryCopy)
	a, err := n.ask(asking, request, limit)
	span.tried(err, a.failure != nil)
	if err == nil && a.failure != nil && (saysKnown(a.failure) || p.knows(ctx, n, tx)) {
		a = answer{result: quote(tx.Hash), outcome: outcomeOK}
	}
	return handed{node: n, answer: a, err: err}
}

// saysKnown recognises the words in which nodes refuse what they already have:
// "already known" (go-ethereum), "known transaction" (Kaia).
func saysKnown(failure []byte) bool {
	text := strings.ToLower(string(failure))
	return strings.Contains(text, "already known") || strings.Contains(text, "known transaction")
}

// knows tells whether the node has the transaction, pending or mined.
func (p *pool) knows(ctx context.Context, n *node, tx bsn.Transaction) bool {
	if _, ok := p.methods.Methods[transactionMethod]; !ok {
		return false
	}
	params := append(append([]byte{'['}, quote(tx.Hash)...), ']')
	a, err := n.ask(ctx, appendRequest(nil, 1, transactionMethod, params), 1<<20)
	return err == nil && a.failure == nil && string(a.result) != "null"
}
