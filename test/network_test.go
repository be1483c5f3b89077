package test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
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

	"github.com/rogpeppe/go-internal/testscript"
)

// Numbers of networks, the second byte of virtual addresses, that tests use.
const (
	firstNumber = 100
	lastNumber  = 119
)

// The cities that `bsn up` makes, in the order of their addresses.
var cities = []string{"chongqing", "hongkong", "paris", "saopaulo"}

// stopTimeout bounds how long a network may take to go down.
const stopTimeout = 2 * time.Minute

// network is a place for a network: a home folder and a number that no other
// test run uses.
type network struct {
	t      *testing.T
	number int
	home   string
}

// newNetwork reserves a place. When the test ends, what runs there is stopped,
// and if the test failed its logs are shown.
func newNetwork(t *testing.T) *network {
	t.Helper()
	number, release, err := claim()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its names are long, and sockets' paths must be short.
	home, err := os.MkdirTemp("", fmt.Sprintf("bsn-%d-", number))
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t, number, home}
	t.Cleanup(func() {
		defer release()
		defer os.RemoveAll(home)
		n.end()
	})
	return n
}

// claim reserves a free number by listening on an address of it that no city
// has. The end of this process gives it back, however it ends.
func claim() (number int, release func(), err error) {
	for number := firstNumber; number <= lastNumber; number++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.255.254:7700", number))
		if err != nil {
			continue
		}
		first, err := net.Listen("tcp", fmt.Sprintf("127.%d.1.1:7700", number))
		if err != nil { // a network that somebody started by hand
			l.Close()
			continue
		}
		first.Close()
		return number, func() { l.Close() }, nil
	}
	return 0, nil, fmt.Errorf("networks %d to %d are all in use on this machine", firstNumber, lastNumber)
}

func (n *network) bsn(args ...string) (string, error) {
	bin, err := bsnBinary()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(bin, append(args, "--home", n.home)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// end stops the network and makes sure of it.
func (n *network) end() {
	if n.t.Failed() {
		n.showLogs()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	bin, err := bsnBinary()
	if err == nil {
		var out []byte
		if out, err = exec.CommandContext(ctx, bin, "down", "--home", n.home).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		n.t.Errorf("bsn down: %v", err)
	}
	for _, p := range processes(n.home) {
		n.t.Errorf("bsn down left process %d running: %s of city %s", p.pid, p.part, p.city)
		syscall.Kill(p.pid, syscall.SIGKILL) // it may be gone by now
	}
}

// showLogs prints the ends of the logs of daemons, gateways and nodes.
func (n *network) showLogs() {
	const lines = 12
	for _, pattern := range []string{"cities/*/daemon.log", "cities/*/nodes/*/log/node.log"} {
		files, _ := filepath.Glob(filepath.Join(n.home, pattern)) // the pattern is well formed
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
			name, _ := filepath.Rel(n.home, f)
			n.t.Logf("the end of %s:\n%s", name, bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
		}
	}
}

// introduce makes a scenario's own home folder that of somebody who is no
// operator: it knows the cities' addresses and holds the portal's key.
func (n *network) introduce(env *testscript.Env) error {
	home := env.Getenv("BSN_HOME")
	if err := os.MkdirAll(filepath.Join(home, "portals"), 0o700); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(n.home, "portals", "demo.key"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(home, "portals", "demo.key"), key, 0o600); err != nil {
		return err
	}
	developer := &network{n.t, n.number, home}
	for i, city := range slices.Backward(cities) { // the last one is the city to talk to
		address := fmt.Sprintf("http://127.%d.%d.1", n.number, i+1)
		out, err := developer.bsn("context", "set", "--network", "bsn-local", "--city", city, "--api", address+":7700", "--gateway", address+":8080")
		if err != nil {
			return fmt.Errorf("bsn context set: %w\n%s", err, out)
		}
	}
	return nil
}

// proc is a process of a network.
type proc struct {
	pid        int
	city, part string // part is daemon, gateway or a node's id
}

// processes lists the processes of the cities below a home folder, in order of
// city and part. Those that have ended and only wait for their parent to notice
// do not count.
func processes(home string) []proc {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var out []proc
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			continue
		}
		// What has ended, or is another user's, reads as nothing.
		args := strings.Split(readProc(folder, "cmdline"), "\x00")
		if i := slices.Index(args, "start"); i > 0 && args[i-1] == "city" && i+1 < len(args) && slices.Contains(args, home) && !slices.Contains(args, "--detach") {
			out = append(out, proc{pid, args[i+1], "daemon"})
			continue
		}
		for _, kv := range strings.Split(readProc(folder, "environ"), "\x00") {
			marker, ok := strings.CutPrefix(kv, "BSN_NODE="+home+"/cities/")
			if !ok {
				continue
			}
			dir, _, _ := strings.Cut(marker, "#")
			city, node, _ := strings.Cut(dir, "/nodes/")
			out = append(out, proc{pid, city, node})
		}
	}
	slices.SortFunc(out, func(a, b proc) int { return strings.Compare(a.city+" "+a.part, b.city+" "+b.part) })
	return out
}

func readProc(folder, name string) string {
	b, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return ""
	}
	return string(b)
}

// examples are the repository's, without what was installed there.
func examples(root string) fs.FS {
	return withoutModules{os.DirFS(filepath.Join(root, "examples"))}
}

type withoutModules struct{ fs.FS }

// ReadDir implements fs.ReadDirFS.
func (f withoutModules) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "node_modules" }), err
}
