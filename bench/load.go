package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync"
	"time"
)

// target is an HTTP address that answers JSON-RPC.
type target struct {
	name    string
	address string // host:port
	path    string
	key     string // sent as x-api-key; empty for none
}

// call is a request with place for a number that makes each one different.
type call struct {
	method string
	before string // of the parameters, up to the number
	after  string
}

// An eth_call of one word; every one is different.
var ethCall = call{
	method: "eth_call",
	before: `[{"to":"0x00000000000000000000000000000000000000ab","data":"0x70a08231000000000000000000000000000000000000000000000000`,
	after:  `"},"latest"]`,
}

// digits of the number in a call.
const digits = 16

// connection is one that is kept, with its request.
type connection struct {
	net.Conn
	in     *bufio.Reader
	out    []byte
	number int // where the number is in out
	from   uint64
}

func dial(ctx context.Context, t target, c call, from uint64) (*connection, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.name, err)
	}
	body := `{"jsonrpc":"2.0","id":1,"method":"` + c.method + `","params":` + c.before
	number := len(body)
	if c.after != "" {
		body += "0000000000000000" + c.after
	}
	body += "}"
	head := "POST " + t.path + " HTTP/1.1\r\nHost: " + t.address + "\r\nContent-Type: application/json\r\n"
	if t.key != "" {
		head += "X-Api-Key: " + t.key + "\r\n"
	}
	head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	k := &connection{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: []byte(head + body), from: from}
	if c.after != "" {
		k.number = len(head) + number
	}
	return k, nil
}

// do sends the next request and reads its answer.
func (k *connection) do() error {
	if k.number > 0 {
		const hex = "0123456789abcdef"
		k.from++
		for i, n := digits-1, k.from; i >= 0; i, n = i-1, n>>4 {
			k.out[k.number+i] = hex[n&15]
		}
	}
	k.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := k.Write(k.out); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	return k.answer()
}

var (
	okStatus      = []byte("HTTP/1.1 200 ")
	contentLength = []byte("content-length:")
	chunked       = []byte("transfer-encoding: chunked")
	resultMember  = []byte(`"result"`)
)

// answer reads an answer and checks that it holds a result.
func (k *connection) answer() error {
	line, err := k.in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if !bytes.HasPrefix(line, okStatus) {
		rest, _ := k.in.Peek(k.in.Buffered())
		return fmt.Errorf("answer is %s%s", line, rest)
	}
	length, err := readHeader(k.in)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if length < 0 {
		return k.chunks()
	}
	start, err := k.in.Peek(min(length, 512))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if !bytes.Contains(start, resultMember) {
		return fmt.Errorf("answer is %s", start)
	}
	_, err = io.CopyN(io.Discard, k.in, int64(length))
	return err
}

// chunks reads an answer that comes in chunks.
func (k *connection) chunks() error {
	text, err := io.ReadAll(httputil.NewChunkedReader(k.in))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if _, err := k.in.ReadSlice('\n'); err != nil { // the line after the last one
		return fmt.Errorf("read answer: %w", err)
	}
	if !bytes.Contains(text[:min(len(text), 512)], resultMember) {
		return fmt.Errorf("answer is %s", text)
	}
	return nil
}

// numbers hands each connection of a run a range of its own.
var numbers struct {
	sync.Mutex
	next uint64
}

func connections(ctx context.Context, t target, c call, n int) ([]*connection, error) {
	var all []*connection
	for range n {
		numbers.Lock()
		numbers.next++
		from := numbers.next << 32
		numbers.Unlock()
		k, err := dial(ctx, t, c, from)
		if err == nil {
			err = k.do() // connected all the way before it counts
		}
		if err != nil {
			hangUp(all)
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		all = append(all, k)
	}
	return all, nil
}

func hangUp(all []*connection) {
	for _, k := range all {
		k.Close()
	}
}

// measured is what a load found.
type measured struct {
	rps  float64
	took []float64 // of each request, in milliseconds
}

// closedLoop has n connections send one request after another for a while.
func closedLoop(ctx context.Context, t target, c call, n int, d time.Duration) (measured, error) {
	all, err := connections(ctx, t, c, n)
	if err != nil {
		return measured{}, err
	}
	defer hangUp(all)
	took, failed := make([][]float64, n), make([]error, n)
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(d)
	for i, k := range all {
		wg.Go(func() {
			for now := time.Now(); now.Before(end); {
				if failed[i] = k.do(); failed[i] != nil {
					return
				}
				then := time.Now()
				took[i] = append(took[i], float64(then.Sub(now).Nanoseconds())/1e6)
				now = then
			}
		})
	}
	wg.Wait()
	spent := time.Since(start).Seconds()
	m := measured{took: slices.Concat(took...)}
	m.rps = float64(len(m.took)) / spent
	if err := errors.Join(failed...); err != nil {
		return m, fmt.Errorf("%s: %w", t.name, err)
	}
	return m, ctx.Err()
}

// openLoop sends at a fixed rate, whatever the answers do: a request that has to
// wait for a connection took as long as it waited, too.
func openLoop(ctx context.Context, t target, c call, n int, perSecond float64, d time.Duration) (measured, error) {
	all, err := connections(ctx, t, c, n)
	if err != nil {
		return measured{}, err
	}
	defer hangUp(all)
	type due struct{ at time.Time }
	queue := make(chan due, int(perSecond*d.Seconds())+1) // never full: the pace does not wait
	took, failed := make([][]float64, n), make([]error, n)
	var wg sync.WaitGroup
	for i, k := range all {
		wg.Go(func() {
			for q := range queue {
				if failed[i] == nil {
					failed[i] = k.do()
				}
				took[i] = append(took[i], float64(time.Since(q.at).Nanoseconds())/1e6)
			}
		})
	}
	start := time.Now()
	step := time.Duration(float64(time.Second) / perSecond)
	for next := start; next.Before(start.Add(d)) && ctx.Err() == nil; {
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
		}
		for now := time.Now(); !next.After(now); next = next.Add(step) {
			queue <- due{next}
		}
	}
	close(queue)
	wg.Wait()
	m := measured{took: slices.Concat(took...)}
	m.rps = float64(len(m.took)) / time.Since(start).Seconds()
	if err := errors.Join(failed...); err != nil {
		return m, fmt.Errorf("%s: %w", t.name, err)
	}
	return m, ctx.Err()
}
