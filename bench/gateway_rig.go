package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	"github.com/openbsn/bsn/gateway"
	"github.com/openbsn/bsn/software"
)

// peerURL names another gateway to measure beside ours: its JSON-RPC address, which
// passes calls to the stand-in at the address that is printed.
const peerURL = "PEER_URL"

// rig is a gateway and what it is held against, all before one stand-in for a
// node: HAProxy, the stand-in itself, and another gateway if one is named.
type rig struct {
	folder    string
	processes []*process
	gateway   *process
	haproxy   *process
	standIn   *process
	metrics   string // the gateway's, host:port
	net       bsn.Net
	profiles  string // as in options

	ours, proxied, direct target
	peer                  *target
	socket                string // the gateway's WebSocket address, with a key
}

// process is one that the rig started.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	// profiles is where its profiles go, and debug who makes them; empty if none are
	// wanted.
	profiles, debug string
}

func (r *rig) start(name string, binary string, args ...string) (*process, error) {
	return r.startIn(r.folder, nil, name, binary, args...)
}

// startIn starts a process in a folder; without an environment it has this one's.
func (r *rig) startIn(folder string, env []string, name, binary string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(r.folder, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log.Name()}
	r.processes = append(r.processes, p)
	return p, nil
}

// close ends all processes and deletes the rig's folder.
func (r *rig) close() error {
	for _, p := range r.processes {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
	return os.RemoveAll(r.folder)
}

// rigCity is the city of the gateway.
const rigCity = "chongqing"

func newRig(ctx context.Context, o options) (*rig, error) {
	folder, err := os.MkdirTemp("", "bsn-rig-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	r := &rig{folder: folder, profiles: o.profiles}
	if err := r.open(ctx, o.bsn); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rig) open(ctx context.Context, binary string) error {
	l, err := newLocal(binary) // for its free net
	if err != nil {
		return err
	}
	if err := os.RemoveAll(l.home); err != nil {
		return fmt.Errorf("delete folder: %w", err)
	}
	r.net = l.net
	k, err := kaia.New(software.Config{})
	if err != nil {
		return err
	}
	c := bsn.Chain{
		Name: chain, Framework: k.Name(), Index: 1, NetworkID: 1000, Status: bsn.ChainRunning,
		Committee: []string{rigCity}, Nodes: []bsn.ChainNode{{City: rigCity, CityIndex: 1}},
	}
	at := k.Endpoint(l.net, c, 1)
	httpAt, wsAt := strings.TrimPrefix(at.HTTP, "http://"), strings.TrimPrefix(at.WS, "ws://")
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	if r.standIn, err = r.start("stand-in", self, standInRole, httpAt, wsAt); err != nil {
		return err
	}
	r.direct = target{"stand-in", httpAt, "/", ""}
	if err := r.startGateway(l, c); err != nil {
		return err
	}
	if err := r.startProxy(l.net, httpAt); err != nil {
		return err
	}
	if peer := os.Getenv(peerURL); peer != "" {
		u, err := url.Parse(peer)
		if err != nil || u.Scheme != "http" || u.Host == "" {
			return fmt.Errorf("%s=%s is no http address", peerURL, peer)
		}
		say("the other gateway at %s must pass calls to http://%s", peer, httpAt)
		r.peer = &target{"peer", u.Host, u.RequestURI(), ""}
	}
	for _, t := range []target{r.direct, r.proxied, r.ours} {
		if err := r.await(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a target answers.
func (r *rig) await(ctx context.Context, t target) error { return r.awaitCall(ctx, t, ethCall) }

func (r *rig) awaitCall(ctx context.Context, t target, c call) error {
	var err error
	for range 100 {
		var all []*connection
		if all, err = connections(ctx, t, c, 1); err == nil {
			hangUp(all)
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	for _, p := range r.processes {
		b, _ := os.ReadFile(p.log)
		err = fmt.Errorf("%w\n%s: %s", err, p.name, b)
	}
	return err
}

// startGateway starts a gateway with records as it would have read them from the
// ledger, which there is none of: it goes on with what it knows.
func (r *rig) startGateway(l *local, c bsn.Chain) error {
	secret, key := bsn.NewKey(rigCity)
	now := time.Now()
	id := bsn.ID("demo", "default")
	records := map[string]any{
		"height": 1, "time": now,
		"cities":   map[string]bsn.City{rigCity: {Name: rigCity, Index: 1}},
		"chains":   map[string]bsn.Chain{c.Name: c, realChain().Name: realChain()},
		"accounts": map[string]bsn.Account{"demo": {Name: "demo"}},
		"projects": map[string]bsn.Project{id: {Account: "demo", Name: "default", Keys: []bsn.Key{key}, Limits: bsn.Limits{RequestsPerSecond: callsPerSec}}},
	}
	http := bsn.HostPort(l.net.Addr(1, bsn.ServiceCity), bsn.PortGateway)
	r.metrics = bsn.HostPort(l.net.Addr(1, bsn.ServiceCity), bsn.PortMetrics)
	role := city.GatewayRole{
		API: "http://" + bsn.HostPort(l.net.Addr(1, bsn.ServiceCity), bsn.PortAPI), Secret: "none", Level: "info",
		Gateway: gateway.Config{City: rigCity, Network: grownNetwork, Net: l.net, Listen: []string{http}, Metrics: r.metrics, State: "records.json", Journal: "journal"},
	}
	for name, v := range map[string]any{"records.json": records, city.GatewayFile: role} {
		if err := writeJSON(filepath.Join(r.folder, name), v); err != nil {
			return err
		}
	}
	binary, err := filepath.Abs(l.bsn)
	if err != nil {
		return fmt.Errorf("find binary: %w", err)
	}
	r.ours = target{"gateway", http, "/rpc/" + c.Name, secret}
	r.socket = "ws://" + http + "/rpc/" + c.Name + "/" + secret
	if r.gateway, err = r.start("gateway", binary, "gateway", "run", city.GatewayFile); err != nil {
		return err
	}
	if r.profiles != "" {
		r.gateway.profiles, r.gateway.debug = r.profiles, r.metrics
	}
	return nil
}

// profile has a profile of the next seconds written to a file, if profiles are wanted.
func (p *process) profile(ctx context.Context, name string) {
	if p == nil || p.profiles == "" {
		return
	}
	go func() {
		err := p.fetch(ctx, "profile?seconds=4", name+".cpu")
		if err == nil {
			err = p.fetch(ctx, "allocs", name+".allocs")
		}
		if err != nil {
			say("no profile: %v", err)
		}
	}()
}

func (p *process) fetch(ctx context.Context, what, name string) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.debug+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", what, res.Status)
	}
	if err := os.MkdirAll(p.profiles, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.profiles, name), b, 0o644)
}

// haproxyConfig has two threads and keeps connections on both sides.
const haproxyConfig = `global
  nbthread 2
  maxconn 2000
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind %s
  default_backend out
backend out
  server one %s
`

// startProxy installs HAProxy, unless it is there, and starts it.
func (r *rig) startProxy(n bsn.Net, upstream string) error {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		say("install haproxy")
		if out, err := exec.Command("apt-get", "install", "-y", "--no-install-recommends", "haproxy").CombinedOutput(); err != nil {
			return fmt.Errorf("install haproxy: %w\n%s", err, out)
		}
		if binary, err = exec.LookPath("haproxy"); err != nil {
			return fmt.Errorf("find haproxy: %w", err)
		}
	}
	at := bsn.HostPort(n.Addr(2, bsn.ServiceCity), bsn.PortGateway)
	if err := os.WriteFile(filepath.Join(r.folder, "haproxy.cfg"), fmt.Appendf(nil, haproxyConfig, at, upstream), 0o644); err != nil {
		return fmt.Errorf("configure haproxy: %w", err)
	}
	r.proxied = target{"haproxy", at, "/", ""}
	r.haproxy, err = r.start("haproxy", binary, "-db", "-f", "haproxy.cfg")
	return err
}

// spent is the processor time that a process has used, in seconds.
func (p *process) spent() (float64, error) {
	cpu, _, err := stat(p.cmd.Process.Pid)
	return cpu, err
}

// metric reads a figure of the gateway's; missing tells that there is none.
func (r *rig) metric(name string) (value float64, missing bool, err error) {
	res, err := http.Get("http://" + r.metrics + "/metrics")
	if err != nil {
		return 0, false, fmt.Errorf("read metrics: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return 0, false, fmt.Errorf("read metrics: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, err = strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return value, false, err
		}
	}
	return 0, true, nil
}

// standInRole is the command of this program with which it is the stand-in;
// listenersRole that with which it is many subscribers.
const (
	standInRole   = "stand-in"
	listenersRole = "listeners"
)

// role runs a part of the rig that is a process of its own.
func role(ctx context.Context, args []string) (is bool, err error) {
	switch {
	case len(args) == 3 && args[0] == standInRole:
		return true, standIn(ctx, args[1], args[2])
	case len(args) == 3 && args[0] == listenersRole:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return true, err
		}
		return true, listeners(ctx, args[1], n)
	}
	return false, nil
}
