package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// The stand-in answers like a node whose chain has a block a second, as fast as a
// server written in Go can: what is measured is what lies before it.

// genesisAge is how many blocks its chain had when it was started.
const genesisAge = 1000

// standIn serves JSON-RPC over HTTP at one address and over WebSocket at another,
// until ctx ends.
func standIn(ctx context.Context, httpAt, wsAt string) error {
	s := &chainOfTime{start: time.Now()}
	calls, err := net.Listen("tcp", httpAt)
	if err != nil {
		return fmt.Errorf("stand-in: %w", err)
	}
	sockets, err := net.Listen("tcp", wsAt)
	if err != nil {
		return fmt.Errorf("stand-in: %w", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(s.socket)}
	context.AfterFunc(ctx, func() { calls.Close(); server.Close() })
	go func() {
		for {
			conn, err := calls.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	if err := server.Serve(sockets); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("stand-in: %w", err)
	}
	return nil
}

// chainOfTime is a chain whose height tells the time.
type chainOfTime struct {
	start  time.Time
	blocks sync.Map // by number, what block returned
}

func (s *chainOfTime) height() int64 { return genesisAge + int64(time.Since(s.start)/time.Second) }

// at is when a block came.
func (s *chainOfTime) at(height int64) time.Time {
	return s.start.Add(time.Duration(height-genesisAge) * time.Second)
}

func hash(n int64) string { return fmt.Sprintf("0x%064x", n+1) }

// head is the header of a block. Its extra data hold when it came, to the nanosecond.
func (s *chainOfTime) head(n int64) string {
	zero := func(digits int) string { return "0x" + strings.Repeat("0", digits) }
	t := s.at(n)
	return fmt.Sprintf(`{"number":"0x%x","hash":"%s","parentHash":"%s","timestamp":"0x%x","extraData":"0x%016x","miner":"%s","difficulty":"0x0",`+
		`"gasLimit":"0x1c9c380","gasUsed":"0x0","logsBloom":"%s","nonce":"%s","mixHash":"%s","receiptsRoot":"%s","stateRoot":"%s","transactionsRoot":"%s","sha3Uncles":"%s","baseFeePerGas":"0x0"`,
		n, hash(n), hash(n-1), t.Unix(), t.UnixNano(), zero(40), zero(512), zero(16), zero(64), zero(64), zero(64), zero(64), zero(64))
}

// blockTransactions are in every block that is asked for with transactions.
const blockTransactions = 40

// block is a header with transactions, made once.
func (s *chainOfTime) block(n int64) string {
	if b, ok := s.blocks.Load(n); ok {
		return b.(string)
	}
	var b strings.Builder
	b.WriteString(s.head(n) + `,"size":"0x4000","uncles":[],"transactions":[`)
	for i := range blockTransactions {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"hash":"0x%064x","blockHash":"%s","blockNumber":"0x%x","transactionIndex":"0x%x","from":"0x%040x","to":"0x%040x","value":"0x0","gas":"0x5208","gasPrice":"0x0","nonce":"0x%x","input":"0x%0136x","type":"0x0","v":"0x1b","r":"0x%064x","s":"0x%064x"}`,
			n<<8+int64(i), hash(n), n, i, i+1, i+2, n, i, n, i)
	}
	b.WriteString("]}")
	s.blocks.Store(n, b.String())
	return b.String()
}

// answerTo is the result of a call.
func (s *chainOfTime) answerTo(method string, params []byte) string {
	switch method {
	case "eth_blockNumber":
		return fmt.Sprintf(`"0x%x"`, s.height())
	case "eth_getBlockByNumber", "eth_getBlockByHash":
		n, ok := s.named(params)
		if !ok {
			return "null"
		}
		if bytes.Contains(params, []byte("true")) {
			return s.block(n)
		}
		return s.head(n) + `,"size":"0x4000","uncles":[],"transactions":[]}`
	case "eth_getLogs":
		return "[]"
	case "eth_chainId":
		return `"0x3e8"`
	}
	return `"0x00000000000000000000000000000000000000000000000000000000000004d2"`
}

// named finds the block that parameters begin with.
func (s *chainOfTime) named(params []byte) (int64, bool) {
	var list []any
	if json.Unmarshal(params, &list) != nil || len(list) == 0 {
		return 0, false
	}
	text, _ := list[0].(string)
	if !strings.HasPrefix(text, "0x") { // a tag
		return s.height(), true
	}
	n, err := strconv.ParseInt(strings.TrimLeft(text[2:], "0"), 16, 64)
	if len(text) == 66 {
		n-- // a hash
	}
	return n, err == nil && n <= s.height()
}

// serve answers the requests of a connection. They come from gateways and the load
// generator only, so that they are read by the simplest means: what is measured must
// be slower.
func (s *chainOfTime) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64<<10)
	var body, out []byte
	for {
		length, err := readHeader(in)
		if err != nil || length < 0 {
			return
		}
		body = slices.Grow(body[:0], length)[:length]
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		_, params, _ := bytes.Cut(body, []byte(`"params":`))
		id, result := memberOf(body, `"id":`), s.answerTo(string(memberOf(body, `"method":"`)), bytes.TrimSuffix(params, []byte("}")))
		const before, between = `{"jsonrpc":"2.0","id":`, `,"result":`
		out = append(out[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(before)+len(id)+len(between)+len(result)+1), 10)
		out = append(out, "\r\n\r\n"+before...)
		out = append(append(append(append(out, id...), between...), result...), '}')
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// readHeader reads a header and returns the length of what follows it, -1 for chunks;
// what the reader reads into is not kept.
func readHeader(in *bufio.Reader) (length int, err error) {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			return length, nil
		}
		switch {
		case len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return 0, err
			}
		case bytes.EqualFold(bytes.TrimSpace(line), chunked):
			length = -1
		}
	}
}

// memberOf is what follows a name, up to a quote, comma or bracket.
func memberOf(body []byte, name string) []byte {
	at := bytes.Index(body, []byte(name))
	if at < 0 {
		return []byte("null")
	}
	rest := body[at+len(name):]
	if end := bytes.IndexAny(rest, `",}`); end >= 0 {
		return rest[:end]
	}
	return rest
}

// socket serves calls and subscriptions to new heads.
func (s *chainOfTime) socket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // the client has its answer
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer conn.CloseNow()
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return
		}
		var q struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params json.RawMessage `json:"params"`
		}
		if json.Unmarshal(text, &q) != nil {
			return
		}
		result := s.answerTo(q.Method, q.Params)
		if q.Method == "eth_subscribe" {
			result = `"0x1"`
		}
		if err := conn.Write(ctx, websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":`+string(q.ID)+`,"result":`+result+`}`)); err != nil {
			return
		}
		if q.Method == "eth_subscribe" {
			go s.heads(ctx, conn)
		}
	}
}

// heads sends each new head as it comes.
func (s *chainOfTime) heads(ctx context.Context, conn *websocket.Conn) {
	for n := s.height() + 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(s.at(n))):
		}
		text := `{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":` + s.head(n) + `}}}`
		if conn.Write(ctx, websocket.MessageText, []byte(text)) != nil {
			return
		}
	}
}
