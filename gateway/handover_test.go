package gateway

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn"
)

// Gateways replace each other under constant calls, on kept and on new connections,
// and none fails. WebSockets are told to connect again.
func TestHandover(t *testing.T) {
	n := startTwoCities(t, Config{})
	dir := t.TempDir()
	socket := filepath.Join(dir, "handover.sock")
	if len(socket) > 100 { // the most that a socket's path may have
		short, err := os.MkdirTemp("", "h")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(short) })
		socket = filepath.Join(short, "s")
	}
	address, metrics := freeAddress(t), freeAddress(t)
	type running struct {
		*Gateway
		stop  context.CancelFunc
		ended chan error
	}
	start := func() running {
		g, err := New(Config{
			City: "paris", Listen: []string{address}, Metrics: metrics, Handover: socket, State: filepath.Join(dir, "state.json"),
		}, n.ledger, map[string]bsn.Framework{"lab": n.framework}, n.shelf, quiet())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		r := running{g, cancel, make(chan error, 1)}
		go func() { r.ended <- g.Run(ctx) }()
		return r
	}
	now := start()
	n.url = "http://" + address
	eventually(t, "gateway serves", func() bool {
		r, err := n.try(http.MethodPost, "/rpc/lab", n.secret, `{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`)
		return err == nil && r.status == 200
	})

	calling, enough := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var calls atomic.Int64
	for i := range 6 {
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		callers.Go(func() {
			defer client.CloseIdleConnections()
			for calling.Err() == nil {
				r, err := client.Post(n.url+"/rpc/lab/"+n.secret, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`))
				if err != nil {
					t.Errorf("call: %v", err)
					return
				}
				r.Body.Close()
				if calls.Add(1); r.StatusCode != 200 {
					t.Errorf("call: %s", r.Status)
				}
			}
		})
	}
	for round := range 3 {
		c := n.connect()
		c.subscribe()
		next := start()
		if code := c.closed(); code != websocket.StatusServiceRestart {
			t.Errorf("round %d: WebSocket closed with %v", round, code)
		}
		select {
		case err := <-now.ended:
			if err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the old gateway does not end")
		}
		now = next
		before := calls.Load()
		eventually(t, "calls go on", func() bool { return calls.Load() > before+10 || t.Failed() })
	}
	enough()
	callers.Wait()

	// One that asks and then does not serve changes nothing.
	sockets, _, err := inherit(socket)
	if err != nil || len(sockets) != 2 {
		t.Fatalf("%v, %v", sockets, err)
	}
	for _, l := range sockets {
		l.Close()
	}
	if r := n.do(http.MethodGet, "/health", "", ""); r.status != 200 {
		t.Errorf("health: %d", r.status)
	}
	now.stop()
	if err := <-now.ended; err != nil {
		t.Error(err)
	}
}
