package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
)

func TestMain(m *testing.M) {
	if text := os.Getenv("BSN_GATEWAY_CHILD"); text != "" {
		if err := runChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is what a gateway in a process of its own is told.
type child struct {
	Config Config
	Ports  map[int]int // of the nodes, by the index of their city
}

// runChild is a gateway that knows the ledger from its state file only.
func runChild(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	l := &lab{nodes: map[int]*anvil{}}
	for city, port := range c.Ports {
		l.nodes[city] = &anvil{port: port}
	}
	methods, err := loadLabMethods()
	if err != nil {
		return err
	}
	l.methods = methods
	ledger := newMemoryLedger()
	ledger.set(true)
	if c.Config.MaxMemoryBytes > 0 {
		debug.SetMemoryLimit(c.Config.MaxMemoryBytes + 64<<20)
	}
	g, err := New(c.Config, ledger, map[string]bsn.Framework{"lab": l}, shelf{}, quiet())
	if err != nil {
		return err
	}
	return g.Run(context.Background())
}

// A gateway that is killed under load, again and again, has in its journal every call
// that a client saw the answer of, and none that was not sent.
func TestKilledGatewayHasCountedWhatItAnswered(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state.json")
	n := startTwoCities(t, Config{State: state})
	eventually(t, "state is saved", func() bool { r, _, err := loadState(state); return err == nil && r != nil })
	address := freeAddress(t)
	told, err := json.Marshal(child{
		Config: Config{City: "paris", Listen: []string{address}, State: state, Journal: filepath.Join(dir, "journal")},
		Ports:  map[int]int{1: n.paris.port, 2: n.chongqing.port},
	})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + address + "/rpc/lab/" + n.secret
	var sent, answered atomic.Uint64
	ask := func(client *http.Client) bool {
		sent.Add(1)
		r, err := client.Post(url, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`))
		if err != nil {
			return false
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(text), `"result"`) {
			return false
		}
		answered.Add(1)
		return true
	}
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "BSN_GATEWAY_CHILD="+string(told))
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "gateway answers", func() bool { return ask(http.DefaultClient) })
		enough := answered.Load() + 500
		loading, end := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for range 8 {
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
			clients.Go(func() {
				defer client.CloseIdleConnections()
				for loading.Err() == nil {
					ask(client)
				}
			})
		}
		eventually(t, "load", func() bool { return answered.Load() > enough })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		end()
		clients.Wait()
		files, err := journal.Read(filepath.Join(dir, "journal"))
		if err != nil {
			t.Fatal(err)
		}
		var calls, units uint64
		for _, r := range journal.Rows(files) {
			calls += r.Calls
			units += r.Units
			if r.Project != "alice/main" || r.Key != n.project.Keys[0].ID || r.Chain != "lab" || r.Class != bsn.MethodRead {
				t.Errorf("row %+v", r)
			}
		}
		t.Logf("%d answers, %d calls of %d units in %d files, %d sent", answered.Load(), calls, units, len(files), sent.Load())
		if calls < answered.Load() || calls > sent.Load() || units < 2*calls {
			t.Errorf("%d answers, %d calls of %d units counted, %d sent", answered.Load(), calls, units, sent.Load())
		}
	}
}

// What cannot be counted is not served: neither a read nor a transaction.
func TestNothingIsServedWithoutAJournal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := startTwoCities(t, Config{Journal: filepath.Join(file, "journal")})
	before := n.paris.call("eth_blockNumber", "[]")
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}`,
		string(appendRequest(nil, 1, "eth_sendRawTransaction", []byte(`["0x00"]`))),
	} {
		r := n.do(http.MethodPost, "/rpc/lab", n.secret, body)
		if r.status != http.StatusServiceUnavailable || !strings.Contains(r.body, "cannot count the call") {
			t.Errorf("status %d: %s", r.status, r.body)
		}
	}
	if after := n.paris.call("eth_blockNumber", "[]"); after != before {
		t.Errorf("block %s, then %s", before, after)
	}
}
