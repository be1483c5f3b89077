package evm

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
)

// noPrice are the flags of a node on which an account without coin can do all.
var noPrice = []string{"--base-fee", "0", "--gas-price", "0", "--disable-min-priority-fee"}

// anvil starts a node, without gas prices unless flags say otherwise, that makes a
// block for each transaction, and returns its address.
func anvil(t *testing.T, flags ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a node")
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("the pinned anvil is for linux/amd64")
	}
	files := make(map[string][]byte)
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", "anvil", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
	}
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "anvil", "1.7.1")
	if err := installed(t.Context(), dir, files, t.Output()); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "node_modules", "@foundry-rs", "anvil-linux-amd64", "bin", "anvil")
	args := []string{"--port", "0", "--accounts", "0"}
	if !slices.Contains(flags, "--gas-price") {
		args = append(args, noPrice...)
	}
	cmd := exec.Command(binary, append(args, flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	listening := regexp.MustCompile(`Listening on (127\.0\.0\.1:\d+)`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return "http://" + m[1]
		}
	}
	t.Fatal("anvil ended before it listened")
	return ""
}

// nodeURL names a variable with the JSON-RPC address of a running node of any
// kind, without gas prices, on which the tests that need no more run instead.
const nodeURL = "BSN_TEST_EVM_URL"

// node is an EVM node without gas prices.
func node(t *testing.T, flags ...string) string {
	t.Helper()
	if url := os.Getenv(nodeURL); url != "" {
		return url
	}
	return anvil(t, flags...)
}

func dial(t *testing.T, address string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newKey makes a key whose account holds nothing.
func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// long is a context for what should be quick: it ends a test that hangs.
func long(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
