package process

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
)

// roleKey makes the test binary one of the programs below instead.
const roleKey = "PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleKey); role {
	case "":
		os.Exit(m.Run())
	case "serve":
		serve()
	case "crash":
		fmt.Fprintln(os.Stderr, "boom: no such genesis")
		os.Exit(3)
	case "deaf":
		signal.Ignore(unix.SIGTERM)
		fmt.Println("ready")
		select {}
	case "family":
		family()
	case "look":
		look()
	case "prepare":
		prepareOrServe()
	case "daemon":
		daemon()
	case "relay":
		relay()
	default:
		panic("unknown role " + role)
	}
}

func serve() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	fmt.Println("ready")
	<-term
	fmt.Println("bye")
}

// family starts deaf children: in its group, in a session of their own, and in a
// session of their own without the marker's help in the group.
func family() {
	self, _ := os.Executable()
	for i, attr := range []*syscall.SysProcAttr{{}, {Setsid: true}, {Setpgid: true}} {
		c := exec.Command(self)
		c.Env = append(os.Environ(), roleKey+"=deaf")
		if i == 2 {
			c.Env = []string{roleKey + "=deaf"}
		}
		c.SysProcAttr = attr
		if err := c.Start(); err != nil {
			panic(err)
		}
		fmt.Println("child", c.Process.Pid)
	}
	serve()
}

func look() {
	wd, _ := os.Getwd()
	stdin, _ := os.Readlink("/proc/self/fd/0")
	self, _ := readStat(os.Getpid())
	fmt.Printf("wd=%s stdin=%s session=%t\n", wd, stdin, self.session == self.pid && self.group == self.pid)
	for _, e := range os.Environ() {
		fmt.Println("env", e)
	}
	serve()
}

// prepareOrServe counts its preparations in a file. With the file "bad" it fails
// one, and with "slow" it does not end.
func prepareOrServe() {
	if len(os.Args) < 2 || os.Args[1] != "init" {
		serve()
		return
	}
	if b, err := os.ReadFile("bad"); err == nil {
		fmt.Printf("cannot init: %s\n", b)
		os.Exit(1)
	}
	f, err := os.OpenFile("prepared", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, "once")
	if _, err := os.Stat("slow"); err == nil {
		select {}
	}
}

// relay ends once a younger one has taken over. With the file "unfit" it does not
// come so far.
func relay() {
	if _, err := os.Stat("unfit"); err == nil {
		fmt.Println("cannot take over")
		os.Exit(3)
	}
	self := "taken-" + os.Getenv("GENERATION")
	if err := os.WriteFile(self, nil, 0o600); err != nil {
		panic(err)
	}
	for {
		all, err := filepath.Glob("taken-*")
		if err != nil || all[len(all)-1] != self {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// daemon starts the nodes that its arguments specify, one after the other and
// again and again if told to, until it is killed.
func daemon() {
	r, err := Open(os.Args[1], slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	for again := true; again; again = os.Getenv("AGAIN") != "" {
		for _, arg := range os.Args[2:] {
			var spec bsn.NodeSpec
			if err := json.Unmarshal([]byte(arg), &spec); err != nil {
				panic(err)
			}
			if err := r.Start(context.Background(), spec); err != nil {
				panic(err)
			}
			fmt.Println("started", spec.ID)
		}
	}
	select {}
}

// killedDaemon runs a daemon on dir in another process, kills it when it has
// started all nodes, and reaps it.
func killedDaemon(t *testing.T, dir string, specs ...bsn.NodeSpec) {
	t.Helper()
	cmd := daemonCommand(t, dir, specs...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range specs {
		if _, err := fmt.Fscanf(out, "started %s\n", new(string)); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
}

func daemonCommand(t *testing.T, dir string, specs ...bsn.NodeSpec) *exec.Cmd {
	t.Helper()
	args := []string{dir}
	for _, s := range specs {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, string(b))
	}
	cmd := exec.Command(testBinary(t), args...)
	cmd.Env = append(os.Environ(), roleKey+"=daemon")
	cmd.Stderr = os.Stderr
	return cmd
}

func testBinary(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

func nodeSpec(t *testing.T, id, role string) bsn.NodeSpec {
	return bsn.NodeSpec{ID: id, Binary: testBinary(t), Env: []string{roleKey + "=" + role, "GORACE=atexit_sleep_ms=0"}}
}

// open opens a runtime on dir; the test's end stops everything in it and fails
// if a process stayed.
func open(t *testing.T, dir string) *Runtime {
	t.Helper()
	r, err := Open(dir, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.ctx.Err() == nil {
			if err := r.StopAll(context.Background()); err != nil {
				t.Error(err)
			}
			noneLeft(t, r.dir)
		}
		r.Close()
	})
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func noneLeft(t *testing.T, dir string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	left, err := marked(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("processes stayed: %v", left)
	}
}

func start(t *testing.T, r *Runtime, spec bsn.NodeSpec) {
	t.Helper()
	if err := r.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, r *Runtime, id string) bsn.NodeStatus {
	t.Helper()
	for _, s := range r.List() {
		if s.ID == id {
			return s
		}
	}
	t.Fatalf("node %s is not listed", id)
	return bsn.NodeStatus{}
}

// eventually waits for what must come some time; the test's own limit is the end.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func output(t *testing.T, r *Runtime, id string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, id, "log", "node.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func says(t *testing.T, r *Runtime, id, text string) {
	t.Helper()
	eventually(t, id+" says "+text, func() bool { return strings.Contains(output(t, r, id), text) })
}

func lives(pid int) bool {
	s, err := readStat(pid)
	return err == nil && s.alive()
}

// sleeper is a process that has nothing to do with any runtime.
func sleeper(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "1000")
	c.Env = env
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

func children(t *testing.T, out string) []int {
	t.Helper()
	var pids []int
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "child "); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
