package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"
)

// The scenarios are the files of testdata/scenarios, one for each behaviour: what is
// asked, what the nodes say, what the answer is and what the nodes were asked. Commands
// beside testscript's own:
//
//	config NAME VALUE            a setting of the gateway; before chain
//	chain final|forks CITY…      starts the gateway of the first city, and a node in each
//	chain script CITY…           likewise, but all nodes play one chain, of blocks 0 to 3 at first,
//	                             and have WebSockets: see grow
//	provider NAME                a provider for the chain, a node outside of the network: its city is outside/NAME
//	node CITY head N [HASH]      the node's newest block from now on; waits until the gateway knows
//	node CITY final N            its newest final block
//	node CITY stop|start         from now on it hangs up on everyone, or answers again
//	node CITY release            lets go on what hangs
//	node CITY METHOD ANSWER      what it answers to a method: result JSON, error CODE TEXT,
//	                             status CODE [HEADER VALUE] or hang; perhaps "after DURATION" before
//	node CITY tells N            its newest block, of which it tells those who subscribed; waits for nothing
//	call [as KEY] METHOD [PARAMS]  asks the gateway; prints the result, or on stderr the error. Fails for an error.
//	                             Status and headers go to stderr, too. KEY is one (as without it) or other
//	calls N METHOD [PARAMS]      the same N times at once; prints each different result
//	begin METHOD [PARAMS], end   a call that goes on meanwhile
//	leave                        the client of that call hangs up instead
//	left CITY METHOD N           waits until so many who asked the node for the method have hung up before the answer
//	subscribe KIND               subscribes to heads (newHeads) with key one, on a connection that stays
//	heard N                      waits until it has been told of the head of that number
//	warm N METHOD                the same N times one after the other
//	pause DURATION               lets time pass in which nothing must happen
//	asked CITY METHOD N          fails unless the node was asked for the method N times since it was last asked this;
//	                             of a script, in all
//	await CITY METHOD            waits until the node has been asked for the method
//	cordon|uncordon CITY         takes the node out of service, and back
//	told CITY                    prints the header of the newest request that the node got
//	health CITY NAME VALUE       waits until /health says that of the node
//
//	http [-X METHOD] [-H 'NAME: VALUE']… [-k KEY|none] [-d TEXT] PATH
//	                             any request: prints the body, and status and headers on stderr. Fails from status 400 on.
//	                             With Content-Encoding: gzip TEXT is packed; what comes in gzip is unpacked
//	raw FILE                     sends these bytes, each line's end as HTTP has it, \n, \r and \t as one such byte and KEY as
//	                             the key; prints what comes until the gateway ends the connection
//	key KEY PROPERTY VALUE…      changes its record: revoke, expires DURATION, rps, cups, methods, denied, contracts, ips, origins
//	project PROPERTY VALUE       likewise: revoke, rps, cups, daily, monthly
//	ledger old DURATION          starts the gateway anew with records that are so old
//	usage                        prints what is counted, in lines of key, class, calls and units
//	metrics                      prints the metrics
//
//	connect NAME [as KEY]        opens a WebSocket
//	say NAME METHOD [PARAMS]     like call, on it
//	hear NAME N                  prints its next N notifications: head NUMBER, or log NUMBER INDEX, and perhaps removed
//	resume NAME OTHER WHAT       subscribes with the cursor of what OTHER heard last
//	closed NAME                  waits until the gateway ends it; prints code and reason
//	grow [LOGS]                  a new block with so many logs, of which all nodes tell
//	abandon N                    takes the N newest blocks out of the chain
//	lose|found CITY              the node ends its WebSockets and takes none, or takes some again
func TestScenarios(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/scenarios",
		Setup: func(env *testscript.Env) error {
			s := &scenario{}
			env.Values[scenarioKey{}] = s
			env.Defer(s.close)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"config": command((*scenario).config), "chain": command((*scenario).start), "node": command((*scenario).node),
			"subscribe": command((*scenario).subscribe), "heard": command((*scenario).heard),
			"leave": command((*scenario).leave), "left": command((*scenario).left),
			"call": command((*scenario).call), "calls": command((*scenario).calls), "begin": command((*scenario).begin), "end": command((*scenario).end),
			"warm": command((*scenario).warm), "pause": command((*scenario).pause),
			"asked": command((*scenario).asked), "await": command((*scenario).await),
			"cordon": command((*scenario).cordon), "uncordon": command((*scenario).uncordon), "health": command((*scenario).health),
			"told": command((*scenario).told), "http": command((*scenario).http), "key": command((*scenario).key), "project": command((*scenario).project),
			"ledger": command((*scenario).ledger), "provider": command((*scenario).provider), "usage": command((*scenario).usage), "metrics": command((*scenario).metrics),
			"connect": command((*scenario).connect), "say": command((*scenario).say), "hear": command((*scenario).hear), "resume": command((*scenario).resume),
			"closed": command((*scenario).closed), "grow": command((*scenario).grow), "abandon": command((*scenario).abandon),
			"lose": command((*scenario).lose), "found": command((*scenario).found),
			"raw": func(ts *testscript.TestScript, neg bool, args []string) {
				for i := range args {
					args[i] = ts.MkAbs(args[i])
				}
				command((*scenario).raw)(ts, neg, args)
			},
		},
	})
}

