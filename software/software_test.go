package software

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tree writes a source tree with one program in it, and returns the
// configuration and the program as pinned.
func tree(t *testing.T, source string) (Config, Program) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the Go toolchain; run without -short")
	}
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":         "module " + treeModule + "\n\ngo 1.26\n",
		"tool/go.mod":    "module " + treeModule + "/tool\n\ngo 1.22\n\nrequire example.com/upstream v1.2.3 // indirect\n",
		"tool/go.sum":    "",
		"tool/main.go":   source,
		"deeper/keep.md": "",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	version, sum, err := Pin(filepath.Join(root, "tool"), "example.com/upstream")
	if err != nil {
		t.Fatal(err)
	}
	return Config{Source: root, Cache: t.TempDir()},
		Program{Name: "tool", Version: version, Sum: sum, Folder: "tool", Binary: "the-tool", Flags: []string{"-ldflags=-X main.word=linked"}}
}

const good = `package main

import "fmt"

var word = "plain"

func main() { fmt.Print(word) }
`

func run(t *testing.T, binary string) string {
	t.Helper()
	out, err := exec.Command(binary).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestBuild(t *testing.T) {
	config, program := tree(t, good)
	last, lastTotal := 0, 0
	binary, err := Build(t.Context(), program, config, func(done, total int) {
		if done < last || done > total {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last, lastTotal = done, total
	})
	if err != nil {
		t.Fatal(err)
	}
	if last == 0 || last != lastTotal {
		t.Errorf("progress ended at %d of %d", last, lastTotal)
	}
	if want := filepath.Join(config.Cache, "tool", "v1.2.3-"+program.Sum[:12], "the-tool"); binary != want {
		t.Errorf("built %s, want %s", binary, want)
	}
	if got := run(t, binary); got != "linked" {
		t.Errorf("it printed %q", got)
	}
	if left, _ := filepath.Glob(binary + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// What is built needs no source, and is not built again.
	config.Source = filepath.Join(config.Source, "nowhere")
	again, err := Build(t.Context(), program, config, func(int, int) { t.Error("built again") })
	if err != nil || again != binary {
		t.Errorf("second time %s, %v", again, err)
	}
}

// TestBuildPackage: what is built may be another package than the module's own.
func TestBuildPackage(t *testing.T) {
	config, program := tree(t, good)
	dir := filepath.Join(config.Source, "tool", "inner")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(strings.ReplaceAll(good, "Print(word)", "Print(\"inner \" + word)")), 0o600); err != nil {
		t.Fatal(err)
	}
	program.Package, program.Binary = treeModule+"/tool/inner", "inner"
	binary, err := Build(t.Context(), program, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, binary); got != "inner linked" {
		t.Errorf("it printed %q", got)
	}
}

func TestBuildAtOnce(t *testing.T) {
	config, program := tree(t, good)
	var builders atomic.Int32
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			var once sync.Once
			_, err := Build(t.Context(), program, config, func(int, int) { once.Do(func() { builders.Add(1) }) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if builders.Load() != 1 {
		t.Errorf("%d built it, want 1", builders.Load())
	}
}

func TestBuildFails(t *testing.T) {
	config, program := tree(t, "package main\n\nfunc main() { missing() }\n")
	_, err := Build(t.Context(), program, config, nil)
	if err == nil || !strings.Contains(err.Error(), "main.go:3:15: undefined: missing") {
		t.Errorf("the compiler's words are missing: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(config.Cache, "tool", "*", "the-tool*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBuildEnds(t *testing.T) {
	config, program := tree(t, good)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Build(ctx, program, config, func(int, int) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an ended build: %v", err)
	}

	// Somebody else is building and does not get done.
	unlock, err := lock(t.Context(), filepath.Join(config.Cache, "tool", program.key(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Build(ctx, program, config, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an ended wait: %v", err)
	}
}

func TestSource(t *testing.T) {
	config, program := tree(t, good)
	root := config.Source
	config.Source = ""

	t.Chdir(filepath.Join(root, "deeper"))
	if dir, err := find(program, ""); err != nil || !same(dir, filepath.Join(root, "tool")) {
		t.Errorf("from within the tree: %s, %v", dir, err)
	}

	// A module of its own within the tree is passed by on the way up.
	t.Chdir(filepath.Join(root, "tool"))
	if dir, err := find(program, ""); err != nil || !same(dir, filepath.Join(root, "tool")) {
		t.Errorf("from within the program's module: %s, %v", dir, err)
	}

	t.Chdir(t.TempDir())
	if _, err := Build(t.Context(), program, config, nil); err == nil || !strings.Contains(err.Error(), "no source tree") {
		t.Errorf("from elsewhere: %v", err)
	}

	if err := os.WriteFile(filepath.Join(root, "tool", "more.go"), []byte("package main\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config.Source = root
	if _, err := Build(t.Context(), program, config, nil); err == nil || !strings.Contains(err.Error(), "not of the version") {
		t.Errorf("another source: %v", err)
	}
}

func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func TestPin(t *testing.T) {
	for name, test := range map[string]struct{ text, version string }{
		"one line": {"module x\nrequire example.com/up v1.0.3\n", "v1.0.3"},
		"block":    {"module x\nrequire (\n\texample.com/other v9.0.0\n\texample.com/up v1.0.3 // indirect\n)\n", "v1.0.3"},
		"comment":  {"module x\n// require example.com/up v1.0.3\n", ""},
		"prefix":   {"module x\nrequire example.com/up/v2 v2.0.0\n", ""},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{"go.mod": test.text, "go.sum": ""} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		version, first, err := Pin(dir, "example.com/up")
		if version != test.version || (err == nil) != (test.version != "") {
			t.Errorf("%s: %q, %v", name, version, err)
		}
		if err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "go.sum"), []byte("changed"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, second, err := Pin(dir, "example.com/up"); err != nil || second == first {
			t.Errorf("%s: the fingerprint of something else is the same, %v", name, err)
		}
	}
}

func TestOwn(t *testing.T) {
	dir := t.TempDir()
	program := Program{Name: "tool", Version: "v1", Sum: strings.Repeat("0", 64), Binary: "tool"}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(dir, "ready")
	if err := os.WriteFile(ready, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{ready: true, plain: false, dir: false, filepath.Join(dir, "none"): false} {
		got, err := Build(t.Context(), program, Config{Binary: name}, nil)
		if ok && (err != nil || got != name) || !ok && err == nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
