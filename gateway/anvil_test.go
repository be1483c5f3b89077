package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
)

// anvilBinary is the node software.
func anvilBinary() (string, error) {
	dir, err := testSoftware()
	return filepath.Join(dir, "node_modules", "@foundry-rs", "anvil-linux-amd64", "bin", "anvil"), err
}

// testSoftware installs the software that testdata/package-lock.json pins, once for
// each lock file, into the user's cache, and returns its folder.
var testSoftware = sync.OnceValues(func() (string, error) {
	lock, err := os.ReadFile("testdata/package-lock.json")
	if err != nil {
		return "", err
	}
	manifest, err := os.ReadFile("testdata/package.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "bsn", "gateway-tests-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "install-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	for name, content := range map[string][]byte{"package.json": manifest, "package-lock.json": lock} {
		if err := os.WriteFile(filepath.Join(fresh, name), content, 0o644); err != nil {
			return "", err
		}
	}
	npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // another test run was not faster either
			return "", err
		}
	}
	return dir, nil
})

const anvilChainID = 31337

// anvil is one node, of a chain of its own that mines each transaction at once.
type anvil struct {
	t    testing.TB
	port int
	cmd  *exec.Cmd
}

func startAnvil(t testing.TB) *anvil {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	a := &anvil{t: t, port: port}
	a.start()
	t.Cleanup(a.kill)
	return a
}

// start starts the node, empty, on its port, and waits until it answers.
func (a *anvil) start() {
	a.t.Helper()
	binary, err := anvilBinary()
	if err != nil {
		a.t.Fatal(err)
	}
	a.cmd = exec.Command(binary, "--silent", "--host", "127.0.0.1", "--port", strconv.Itoa(a.port),
		"--chain-id", strconv.Itoa(anvilChainID), "--gas-price", "0", "--block-base-fee-per-gas", "0", "--slots-in-an-epoch", "2")
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	eventually(a.t, "anvil answers", func() bool {
		r, err := http.Post(a.url(), "application/json", bytes.NewReader(appendRequest(nil, 1, headMethod, nil)))
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})
}

func (a *anvil) url() string { return fmt.Sprintf("http://127.0.0.1:%d", a.port) }

func (a *anvil) kill() {
	_ = a.cmd.Process.Signal(syscall.SIGCONT)
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// pause stops the process, as a machine does that hangs: connections are still
// taken, and nothing comes back.
func (a *anvil) pause() {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		a.t.Fatal(err)
	}
	eventually(a.t, "anvil is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
		return err == nil && bytes.Contains(stat, []byte(") T "))
	})
}

func (a *anvil) resume() {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		a.t.Fatal(err)
	}
}

// call asks the node directly.
func (a *anvil) call(method, params string) string {
	a.t.Helper()
	r, err := http.Post(a.url(), "application/json", bytes.NewReader(appendRequest(nil, 1, method, []byte(params))))
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	got, err := parseAnswer(text)
	if err != nil || got.failure != nil {
		a.t.Fatalf("%s %s: %s (%v)", method, params, text, err)
	}
	return string(got.result)
}

// lab is a framework whose nodes are anvils, by the index of their city.
type lab struct {
	bsn.Framework // of which a gateway uses no more than what is below
	methods       bsn.Methods
	nodes         map[int]*anvil
}

func loadLabMethods() (bsn.Methods, error) {
	return evm.LoadMethods(evm.Methods, []byte("final: true"))
}

func newLab(t testing.TB, nodes map[int]*anvil) *lab {
	t.Helper()
	methods, err := loadLabMethods()
	if err != nil {
		t.Fatal(err)
	}
	return &lab{methods: methods, nodes: nodes}
}

func (l *lab) Methods() bsn.Methods { return l.methods }

func (l *lab) Endpoint(_ bsn.Net, _ bsn.Chain, city int) bsn.Endpoint {
	return bsn.Endpoint{HTTP: l.nodes[city].url(), WS: fmt.Sprintf("ws://127.0.0.1:%d", l.nodes[city].port)}
}

func (l *lab) Inspect(method string, params json.RawMessage) (bsn.Transaction, error) {
	return evm.Inspect(method, params)
}

func (l *lab) Describe(pkg []byte) ([]bsn.Interface, error) { return evm.Describe(pkg) }

func (l *lab) Query(ctx context.Context, e bsn.Endpoint, v bsn.Version, pkg []byte, contract, function string, args []json.RawMessage) (json.RawMessage, error) {
	return evm.Query(ctx, e, v, pkg, contract, function, args)
}

// shelf holds artifacts in memory.
type shelf map[string][]byte

