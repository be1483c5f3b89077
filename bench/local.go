package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/framework/kaia"
	"github.com/openbsn/bsn/software"
)

// The network that `bsn up` makes: its cities in order of index, and its chain.
var cities = []string{"chongqing", "hongkong", "paris", "saopaulo"}

const (
	chain     = "chongqing"
	kaiaNode  = "kaia-" + chain
	project   = "demo-account/default"
	writes    = 1_000_000 // an account's ledger writes per hour
	maxAnswer = 1 << 20
)

// Networks of benchmarks take the first free number from firstNet on.
const firstNet, lastNet = 120, 129

// local is a network of four cities on this machine, in a folder of its own.
type local struct {
	bsn  string // the binary
	home string
	net  bsn.Net
	env  []string // beside this process's own
}

// newLocal finds place for a network. Close deletes it.
func newLocal(binary string) (*local, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, fmt.Errorf("find binary: %w", err)
	}
	home, err := os.MkdirTemp("", "bsn-bench-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	for n := firstNet; n <= lastNet; n++ {
		l, err := net.Listen("tcp", bsn.HostPort(bsn.Net(n).Addr(1, bsn.ServiceCity), bsn.PortAPI))
		if err == nil {
			return &local{bsn: binary, home: home, net: bsn.Net(n)}, l.Close()
		}
	}
	return nil, errors.Join(fmt.Errorf("networks %d to %d run on this machine already", firstNet, lastNet), os.RemoveAll(home))
}

// close stops the network, also after an interrupt, and deletes its folder.
func (l *local) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := l.run(ctx, "reset", "--yes")
	if err != nil {
		return err // the folder is needed to end what may still run
	}
	return os.RemoveAll(l.home)
}

// run runs a command of the command line and returns what it printed.
func (l *local) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, l.bsn, args...)
	cmd.Env = append(append(os.Environ(), "BSN_HOME="+l.home), l.env...)
	// Ctrl-C is for this process, which then ends the command in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("bsn %s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// up starts the network and returns how long it took to the first call that a
// gateway answered.
func (l *local) up(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	if _, err := l.run(ctx, "up", "--detach", "--net", strconv.Itoa(int(l.net)), "--account-writes", strconv.Itoa(writes)); err != nil {
		return 0, err
	}
	g, err := l.gateway(cities[0])
	if err != nil {
		return 0, err
	}
	if _, err := g.height(ctx); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

func (l *local) down(ctx context.Context) error {
	_, err := l.run(ctx, "down")
	return err
}

func (l *local) city(name string) city.Home { return city.Home{Root: l.home, Name: name} }

// daemon is the process id of a city's daemon.
func (l *local) daemon(name string) (int, error) {
	pid, err := l.city(name).PID()
	if err == nil && pid == 0 {
		err = fmt.Errorf("city %s does not run", name)
	}
	return pid, err
}

// nodes are the process ids of one node, such as "gateway", in every city that
// runs it.
func (l *local) nodes(ctx context.Context, id string) (map[string]int, error) {
	out, err := l.run(ctx, "status", "--json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Cities []struct {
			City  string `json:"city"`
			Nodes []struct {
				ID  string `json:"id"`
				PID int    `json:"pid"`
			} `json:"nodes"`
		} `json:"cities"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	pids := map[string]int{}
	for _, c := range status.Cities {
		for _, n := range c.Nodes {
			if n.ID == id && n.PID > 0 {
				pids[c.City] = n.PID
			}
		}
	}
	return pids, nil
}

// cliContext is what the command line remembers of the network.
type cliContext struct {
	Network string `json:"network"`
	Cities  map[string]struct {
		API     string `json:"api"`
		Gateway string `json:"gateway"`
	} `json:"cities"`
	Account string                       `json:"account"`
	Keys    map[string]map[string]string `json:"keys"`
}

func (l *local) context() (c cliContext, err error) {
	return c, readJSON(filepath.Join(l.home, "context.json"), &c)
}

// endpoint is where calls of the chain are answered.
type endpoint struct {
	url, key string // a node takes no key
	client   *http.Client
}

// gateway is a city's gateway with the project's key; node is a city's own node.
func (l *local) gateway(name string) (endpoint, error) {
	c, err := l.context()
	if err != nil {
		return endpoint{}, err
	}
	key := c.Keys[project][name]
	if key == "" {
		return endpoint{}, fmt.Errorf("there is no key of %s for city %s", project, name)
	}
	return newEndpoint(c.Cities[name].Gateway+"/rpc/"+chain, key), nil
}

func (l *local) node(index int) (endpoint, error) {
	k, err := kaia.New(software.Config{})
	if err != nil {
		return endpoint{}, err
	}
	return newEndpoint(k.Endpoint(l.net, bsn.Chain{Index: 1}, index).HTTP, ""), nil
}

// newEndpoint keeps as many connections as there are callers at once.
func newEndpoint(url, key string) endpoint {
	return endpoint{url, key, &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		Timeout:   5 * time.Second,
	}}
}

const heightCall = `{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}`

// height asks for the newest block.
func (e endpoint) height(ctx context.Context) (int64, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, strings.NewReader(heightCall))
	if err != nil {
		return 0, fmt.Errorf("ask for newest block: %w", err)
	}
	q.Header.Set("Content-Type", "application/json")
	if e.key != "" {
		q.Header.Set("X-Api-Key", e.key)
	}
	res, err := e.client.Do(q)
	if err != nil {
		return 0, fmt.Errorf("ask for newest block: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("ask for newest block: %w", err)
	}
	var a struct {
		Result string `json:"result"`
	}
	if err := json.Unmarshal(b, &a); err != nil || a.Result == "" {
		return 0, fmt.Errorf("ask for newest block: %s: %s", res.Status, b)
	}
	return strconv.ParseInt(a.Result, 0, 64)
}
