package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
)

// scriptBlock is a block of a chain that a test writes.
type scriptBlock struct {
	number       int
	hash, parent string
	logs         []string // JSON
	pad          string
}

func (b *scriptBlock) json() string {
	bloom := strings.Repeat("0", 512)
	if len(b.logs) > 0 {
		bloom = strings.Repeat("1", 512)
	}
	return fmt.Sprintf(`{"number":"0x%x","hash":"%s","parentHash":"%s","logsBloom":"0x%s","extraData":"0x%s"`, b.number, b.hash, b.parent, bloom, b.pad)
}

// script is a chain that several nodes serve. What a node says is the test's to
// decide.
type script struct {
	mu    sync.Mutex
	made  int
	pad   string // makes heads large
	all   map[string]*scriptBlock
	canon []*scriptBlock
}

func newScript() *script {
	s := &script{all: map[string]*scriptBlock{}}
	s.grow(0)
	return s
}

func scriptHash(n int) string {
	return fmt.Sprintf("0x%x", sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(n >> 16)}))
}

// grow adds a block with logs of addresses 0xa0 and 0xa1 by turns.
func (s *script) grow(logs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &scriptBlock{number: len(s.canon), hash: scriptHash(s.made), parent: "0x" + strings.Repeat("0", 64), pad: s.pad}
	s.made++
	if n := len(s.canon); n > 0 {
		b.parent = s.canon[n-1].hash
	}
	for i := range logs {
		b.logs = append(b.logs, fmt.Sprintf(`{"address":"0x%040x","topics":["0x%064x"],"data":"0x","blockNumber":"0x%x","blockHash":"%s","logIndex":"0x%x","removed":false}`,
			0xa0+i%2, b.number, b.number, b.hash, i))
	}
	s.all[b.hash] = b
	s.canon = append(s.canon, b)
}

// abandon takes the newest blocks out of the chain.
func (s *script) abandon(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.canon = slices.Clone(s.canon[:len(s.canon)-n])
}

// scriptNode serves a script, as far as it has been told to see it.
type scriptNode struct {
	chain  *script
	server *httptest.Server

	mu      sync.Mutex
	seen    []*scriptBlock
	refuses bool // WebSockets
	asked   map[string]int
	conns   map[*websocket.Conn]map[string]string // subscriptions, by id: of what
	last    int
	paused  chan struct{} // until it is closed, nothing is answered
}

func startScriptNode(t testing.TB, chain *script) *scriptNode {
	n := newScriptNode(chain)
	t.Cleanup(n.close)
	return n
}

func newScriptNode(chain *script) *scriptNode {
	n := &scriptNode{chain: chain, asked: map[string]int{}, conns: map[*websocket.Conn]map[string]string{}}
	n.see(nil)
	n.server = httptest.NewServer(n)
	return n
}

func (n *scriptNode) close() {
	n.drop(true)
	n.server.Close()
}

// see makes the node take in the chain, and tell of the new blocks that are told.
func (n *scriptNode) see(told func(number int) bool) {
	n.chain.mu.Lock()
	canon := slices.Clone(n.chain.canon)
	n.chain.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.seen
	n.seen = canon
	for i, b := range canon {
		if i < len(before) && before[i] == b || told == nil || !told(b.number) {
			continue
		}
		n.notify("newHeads", b.json()+"}")
	}
}

