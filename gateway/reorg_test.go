package gateway

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelChain is a chain whose newest blocks are replaced at times. What it answers
// follows from the branch: a block's hash, and balances that change with each block.
type modelChain struct {
	mu     sync.Mutex
	hashes []string // by number; the last is the head
	final  int64
	made   int // blocks so far, on all branches
}

func (c *modelChain) mine() {
	c.made++
	c.hashes = append(c.hashes, fmt.Sprintf("0x%064x", c.made))
}

func (c *modelChain) head() head {
	n := len(c.hashes) - 1
	return head{number: int64(n), hash: c.hashes[n], parent: c.hashes[max(n-1, 0)]}
}

// answer is what a node on the chain says.
func (c *modelChain) answer(m message) line {
	c.mu.Lock()
	defer c.mu.Unlock()
	params := strings.Trim(string(m.params), "[]")
	number := int64(len(c.hashes) - 1)
	block, _, _ := strings.Cut(params, ",")
	if m.method != blockMethod {
		_, block, _ = strings.Cut(params, ",")
	}
	if strings.HasPrefix(block, `"0x`) {
		number, _ = readQuantity([]byte(block))
	}
	if m.method == "eth_getTransactionReceipt" {
		// The transaction of a name is in the block of this number, if that is there.
		number, _ = readQuantity([]byte(`"0x` + strings.TrimLeft(params[3:], "0")))
	}
	if number >= int64(len(c.hashes)) {
		return line{member: `"result":null`}
	}
	if m.method == "eth_getBalance" {
		return line{member: fmt.Sprintf(`"result":"0x%s"`, strings.TrimLeft(c.hashes[number][2:], "0"))}
	}
	member := "number"
	if m.method == "eth_getTransactionReceipt" {
		member = "blockNumber"
	}
	return line{member: fmt.Sprintf(`"result":{"%s":"0x%x","hash":"%s"}`, member, number, c.hashes[number])}
}

// Whatever blocks come and go, and whatever was asked before, an answer from the
// cache is the one that the node gives.
func TestCachedIsUncached(t *testing.T) {
	for _, final := range []bool{false, true} {
		t.Run(fmt.Sprintf("final=%v", final), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { cachedIsUncached(t, final) })
		})
	}
}

func cachedIsUncached(t *rapid.T, final bool) {
	w, err := startScripted(Config{Cache: Cache{Head: time.Hour}}, final, "paris")
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	c := &modelChain{}
	c.mine()
	node := w.nodes["paris"]
	p, _ := w.gateway.upstreams.get("lab")
	// tell brings a change of the chain to the gateway, as its watch does.
	tell := func() {
		h := c.head()
		node.mu.Lock()
		node.model, node.head, node.hash, node.final = c.answer, h.number, h.hash, c.final
		node.mu.Unlock()
		if final {
			h.hash, h.parent = "", ""
		}
		p.nodes[0].final.Store(c.final)
		p.saw(p.nodes[0], h)
	}
	tell()
	t.Repeat(map[string]func(*rapid.T){
		"mine": func(t *rapid.T) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for range rapid.IntRange(1, 3).Draw(t, "blocks") {
				c.mine()
			}
			tell()
		},
		"finalize": func(t *rapid.T) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.final = rapid.Int64Range(c.final, int64(len(c.hashes)-1)).Draw(t, "final")
			tell()
		},
		"replace": func(t *rapid.T) {
			if final {
				t.Skip("every block is final")
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			free := int64(len(c.hashes)-1) - c.final
			if free == 0 {
				t.Skip("all is final")
			}
			gone := rapid.Int64Range(1, free).Draw(t, "blocks")
			c.hashes = c.hashes[:int64(len(c.hashes))-gone]
			for range rapid.Int64Range(gone, gone+2).Draw(t, "new") {
				c.mine()
			}
			tell()
		},
		"ask": func(t *rapid.T) {
			height := rapid.Int64Range(0, int64(len(c.hashes))).Draw(t, "height")
			tag := rapid.SampledFrom([]string{fmt.Sprintf("0x%x", height), "latest"}).Draw(t, "tag")
			method, params := rapid.SampledFrom([]string{blockMethod, "eth_getBalance", "eth_getTransactionReceipt"}).Draw(t, "method"), ""
			switch method {
			case blockMethod:
				params = fmt.Sprintf(`["%s",true]`, tag)
			case "eth_getBalance":
				params = fmt.Sprintf(`["0xaa","%s"]`, tag)
			default:
				params = fmt.Sprintf(`["0x%064x"]`, height)
			}
			want := c.answer(message{method: method, params: []byte(params)}).member
			for range 3 {
				r, err := w.post("one", string(appendRequest(nil, 1, method, []byte(params))))
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(r.body, want) {
					t.Fatalf("%s %s: %s, the node says %s", method, params, r.body, want)
				}
			}
		},
	})
}
