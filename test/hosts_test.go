package test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openbsn/bsn/test/hosts"
)

// hostNet is the number in virtual addresses of networks on virtual hosts, whose
// loopbacks are their own.
const hostNet = 66

// hostActions are further commands of the scripts in scenarios/hosts/:
//
//	host NAME [nat]              a virtual host, with "nat" behind a router that lets nothing in: a home folder
//	                             $NAME_HOME, and unless behind a router an address $NAME_ADDR for the city's link
//	found CITY…                  a host for each city and a network of them, see found_test.go
//	on NAME COMMAND …            COMMAND on that host, with the host's home folder as $BSN_HOME. Programs can be
//	                             started in the background with: exec on NAME PROGRAM … &
//	cut NAME,… NAME,… …          no packet passes between these groups of hosts
//	heal                         nothing is cut any more
//	delay NAME DURATION          packets to and from the host take that much longer
//	loss NAME PERCENT            so many packets to and from the host get lost
var hostActions = map[string]action{"host": addHost, "found": found, "cut": cut, "heal": cut, "delay": delay, "loss": lose}

// site is what a script has of virtual hosts.
type site struct {
	folder  string // of the hosts' home folders
	network *hosts.Network
	hosts   map[string]*hosts.Host
	current *hosts.Host // the one that a command runs on; nil for this machine
}

// siteKey is where a script keeps its site.
type siteKey struct{}

// siteOf is nil if the script has no virtual hosts.
func siteOf(ts *testscript.TestScript) *site {
	s, _ := ts.Value(siteKey{}).(*site)
	return s
}

// TestHosts runs the scenarios whose cities are on hosts of their own. Founding a
// network on them takes a while, so that a script does much with one.
func TestHosts(t *testing.T) {
	needHosts(t)
	runScenarios(t, "scenarios/hosts", func(env *testscript.Env) error {
		t := env.T().(sequential).T
		// Not t.TempDir: its names are long, and sockets' paths must be short.
		folder, err := os.MkdirTemp("", "bsn-hosts-")
		if err != nil {
			return err
		}
		n, err := hosts.New()
		if err != nil {
			return err
		}
		s := &site{folder: folder, network: n, hosts: map[string]*hosts.Host{}}
		t.Cleanup(func() {
			s.end(t)
			os.RemoveAll(folder)
		})
		env.Values[siteKey{}] = s
		env.Setenv("NET", strconv.Itoa(hostNet))
		bin := filepath.Join(env.WorkDir, ".bin")
		env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
		env.Setenv("HOSTS", folder)
		return writeProgram(filepath.Join(bin, "on"), onScript)
	})
}

// onScript is the command on for programs in the background.
const onScript = `#!/bin/sh
host=$1
shift
BSN_HOME=$HOSTS/$host exec $(cat "$HOSTS/$host.enter") "$@"
`

func writeProgram(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o755)
}

// needHosts skips a test where virtual hosts cannot be made, unless they are
// required, as they are in CI.
func needHosts(t *testing.T) {
	t.Helper()
	err := hosts.Unable()
	if err != nil && os.Getenv("BSN_HOSTS") == "required" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
}

// end stops what runs on the hosts and takes them away.
func (s *site) end(t *testing.T) {
	for name := range s.hosts {
		n := &network{t, hostNet, filepath.Join(s.folder, name)}
		if t.Failed() {
			t.Logf("host %s:", name)
			n.showLogs()
		}
	}
	if err := s.network.Close(); err != nil {
		t.Error(err)
	}
}

func (s *site) find(name string) (*hosts.Host, error) {
	if h := s.hosts[name]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("there is no host %q", name)
}

// some finds hosts by their names with commas between.
func (s *site) some(names string) (out []*hosts.Host, err error) {
	for name := range strings.SplitSeq(names, ",") {
		h, err := s.find(name)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

func addHost(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 1 && (len(args) != 2 || args[1] != "nat") {
		return output{}, errors.New("usage: host NAME [nat]")
	}
	s, name := siteOf(ts), args[0]
	h, err := s.network.Add(name, len(args) == 2)
	if err != nil {
		return output{}, err
	}
	s.hosts[name] = h
	home := filepath.Join(s.folder, name)
	if err := os.Mkdir(home, 0o700); err != nil {
		return output{}, err
	}
	if len(args) == 1 {
		if err := configure(home, h.Addr.String()); err != nil {
			return output{}, err
		}
	}
	if err := os.WriteFile(home+".enter", []byte(strings.Join(h.Enter(), " ")), 0o644); err != nil {
		return output{}, err
	}
	ts.Setenv(strings.ToUpper(name)+"_HOME", home)
	ts.Setenv(strings.ToUpper(name)+"_ADDR", h.Addr.String())
	return output{}, nil
}

func on(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) < 2 {
		return output{}, errors.New("usage: on HOST COMMAND …")
	}
	do := actionOf(args[1])
	if do == nil {
		return output{}, fmt.Errorf("on: no command %q", args[1])
	}
	s := siteOf(ts)
	h, err := s.find(args[0])
	if err != nil {
		return output{}, err
	}
	home := ts.Getenv("BSN_HOME")
	s.current = h
	ts.Setenv("BSN_HOME", filepath.Join(s.folder, h.Name))
	defer func() {
		s.current = nil
		ts.Setenv("BSN_HOME", home)
	}()
	return do(ts, args[2:])
}

// enter are the words before a command that brings it to the host where the
// script is.
func enter(ts *testscript.TestScript) []string {
	if s := siteOf(ts); s != nil && s.current != nil {
		return s.current.Enter()
	}
	return nil
}

// client makes HTTP requests from the host where the script is.
func client(ts *testscript.TestScript) *http.Client {
	if s := siteOf(ts); s != nil && s.current != nil {
		return &http.Client{Transport: &http.Transport{DialContext: s.current.DialContext, DisableKeepAlives: true}}
	}
	return http.DefaultClient
}

func cut(ts *testscript.TestScript, args []string) (output, error) {
	s := siteOf(ts)
	var groups [][]*hosts.Host
	for _, names := range args {
		g, err := s.some(names)
		if err != nil {
			return output{}, err
		}
		groups = append(groups, g)
	}
	s.network.Cut(groups...)
	return output{}, nil
}

func delay(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 2 {
		return output{}, errors.New("usage: delay HOST DURATION")
	}
	h, err := siteOf(ts).find(args[0])
	if err != nil {
		return output{}, err
	}
	d, err := time.ParseDuration(args[1])
	if err != nil {
		return output{}, err
	}
	siteOf(ts).network.Delay(h, d)
	return output{}, nil
}

func lose(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 2 {
		return output{}, errors.New("usage: loss HOST PERCENT")
	}
	h, err := siteOf(ts).find(args[0])
	if err != nil {
		return output{}, err
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(args[1], "%"), 64)
	if err != nil {
		return output{}, err
	}
	siteOf(ts).network.Lose(h, percent/100)
	return output{}, nil
}
