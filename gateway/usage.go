package gateway

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/openbsn/bsn"
)

// usageMethod is a method of the gateway's own: it tells what the headers of answers
// over HTTP do, which messages of a WebSocket do not have, and how much is left of the
// quotas.
const usageMethod = "bsn_usage"

// usageAnswer is what it is answered with. What has no limit is left out.
type usageAnswer struct {
	Project  string      `json:"project"`
	Key      string      `json:"key,omitempty"` // its id; none with a token
	Requests *usageRate  `json:"requests,omitempty"`
	Units    *usageRate  `json:"units,omitempty"`
	Daily    *usageQuota `json:"daily,omitempty"`
	Monthly  *usageQuota `json:"monthly,omitempty"`
}

// usageRate is a limit of calls, or of compute units, in so many seconds: what is
// left, and after how many seconds all of it will be there again.
type usageRate struct {
	Limit  int64 `json:"limit"`
	Left   int64 `json:"left"`
	Window int   `json:"window"`
	Reset  int64 `json:"reset"`
}

// usageQuota is a quota in compute units, and when it begins anew.
type usageQuota struct {
	Limit int64     `json:"limit"`
	Used  int64     `json:"used"`
	Left  int64     `json:"left"`
	Ends  time.Time `json:"ends"`
}

// tellUsage answers usageMethod. It costs nothing, but counts as a request; so that who
// has used up a quota can still ask, that is not looked at.
func (g *Gateway) tellUsage(c caller, p *pool, m message) answer {
	if a, ok := g.allow(&c, p, m, bsn.Method{Class: bsn.MethodLocal}); !ok {
		return a
	}
	a, ok := g.limit(&c, 0)
	if !ok {
		return a
	}
	if bad, ok := g.meterable(&c, p.chain.Name, bsn.MethodLocal); !ok {
		return bad
	}
	u := usageAnswer{Project: c.id, Key: c.key.ID, Requests: rate(a.spent.requests), Units: rate(a.spent.inUnits)}
	if most := c.project.Quota; most != (bsn.Quota{}) {
		q, err := g.quotaOf(c.id)
		if err != nil {
			return unmetered(err)
		}
		now, known := g.directory.now(), q.known.Load()
		more := q.reserved.Load() + q.recorded.Load()
		u.Daily = quotaLeft(most.Daily, known.day+more, endOfDay(now))
		u.Monthly = quotaLeft(most.Monthly, known.month+more, endOfMonth(now))
	}
	text, err := json.Marshal(u)
	if err != nil {
		return refuse(outcomeUnavailable, codeInternal, "%s", fmt.Errorf("encode usage: %w", err))
	}
	return answer{result: text, outcome: outcomeOK, spent: a.spent}
}

func rate(l left) *usageRate {
	if l.quota == 0 {
		return nil
	}
	return &usageRate{Limit: l.quota, Left: l.rest, Window: limitWindow, Reset: l.reset}
}

func quotaLeft(limit, used int64, ends time.Time) *usageQuota {
	if limit == 0 {
		return nil
	}
	return &usageQuota{Limit: limit, Used: used, Left: max(0, limit-used), Ends: ends}
}

// left is what a caller may use now, without taking anything: for the answer that
// opens a WebSocket.
func (g *Gateway) left(c caller) (s spent) {
	now := time.Since(epoch)
	for _, l := range g.levels(nil, &c) {
		l.mu.Lock()
		l.drain(now)
		s.requests = s.requests.tighter(l.requests, l.requestsPerSecond)
		s.inUnits = s.inUnits.tighter(l.units, l.unitsPerSecond)
		l.mu.Unlock()
	}
	return s
}
