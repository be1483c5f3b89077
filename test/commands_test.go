package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Bounds that a working network never meets.
const (
	awaitTimeout   = 3 * time.Minute
	callTimeout    = time.Minute
	programTimeout = 10 * time.Minute
	awaitPause     = 200 * time.Millisecond
)

// output is what a command printed.
type output struct{ stdout, stderr string }

// action is a command of the scripts: it does something and may print.
type action func(ts *testscript.TestScript, args []string) (output, error)

// actions are the commands that the scripts use beside testscript's own. A
// leading ! means that a command must fail.
//
//	bsn ARGUMENT…              the bsn of this tree, with $BSN_HOME
//	signup ACCOUNT             an account, chosen from now on, its project web and a key for every city
//	rpc WHERE METHOD [PARAMS]  JSON-RPC; WHERE is a URL, or a city for the one that gateway prints. An error
//	                           in the answer is a failure; its text goes to stderr
//	gateway CITY [ws]          the URL of its chongqing chain, with the chosen project's key in it
//	http [METHOD] URL …        an HTTP request, with -H header and -d body as curl has them. The status and the
//	                           headers go to stderr; the command fails only if no answer comes
//	ipc CITY NODE METHOD […]   JSON-RPC on a node's own socket, which its operator alone can open
//	as KEYFILE CITY ACTION …   something that bsn itself would not try, at a city's API, with a key of $BSN_HOME
//	forget BLOCK URL…          calls until each gateway knows of two ledger blocks after BLOCK: by then it answers
//	                           401 and nothing else
//	interrupt REGEXP bsn …     kill -9 of bsn as soon as what it says on stderr matches
//	pid CITY PART              the process of a city's daemon, gateway or node
//	sigkill CITY PART…         kill -9 of it
//	processes                  the network's processes on this machine, one a line
//	blocks WHERE NUMBER        waits until the chain has that many more blocks than now
//	previous, this             print the path of an earlier bsn, and of this tree's
//	calling URL… or end        calls each URL without pause until calling end, which prints how many calls failed
//	network NAME               a place for one more network: $NAME_HOME and $NAME_NET
//	lie CITY CITY2             from now on the API of the first, whose daemon does not run, lies: see lie_test.go
//	lied CITY                  how often it was asked for what, one a line
//	flood KEYFILE CITY WHAT N  N of something at a city's API, and how many of them it took: see flood_test.go
//	load start WHERE           from now on reads, transactions and a subscription there without a pause, with one key
//	load stop                  ends them, and says what was answered and what was wrong with it: see load_test.go
//	sigstop|sigcont CITY PART  stops a process, as a machine does that hangs, and has it go on
//	rss CITY PART MIB          fails if a process holds more memory
//	supervise CITY…            from now on the cities' daemons are started again whenever they end
//	kill COUNT CITY…           so many times kill -9 of a process of these cities, at random times, each at least once
//	traffic start FOLDER       from now on calls, records, keys and publications of the app in FOLDER without a pause
//	traffic stop               ends them, and looks whether all that was acknowledged is there: see traffic_test.go
var actions = map[string]action{
	"bsn": bsnCommand, "signup": signup, "rpc": rpc, "gateway": gatewayCommand, "http": httpCommand, "ipc": ipc,
	"as": as, "forget": forget, "interrupt": interrupt, "pid": pid, "sigkill": sigkill, "processes": listProcesses,
	"blocks": blocks, "network": another, "lie": lie, "lied": lied, "flood": flood, "rss": rss, "supervise": supervise, "kills": kills, "traffic": trafficCommand,
	"load": loadCommand, "sigstop": sigstop, "sigcont": sigcont, "previous": previous, "this": this, "calling": keepCalling,
}

// check judges what the command before printed.
type check func(o output, args []string) error

// checks beside testscript's stdout and stderr, which await can use too.
//
//	json PATH [OP VALUE]       see lookup and compare
//	nothing stdout|stderr RE   no match there
//	empty                      nothing on stdout
var checks = map[string]check{
	"json": checkJSON,
	"empty": func(o output, _ []string) error {
		if o.stdout != "" {
			return fmt.Errorf("there is still: %s", o.stdout)
		}
		return nil
	},
	"nothing": nothing,
	"stdout":  func(o output, args []string) error { return matches(o.stdout, args) },
	"stderr":  func(o output, args []string) error { return matches(o.stderr, args) },
}

