package kaia

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/software"
)

// network is a chain of real nodes, one a city, as their specifications say.
type network struct {
	t     *testing.T
	k     *Kaia
	net   bsn.Net
	chain bsn.Chain
	nodes []*testNode
}

type testNode struct {
	site bsn.Site
	spec bsn.NodeSpec
	cmd  *exec.Cmd
}

// newNetwork makes the chain and starts nothing.
func newNetwork(t *testing.T, cities ...string) *network {
	t.Helper()
	k, err := New(software.Config{})
	if err != nil {
		t.Fatal(err)
	}
	binary, err := k.Software(t.Context(), func(done, total int) {
		if done%100 == 0 || done == total {
			t.Logf("building the node: %d of %d", done, total)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, k: k, net: freeNet(t)}
	n.chain = bsn.Chain{Name: "trial", Kind: bsn.ChainOpen, Framework: Name, Index: 1, NetworkID: 190166, Committee: cities, GenesisTime: time.Now().Unix()}
	// Folders so deep that no unix socket in them could be named by its path.
	root := filepath.Join(t.TempDir(), strings.Repeat("deep-", 20))
	for i, city := range cities {
		site := bsn.Site{Net: n.net, City: bsn.City{Name: city, Index: i + 1}, Dir: filepath.Join(root, city)}
		keys, err := k.Keys(site)
		if err != nil {
			t.Fatal(err)
		}
		n.chain.Nodes = append(n.chain.Nodes, bsn.ChainNode{City: city, CityIndex: i + 1, Keys: keys})
		n.nodes = append(n.nodes, &testNode{site: site})
	}
	genesis, err := k.Genesis(n.chain)
	if err != nil {
		t.Fatal(err)
	}
	n.chain.Status = bsn.ChainRunning
	for _, node := range n.nodes {
		node.site.Chain = n.chain
		if node.spec, err = k.Plan(node.site, binary, genesis); err != nil {
			t.Fatal(err)
		}
		for _, f := range node.spec.Files {
			if err := os.WriteFile(filepath.Join(node.site.Dir, f.Path), f.Content, f.Mode); err != nil {
				t.Fatal(err)
			}
		}
		prepare := node.command(node.spec.Prepare)
		if out, err := prepare.CombinedOutput(); err != nil {
			t.Fatalf("prepare: %v\n%s", err, out)
		}
	}
	return n
}

// freeNet finds a second byte of addresses that nothing on the machine uses.
func freeNet(t *testing.T) bsn.Net {
	for candidate := 100 + os.Getpid()%100; candidate < 250; candidate++ {
		n := bsn.Net(candidate)
		l, err := net.Listen("tcp", bsn.HostPort(n.Addr(1, bsn.ChainService(1)), portPeers))
		if err == nil {
			l.Close()
			return n
		}
	}
	t.Fatal("no free addresses")
	return 0
}

func (n *testNode) command(args []string) *exec.Cmd {
	cmd := exec.Command(n.spec.Binary, args...)
	cmd.Dir = n.site.Dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.site.Dir, fmt.Sprintf("GOMEMLIMIT=%dMiB", n.spec.MemoryMiB)}, n.spec.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (n *network) start(node *testNode) {
	n.t.Helper()
	log, err := os.OpenFile(filepath.Join(node.site.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd := node.command(node.spec.Args)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	node.cmd = cmd
	n.t.Cleanup(func() {
		kill(cmd)
		if n.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			n.t.Logf("%s ended its log with:\n%s", node.site.City.Name, text[max(0, len(text)-2000):])
		}
	})
}

// kill ends a node as a loss of its process would, and waits until it is gone.
func kill(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
}

// eventually waits for a condition; what is a description for the failure.
func (n *network) eventually(what string, ok func() error) time.Duration {
	n.t.Helper()
	const most = 2 * time.Minute
	begin := time.Now()
	for {
		err := ok()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > most {
			n.t.Fatalf("%s: not after %v: %v", what, most, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (n *network) health(node *testNode) (bsn.Health, error) {
	return n.k.Health(n.t.Context(), node.site)
}

// reach waits until nodes have a height.
func (n *network) reach(height int64, nodes ...*testNode) time.Duration {
	n.t.Helper()
	return n.eventually(fmt.Sprintf("height %d", height), func() error {
		for _, node := range nodes {
			h, err := n.health(node)
			if err != nil {
				return err
			}
			if h.Height < height {
				return fmt.Errorf("%s is at %d", node.site.City.Name, h.Height)
			}
		}
		return nil
	})
}

func (n *network) height(node *testNode) int64 {
	n.t.Helper()
	h, err := n.health(node)
	if err != nil {
		n.t.Fatal(err)
	}
	return h.Height
}

// listeners returns the addresses of a process' listening TCP sockets and of all
// its UDP sockets, read from the kernel.
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	sockets := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			sockets[target] = true
		}
	}
	var found []string
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open("/proc/net/" + table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			const listening = "0A"
			if len(fields) < 10 || !sockets["socket:["+fields[9]+"]"] || strings.HasPrefix(table, "tcp") && fields[3] != listening {
				continue
			}
			found = append(found, table+" "+kernelAddress(t, fields[1]))
		}
	}
	slices.Sort(found)
	return found
}

// kernelAddress reads an address as /proc/net writes it: an IPv4 address is a
// little-endian word in hex. Others are kept as they are.
func kernelAddress(t *testing.T, text string) string {
	host, port, _ := strings.Cut(text, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	if len(host) == 8 {
		word, err := strconv.ParseUint(host, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		host = net.IPv4(byte(word), byte(word>>8), byte(word>>16), byte(word>>24)).String()
	}
	return fmt.Sprintf("%s:%d", host, p)
}

// rss is the memory of a process in MiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatal("the kernel names no VmRSS")
	return 0
}

// onSocket calls one method at the node's own socket.
func (n *network) onSocket(node *testNode, result any, method string, params ...any) error {
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	call, hangUp, err := ownerSide(ctx, node.site)
	if err != nil {
		return err
	}
	defer hangUp()
	return call(ctx, result, method, params...)
}
