package gateway

import (
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

// classNotify stands for what subscriptions bring.
const classNotify bsn.MethodClass = "notify"

// ending is why a connection ends: the code and the reason of the frame that closes
// it, and, if there is one, an error that goes out before.
type ending struct {
	code   websocket.StatusCode
	reason string
	last   []byte
}

var (
	endUncounted = &ending{code: websocket.StatusTryAgainLater, reason: closeUncounted}
	// Close codes of applications begin at 4000; these end as those of the errors do.
	endCodes = map[string]websocket.StatusCode{
		kindDaily.name:   4000 - (codeDaily + 32000),
		kindMonthly.name: 4000 - (codeMonthly + 32000),
	}
)

// chargeNotices counts what is about to go out to a caller by itself. It returns nil,
// or why nothing may: then nothing is counted.
func (g *Gateway) chargeNotices(c *caller, chain string, units int) *ending {
	if units <= 0 {
		return nil
	}
	now, a, ok := g.recheck(*c) // the quota may have been changed since
	if !ok {
		return endRefused(a)
	}
	if a, ok := g.quota(&now, units); !ok {
		return g.endOverQuota(a)
	}
	err := g.meter.record(&now, chain, classNotify, units, outcomeOK, 0)
	g.quotaDone(&now, units, err == nil)
	if err != nil {
		return endUncounted
	}
	return nil
}

// endOverQuota ends a connection whose notifications the quota does not pay any more.
func (g *Gateway) endOverQuota(a answer) *ending {
	code, known := endCodes[a.limit]
	if !known {
		return endUncounted
	}
	again := g.directory.now().Add(a.retryAfter).UTC().Round(time.Second).Format(time.RFC3339)
	return &ending{
		code: code, last: appendReply(nil, nil, a),
		reason: a.limit + ": the project's compute units are used up; there are more from " + again,
	}
}

// endRefused ends the connection of a caller who is let in no more.
func endRefused(a answer) *ending {
	return &ending{code: websocket.StatusPolicyViolation, reason: clipReason(errorText(a.failure))}
}

// maxReason is how many bytes a close frame has for its reason.
const maxReason = 123

func clipReason(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}