// commands are those of the scripts, for testscript:
//
//	await [!] COMMAND … [: CHECK …]…  again and again until the command succeeds and the checks hold
//	let NAME COMMAND …                sets $NAME to what the command prints; COMMAND may also be json PATH or
//	                                  stdout REGEXP, whose group is taken from what the command before printed
//
// COMMAND may be exec there too, and the commands of scripts with several hosts
// are in hosts_test.go.
var commands = func() map[string]func(*testscript.TestScript, bool, []string) {
	m := map[string]func(*testscript.TestScript, bool, []string){
		"await": await, "let": let,
		"json": func(ts *testscript.TestScript, neg bool, args []string) {
			verdict(ts, neg, checkJSON(output{stdout: ts.ReadFile("stdout")}, args))
		},
	}
	for _, some := range []map[string]action{actions, hostActions, {"on": on}} {
		for name, do := range some {
			m[name] = func(ts *testscript.TestScript, neg bool, args []string) {
				o, err := do(ts, args)
				printed(ts, o)
				verdict(ts, neg, err)
			}
		}
	}
	return m
}()

func printed(ts *testscript.TestScript, o output) {
	io.WriteString(ts.Stdout(), o.stdout)
	io.WriteString(ts.Stderr(), o.stderr)
}

func verdict(ts *testscript.TestScript, neg bool, err error) {
	switch {
	case neg && err == nil:
		ts.Fatalf("it succeeded, and must not")
	case !neg:
		ts.Check(err)
	}
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("write: await ! command")
	}
	command, rest := until(args)
	mustFail := len(command) > 0 && command[0] == "!"
	if mustFail {
		command = command[1:]
	}
	if len(command) == 0 || actionOf(command[0]) == nil {
		ts.Fatalf("await: what?")
	}
	for deadline := time.Now().Add(awaitTimeout); ; time.Sleep(awaitPause) {
		o, err := actionOf(command[0])(ts, command[1:])
		if mustFail && err == nil {
			err = errors.New("it succeeds still")
		} else if mustFail {
			err = nil
		}
		for more := rest; err == nil && len(more) > 0; {
			var c []string
			c, more = until(more)
			judge, ok := checks[c[0]]
			if !ok {
				ts.Fatalf("await: no check %q", c[0])
			}
			err = judge(o, c[1:])
		}
		if err == nil || time.Now().After(deadline) {
			printed(ts, o)
			ts.Check(err)
			return
		}
	}
}

// until splits words at the first colon.
func until(words []string) (first, rest []string) {
	if i := slices.Index(words, ":"); i >= 0 {
		return words[:i], words[i+1:]
	}
	return words, nil
}

func let(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: let NAME COMMAND …")
	}
	var o output
	var err error
	switch do := actionOf(args[1]); {
	case do != nil:
		o, err = do(ts, args[2:])
	case args[1] == "json" && len(args) == 3:
		o.stdout, err = valueText(ts.ReadFile("stdout"), args[2])
	case args[1] == "stdout" && len(args) == 3:
		if found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile("stdout")); len(found) == 2 {
			o.stdout = found[1]
		} else {
			err = fmt.Errorf("no group of %q in stdout", args[2])
		}
	default:
		ts.Fatalf("let: no command %q", args[1])
	}
	if err != nil {
		printed(ts, o)
		ts.Check(err)
	}
	// What was printed before stays, for further checks.
	ts.Setenv(args[0], strings.TrimSpace(o.stdout))
}

func actionOf(name string) action {
	switch name {
	case "on":
		return on
	case "exec":
		return func(ts *testscript.TestScript, args []string) (output, error) {
			return runProgram(ts, args[0], args[1:]...)
		}
	}
	return actions[name]
}

func nothing(o output, args []string) error {
	if len(args) < 2 || args[0] != "stdout" && args[0] != "stderr" {
		return errors.New("usage: nothing stdout|stderr REGEXP")
	}
	text := o.stdout
	if args[0] == "stderr" {
		text = o.stderr
	}
	if matches(text, args[1:]) == nil {
		return fmt.Errorf("%s matches %s: %s", args[0], strings.Join(args[1:], " "), text)
	}
	return nil
}

func matches(text string, args []string) error {
	re, err := regexp.Compile("(?m)" + strings.Join(args, " "))
	if err != nil {
		return err
	}
	if !re.MatchString(text) {
		return fmt.Errorf("no match for %q in: %s", re, text)
	}
	return nil
}

// place is where programs run: a folder, an environment and, with virtual hosts,
// a host.
type place struct {
	enter, env []string
	dir        string
}

// placeOf is where a script is, as it is now.
func placeOf(ts *testscript.TestScript) place {
	p := place{enter: enter(ts), dir: ts.MkAbs(".")}
	p.env = []string{"PWD=" + p.dir}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); passedOn.MatchString(name) {
			p.env = append(p.env, name+"="+ts.Getenv(name))
		}
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "BSN_HOME", "BSN_SOFTWARE_SOURCE"} {
		p.env = append(p.env, name+"="+ts.Getenv(name))
	}
	return p
}