type scenarioKey struct{}

// scenario is one that runs.
type scenario struct {
	cfg     Config
	world   *scriptedWorld
	outside Outside
	pending chan said
	hangUp  context.CancelFunc // on the pending call
	heads   chan int64         // what the subscriber was told of
	socket  *websocket.Conn

	script *script
	stage  map[string]*scriptNode // by city
	tuned  map[string]*tuned      // clients with a WebSocket, by name
}

// said is what a command prints.
type said struct {
	stdout, stderr string
	err            error
}

func command(f func(s *scenario, args []string) said) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		r := f(ts.Value(scenarioKey{}).(*scenario), args)
		fmt.Fprint(ts.Stdout(), r.stdout)
		fmt.Fprint(ts.Stderr(), r.stderr)
		if (r.err != nil) != neg {
			if neg {
				ts.Fatalf("it did not fail: %s", r.stdout)
			}
			ts.Fatalf("%v", r.err)
		}
	}
}

func fails(format string, args ...any) said { return said{err: fmt.Errorf(format, args...)} }

func (s *scenario) close() {
	if s.socket != nil {
		_ = s.socket.CloseNow()
	}
	for _, c := range s.tuned {
		_ = c.conn.CloseNow()
	}
	if s.world != nil {
		s.world.close()
	}
	for _, n := range s.stage {
		n.close()
	}
}

func (s *scenario) config(args []string) said {
	if len(args) != 2 {
		return fails("usage: config NAME VALUE")
	}
	var err error
	switch args[0] {
	case "cache.maxBytes":
		s.cfg.Cache.MaxBytes, err = strconv.ParseInt(args[1], 10, 64)
	case "maxMemoryBytes":
		s.cfg.MaxMemoryBytes, err = strconv.ParseInt(args[1], 10, 64)
	case "cache.head":
		s.cfg.Cache.Head, err = time.ParseDuration(args[1])
	case "upstreamTimeout":
		s.cfg.UpstreamTimeout, err = time.ParseDuration(args[1])
	case "maxRequestBytes":
		s.cfg.MaxRequestBytes, err = strconv.ParseInt(args[1], 10, 64)
	case "maxResponseBytes":
		s.cfg.MaxResponseBytes, err = strconv.ParseInt(args[1], 10, 64)
	case "compressBytes":
		s.cfg.CompressBytes, err = strconv.Atoi(args[1])
	case "maxBatch":
		s.cfg.MaxBatch, err = strconv.Atoi(args[1])
	case "maxSubscriptions":
		s.cfg.MaxSubscriptions, err = strconv.Atoi(args[1])
	case "maxBackfill":
		s.cfg.MaxBackfill, err = strconv.Atoi(args[1])
	case "trustedProxies":
		s.cfg.TrustedProxies = strings.Fields(args[1])
	case "alone.reads":
		s.cfg.Alone.Reads, err = time.ParseDuration(args[1])
	case "alone.writes":
		s.cfg.Alone.Writes, err = time.ParseDuration(args[1])
	default:
		err = fmt.Errorf("no setting %s", args[0])
	}
	return said{err: err}
}

