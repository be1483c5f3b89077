package gateway

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/openbsn/bsn"
)

// aloneTick is the time between two looks at how old the ledger's state is, and
// aloneRetry what a client that is refused for it is told to wait.
const (
	aloneTick  = time.Second
	aloneRetry = 10 * time.Second
)

// Alone says for how long a gateway goes on without the ledger, counted from the
// time of the newest block that it knows. Keys that are revoked meanwhile are
// not known here: that is why it ends. The gateway stands alone from
// [bsn.HaltedAfter] on, and refuses nothing before.
type Alone struct {
	// Reads are answered for this long, and nothing after; default 1 h.
	Reads time.Duration `yaml:"reads"`
	// Writes: transactions are taken for this long; default 1 min.
	Writes time.Duration `yaml:"writes"`
}

// allows is what a gateway answers, as the header Bsn-Alone and /health say it.
type allows string

const (
	allowsAll     allows = "writes" // reads and transactions
	allowsReads   allows = "reads"
	allowsNothing allows = "none"
)

// standing is how a gateway stands to the ledger.
type standing struct {
	alone  bool
	allows allows
	age    time.Duration // of the newest block known
	since  time.Time     // that block's own time
}

// standing tells how the gateway stands now, as of a moment ago: each call asks.
func (g *Gateway) standing() standing {
	change, tick := g.directory.changes.Load(), time.Now().UnixNano()/int64(presentTick)
	if s := g.stood.Load(); s != nil && s.change == change && s.tick == tick {
		return s.standing
	}
	s := &stood{g.stands(), change, tick}
	g.stood.Store(s)
	return s.standing
}

// stood is a standing, as of one state of the directory and one tick.
type stood struct {
	standing
	change uint64
	tick   int64
}

func (g *Gateway) stands() standing {
	age, known := g.directory.clock.Age()
	s := standing{alone: known && age > bsn.HaltedAfter, allows: allowsAll, age: age}
	switch {
	case !s.alone:
		return s
	case age > g.cfg.Alone.Reads:
		s.allows = allowsNothing
	case age > g.cfg.Alone.Writes:
		s.allows = allowsReads
	}
	s.since = g.directory.clock.Newest()
	return s
}

// unheard tells why a call is refused, if it is for want of the ledger.
func (g *Gateway) unheard(class bsn.MethodClass) (text string, refused bool) {
	s := g.standing()
	if s.allows == allowsAll || s.allows == allowsReads && class != bsn.MethodSend {
		return "", false
	}
	why := fmt.Sprintf("this gateway of city %s knows no block of the ledger since %s, %d s ago: keys and policies may have changed unseen, so ",
		g.cfg.City, s.since.UTC().Format(time.RFC3339), int(s.age.Seconds()))
	if s.allows == allowsNothing {
		return why + fmt.Sprintf("nothing is answered for longer than %v; try again, or at another city", g.cfg.Alone.Reads), true
	}
	return why + fmt.Sprintf("transactions are not taken for longer than %v, and reads go on until %v; try again, or at another city",
		g.cfg.Alone.Writes, g.cfg.Alone.Reads), true
}

// together refuses what a gateway that stands alone does not do any more.
func (g *Gateway) together(class bsn.MethodClass) (answer, bool) {
	text, refused := g.unheard(class)
	if !refused {
		return answer{}, true
	}
	a := refuse(outcomeAlone, codeAlone, "%s", text).with(http.StatusServiceUnavailable)
	a.retryAfter = aloneRetry
	return a, false
}

// hearing returns a context that ends when a gateway has stood alone for so long
// that it answers nothing.
func (g *Gateway) hearing() context.Context {
	g.aloneMu.Lock()
	defer g.aloneMu.Unlock()
	return g.heard
}

// watchAlone notices when the gateway stands alone and when it does not any more,
// until ctx ends.
func (g *Gateway) watchAlone(ctx context.Context) {
	tick := time.NewTicker(aloneTick)
	defer tick.Stop()
	said := standing{allows: allowsAll}
	for {
		s := g.standing()
		g.aloneMu.Lock()
		switch over := g.heard.Err() != nil; {
		case s.allows == allowsNothing:
			g.unhear()
		case over:
			g.heard, g.unhear = context.WithCancel(context.Background())
		}
		g.aloneMu.Unlock()
		switch {
		case s.alone && (!said.alone || s.allows != said.allows):
			g.log.Warn("standing alone: the ledger is not heard of", "since", s.since, "still_answered", string(s.allows))
		case said.alone && !s.alone:
			g.log.Info("the ledger is heard of again", "height", g.directory.state().height)
		}
		said = s
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
