package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/openbsn/bsn/framework/evm"
)

// tuned is a client with a WebSocket.
type tuned struct {
	conn    *websocket.Conn
	waiting []notification
	cursor  string
}

// notification is what a subscription brings.
type notification struct {
	Params struct {
		Cursor string
		Result struct {
			Number, BlockNumber, LogIndex string
			Removed                       bool
		}
	}
}

// line is how a scenario has it.
func (n notification) line() string {
	r := n.Params.Result
	text := "head " + r.Number
	if r.Number == "" {
		text = "log " + r.BlockNumber + " " + r.LogIndex
	}
	if r.Removed {
		text += " removed"
	}
	return text + "\n"
}

// startScript starts a gateway whose nodes play one script of four blocks.
func (s *scenario) startScript(cities []string) error {
	methods, err := evm.LoadMethods(evm.Methods)
	if err != nil {
		return err
	}
	s.script = newScript()
	for range 3 {
		s.script.grow(1)
	}
	f := &stage{methods: methods, nodes: map[int]*scriptNode{}}
	s.stage = map[string]*scriptNode{}
	for i, city := range cities {
		n := newScriptNode(s.script)
		f.nodes[i+1], s.stage[city] = n, n
	}
	s.world = newScriptedWorld(cities)
	if err := s.world.start(s.cfg, f); err != nil {
		return err
	}
	if !wait(func() bool {
		p, _ := s.world.gateway.upstreams.get("lab")
		return !slices.ContainsFunc(p.nodes, func(n *node) bool { return n.head.Load() != 3 })
	}) {
		return errors.New("the gateway does not get to know the nodes")
	}
	return nil
}

// grow adds a block, which all nodes tell of that can be reached.
func (s *scenario) grow(args []string) said {
	if s.script == nil || len(args) > 1 {
		return fails("usage: grow [LOGS], after chain script")
	}
	logs, err := 0, error(nil)
	if len(args) == 1 {
		logs, err = strconv.Atoi(args[0])
	}
	s.script.grow(logs)
	for _, n := range s.stage {
		n.see(func(int) bool { return true })
	}
	return said{err: err}
}

func (s *scenario) abandon(args []string) said {
	if s.script == nil || len(args) != 1 {
		return fails("usage: abandon N, after chain script")
	}
	n, err := strconv.Atoi(args[0])
	s.script.abandon(n)
	return said{err: err}
}

// lose has a node end its WebSockets, and take none until it is found.
func (s *scenario) lose(args []string) said { return s.setLost(args, true) }

func (s *scenario) found(args []string) said { return s.setLost(args, false) }

func (s *scenario) setLost(args []string, lost bool) said {
	if len(args) != 1 || s.stage[args[0]] == nil {
		return fails("usage: lose|found CITY, after chain script")
	}
	s.stage[args[0]].drop(lost)
	return said{}
}

// connect opens a WebSocket.
func (s *scenario) connect(args []string) said {
	if s.world == nil || len(args) != 1 && (len(args) != 3 || args[1] != "as") {
		return fails("usage: connect NAME [as KEY], after chain")
	}
	key := "one"
	if len(args) == 3 {
		key = args[2]
	}
	conn, _, err := websocket.Dial(context.Background(), strings.Replace(s.world.url, "http", "ws", 1)+"/rpc/lab/"+s.world.keys[key], nil)
	if err != nil {
		return said{err: err}
	}
	conn.SetReadLimit(1 << 20)
	if s.tuned == nil {
		s.tuned = map[string]*tuned{}
	}
	s.tuned[args[0]] = &tuned{conn: conn}
	return said{}
}

// say sends a call on a WebSocket and prints the result.
func (s *scenario) say(args []string) (r said) {
	if len(args) < 2 || len(args) > 3 || s.tuned[args[0]] == nil {
		return fails("usage: say NAME METHOD [PARAMS], after connect")
	}
	c, params := s.tuned[args[0]], "[]"
	if len(args) == 3 {
		params = args[2]
	}
	if err := c.conn.Write(context.Background(), websocket.MessageText, appendRequest(nil, 5, args[1], []byte(params))); err != nil {
		return said{err: err}
	}
	for {
		text, err := c.next()
		if err != nil {
			return said{err: err}
		}
		m, err := parseResponse(text)
		if err != nil {
			return said{err: err}
		}
		if m.id != nil {
			if a, err := m.answer(); err != nil || a.failure != nil {
				return said{stderr: string(a.failure) + "\n", err: fmt.Errorf("%s %w", a.failure, errors.Join(err, errors.New("is an error")))}
			}
			return said{stdout: string(m.result) + "\n"}
		}
		if err := c.take(text); err != nil {
			return said{err: err}
		}
	}
}

func (c *tuned) next() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, text, err := c.conn.Read(ctx)
	return text, err
}

func (c *tuned) take(text []byte) error {
	var n notification
	err := json.Unmarshal(text, &n)
	c.waiting = append(c.waiting, n)
	return err
}

// hear prints the next notifications of a client.
func (s *scenario) hear(args []string) (r said) {
	if len(args) != 2 || s.tuned[args[0]] == nil {
		return fails("usage: hear NAME N, after connect")
	}
	c := s.tuned[args[0]]
	count, err := strconv.Atoi(args[1])
	for ; err == nil && count > 0; count-- {
		if len(c.waiting) == 0 {
			text, err := c.next()
			if err != nil {
				return said{err: err}
			}
			if err := c.take(text); err != nil {
				return said{err: err}
			}
		}
		r.stdout += c.waiting[0].line()
		c.cursor, c.waiting = c.waiting[0].Params.Cursor, c.waiting[1:]
	}
	r.err = err
	return r
}

// resume has a client subscribe behind the last notification that another heard.
func (s *scenario) resume(args []string) said {
	if len(args) != 3 || s.tuned[args[0]] == nil || s.tuned[args[1]] == nil {
		return fails("usage: resume NAME OTHER WHAT, after connect")
	}
	return s.say([]string{args[0], "eth_subscribe", fmt.Sprintf(`[%s,{"cursor":%q}]`, args[2], s.tuned[args[1]].cursor)})
}

// closed prints how the gateway ends a client's connection.
func (s *scenario) closed(args []string) said {
	if len(args) != 1 || s.tuned[args[0]] == nil {
		return fails("usage: closed NAME, after connect")
	}
	for {
		if _, err := s.tuned[args[0]].next(); err != nil {
			var c websocket.CloseError
			if !errors.As(err, &c) {
				return said{err: err}
			}
			return said{stdout: fmt.Sprintf("%d %s\n", c.Code, c.Reason)}
		}
	}
}
