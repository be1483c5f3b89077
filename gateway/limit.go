package gateway

import (
	"cmp"
	"hash/maphash"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/openbsn/bsn"
)

// limitWindow is the time in seconds over which a limit is averaged: a bucket holds
// this many seconds' worth.
const limitWindow = 10

// kind is a limit or restriction that a call can meet, as its error says it.
type kind struct {
	name   string // data.limit of the error
	code   int
	status int // of HTTP
}

var (
	kindRequests = kind{"requests-per-second", codeLimit, http.StatusTooManyRequests}
	kindUnits    = kind{"units-per-second", codeUnits, http.StatusTooManyRequests}
	kindDaily    = kind{"daily-quota", codeDaily, http.StatusTooManyRequests}
	kindMonthly  = kind{"monthly-quota", codeMonthly, http.StatusTooManyRequests}
	kindSize     = kind{"size", codeSize, http.StatusOK}
	kindMethod   = kind{"method", codeMethodDenied, http.StatusForbidden}
	kindContract = kind{"contract", codeContract, http.StatusForbidden}
	kindIP       = kind{"ip", codeIP, http.StatusForbidden}
	kindOrigin   = kind{"origin", codeOrigin, http.StatusForbidden}
)

// exceed answers a call that meets a limit; wait is how long until it would not.
func exceed(k kind, wait time.Duration, format string, args ...any) answer {
	a := refuse(outcomeLimited, k.code, format, args...).with(k.status)
	a.limit, a.retryAfter = k.name, wait
	end := len(a.failure) - 1 // the closing brace
	a.failure = append(append(append(a.failure[:end], `,"data":{"limit":"`...), k.name...), '"')
	if wait > 0 {
		a.failure = strconv.AppendInt(append(a.failure, `,"retryAfter":`...), int64(retrySeconds(wait)), 10)
	}
	a.failure = append(a.failure, "}}"...)
	return a
}

// refuseKind answers a call that a restriction of its key forbids.
func refuseKind(k kind, format string, args ...any) answer {
	a := exceed(k, 0, format, args...)
	a.outcome = outcomeRefused
	return a
}

// epoch is where the process's clock begins.
var epoch = time.Now()

// allowance is how much of its limits a key, a project or an app has used lately:
// two buckets, whose levels fall at the limits' rates. What is full holds ten
// seconds' worth. The zero value is empty.
type allowance struct {
	mu              sync.Mutex
	at              time.Duration // of the process's clock, at which the levels were right
	requests, units float64
	empty           time.Duration // when both will be
}

// drain lets a level fall until now.
func drain(level, perSecond float64, passed time.Duration) float64 {
	if perSecond == 0 {
		return 0
	}
	return max(0, level-passed.Seconds()*perSecond)
}

// level is an allowance with the limits that hold for it now, of which zero is none.
type level struct {
	*allowance
	requestsPerSecond, unitsPerSecond float64
	what, name                        string // whose it is, for the error
}

func (l *level) drain(now time.Duration) {
	passed := max(0, now-l.at)
	l.at = max(l.at, now)
	l.requests = drain(l.requests, l.requestsPerSecond, passed)
	l.units = drain(l.units, l.unitsPerSecond, passed)
}

// over is for how long a call of so many units has to wait, by each of the limits.
func (l *level) over(units int) (requests, inUnits time.Duration) {
	if r := l.requestsPerSecond; r > 0 {
		requests = seconds((l.requests + 1 - limitWindow*r) / r)
	}
	if r := l.unitsPerSecond; r > 0 {
		// A call dearer than a bucket holds passes when that is empty, and is paid off after.
		inUnits = seconds((l.units + min(float64(units), limitWindow*r) - limitWindow*r) / r)
	}
	return max(0, requests), max(0, inUnits)
}

