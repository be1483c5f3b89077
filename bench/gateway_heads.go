package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"
)

const (
	subscribers = 10_000
	headsSeen   = 20 // by all of them
)

// newHeads has many clients, in a process of their own, wait for new heads.
func newHeads(ctx context.Context, g *rig, r *report) error {
	// A first one, so that what serves one subscriber is there before memory is read.
	if err := listenOnce(ctx, g.socket); err != nil {
		return err
	}
	before, _, err := memory(g.gateway.cmd.Process.Pid)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	say("%d subscribers", subscribers)
	cmd := exec.CommandContext(ctx, self, listenersRole, g.socket, strconv.Itoa(subscribers))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start subscribers: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start subscribers: %w", err)
	}
	var last []float64
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var seen struct {
			Head int64   `json:"head"`
			Last float64 `json:"lastMs"`
		}
		if err := json.Unmarshal(lines.Bytes(), &seen); err != nil {
			return errors.Join(fmt.Errorf("read subscribers: %w", err), cmd.Process.Kill())
		}
		last = append(last, seen.Last)
		if len(last) == headsSeen {
			break
		}
	}
	after, _, err := memory(g.gateway.cmd.Process.Pid)
	if len(last) < headsSeen {
		b, _ := os.ReadFile(filepath.Join(g.folder, "gateway.log"))
		return errors.Join(fmt.Errorf("subscribers ended after %d heads: %w\n%s", len(last), cmd.Wait(), b), err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		return err
	}
	r.add("newheads.10k.kib_per_subscriber", (after-before)*1024/subscribers, "KiB", atMost(20),
		"resident memory of the gateway with %d subscribers less that with none, after %d heads", subscribers, headsSeen)
	r.add("newheads.10k.last_ms", quantile(last, 1), "ms", atMost(1000),
		"from the moment a block is there until the last of %d subscribers on the same machine has its head, the slowest of %d heads; median %.0f", subscribers, headsSeen, median(last))
	return nil
}

const subscribeCall = `{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}`

func listenOnce(ctx context.Context, url string) error {
	conn, err := subscribe(ctx, url)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	_, _, err = conn.Read(ctx)
	return err
}

// subscribe connects and subscribes to new heads.
func subscribe(ctx context.Context, url string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte(subscribeCall)); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	_, text, err := conn.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	var a struct {
		Result string          `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Result == "" {
		return nil, fmt.Errorf("subscribe: the answer is %s", text)
	}
	return conn, nil
}

// listeners connects n subscribers and prints a line for each head that all of
// them have seen, until ctx ends.
func listeners(ctx context.Context, url string, n int) error {
	limit := syscall.Rlimit{Cur: uint64(n) + 1000, Max: uint64(n) + 1000}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	all := make([]*websocket.Conn, n)
	var dialling errgroup.Group
	dialling.SetLimit(64)
	var done atomic.Int64
	for i := range all {
		dialling.Go(func() (err error) {
			if all[i], err = subscribe(ctx, url); err != nil {
				return fmt.Errorf("subscriber %d: %w", i, err)
			}
			if done.Add(1)%2000 == 0 {
				say("%d subscribers are connected", done.Load())
			}
			return nil
		})
	}
	if err := dialling.Wait(); err != nil {
		return err
	}
	var mu sync.Mutex
	seen, latest := map[int64]int{}, map[int64]float64{}
	reading, ctx := errgroup.WithContext(ctx)
	for _, conn := range all {
		reading.Go(func() error {
			for {
				_, text, err := conn.Read(ctx)
				if err != nil {
					return fmt.Errorf("read head: %w", err)
				}
				head, late, err := lateness(text)
				if err != nil {
					return err
				}
				mu.Lock()
				seen[head]++
				latest[head] = max(latest[head], late)
				if seen[head] == n {
					fmt.Printf("{\"head\":%d,\"lastMs\":%.3f}\n", head, latest[head])
					delete(seen, head)
					delete(latest, head)
				}
				mu.Unlock()
			}
		})
	}
	return reading.Wait()
}

// lateness is how many milliseconds after its block a head has come. The heads are
// the stand-in's, so that no parser is needed, which would take what is measured.
func lateness(text []byte) (head int64, late float64, err error) {
	now := time.Now()
	if head, err = quantity(text, `"number":"`); err != nil {
		return 0, 0, err
	}
	came, err := quantity(text, `"extraData":"`)
	return head, float64(now.UnixNano()-came) / 1e6, err
}

func quantity(text []byte, name string) (int64, error) {
	_, rest, _ := bytes.Cut(text, []byte(name))
	digits, _, found := bytes.Cut(rest, []byte{'"'})
	if !found {
		return 0, fmt.Errorf("read head: %s", text)
	}
	n, err := strconv.ParseInt(string(digits), 0, 64)
	if err != nil {
		return 0, fmt.Errorf("read head: %w", err)
	}
	return n, nil
}
