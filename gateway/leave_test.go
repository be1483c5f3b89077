package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

func TestLeavingCity(t *testing.T) {
	n := startTwoCities(t, Config{})
	serving := n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`)
	if serving.status != 200 || serving.header.Get(statusHeader) != "" {
		t.Fatalf("before: %d %v", serving.status, serving.header)
	}
	c := n.connect()
	c.subscribe()
	n.chain.Committee = []string{"chongqing"}
	n.ledger.put(
		bsn.City{Name: "paris", Status: bsn.CityLeaving, Until: 1_800_000_000, Gateway: "http://paris.example.org"},
		bsn.City{Name: "chongqing", Status: bsn.CityActive, Gateway: "http://chongqing.example.org"}, n.chain)
	n.follow()
	eventually(t, "it says that it leaves", func() bool {
		r := n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`)
		return r.status == 200 && r.header.Get(statusHeader) == "leaving" && r.header.Get(untilHeader) == "2027-01-15T08:00:00Z"
	})
	n.paris.kill() // its node has stopped
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for path, want := range map[string]string{
		"/rpc/lab/" + n.secret:  "http://chongqing.example.org/rpc/lab",
		"/rpc/lab?trace=1":      "http://chongqing.example.org/rpc/lab?trace=1",
		"/rpc/lab":              "http://chongqing.example.org/rpc/lab",
		"/rpc/lab/" + "a?b=c&d": "http://chongqing.example.org/rpc/lab?b=c&d",
	} {
		eventually(t, path+" is sent elsewhere", func() bool {
			r, err := client.Post(n.url+path, "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			return r.StatusCode == http.StatusTemporaryRedirect && r.Header.Get("Location") == want
		})
	}
	if code := c.closed(); code != websocket.StatusServiceRestart && code != websocket.StatusTryAgainLater {
		t.Errorf("WebSocket closed with %v", code)
	}
	if r := n.do(http.MethodGet, "/health", "", ""); r.header.Get(statusHeader) != "leaving" {
		t.Errorf("health: %v", r.header)
	}
	// With nobody else there is nowhere to go.
	n.ledger.put(bsn.City{Name: "chongqing", Status: bsn.CityEvicted})
	n.follow()
	eventually(t, "nobody serves it", func() bool {
		r := n.do(http.MethodPost, "/rpc/lab", n.secret, "{}")
		return r.status == 503 && strings.Contains(r.body, "no other city does")
	})
}