func (s shelf) Get(_ context.Context, hash string) ([]byte, error) {
	if text, ok := s[hash]; ok {
		return text, nil
	}
	return nil, fmt.Errorf("no artifact %s", hash)
}

// twoCities is a network of paris, where the gateway is, and chongqing, with a
// chain whose nodes are two anvils.
type twoCities struct {
	testing.TB
	ledger           *memoryLedger
	paris, chongqing *anvil
	framework        *lab
	shelf            shelf
	gateway          *Gateway
	url              string
	secret           string
	project          bsn.Project
	chain            bsn.Chain
}

func startTwoCities(t testing.TB, cfg Config) *twoCities {
	t.Helper()
	n := newTwoCities(t)
	n.paris, n.chongqing = startAnvil(t), startAnvil(t)
	n.framework = newLab(t, map[int]*anvil{1: n.paris, 2: n.chongqing})
	n.serve(cfg)
	return n
}

func newTwoCities(t testing.TB) *twoCities {
	n := &twoCities{TB: t, ledger: newMemoryLedger(), shelf: shelf{}}
	var key bsn.Key
	n.secret, key = bsn.NewKey("paris")
	n.project = bsn.Project{Account: "alice", Name: "main", Keys: []bsn.Key{key}, Limits: bsn.Limits{RequestsPerSecond: 100_000}}
	n.chain = bsn.Chain{
		Name: "lab", Kind: bsn.ChainOpen, Framework: "lab", Index: 1, NetworkID: anvilChainID, Deploy: bsn.DeployAccounts,
		Committee: []string{"chongqing", "paris"}, Status: bsn.ChainRunning,
		Nodes: []bsn.ChainNode{{City: "chongqing", CityIndex: 2}, {City: "paris", CityIndex: 1}},
	}
	n.ledger.put(bsn.City{Name: "paris", Index: 1}, bsn.City{Name: "chongqing", Index: 2, Gateway: "http://chongqing.test"}, n.chain, n.project)
	return n
}

// serve starts a gateway of paris and waits until it is ready.
func (n *twoCities) serve(cfg Config) {
	n.Helper()
	n.serveWith(cfg, n.framework)
}

func (n *twoCities) serveWith(cfg Config, f bsn.Framework) {
	n.Helper()
	cfg.City = "paris"
	if cfg.Cache == (Cache{}) {
		cfg.Cache.MaxBytes = -1 // anvil's state is changed without a block here
	}
	g, err := New(cfg, n.ledger, map[string]bsn.Framework{"lab": f}, n.shelf, quiet())
	if err != nil {
		n.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	wait, err := g.background(ctx)
	if err != nil {
		n.Fatal(err)
	}
	server := newServer(g)
	n.Cleanup(func() { cancel(); g.drain(); server.Close(); wait() })
	n.gateway, n.url = g, server.URL
	eventually(n.TB, "gateway is ready", func() bool {
		return g.directory.state().height == n.ledger.height()
	})
	eventually(n.TB, "heads are known", func() bool {
		p, _ := g.upstreams.get("lab")
		for _, node := range p.nodes {
			if _, alive := node.alive(); alive && node.headAt.Load() == 0 {
				return false
			}
		}
		return len(p.nodes) == len(n.chain.Nodes)
	})
}

// follow waits until the gateway is level with the ledger.
func (n *twoCities) follow() {
	n.Helper()
	eventually(n.TB, "gateway follows", func() bool { return n.gateway.directory.state().height == n.ledger.height() })
}

// reply is what an HTTP request brought.
type reply struct {
	status int
	header http.Header
	body   string
}

func (n *twoCities) do(method, path, key, body string) reply {
	n.Helper()
	r, err := n.try(method, path, key, body)
	if err != nil {
		n.Fatal(err)
	}
	return r
}

func (n *twoCities) try(method, path, key, body string) (reply, error) {
	request, err := http.NewRequest(method, n.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return reply{}, err
	}
	if key != "" {
		request.Header.Set("x-api-key", key)
	}
	client := http.Client{Timeout: time.Minute}
	r, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return reply{r.StatusCode, r.Header, string(text)}, err
}

// rpc posts a body to the chain with the project's key.
func (n *twoCities) rpc(body string) reply {
	n.Helper()
	return n.do(http.MethodPost, "/rpc/lab", n.secret, body)
}

// result calls a method and returns its result.
func (n *twoCities) result(method, params string) string {
	n.Helper()
	r := n.rpc(string(appendRequest(nil, 1, method, []byte(params))))
	a, err := parseAnswer([]byte(r.body))
	if err != nil || a.failure != nil || r.status != http.StatusOK {
		n.Fatalf("%s: status %d: %s", method, r.status, r.body)
	}
	return string(a.result)
}
