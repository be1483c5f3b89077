package gateway

import (
	"math/rand"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// history is what a client makes of its events: the chain as it knows it.
type history struct {
	t             *testing.T
	heads, logs   []string
	headsAt       string // cursors
	logsAt        string
	headID, logID string
}

func (h *history) apply(events []event) {
	h.t.Helper()
	for _, e := range events {
		switch {
		case e.sub == h.headID:
			// A head follows one that the client has: blocks after that are abandoned.
			i := slices.IndexFunc(h.heads, func(name string) bool { return strings.HasSuffix(name, e.parent) })
			if i < 0 {
				h.t.Fatalf("head %s follows none that the client has", e.name)
			}
			h.heads, h.headsAt = append(h.heads[:i+1], e.name), e.cursor
		case e.sub != h.logID:
			h.t.Fatalf("event of subscription %s", e.sub)
		case e.removed:
			if last := len(h.logs) - 1; last < 0 || h.logs[last] != e.name {
				h.t.Fatalf("removed is %s, and not the newest log of %v", e.name, h.logs)
			}
			h.logs, h.logsAt = h.logs[:len(h.logs)-1], e.cursor
		default:
			h.logs, h.logsAt = append(h.logs, e.name), e.cursor
		}
	}
}

// Whatever happens to the chain, to the nodes and to the client's connections: what
// a client that continues with its cursors hears is the chain's history, each event
// once and in order.
func TestSubscriptionHistory(t *testing.T) {
	seeds := int64(8)
	if os.Getenv("BSN_LONG") != "" {
		seeds = 200
	}
	for seed := range seeds {
		t.Run(strconv.FormatInt(seed, 10), func(t *testing.T) {
			t.Parallel()
			checkHistory(t, rand.New(rand.NewSource(seed)))
		})
	}
}

func checkHistory(t *testing.T, random *rand.Rand) {
	n := startStaged(t, Config{})
	second := *n.twoCities // another city's gateway, which knows nothing of the first
	second.serveWith(Config{}, n.stage)
	gateways := []*twoCities{n.twoCities, &second}
	genesis := n.chain.canon[0]
	h := &history{t: t, heads: headNames(genesis), headsAt: cursorAt(genesis, ""), logsAt: cursorAt(genesis, "")}
	nodes := []*scriptNode{n.paris, n.chongqing}
	connect := func() *listener {
		// Only what a node has reached can be continued there.
		at, _ := parseCursor(h.headsAt)
		for len(n.chain.canon) <= int(at.number) {
			n.chain.grow(random.Intn(5))
		}
		for _, node := range nodes {
			if node.height() < int(at.number) {
				node.see(func(int) bool { return true })
			}
		}
		l := gateways[random.Intn(2)].listen()
		h.headID = l.on(`["newHeads",{"cursor":"` + h.headsAt + `"}]`)
		h.logID = l.on(`["logs",{"address":"0x00000000000000000000000000000000000000a1"},{"cursor":"` + h.logsAt + `"}]`)
		return l
	}
	l := connect()
	for range 60 {
		switch random.Intn(6) {
		case 0, 1:
			for range 1 + random.Intn(4) {
				n.chain.grow(random.Intn(5))
			}
		case 2:
			n.chain.abandon(1 + random.Intn(min(6, len(n.chain.canon)-1)))
			for range 1 + random.Intn(7) {
				n.chain.grow(random.Intn(5))
			}
		case 3:
			nodes[random.Intn(2)].see(func(int) bool { return random.Intn(2) == 0 })
		case 4:
			i := random.Intn(2)
			nodes[i].drop(random.Intn(2) == 0)
			nodes[1-i].drop(false)
		case 5:
			// The client reads some of what came, is cut off, and comes back.
			l.conn.SetReadLimit(1 << 20)
			l.until(min(len(l.events)+random.Intn(3), l.arrived()))
			h.apply(l.events)
			l.conn.CloseNow()
			l = connect()
		}
	}
	n.chain.grow(2)
	newest := n.chain.canon[len(n.chain.canon)-1]
	n.both()
	for {
		h.apply(l.events)
		l.events = nil
		if h.heads[len(h.heads)-1] == headNames(newest)[0] && len(h.logs) > 0 && h.logs[len(h.logs)-1] == logNames("1", newest)[0] {
			break
		}
		l.until(1)
	}
	same(t, "heads", h.heads, headNames(n.chain.canon...))
	same(t, "logs", h.logs, logNames("1", n.chain.canon...))
}

// arrived reads what comes within a moment, and returns how many events there are.
func (l *listener) arrived() int {
	l.write(`{"jsonrpc":"2.0","id":"mark","method":"eth_chainId"}`)
	for {
		text := l.read()
		if strings.Contains(text, `"id":"mark"`) {
			return len(l.events)
		}
		l.take(text)
	}
}
