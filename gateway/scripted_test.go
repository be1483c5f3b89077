package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
)

// scriptedNode is a node that says what a test tells it to, over real HTTP.
type scriptedNode struct {
	server *httptest.Server

	mu      sync.Mutex
	lines   map[string]line // what it answers to a method
	asked   map[string]int  // how often it was asked for a method
	release chan struct{}   // closed when what hangs may go on
	head    int64
	hash    string
	final   int64
	down    bool
	headers http.Header             // of the newest request
	told    map[*websocket.Conn]int // WebSockets, and how many subscriptions to heads each has
	hungUp  map[string]int          // how often who asked for a method did not wait for the answer
	model   func(message) line      // says everything but what the watch asks, if there is one
}

// line is an answer of a scripted node.
type line struct {
	status  int
	headers map[string]string
	member  string // `"result":…` or `"error":…`
	delay   time.Duration
	hangs   bool
}

func newScripted() *scriptedNode {
	n := &scriptedNode{lines: map[string]line{}, asked: map[string]int{}, release: make(chan struct{}), told: map[*websocket.Conn]int{}, hungUp: map[string]int{}}
	n.server = httptest.NewServer(n)
	return n
}

func (n *scriptedNode) close() {
	n.let()
	n.dropSockets()
	n.server.Close()
}

// let lets go on what hangs now.
func (n *scriptedNode) let() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.release)
	n.release = make(chan struct{})
}

func (n *scriptedNode) count(method string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[method]
}

func (n *scriptedNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		n.serveSocket(w, r)
		return
	}
	text, _ := io.ReadAll(r.Body)
	m, _, ok := parseMessage(text)
	n.mu.Lock()
	if !ok || n.down {
		n.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	n.headers = r.Header
	l, watched := n.own(m)
	if !watched {
		n.asked[m.method]++
		if scripted, ok := n.lines[m.method]; ok {
			l = scripted
		}
		if n.model != nil {
			l = n.model(m)
		}
	}
	release := n.release
	n.mu.Unlock()
	if l.hangs {
		select {
		case <-release:
		case <-r.Context().Done():
			n.mu.Lock()
			n.hungUp[m.method]++
			n.mu.Unlock()
		}
	}
	if l.delay > 0 {
		time.Sleep(l.delay)
	}
	for name, value := range l.headers {
		w.Header().Set(name, value)
	}
	w.Header().Set("Content-Type", "application/json")
	if l.status != 0 && l.status != http.StatusOK {
		w.WriteHeader(l.status)
		return
	}
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, m.id, l.member)
}

// own is what the node says of its chain to the gateway's watch, whose questions are
// not counted.
func (n *scriptedNode) own(m message) (l line, watched bool) {
	block := func(number int64, hash string) string {
		return fmt.Sprintf(`"result":{"number":"0x%x","hash":"%s","parentHash":"0x0","transactions":[]}`, number, hash)
	}
	switch {
	case m.method == headMethod:
		return line{member: fmt.Sprintf(`"result":"0x%x"`, n.head)}, true
	case m.method == blockMethod && string(m.params) == `["latest",false]`:
		return line{member: block(n.head, n.hash)}, true
	case m.method == blockMethod && string(m.params) == `["finalized",false]`:
		return line{member: block(n.final, "0x0")}, true
	}
	return line{member: `"error":{"code":-32601,"message":"the method ` + m.method + ` does not exist/is not available"}`}, false
}

// parseLine reads an answer as scripts have it:
//
//	result JSON | error CODE TEXT | status CODE [HEADER VALUE] | hang
//
// each perhaps after "after DURATION".
func parseLine(args []string) (l line, err error) {
	if len(args) > 2 && args[0] == "after" {
		if l.delay, err = time.ParseDuration(args[1]); err != nil {
			return l, err
		}
		args = args[2:]
	}
	switch {
	case len(args) == 2 && args[0] == "result" && json.Valid([]byte(args[1])):
		l.member = `"result":` + args[1]
	case len(args) == 3 && args[0] == "error":
		l.member = `"error":{"code":` + args[1] + `,"message":` + string(quote(args[2])) + `}`
	case (len(args) == 2 || len(args) == 4) && args[0] == "status":
		if l.status, err = strconv.Atoi(args[1]); err == nil && len(args) == 4 {
			l.headers = map[string]string{args[2]: args[3]}
		}
	case len(args) == 1 && args[0] == "hang":
		l.hangs, l.member = true, `"result":"0xdead"`
	default:
		err = fmt.Errorf("no answer of a node: %s", strings.Join(args, " "))
	}
	return l, err
}

// scriptedChain is a framework whose nodes are scripted, by the index of their city.
type scriptedChain struct {
	lab
	scripted []*scriptedNode
}

func (c *scriptedChain) Methods() bsn.Methods { return c.methods }

func (c *scriptedChain) Endpoint(_ bsn.Net, _ bsn.Chain, city int) bsn.Endpoint {
	u := c.scripted[city-1].server.URL
	return bsn.Endpoint{HTTP: u, WS: "ws" + strings.TrimPrefix(u, "http")}
}

// scriptedWorld is a gateway of the first of some cities, each with a scripted node.
type scriptedWorld struct {
	framework bsn.Framework
	gateway   *Gateway
	url       string
	ledger    *memoryLedger
	cities    []string
	nodes     map[string]*scriptedNode
	keys      map[string]string // secrets by the name that a script has for them
	project   bsn.Project
	chain     bsn.Chain
	stop      func()
}

