package gateway

import (
	"math"
	"net/http"
	"strconv"
)

// left is what remains of a limit that may be used in ten seconds, and after how many
// seconds all of it will be there again. Without a limit all is 0.
type left struct {
	quota, rest, reset int64
}

// tighter returns the one of two of which less is left; the other is given by its
// bucket's level.
func (l left) tighter(level, perSecond float64) left {
	if perSecond == 0 {
		return l
	}
	rest := max(0, int64(limitWindow*perSecond-level))
	if l.quota != 0 && l.rest <= rest {
		return l
	}
	return left{int64(limitWindow * perSecond), rest, int64(math.Ceil(level / perSecond))}
}

func (l left) or(other left) left {
	if l.quota == 0 || other.quota != 0 && other.rest < l.rest {
		return other
	}
	return l
}

// spent is what a call cost its caller, in compute units, and what is left.
type spent struct {
	units             int
	requests, inUnits left
}

// and adds what another call of the same request cost.
func (s spent) and(other spent) spent {
	return spent{s.units + other.units, s.requests.or(other.requests), s.inUnits.or(other.inUnits)}
}

// Headers that say what a request cost and what is left. The latter two are of the
// IETF's draft-ietf-httpapi-ratelimit-headers-10.
const (
	unitsHeader  = "Bsn-Units"
	policyHeader = "Ratelimit-Policy"
	leftHeader   = "Ratelimit"
)

func (s spent) appendUnits(b []byte) []byte { return strconv.AppendInt(b, int64(s.units), 10) }

// appendPolicy appends the limits: "requests";q=500;w=10, "units";q=4000;w=10.
func (s spent) appendPolicy(b []byte) []byte {
	b = s.requests.append(b, "requests", 'q', s.requests.quota, 'w', limitWindow)
	return s.inUnits.append(b, "units", 'q', s.inUnits.quota, 'w', limitWindow)
}

// appendLeft appends what is left of them: "requests";r=499;t=1, "units";r=3980;t=1.
func (s spent) appendLeft(b []byte) []byte {
	b = s.requests.append(b, "requests", 'r', s.requests.rest, 't', s.requests.reset)
	return s.inUnits.append(b, "units", 'r', s.inUnits.rest, 't', s.inUnits.reset)
}

func (l left) append(b []byte, name string, k1 byte, v1 int64, k2 byte, v2 int64) []byte {
	if l.quota == 0 {
		return b
	}
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(append(b, '"'), name...), '"', ';', k1, '=')
	b = strconv.AppendInt(b, v1, 10)
	return strconv.AppendInt(append(b, ';', k2, '='), v2, 10)
}

// tell writes the headers.
func (s spent) tell(h http.Header) {
	var room [96]byte
	h[unitsHeader] = []string{string(s.appendUnits(room[:0]))}
	if s.requests.quota != 0 || s.inUnits.quota != 0 {
		h[policyHeader] = []string{string(s.appendPolicy(room[:0]))}
		h[leftHeader] = []string{string(s.appendLeft(room[:0]))}
	}
}
