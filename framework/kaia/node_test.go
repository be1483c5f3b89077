package kaia

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
)

// TestNodes runs a chain of four real nodes from its first block to a change of
// its validators and the loss of a node.
func TestNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs four Kaia nodes; run without -short")
	}
	n := newNetwork(t, "chongqing", "hongkong", "paris", "saopaulo")
	begin := time.Now()
	for _, node := range n.nodes {
		n.start(node)
	}
	n.reach(1, n.nodes...)
	t.Logf("first block %.1f s after the start", time.Since(begin).Seconds())

	t.Run("listens at its own address only", n.testListeners)
	t.Run("owner's methods are at the socket only", n.testMethods)
	t.Run("method table", n.testTable)
	t.Run("restart", n.testRestart)
	t.Run("votes", n.testVotes)
	for _, node := range n.nodes {
		t.Logf("%s: %d MiB after %.0f s", node.site.City.Name, rss(t, node.cmd.Process.Pid), time.Since(begin).Seconds())
	}
}

func (n *network) testListeners(t *testing.T) {
	for _, node := range n.nodes {
		var want []string
		for _, port := range node.spec.Ports {
			want = append(want, fmt.Sprintf("tcp %s:%d", node.spec.Address, port))
		}
		slices.Sort(want)
		if got := listeners(t, node.cmd.Process.Pid); !slices.Equal(got, want) {
			t.Errorf("%s listens at %v, want %v", node.site.City.Name, got, want)
		}
	}
}

func (n *network) testMethods(t *testing.T) {
	node := n.nodes[0]
	e := n.k.Endpoint(n.net, n.chain, 1)
	ws, _, err := websocket.Dial(t.Context(), e.WS, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	overWS := func(ctx context.Context, result any, method string, params ...any) error {
		body, err := request(method, params)
		if err != nil {
			return err
		}
		if err := ws.Write(ctx, websocket.MessageText, body); err != nil {
			return err
		}
		var a struct{ Error *struct{ Message string } }
		if err := wsjson.Read(ctx, ws, &a); err != nil {
			return err
		}
		if a.Error != nil {
			return errors.New(a.Error.Message)
		}
		return nil
	}
	for _, method := range []string{"admin_nodeInfo", "governance_nodeAddress", "governance_votes", "istanbul_getValidators", "personal_listAccounts", "debug_memStats", "txpool_status"} {
		var result json.RawMessage
		if err := n.onSocket(node, &result, method); err != nil {
			t.Errorf("%s at the socket: %v", method, err)
		}
		for name, call := range map[string]caller{"HTTP": clientSide(e.HTTP), "WebSocket": overWS} {
			if err := call(t.Context(), &result, method); err == nil || !strings.Contains(err.Error(), "does not exist") {
				t.Errorf("%s over %s is not refused: %v", method, name, err)
			}
			if err := call(t.Context(), &result, "eth_chainId"); err != nil {
				t.Errorf("eth_chainId over %s: %v", name, err)
			}
		}
	}
	info, err := os.Stat(filepath.Join(node.site.Dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket has mode %v", info.Mode())
	}
}

// testTable asks the node for each method of Kaia's own table, without parameters:
// whatever it answers, it must know the method.
func (n *network) testTable(t *testing.T) {
	ask := clientSide(n.k.Endpoint(n.net, n.chain, 1).HTTP)
	own, err := evm.LoadMethods(methodTable)
	if err != nil {
		t.Fatal(err)
	}
	for method, m := range own.Methods {
		if m.Class == bsn.MethodSubscribe {
			continue
		}
		var result json.RawMessage
		if err := ask(t.Context(), &result, method); err != nil && strings.Contains(err.Error(), "does not exist") {
			t.Errorf("the table has a method that the node has not: %v", err)
		}
	}
}

func (n *network) testRestart(t *testing.T) {
	dead, alive := n.nodes[3], n.nodes[:3]
	kill(dead.cmd)
	if _, err := n.health(dead); err == nil {
		t.Error("a dead node is healthy")
	}
	n.reach(n.height(alive[0])+8, alive...)
	if out, err := dead.command(dead.spec.Prepare).CombinedOutput(); err != nil {
		t.Fatalf("to prepare a node that has blocks: %v\n%s", err, out)
	}
	begin := time.Now()
	n.start(dead)
	n.eventually("level again", func() error {
		h, err := n.health(dead)
		if err != nil {
			return err
		}
		if head := n.height(alive[0]); h.Height < head {
			return fmt.Errorf("at %d of %d", h.Height, head)
		}
		return nil
	})
	t.Logf("level %.1f s after its restart", time.Since(begin).Seconds())
}

// testVotes removes the last city's validator and brings it back.
func (n *network) testVotes(t *testing.T) {
	without := n.chain
	without.Committee = n.chain.Committee[:3]
	target := n.chain.Nodes[3].Keys[keyAddress]
	govern := func(node *testNode, chain bsn.Chain) string {
		t.Helper()
		site := node.site
		site.Chain = chain
		did, err := n.k.Govern(t.Context(), site)
		if err != nil {
			t.Fatal(err)
		}
		return did
	}
	validators := func(want int) {
		t.Helper()
		n.eventually(fmt.Sprintf("%d validators", want), func() error {
			for _, node := range n.nodes {
				h, err := n.health(node)
				if err != nil {
					return err
				}
				if len(h.Validators) != want || slices.Contains(h.Validators, target) != (want == 4) {
					return fmt.Errorf("%s has %v", node.site.City.Name, h.Validators)
				}
			}
			return nil
		})
	}
	counted := func(votes int) {
		t.Helper()
		n.eventually(fmt.Sprintf("%d counted votes", votes), func() error {
			var list []json.RawMessage
			if err := n.onSocket(n.nodes[0], &list, "governance_votes"); err != nil {
				return err
			}
			if len(list) != votes {
				return fmt.Errorf("%d are counted", len(list))
			}
			return nil
		})
	}

	for _, node := range n.nodes {
		if did := govern(node, n.chain); did != "" {
			t.Errorf("with nothing to do %s %s", node.site.City.Name, did)
		}
	}

	if did, want := govern(n.nodes[0], without), "voted to remove validator "+target+" of saopaulo"; did != want {
		t.Errorf("the first vote: %q, want %q", did, want)
	}
	if did := govern(n.nodes[0], without); did != "" {
		t.Errorf("a vote that waits for its block is repeated: %q", did)
	}
	counted(1)
	if did := govern(n.nodes[0], without); did != "" {
		t.Errorf("a counted vote is repeated: %q", did)
	}
	if did := govern(n.nodes[3], without); did != "" {
		t.Errorf("a node votes on its own removal: %q", did)
	}
	n.reach(n.height(n.nodes[0])+8, n.nodes...)
	validators(4) // one vote alone changes nothing

	govern(n.nodes[1], without)
	counted(2)
	n.reach(n.height(n.nodes[0])+4, n.nodes...)
	validators(4) // two of four are not more than half
	govern(n.nodes[2], without)
	validators(3)

	for _, node := range n.nodes {
		if did := govern(node, without); did != "" {
			t.Errorf("with the validator removed %s %s", node.site.City.Name, did)
		}
	}
	for _, node := range n.nodes[:3] {
		if did := govern(node, n.chain); !strings.HasPrefix(did, "voted to add") {
			t.Errorf("%s did %q to bring the validator back", node.site.City.Name, did)
		}
	}
	validators(4)
	n.reach(n.height(n.nodes[0])+4, n.nodes...)
}
