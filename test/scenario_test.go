// Package test runs whole networks: the real binary, ledger, node software and
// client libraries, as the scripts in scenarios/ say. The scripts are what to
// read; the commands that they use beside those of testscript are in
// commands_test.go.
//
// Scenarios in scenarios/shared/ destroy nothing and have one network together,
// in which each is a developer with a home folder and accounts of its own. Each
// of scenarios/own/ has a network to itself, and each of scenarios/hosts/ virtual
// hosts. What a line with [long] says is done if BSN_LONG is set.
package test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scratch holds what the run makes for all scenarios: the binary, the clients.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "bsn-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

// TestShared runs the scenarios that live together in one network.
func TestShared(t *testing.T) {
	n := newNetwork(t)
	up := sync.OnceValue(func() error { // not before a scenario is chosen that needs it
		if out, err := n.bsn("up", "--detach", "--net", strconv.Itoa(n.number)); err != nil {
			return fmt.Errorf("bsn up: %w\n%s", err, out)
		}
		return nil
	})
	runScenarios(t, "scenarios/shared", func(env *testscript.Env) error {
		if err := up(); err != nil {
			return err
		}
		env.Setenv("NET", strconv.Itoa(n.number))
		env.Setenv("OPERATORS_HOME", n.home)
		env.Setenv("BSN_HOME", filepath.Join(env.WorkDir, "home"))
		return n.introduce(env)
	})
}

// TestOwn runs the scenarios that stop, kill and change what others would need.
func TestOwn(t *testing.T) {
	runScenarios(t, "scenarios/own", func(env *testscript.Env) error {
		n := newNetwork(env.T().(sequential).T)
		env.Setenv("NET", strconv.Itoa(n.number))
		env.Setenv("BSN_HOME", n.home)
		return nil
	})
}

// runScenarios runs the scripts of a folder one after the other.
func runScenarios(t *testing.T, folder string, setup func(*testscript.Env) error) {
	bin, err := bsnBinary()
	if err != nil {
		t.Fatal(err)
	}
	tools, err := clients()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	p := testscript.Params{
		Dir: folder, Cmds: commands, RequireUniqueNames: true,
		Condition: func(name string) (bool, error) {
			if name != "long" {
				return false, fmt.Errorf("no condition %q", name)
			}
			return os.Getenv("BSN_LONG") != "", nil
		},
		Setup: func(env *testscript.Env) error {
			passOn(env)
			env.Values[testKey{}] = env.T().(sequential).T
			env.Setenv("PATH", strings.Join([]string{
				filepath.Dir(bin), filepath.Join(tools, "node_modules", "@foundry-rs", "cast-linux-amd64", "bin"), os.Getenv("PATH"),
			}, ":"))
			env.Setenv("CLIENTS", tools)
			env.Setenv("BSN_SOFTWARE_SOURCE", root) // what node software is built from
			if err := os.CopyFS(filepath.Join(env.WorkDir, "examples"), examples(root)); err != nil {
				return err
			}
			return setup(env)
		},
	}
	if end, ok := t.Deadline(); ok {
		p.Deadline = end
	}
	testscript.RunT(sequential{t}, p)
}

// passedOn are the variables of the environment that scripts get too: how to
// reach the internet, and where caches are. The others are nobody's business, as
// verbose runs print what scripts have.
var passedOn = regexp.MustCompile(`(?i)^(https?_proxy|all_proxy|no_proxy|ssl_cert_.*|node_extra_ca_certs|npm_config_(registry|cache|cafile)|xdg_.*|go[a-z]+|cgo_.*|cc|lang)$`)

func passOn(env *testscript.Env) {
	env.Setenv("HOME", os.Getenv("HOME"))
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); passedOn.MatchString(name) {
			env.Setenv(name, value)
		}
	}
}

// sequential is a *testing.T for testscript, which would otherwise run all
// scripts at once: a network is heavy.
type sequential struct{ *testing.T }

func (s sequential) Parallel()     {}
func (s sequential) Verbose() bool { return testing.Verbose() }

func (s sequential) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(sequential{t}) })
}

// bsnBinary builds bsn from this tree, once.
var bsnBinary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(scratch, "bsn")
	cmd := exec.Command("go", "build", "-o", bin, "../cmd/bsn")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build bsn: %w\n%s", err, out)
	}
	return bin, nil
})

// clients returns a folder with the scripts of clients/ and the packages that
// their lock file pins, which are installed once for each lock file into the
// user's cache.
var clients = sync.OnceValues(func() (string, error) {
	lock, err := os.ReadFile("clients/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	installed := filepath.Join(cache, "bsn", "scenario-clients-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(installed); err != nil {
		if err := install(installed); err != nil {
			return "", fmt.Errorf("install clients: %w", err)
		}
	}
	dir := filepath.Join(scratch, "clients")
	if err := os.CopyFS(dir, os.DirFS("clients")); err != nil {
		return "", err
	}
	return dir, os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules"))
})

// install runs npm in a folder beside dir and moves the result there, so that
// dir is whole if it exists.
func install(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "install-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("clients", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(fresh, name), b, 0o644); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // another test run was not faster either
			return err
		}
	}
	return nil
}