func (s *scenario) start(args []string) (r said) {
	if len(args) < 2 || args[0] != "final" && args[0] != "forks" && args[0] != "script" {
		return fails("usage: chain final|forks|script CITY…")
	}
	if args[0] == "script" {
		return said{err: s.startScript(args[1:])}
	}
	s.world, r.err = startScripted(s.cfg, args[0] == "final", args[1:]...)
	return r
}

func (s *scenario) find(city string) *scriptedNode {
	if s.world == nil {
		return nil
	}
	return s.world.nodes[city]
}

func (s *scenario) node(args []string) said {
	if len(args) < 2 || s.find(args[0]) == nil {
		return fails("usage: node CITY …, after chain")
	}
	n, city, what, args := s.find(args[0]), args[0], args[1], args[2:]
	var err error
	n.mu.Lock()
	switch {
	case what == "head" && len(args) > 0:
		n.head, err = strconv.ParseInt(args[0], 10, 64)
		if n.hash = fmt.Sprintf("0x%064x", n.head); len(args) > 1 {
			n.hash = args[1]
		}
	case what == "final" && len(args) == 1:
		n.final, err = strconv.ParseInt(args[0], 10, 64)
	case what == "tells" && len(args) == 1:
		n.head, err = strconv.ParseInt(args[0], 10, 64)
		n.hash = fmt.Sprintf("0x%064x", n.head)
		n.tellHead()
	case what == "stop" || what == "start":
		n.down = what == "stop"
	case what == "release":
		n.mu.Unlock()
		n.let()
		return said{}
	default:
		n.lines[what], err = parseLine(args)
	}
	n.mu.Unlock()
	if what == "head" && err == nil {
		err = s.world.know(city)
	}
	return said{err: err}
}

// ask makes one call.
func (s *scenario) ask(key string, args []string) said {
	return s.askUntil(context.Background(), key, args)
}

func (s *scenario) askUntil(ctx context.Context, key string, args []string) (r said) {
	params := "[]"
	if len(args) > 1 {
		params = args[1]
	}
	got, err := s.world.postUntil(ctx, "lab", key, string(appendRequest(nil, 5, args[0], []byte(params))))
	if err != nil {
		return said{err: err}
	}
	r.stderr = fmt.Sprintf("status %d\n", got.status)
	for _, name := range sortedHeaders(got.header) {
		r.stderr += name + ": " + strings.Join(got.header[name], ", ") + "\n"
	}
	a, err := parseAnswer([]byte(got.body))
	switch {
	case err != nil:
		r.err = fmt.Errorf("%s: %w", got.body, err)
	case a.failure != nil:
		r.stderr += string(a.failure) + "\n"
		r.err = errors.New(string(a.failure))
	default:
		r.stdout = string(a.result) + "\n"
	}
	return r
}

func sortedHeaders(h map[string][]string) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *scenario) call(args []string) said {
	key := "one"
	if len(args) > 2 && args[0] == "as" {
		key, args = args[1], args[2:]
	}
	if len(args) == 0 || s.world == nil {
		return fails("usage: call [as KEY] METHOD [PARAMS], after chain")
	}
	return s.ask(key, args)
}