func (p place) program(ctx context.Context, name string, args ...string) *exec.Cmd {
	words := append(slices.Clone(p.enter), "env", name) // env finds it on the PATH
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], args...)...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

// run runs a program to its end.
func (p place) run(ctx context.Context, name string, args ...string) (output, error) {
	var stdout, stderr bytes.Buffer
	cmd := p.program(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return output{stdout.String(), stderr.String()}, err
}

// bsn runs the bsn of this tree.
func (p place) bsn(ctx context.Context, args ...string) (output, error) {
	bin, err := bsnBinary()
	if err != nil {
		return output{}, err
	}
	return p.run(ctx, bin, args...)
}

func runProgram(ts *testscript.TestScript, name string, args ...string) (output, error) {
	ctx, cancel := context.WithTimeout(context.Background(), programTimeout)
	defer cancel()
	return placeOf(ts).run(ctx, name, args...)
}

func bsnCommand(ts *testscript.TestScript, args []string) (output, error) {
	bin, err := bsnBinary()
	if err != nil {
		return output{}, err
	}
	return runProgram(ts, bin, args...)
}

// bsnLines runs several commands, each a line of words.
func bsnLines(ts *testscript.TestScript, lines ...string) (all output, err error) {
	for _, line := range lines {
		o, err := bsnCommand(ts, strings.Fields(line))
		all.stdout, all.stderr = all.stdout+o.stdout, all.stderr+o.stderr
		if err != nil {
			return all, fmt.Errorf("bsn %s: %w", line, err)
		}
	}
	return all, nil
}

func signup(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 1 {
		return output{}, errors.New("usage: signup ACCOUNT")
	}
	lines := []string{
		"account create " + args[0],
		"context set --account " + args[0] + " --project web",
		"project create web --rate 1000",
	}
	for _, city := range cities {
		lines = append(lines, "key create --city "+city)
	}
	return bsnLines(ts, lines...)
}

func interrupt(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) < 3 || args[1] != "bsn" {
		return output{}, errors.New("usage: interrupt REGEXP bsn ARGUMENT…")
	}
	re, err := regexp.Compile(args[0])
	if err != nil {
		return output{}, err
	}
	bin, err := bsnBinary()
	if err != nil {
		return output{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
	defer cancel()
	w := &watcher{pattern: re, seen: cancel}
	cmd := placeOf(ts).program(ctx, bin, args[2:]...) // a cancelled context is kill -9
	cmd.Stderr = w
	err = cmd.Run()
	if !w.matched { // that it was quicker than the kill after a match is no failure
		return output{stderr: w.text.String()}, fmt.Errorf("it ended before it could be killed (%v)", err)
	}
	return output{stderr: w.text.String()}, nil
}

// watcher looks for a text in what passes.
type watcher struct {
	pattern *regexp.Regexp
	seen    func()
	text    bytes.Buffer
	matched bool
}

// Write implements io.Writer.
func (w *watcher) Write(b []byte) (int, error) {
	w.text.Write(b)
	if !w.matched && w.pattern.Match(w.text.Bytes()) {
		w.matched = true
		w.seen()
	}
	return len(b), nil
}

func find(ts *testscript.TestScript, city, part string) (proc, error) {
	return findPart(ts.Getenv("BSN_HOME"), city, part)
}

func findPart(home, city, part string) (proc, error) {
	for _, p := range processes(home) {
		if p.city == city && p.part == part {
			return p, nil
		}
	}
	return proc{}, fmt.Errorf("no process %s of city %s", part, city)
}

func pid(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 2 {
		return output{}, errors.New("usage: pid CITY PART")
	}
	p, err := find(ts, args[0], args[1])
	return output{stdout: fmt.Sprintln(p.pid)}, err
}

func sigkill(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) < 2 {
		return output{}, errors.New("usage: sigkill CITY PART…")
	}
	for _, part := range args[1:] {
		p, err := find(ts, args[0], part)
		if err != nil {
			return output{}, err
		}
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
			return output{}, err
		}
	}
	return output{}, nil
}

func listProcesses(ts *testscript.TestScript, _ []string) (o output, err error) {
	for _, p := range processes(ts.Getenv("BSN_HOME")) {
		o.stdout += p.city + " " + p.part + "\n"
	}
	return o, nil
}

// testKey is where a script keeps its *testing.T.
type testKey struct{}

func another(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 1 {
		return output{}, errors.New("usage: network NAME")
	}
	n := newNetwork(ts.Value(testKey{}).(*testing.T))
	ts.Setenv(args[0]+"_HOME", n.home)
	ts.Setenv(args[0]+"_NET", strconv.Itoa(n.number))
	return output{}, nil
}