func (l *level) add(units int) {
	l.empty = l.at
	if r := l.requestsPerSecond; r > 0 {
		l.requests++
		l.empty = max(l.empty, l.at+seconds(l.requests/r))
	}
	if r := l.unitsPerSecond; r > 0 {
		l.units += float64(units)
		l.empty = max(l.empty, l.at+seconds(l.units/r))
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// take takes one request of so many compute units from all levels, or from none if
// one of them has too little left: then a says so, of the first. The levels are in
// order: key, project, app.
func take(now time.Duration, units int, levels []level) (s spent, a answer, ok bool) {
	for i := range levels {
		levels[i].mu.Lock() // in this order everywhere
		levels[i].drain(now)
	}
	short, wait, by := -1, time.Duration(0), kindRequests
	for i := range levels {
		if requests, inUnits := levels[i].over(units); requests > 0 || inUnits > 0 {
			short, wait = i, requests
			if inUnits > requests {
				wait, by = inUnits, kindUnits
			}
			break
		}
	}
	for i := range levels {
		l := &levels[i]
		if short < 0 {
			l.add(units)
		}
		s.requests = s.requests.tighter(l.requests, l.requestsPerSecond)
		s.inUnits = s.inUnits.tighter(l.units, l.unitsPerSecond)
		l.mu.Unlock()
	}
	if short < 0 {
		return s, answer{}, true
	}
	l := &levels[short]
	if by == kindUnits {
		a = exceed(by, wait, "%s%s has used up its %.0f compute units per second (averaged over %d s) at this gateway, and this call costs %d: wait %d s",
			l.what, l.name, l.unitsPerSecond, limitWindow, units, retrySeconds(wait))
	} else {
		a = exceed(by, wait, "%s%s has used up its %.0f calls per second (averaged over %d s) at this gateway: wait %d s",
			l.what, l.name, l.requestsPerSecond, limitWindow, retrySeconds(wait))
	}
	a.spent = s
	return s, a, false
}

// limit takes a call of so many compute units from what its key and its project may
// use, and from further levels. The answer holds what is left to them.
func (g *Gateway) limit(c *caller, units int, further ...level) (answer, bool) {
	var room [4]level
	s, a, ok := take(c.at.Sub(epoch), units, append(g.levels(room[:0], c), further...))
	a.spent = s
	return a, ok
}

// levels appends the allowances of a caller's key and project.
func (g *Gateway) levels(levels []level, c *caller) []level {
	if l := c.limits; l != (bsn.Limits{}) {
		levels = append(levels, level{
			g.allowances.get(c.own), float64(l.RequestsPerSecond), float64(l.UnitsPerSecond), "key ", c.key.ID,
		})
		if c.signer != "" {
			levels[0].what, levels[0].name = "this ", "token"
		}
	}
	l := c.project.Limits
	return append(levels, level{
		g.allowances.get(c.id), float64(cmp.Or(l.RequestsPerSecond, g.cfg.RequestsPerSecond)),
		float64(cmp.Or(l.UnitsPerSecond, g.cfg.UnitsPerSecond)), "project ", c.id,
	})
}

// retrySeconds is a wait as Retry-After states it: whole seconds, at least one.
func retrySeconds(wait time.Duration) int {
	return max(1, int(math.Ceil(wait.Seconds())))
}

// allowances are the allowances by name of all who called lately: keys by their
// hash, projects and apps by their id. What is empty is forgotten from time to time,
// so that there are never many more than have something to remember.
type allowances struct {
	seed   maphash.Seed
	shards [16]allowanceShard
}

type allowanceShard struct {
	mu    sync.Mutex
	m     map[string]*allowance
	sweep int // from how many on it is time to forget
}

const sweepLeast = 64

func newAllowances() *allowances {
	a := &allowances{seed: maphash.MakeSeed()}
	for i := range a.shards {
		a.shards[i].m, a.shards[i].sweep = map[string]*allowance{}, sweepLeast
	}
	return a
}

func (a *allowances) get(name string) *allowance {
	s := &a.shards[maphash.String(a.seed, name)%uint64(len(a.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.m[name]; one != nil {
		return one
	}
	if len(s.m) >= s.sweep {
		s.forget(time.Since(epoch))
		s.sweep = max(sweepLeast, 2*len(s.m))
	}
	one := &allowance{}
	s.m[name] = one
	return one
}

// forget drops what is empty. Who has just been given one that is dropped here
// takes from it in vain: one call passes uncounted.
func (s *allowanceShard) forget(now time.Duration) {
	for name, one := range s.m {
		one.mu.Lock()
		idle := one.empty < now
		one.mu.Unlock()
		if idle {
			delete(s.m, name)
		}
	}
}