func (s *scenario) calls(args []string) (r said) {
	if len(args) < 2 {
		return fails("usage: calls N METHOD [PARAMS]")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return said{err: err}
	}
	all := make([]said, n)
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() { all[i] = s.ask("one", args[1:]) })
	}
	group.Wait()
	for i, one := range all {
		if one.err != nil {
			return one
		}
		if !slices.ContainsFunc(all[:i], func(x said) bool { return x.stdout == one.stdout }) {
			r.stdout += one.stdout
		}
	}
	return r
}

func (s *scenario) warm(args []string) said {
	if len(args) != 2 {
		return fails("usage: warm N METHOD")
	}
	n, err := strconv.Atoi(args[0])
	for range n {
		if one := s.ask("one", args[1:]); one.err != nil {
			return one
		}
	}
	return said{err: err}
}

func (s *scenario) pause(args []string) said {
	d, err := time.ParseDuration(strings.Join(args, " "))
	time.Sleep(d)
	return said{err: err}
}

func (s *scenario) begin(args []string) said {
	if len(args) == 0 || s.pending != nil {
		return fails("usage: begin METHOD [PARAMS], once before end")
	}
	s.pending = make(chan said, 1)
	var ctx context.Context
	ctx, s.hangUp = context.WithCancel(context.Background())
	go func(c chan said) { c <- s.askUntil(ctx, "one", args) }(s.pending)
	return said{}
}

func (s *scenario) end([]string) said {
	if s.pending == nil {
		return fails("nothing has begun")
	}
	defer func() { s.pending = nil }()
	return <-s.pending
}

func (s *scenario) asked(args []string) said {
	if len(args) == 3 && s.stage[args[0]] != nil {
		if got := s.stage[args[0]].count(args[1]); strconv.Itoa(got) != args[2] {
			return fails("the node of %s was asked %d times for %s", args[0], got, args[1])
		}
		return said{}
	}
	if len(args) != 3 || s.find(args[0]) == nil {
		return fails("usage: asked CITY METHOD N")
	}
	n := s.find(args[0])
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.asked[args[1]]
	n.asked[args[1]] = 0
	if strconv.Itoa(got) != args[2] {
		return fails("the node of %s was asked %d times for %s", args[0], got, args[1])
	}
	return said{}
}

func (s *scenario) await(args []string) said {
	if len(args) != 2 || s.find(args[0]) == nil {
		return fails("usage: await CITY METHOD")
	}
	if !wait(func() bool { return s.find(args[0]).count(args[1]) > 0 }) {
		return fails("the node of %s is not asked for %s", args[0], args[1])
	}
	return said{}
}

func (s *scenario) cordon(args []string) said { return s.setCordon(args, true) }

func (s *scenario) uncordon(args []string) said { return s.setCordon(args, false) }

func (s *scenario) setCordon(args []string, cordoned bool) said {
	if len(args) != 1 {
		return fails("usage: cordon|uncordon CITY")
	}
	u := s.world.gateway.upstreams
	named := slices.DeleteFunc(slices.Clone(u.cordons["lab"]), func(x string) bool { return x == args[0] })
	if cordoned {
		named = append(named, args[0])
	}
	u.cordon(Cordons{"lab": named})
	return said{}
}

func (s *scenario) health(args []string) said {
	if len(args) != 3 {
		return fails("usage: health CITY NAME VALUE")
	}
	var last string
	if !wait(func() bool {
		for _, c := range s.world.gateway.health().Chains {
			for _, n := range c.Nodes {
				if n.City == args[0] {
					last = map[string]string{
						"answers": strconv.FormatBool(n.Answers), "level": strconv.FormatBool(n.Level),
						"cordoned": strconv.FormatBool(n.Cordoned), "rests": strconv.FormatBool(n.Rests > 0),
					}[args[1]]
				}
			}
		}
		return last == args[2]
	}) {
		return fails("%s of %s is %s", args[1], args[0], last)
	}
	return said{}
}