// newScriptedWorld makes the records of a network with such a chain, and two keys.
func newScriptedWorld(cities []string) *scriptedWorld {
	w := &scriptedWorld{ledger: newMemoryLedger(), cities: cities, nodes: map[string]*scriptedNode{}, keys: map[string]string{}}
	w.chain = bsn.Chain{Name: "lab", Kind: bsn.ChainOpen, Framework: "lab", Index: 1, NetworkID: 7, Deploy: bsn.DeployAnyone, Status: bsn.ChainRunning}
	for i, city := range cities {
		w.ledger.put(bsn.City{Name: city, Index: i + 1, Status: bsn.CityActive})
		w.chain.Committee = append(w.chain.Committee, city)
		w.chain.Nodes = append(w.chain.Nodes, bsn.ChainNode{City: city, CityIndex: i + 1})
	}
	w.project = bsn.Project{Account: "alice", Name: "main", Limits: bsn.Limits{RequestsPerSecond: 100_000}}
	for _, name := range []string{"one", "other"} {
		secret, key := bsn.NewKey(cities[0])
		w.keys[name] = secret
		w.project.Keys = append(w.project.Keys, key)
	}
	w.ledger.put(w.chain, w.project)
	return w
}

// startScripted starts the gateway. Final: every block of the chain is.
func startScripted(cfg Config, final bool, cities ...string) (*scriptedWorld, error) {
	methods, err := evm.LoadMethods(evm.Methods, []byte("final: "+strconv.FormatBool(final)))
	if err != nil {
		return nil, err
	}
	w, f := newScriptedWorld(cities), &scriptedChain{lab: lab{methods: methods}}
	for _, city := range cities {
		n := newScripted()
		w.nodes[city] = n
		f.scripted = append(f.scripted, n)
	}
	return w, w.start(cfg, f)
}

// start makes the gateway of the first city, and serves it.
func (w *scriptedWorld) start(cfg Config, f bsn.Framework) error {
	cfg.City, w.framework = w.cities[0], f
	g, err := New(cfg, w.ledger, map[string]bsn.Framework{"lab": f}, shelf{}, quiet())
	if err != nil {
		return err
	}
	return w.run(g)
}

// record puts the project on the ledger as it is now, and waits until the gateway knows.
func (w *scriptedWorld) record() error {
	w.project.Keys = slices.Clone(w.project.Keys)
	w.ledger.put(w.project)
	if !wait(func() bool { return w.gateway.directory.state().height == w.ledger.height() }) {
		return errors.New("the gateway does not follow the ledger")
	}
	return nil
}

// wait lets some time pass between two looks, up to half a minute.
func wait(holds func() bool) bool {
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// know waits until the gateway knows the node's head as it is now.
func (w *scriptedWorld) know(city string) error {
	n := w.nodes[city]
	if !wait(func() bool {
		p, ok := w.gateway.upstreams.get("lab")
		if !ok {
			return false
		}
		for _, known := range p.nodes {
			if known.city == city {
				known.look()
				n.mu.Lock()
				head, final, hash := n.head, n.final, n.hash
				n.mu.Unlock()
				known.mu.Lock()
				told := known.told
				known.mu.Unlock()
				return known.headAt.Load() != 0 && known.lives() && known.head.Load() == head && told.number == head &&
					(p.methods.Final || told.hash == hash && known.final.Load() == final)
			}
		}
		return false
	}) {
		return fmt.Errorf("the gateway does not notice the head of %s", city)
	}
	return nil
}

// post asks the gateway as a client does.
func (w *scriptedWorld) post(key, body string) (reply, error) { return w.postTo("lab", key, body) }

func (w *scriptedWorld) postTo(chain, key, body string) (reply, error) {
	return w.postUntil(context.Background(), chain, key, body)
}

func (w *scriptedWorld) postUntil(ctx context.Context, chain, key, body string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/rpc/"+chain, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	r.Header.Set("x-api-key", w.keys[key])
	r.Header.Set("content-type", "application/json")
	client := http.Client{Timeout: time.Minute}
	answer, err := client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return reply{answer.StatusCode, answer.Header, string(text)}, err
}

func (w *scriptedWorld) close() {
	if w.stop != nil {
		w.stop()
	}
	for _, n := range w.nodes {
		n.close()
	}
}

// mustScripted is startScripted for a test.
func mustScripted(t testing.TB, cfg Config, final bool, cities ...string) *scriptedWorld {
	t.Helper()
	w, err := startScripted(cfg, final, cities...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

// run starts what a gateway does beside serving, and serves it.
func (w *scriptedWorld) run(g *Gateway) error {
	ctx, cancel := context.WithCancel(context.Background())
	ended, err := g.background(ctx)
	if err != nil {
		cancel()
		return err
	}
	server := newServer(g)
	w.gateway, w.url = g, server.URL
	w.stop = func() {
		for _, n := range w.nodes {
			n.let()
		}
		cancel()
		g.drain()
		server.Close()
		ended()
	}
	if !wait(func() bool { return g.directory.state().height == w.ledger.height() }) {
		return errors.New("the gateway does not follow the ledger")
	}
	for city := range w.nodes {
		if err := w.know(city); err != nil {
			return err
		}
	}
	return nil
}
