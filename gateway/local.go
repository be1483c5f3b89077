package gateway

import "github.com/openbsn/bsn"

// local answers what the gateway knows itself; not ok if the chain's record does not
// tell, so that a node is asked.
func (p *pool) local(m bsn.Method) (answer, bool) {
	if m.Answer == bsn.AnswerChainID && p.chain.NetworkID > 0 {
		return answer{result: appendQuantity(nil, p.chain.NetworkID), outcome: outcomeOK}, true
	}
	return answer{}, false
}
