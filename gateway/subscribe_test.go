package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// event is a notification that a client got.
type event struct {
	sub, cursor string
	removed     bool
	name        string // number and hash of a head; with the index of a log
	parent      string // of a head
}

// listener is a client that subscribes, and keeps what comes in between.
type listener struct {
	*client
	events []event
}

func (n *twoCities) listen() *listener { n.Helper(); return &listener{client: n.connect()} }

// try subscribes and returns the subscription's id, or the error.
func (l *listener) try(params string) (id, failure string) {
	l.t.Helper()
	l.write(`{"jsonrpc":"2.0","id":"s","method":"eth_subscribe","params":` + params + `}`)
	for {
		text := l.read()
		var r struct {
			ID, Result string
			Error      json.RawMessage
		}
		if json.Unmarshal([]byte(text), &r); r.ID == "s" {
			return r.Result, string(r.Error)
		}
		l.take(text)
	}
}

func (l *listener) on(params string) string {
	l.t.Helper()
	id, failure := l.try(params)
	if id == "" {
		l.t.Fatalf("subscribe %s: %s", params, failure)
	}
	return id
}

func (l *listener) take(text string) {
	l.t.Helper()
	var r struct {
		Method string
		Params struct {
			Subscription, Cursor string
			Result               struct {
				Number, Hash, ParentHash         string
				BlockNumber, BlockHash, LogIndex string
				Removed                          bool
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Method != "eth_subscription" {
		l.t.Fatalf("no notification: %s", text)
	}
	e := event{sub: r.Params.Subscription, cursor: r.Params.Cursor, removed: r.Params.Result.Removed}
	if v := r.Params.Result; v.Hash != "" {
		e.name, e.parent = v.Number+" "+v.Hash, v.ParentHash
	} else {
		e.name = v.BlockNumber + " " + v.BlockHash + " " + v.LogIndex
	}
	l.events = append(l.events, e)
}

// until reads until there are so many events.
func (l *listener) until(count int) {
	l.t.Helper()
	for len(l.events) < count {
		text, err := l.next()
		if err != nil {
			l.t.Fatalf("%d events of %d, then %v", len(l.events), count, err)
		}
		l.take(text)
	}
}

// names are what one subscription brought; what was removed with a minus.
func (l *listener) names(sub string) (out []string) {
	for _, e := range l.events {
		if e.sub != sub {
			continue
		}
		if e.removed {
			e.name = "-" + e.name
		}
		out = append(out, e.name)
	}
	return out
}

func headNames(blocks ...*scriptBlock) (out []string) {
	for _, b := range blocks {
		out = append(out, fmt.Sprintf("0x%x %s", b.number, b.hash))
	}
	return out
}

// logNames are the logs of blocks at the addresses 0xa0 (even), 0xa1 (odd) or both.
func logNames(which string, blocks ...*scriptBlock) (out []string) {
	for _, b := range blocks {
		for i := range b.logs {
			if which == "" || which == strconv.Itoa(i%2) {
				out = append(out, fmt.Sprintf("0x%x %s 0x%x", b.number, b.hash, i))
			}
		}
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

const logsOfA1 = `["logs",{"address":"0x00000000000000000000000000000000000000a1"}]`

// tail is that of the chain; it has to be let go.
func (n *twoCities) tail() *tail {
	p, _ := n.gateway.upstreams.get("lab")
	return n.gateway.tail(p, "eth")
}

// One subscription at one node serves all clients, whatever their filters.
func TestSharedUpstream(t *testing.T) {
	n := startStaged(t, Config{})
	var all []*listener
	var heads, logs []string
	for i := range 20 {
		l := n.listen()
		heads = append(heads, l.on(`["newHeads"]`))
		logs = append(logs, l.on([]string{logsOfA1, `["logs",{}]`}[i%2]))
		all = append(all, l)
	}
	asked := n.paris.count("eth_getLogs")
	n.chain.grow(3)
	n.chain.grow(0)
	n.chain.grow(4)
	n.both()
	blocks := n.chain.canon[4:]
	for i, l := range all {
		which := []string{"1", ""}[i%2]
		want := logNames(which, blocks...)
		l.until(3 + len(want))
		same(t, "heads", l.names(heads[i]), headNames(blocks...))
		same(t, "logs", l.names(logs[i]), want)
	}
	used, err := n.gateway.meter.journal.Rows()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range used {
		if u.Class == classNotify && u.Units != uint64(2*(20*3+10*7+10*3)) {
			t.Errorf("notifications cost %d", u.Units)
		}
	}
	if got := n.paris.count("eth_subscribe") + n.chongqing.count("eth_subscribe"); got != 1 {
		t.Errorf("%d subscriptions at the nodes", got)
	}
	counted := func() float64 {
		families, err := n.gateway.meter.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "bsn_gateway_subscriptions" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	if got := counted(); got != 40 {
		t.Errorf("%v subscriptions are counted", got)
	}
	for _, l := range all {
		l.conn.CloseNow()
	}
	eventually(t, "all have left", func() bool { return counted() == 0 })
	k := n.tail()
	defer k.letGo()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) != 0 || k.users != 1 {
		t.Errorf("what is left are %d groups and %d users", len(k.groups), k.users-1)
	}
	if got := n.paris.count("eth_getLogs") - asked; got != 2 {
		t.Errorf("logs were asked for %d times, for two blocks that have some", got)
	}
}

// What comes while a node is lost is fetched from another one.
func TestSubscriptionSurvivesNode(t *testing.T) {
	n := startStaged(t, Config{})
	l := n.listen()
	heads, logs := l.on(`["newHeads"]`), l.on(logsOfA1)
	n.chain.grow(2)
	n.both()
	l.until(2)
	n.paris.drop(true)
	for range 40 {
		n.chain.grow(2)
	}
	n.chongqing.see(nil) // it tells of none: they are back-filled
	l.until(2 * 41)
	n.chongqing.drop(false) // and back on the same node
	n.chain.grow(5)
	n.chongqing.see(nil)
	blocks := n.chain.canon[4:]
	want := logNames("1", blocks...)
	l.until(len(blocks) + len(want))
	same(t, "heads", l.names(heads), headNames(blocks...))
	same(t, "logs", l.names(logs), want)
}

// A node that hangs is left, though its connection stays; one that falls silent is
// asked.
func TestSubscriptionSurvivesSilence(t *testing.T) {
	t.Parallel()
	n := startStaged(t, Config{})
	l := n.listen()
	heads := l.on(`["newHeads"]`)
	n.chain.grow(0)
	n.paris.see(nil)
	l.until(1)
	resume := n.paris.pause()
	defer resume()
	n.chain.grow(0)
	n.chain.grow(0)
	n.chongqing.see(nil)
	l.until(3)
	same(t, "heads", l.names(heads), headNames(n.chain.canon[4:]...))
}

// Nodes without a WebSocket are asked.
func TestSubscriptionWithoutSocket(t *testing.T) {
	t.Parallel()
	n := startStage(t, Config{}, true)
	l := n.listen()
	heads, logs := l.on(`["newHeads"]`), l.on(logsOfA1)
	for round := range 3 {
		for range 4 {
			n.chain.grow(2)
		}
		if round == 1 {
			n.chain.abandon(5)
			for range 7 {
				n.chain.grow(0)
			}
		}
		n.both()
		want := headNames(n.chain.canon[len(n.chain.canon)-1])[0]
		for all := l.names(heads); len(all) == 0 || all[len(all)-1] != want; all = l.names(heads) {
			l.until(len(l.events) + 1)
		}
		if round == 0 {
			old := n.chain.canon[4:]
			same(t, "heads", l.names(heads), headNames(old...))
			same(t, "logs", l.names(logs), logNames("1", old...))
		}
	}
	if id, failure := l.try(`["newPendingTransactions"]`); id != "" || !strings.Contains(failure, "-32002") {
		t.Errorf("pending transactions: %s %s", id, failure)
	}
}

// The logs of abandoned blocks are taken back, the newest first.
func TestReorganisation(t *testing.T) {
	n := startStaged(t, Config{})
	l := n.listen()
	heads, logs := l.on(`["newHeads"]`), l.on(`["logs",{}]`)
	n.chain.grow(2)
	n.chain.grow(3)
	n.both()
	old := n.chain.canon[4:]
	n.chain.abandon(2)
	n.chain.grow(1)
	n.chain.grow(0)
	n.chain.grow(2)
	// A node that tells of the newest only.
	n.paris.see(func(number int) bool { return number == 6 })
	branch := n.chain.canon[4:]
	l.until(2 + 5 + 5 + 3 + 3)
	same(t, "heads", l.names(heads), headNames(append(slices.Clone(old), branch...)...))
	want := logNames("", old...)
	for _, name := range slices.Backward(slices.Clone(want)) {
		want = append(want, "-"+name)
	}
	same(t, "logs", l.names(logs), append(want, logNames("", branch...)...))
}

func cursorAt(b *scriptBlock, logs string) string {
	return fmt.Sprintf(`%x-%s%s`, b.number, b.hash[2:], logs)
}

// A client continues at its cursor, at any gateway.
func TestCursor(t *testing.T) {
	n := startStaged(t, Config{MaxBackfill: 150})
	for i := range 300 {
		n.chain.grow(i % 4)
	}
	n.both()
	canon := n.chain.canon
	for _, c := range []struct {
		name string
		from int
		logs string // of the cursor
	}{
		{"newest", 303, ""},
		{"among those kept", 290, ""},
		{"within a block", 290, "-1"},
		{"older than those kept", 200, ""},
		{"within an older block", 199, "-2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.TB = t
			l := n.listen()
			options := `{"cursor":"` + cursorAt(canon[c.from], c.logs) + `"}`
			heads := l.on(`["newHeads",` + options + `]`)
			logs := l.on(`["logs",{},` + options + `]`)
			wantHeads, wantLogs := headNames(canon[c.from+1:]...), logNames("", canon[c.from+1:]...)
			if c.logs != "" {
				skip, _ := strconv.Atoi(c.logs[1:])
				wantHeads = append(headNames(canon[c.from]), wantHeads...)
				wantLogs = append(logNames("", canon[c.from])[skip:], wantLogs...)
			}
			l.until(len(wantHeads) + len(wantLogs))
			same(t, "heads", l.names(heads), wantHeads)
			same(t, "logs", l.names(logs), wantLogs)
			for _, e := range l.events {
				if at, err := parseCursor(e.cursor); err != nil || at.cursor() != e.cursor {
					t.Fatalf("cursor %q: %v", e.cursor, err)
				}
			}
		})
	}
	n.TB = t
	l := n.listen()
	unknown := scriptBlock{number: 300, hash: scriptHash(1 << 20)}
	for cursor, want := range map[string]string{
		cursorAt(canon[100], ""):     "cursor is 203 blocks behind block 303, and at most 150 are back-filled",
		cursorAt(&unknown, ""):       "cursor cannot be continued",
		"303":                        "none that this network's gateways gave",
		cursorAt(canon[300], "-x"):   "none that this network's gateways gave",
		cursorAt(canon[300], "-1-1"): "none that this network's gateways gave",
	} {
		if id, failure := l.try(`["newHeads",{"cursor":"` + cursor + `"}]`); id != "" || !strings.Contains(failure, want) {
			t.Errorf("%s: %s %s", cursor, id, failure)
		}
	}
	for _, params := range []string{`["newHeads",{"curser":""}]`, `["newHeads",7]`, `["logs",{},{"cursor":""},1]`, `["logs",{"address":"0x12"}]`} {
		if id, failure := l.try(params); id != "" || !strings.Contains(failure, "-32602") {
			t.Errorf("%s: %s %s", params, id, failure)
		}
	}
}

// A cursor of a block that was abandoned meanwhile first takes back what the client
// has of it.
func TestCursorOfAbandonedBlock(t *testing.T) {
	n := startStaged(t, Config{})
	n.chain.grow(4)
	n.chain.grow(3)
	old := n.chain.canon[4:]
	n.chain.abandon(2)
	n.chain.grow(1)
	n.chain.grow(1)
	n.chain.grow(1)
	n.both() // a gateway that never saw the old branch
	l := n.listen()
	options := `{"cursor":"` + cursorAt(old[1], "-2") + `"}`
	heads, logs := l.on(`["newHeads",`+options+`]`), l.on(`["logs",{},`+options+`]`)
	branch := n.chain.canon[4:]
	had := append(logNames("", old[0]), logNames("", old[1])[:2]...)
	var want []string
	for _, name := range slices.Backward(had) {
		want = append(want, "-"+name)
	}
	want = append(want, logNames("", branch...)...)
	l.until(len(want) + len(branch))
	same(t, "logs", l.names(logs), want)
	same(t, "heads", l.names(heads), headNames(branch...))
}

// A client that does not read is let go with a reason, delays nobody, and can
// continue.
func TestSlowSubscriber(t *testing.T) {
	n := startStaged(t, Config{})
	n.chain.pad = strings.Repeat("00", 10<<10)
	slow, quick := n.connect(), n.listen()
	slow.subscribe()
	quick.on(`["newHeads"]`)
	// What the kernel holds for the slow client comes on top of the queue.
	blocks := 0
	ended := func() bool {
		open := 0
		n.gateway.sockets.Range(func(s, _ any) bool {
			s.(*socket).out.mu.Lock()
			defer s.(*socket).out.mu.Unlock()
			if !s.(*socket).out.finished {
				open++
			}
			return true
		})
		return open < 2
	}
	for !ended() {
		for range 50 {
			n.chain.grow(0)
		}
		blocks += 50
		n.paris.see(func(number int) bool { return number == 3+blocks })
		quick.until(blocks)
		if blocks > 10_000 {
			t.Fatal("a client that does not read is kept for ever")
		}
	}
	same(t, "heads of the client that reads", quick.names(quick.events[0].sub), headNames(n.chain.canon[4:]...))
	for {
		_, err := slow.next()
		if err == nil {
			continue
		}
		if code := websocket.CloseStatus(err); code != websocket.StatusPolicyViolation || !strings.Contains(err.Error(), closeSlow) {
			t.Errorf("closed with %v", err)
		}
		return
	}
}

// An idle subscriber is let go once its key or project is revoked.
func TestIdleSubscriberRevoked(t *testing.T) {
	n := startStaged(t, Config{})
	l := n.connect()
	l.subscribe()
	n.project.Revoked = true
	n.ledger.put(n.project)
	n.follow()
	if code := l.closed(); code != websocket.StatusPolicyViolation {
		t.Errorf("closed with %v", code)
	}
}

// Pending transactions come as the node tells them, from one subscription.
func TestPendingTransactions(t *testing.T) {
	n := startStaged(t, Config{})
	a, b := n.connect(), n.connect()
	for _, c := range []*client{a, b} {
		c.write(`{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newPendingTransactions"]}`)
		if got := c.read(); !strings.Contains(got, `"result":"0x`) {
			t.Fatal(got)
		}
	}
	eventually(t, "both hear", func() bool {
		k := n.tail()
		defer k.letGo()
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.groups[`["newPendingTransactions"]`].subs) == 2
	})
	n.paris.mu.Lock()
	n.paris.notify("newPendingTransactions", `"0xabc"`)
	n.paris.mu.Unlock()
	for _, c := range []*client{a, b} {
		if got := c.read(); !strings.HasSuffix(got, `"result":"0xabc"}}`) {
			t.Error(got)
		}
	}
	if got := n.paris.count("eth_subscribe"); got != 2 { // and newHeads
		t.Errorf("%d subscriptions at the node", got)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("1b4-" + strings.Repeat("ab", 32))
	f.Add("0-" + strings.Repeat("00", 32) + "-12")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseCursor(s)
		if err != nil {
			return
		}
		if again, err := parseCursor(p.cursor()); err != nil || again != p {
			t.Errorf("%q: %+v, then %+v %v", s, p, again, err)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte(`{"address":["0x00000000000000000000000000000000000000a1"],"topics":[null,["0x` + strings.Repeat("ab", 32) + `"]],"fromBlock":"0x1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if w, err := parseFilter(text); err == nil && len(w.key()) == 0 {
			t.Error("filter without a key")
		}
	})
}

func TestFilter(t *testing.T) {
	topic := func(n int) string { return fmt.Sprintf("0x%064x", n) }
	log := fmt.Sprintf(`{"address":"0x%040x","topics":["%s","%s"],"data":"0x","blockHash":"%s","logIndex":"0x1"}`, 0xa1, topic(1), topic(2), topic(9))
	e, in, err := parseLog([]byte(log))
	if err != nil || e.index != 1 || in.String() != topic(9) {
		t.Fatal(e, in, err)
	}
	if want := strings.TrimSuffix(log, "}") + `,"removed":true}`; string(e.removed()) != want {
		t.Errorf("removed: %s", e.removed())
	}
	for text, want := range map[string]bool{
		`{}`: true,
		`{"address":"0x00000000000000000000000000000000000000A1"}`:                                                true,
		`{"address":["0x00000000000000000000000000000000000000a0"]}`:                                              false,
		`{"address":["0x00000000000000000000000000000000000000a2","0x00000000000000000000000000000000000000a1"]}`: true,
		`{"topics":["` + topic(1) + `"]}`:                                                                         true,
		`{"topics":["` + topic(2) + `"]}`:                                                                         false,
		`{"topics":[null,"` + topic(2) + `"]}`:                                                                    true,
		`{"topics":[[],["` + topic(3) + `","` + topic(2) + `"]]}`:                                                 true,
		`{"topics":[["` + topic(3) + `",null]]}`:                                                                  true,
		`{"topics":["` + topic(1) + `","` + topic(2) + `",null]}`:                                                 false,
		`{"topics":["` + topic(1) + `"],"fromBlock":"latest","toBlock":"0x"}`:                                     false,
	} {
		f, err := parseFilter([]byte(text))
		if strings.Contains(text, `"0x"}`) {
			if err == nil {
				t.Errorf("%s is taken", text)
			}
			continue
		}
		if err != nil || f.match(&e) != want {
			t.Errorf("%s: %v %v", text, want, err)
		}
	}
	for _, text := range []string{
		`7`, `{"address":7}`, `{"address":"0xa1"}`, `{"topics":["0x01"]}`, `{"topics":[null,null,null,null,null]}`,
		`{"blockHash":"` + topic(1) + `"}`, `{"fromBlock":"pending"}`,
	} {
		if _, err := parseFilter([]byte(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

func FuzzBlock(f *testing.F) {
	c := newScript()
	c.grow(2)
	f.Add([]byte(c.canon[1].json() + `,"transactions":[{"number":"0x7"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parseBlock(text)
		if err != nil {
			return
		}
		if bytes.Contains(b.head, []byte(`"transactions":`)) && !bytes.Contains(text, []byte(`\`)) && !strings.Contains(string(text), `"transactions":`) {
			t.Error("bodies stay")
		}
		if err := scanText(b.head, maxAnswerDepth); err != nil {
			t.Errorf("head is no JSON: %s", b.head)
		}
	})
}
