package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// previousCommit is the bsn that the upgrade begins with: the first that can be
// replaced without a stop.
const previousCommit = "86f118c251a88af7fb8a08b5d121c78948d64dd1"

// previousBinary builds bsn from an earlier commit, once, into the user's cache.
var previousBinary = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "bsn", "previous", previousCommit)
	bin := filepath.Join(dir, "bsn")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := exec.Command("git", "cat-file", "-e", previousCommit+"^{commit}").Run(); err != nil {
		return "", fmt.Errorf("commit %s, from which the upgrade begins, is not in this clone: git fetch --unshallow", previousCommit)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	tree := filepath.Join(fresh, "tree")
	if out, err := exec.Command("git", "worktree", "add", "--detach", tree, previousCommit).CombinedOutput(); err != nil {
		return "", fmt.Errorf("git worktree add: %w\n%s", err, out)
	}
	defer exec.Command("git", "worktree", "remove", "--force", tree).Run()
	build := exec.Command("go", "build", "-o", filepath.Join(fresh, "bsn"), "./cmd/bsn")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build bsn of %s: %w\n%s", previousCommit, err, out)
	}
	return bin, os.Rename(filepath.Join(fresh, "bsn"), bin)
})

func previous(*testscript.TestScript, []string) (output, error) {
	bin, err := previousBinary()
	return output{stdout: bin + "\n"}, err
}

// this is the bsn of this tree.
func this(*testscript.TestScript, []string) (output, error) {
	bin, err := bsnBinary()
	return output{stdout: bin + "\n"}, err
}

// caller calls without pause, on connections that are kept and on new ones.
type caller struct {
	stop          context.CancelFunc
	all           sync.WaitGroup
	calls, failed atomic.Int64
	mu            sync.Mutex
	first         error
}

var callers sync.Map // of scripts, by their folder

func keepCalling(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) == 1 && args[0] == "end" {
		v, ok := callers.LoadAndDelete(ts.MkAbs("."))
		if !ok {
			return output{}, errors.New("nobody calls")
		}
		c := v.(*caller)
		c.stop()
		c.all.Wait()
		o := output{stdout: fmt.Sprintf("{\"calls\":%d,\"failed\":%d}\n", c.calls.Load(), c.failed.Load())}
		if c.first != nil {
			o.stderr = c.first.Error() + "\n"
		}
		return o, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &caller{stop: stop}
	ts.Defer(stop)
	for _, url := range args {
		for _, kept := range []bool{true, false} {
			client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: !kept}}
			c.all.Go(func() {
				defer client.CloseIdleConnections()
				for ctx.Err() == nil {
					c.call(client, url)
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
	}
	callers.Store(ts.MkAbs("."), c)
	return output{}, nil
}

func (c *caller) call(client *http.Client, url string) {
	c.calls.Add(1)
	r, err := client.Post(url, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}`))
	if err == nil {
		var b []byte
		b, err = io.ReadAll(r.Body)
		r.Body.Close()
		if err == nil && (r.StatusCode != http.StatusOK || !strings.Contains(string(b), `"result"`)) {
			err = fmt.Errorf("%s: %s", r.Status, b)
		}
	}
	if err != nil {
		c.failed.Add(1)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.first == nil {
			c.first = err
		}
	}
}