func (n *scriptNode) notify(kind, result string) {
	for conn, subs := range n.conns {
		for id, of := range subs {
			if of == kind {
				_ = conn.Write(context.Background(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"`+id+`","result":`+result+`}}`))
			}
		}
	}
}

// drop loses the node's WebSockets, and refuses new ones or not.
func (n *scriptNode) drop(refuses bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuses = refuses
	for conn := range n.conns {
		_ = conn.CloseNow()
		delete(n.conns, conn)
	}
}

// pause makes the node hang, as a stopped process does.
func (n *scriptNode) pause() (resume func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := make(chan struct{})
	n.paused = c
	return sync.OnceFunc(func() { close(c) })
}

func (n *scriptNode) hang() {
	n.mu.Lock()
	c := n.paused
	n.mu.Unlock()
	if c != nil {
		<-c
	}
}

func (n *scriptNode) height() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.seen) - 1
}

// count is how often a method was called.
func (n *scriptNode) count(method string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[method]
}

type scriptCall struct {
	ID     json.RawMessage   `json:"id"`
	Method string            `json:"method"`
	Params []json.RawMessage `json:"params"`
}

func (n *scriptNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.hang()
	var c scriptCall
	if r.Header.Get("Upgrade") == "" {
		if json.NewDecoder(r.Body).Decode(&c) == nil {
			fmt.Fprint(w, n.answer(c, nil))
		}
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	n.mu.Lock()
	if n.refuses {
		n.mu.Unlock()
		_ = conn.CloseNow()
		return
	}
	n.conns[conn] = map[string]string{}
	n.mu.Unlock()
	for {
		_, text, err := conn.Read(context.Background())
		if err != nil || json.Unmarshal(text, &c) != nil {
			n.mu.Lock()
			delete(n.conns, conn)
			n.mu.Unlock()
			return
		}
		n.mu.Lock()
		subs := n.conns[conn]
		n.mu.Unlock()
		n.hang()
		_ = conn.Write(context.Background(), websocket.MessageText, []byte(n.answer(c, subs)))
	}
}

func (n *scriptNode) answer(c scriptCall, subs map[string]string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[c.Method]++
	result := "null"
	text := func(i int) (s string) {
		if i < len(c.Params) {
			_ = json.Unmarshal(c.Params[i], &s)
		}
		return s
	}
	newest := n.seen[len(n.seen)-1]
	switch c.Method {
	case "eth_blockNumber":
		result = fmt.Sprintf(`"0x%x"`, newest.number)
	case "eth_subscribe":
		n.last++
		id := fmt.Sprintf("0x%x", n.last)
		if subs != nil {
			subs[id] = text(0)
		}
		result = `"` + id + `"`
	case "eth_unsubscribe":
		delete(subs, text(0))
		result = "true"
	case "eth_getBlockByNumber":
		number, err := strconv.ParseInt(strings.TrimPrefix(text(0), "0x"), 16, 64)
		switch {
		case text(0) == "latest":
			result = newest.json() + `,"transactions":[]}`
		case err == nil && number < int64(len(n.seen)):
			result = n.seen[number].json() + `,"transactions":[]}`
		}
	case "eth_getBlockByHash":
		n.chain.mu.Lock()
		if b := n.chain.all[text(0)]; b != nil {
			result = b.json() + `,"transactions":[]}`
		}
		n.chain.mu.Unlock()
	case "eth_getLogs":
		var f struct{ BlockHash string }
		_ = json.Unmarshal(c.Params[0], &f)
		n.chain.mu.Lock()
		if b := n.chain.all[f.BlockHash]; b != nil {
			result = "[" + strings.Join(b.logs, ",") + "]"
		}
		n.chain.mu.Unlock()
	}
	return `{"jsonrpc":"2.0","id":` + string(c.ID) + `,"result":` + result + `}`
}

// stage is a framework whose nodes play a script.
type stage struct {
	bsn.Framework
	methods bsn.Methods
	nodes   map[int]*scriptNode
	mute    bool // they offer no WebSocket
}

func (s *stage) Methods() bsn.Methods { return s.methods }

func (s *stage) Endpoint(_ bsn.Net, _ bsn.Chain, city int) bsn.Endpoint {
	u := s.nodes[city].server.URL
	if s.mute {
		return bsn.Endpoint{HTTP: u}
	}
	return bsn.Endpoint{HTTP: u, WS: strings.Replace(u, "http", "ws", 1)}
}

// staged is a network of two cities whose nodes play one script.
type staged struct {
	*twoCities
	chain            *script
	paris, chongqing *scriptNode
	stage            *stage
}

func startStaged(t testing.TB, cfg Config) *staged {
	t.Helper()
	return startStage(t, cfg, false)
}

func startStage(t testing.TB, cfg Config, mute bool) *staged {
	t.Helper()
	chain := newScript()
	for range 3 {
		chain.grow(1)
	}
	methods, err := evm.LoadMethods(evm.Methods)
	if err != nil {
		t.Fatal(err)
	}
	s := &staged{chain: chain, paris: startScriptNode(t, chain), chongqing: startScriptNode(t, chain)}
	s.stage = &stage{methods: methods, nodes: map[int]*scriptNode{1: s.paris, 2: s.chongqing}, mute: mute}
	s.twoCities = newTwoCities(t)
	s.serveWith(cfg, s.stage)
	return s
}

// both makes both nodes take in the chain; each tells of all that is new to it.
func (s *staged) both() {
	for _, n := range []*scriptNode{s.paris, s.chongqing} {
		n.see(func(int) bool { return true })
	}
}
