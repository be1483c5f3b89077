package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/rogpeppe/go-internal/testscript"
)

// load is what one key asks of one gateway without a pause while nodes come and go:
// the newest block, blocks that are known, what an account has sent, transactions, and
// a subscription to heads. It counts
//
//   - errors: answers other than a result, and connections that end
//   - wrong: another hash for a height than before, a known block that is not there, a
//     head twice or one left out
//   - stale: a height, or a number of transactions, below one that an answer told of
//     before the question was sent
//   - lost: transactions that were taken and are in no block in the end
type load struct {
	url   string
	http  *http.Client
	stop  context.CancelFunc
	done  sync.WaitGroup
	shown atomic.Int64 // the highest block that any answer told of
	sent  atomic.Int64 // the most transactions that any answer told of

	mu     sync.Mutex
	hashes map[int64]string
	taken  []string
	report loadReport
}

type loadReport struct {
	Reads        int `json:"reads"`
	Heads        int `json:"heads"`
	Transactions int `json:"transactions"`
	// SlowestMillis is the longest that any answer took.
	SlowestMillis int64    `json:"slowestMillis"`
	Errors        []string `json:"errors"`
	Wrong         []string `json:"wrong"`
	Stale         []string `json:"stale"`
	Lost          []string `json:"lost"`
}

const (
	loadReaders   = 4
	loadPause     = 10 * time.Millisecond
	loadSendPause = 250 * time.Millisecond
	loadShown     = 20 // of each kind of fault are shown
)

// loads holds the load of each script that has some.
var loads sync.Map

func loadCommand(ts *testscript.TestScript, args []string) (output, error) {
	switch {
	case len(args) == 2 && args[0] == "start":
		return output{}, startLoad(ts, args[1])
	case len(args) == 1 && args[0] == "stop":
		return stopLoad(ts)
	}
	return output{}, errors.New("usage: load start WHERE, load stop")
}

func startLoad(ts *testscript.TestScript, where string) error {
	if !strings.Contains(where, "://") {
		o, err := gatewayCommand(ts, []string{where})
		if err != nil {
			return err
		}
		where = strings.TrimSpace(o.stdout)
	}
	l := &load{
		url: where, hashes: map[int64]string{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: callTimeout},
	}
	l.report.Errors, l.report.Wrong, l.report.Stale, l.report.Lost = []string{}, []string{}, []string{}, []string{}
	if s := siteOf(ts); s != nil && s.current != nil {
		l.http.Transport = &http.Transport{DialContext: s.current.DialContext, MaxIdleConnsPerHost: 16}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	k, err := crypto.GenerateKey()
	if err != nil {
		return err
	}
	from := crypto.PubkeyToAddress(k.PublicKey)
	signer := types.LatestSignerForChainID(big.NewInt(demoNetworkID))
	for i := range loadReaders {
		l.done.Go(func() { l.read(ctx, i, from) })
	}
	l.done.Go(func() {
		for nonce := uint64(0); ctx.Err() == nil; nonce++ {
			tx, err := types.SignNewTx(k, signer, &types.LegacyTx{Nonce: nonce, To: &from, Gas: 21000, GasPrice: new(big.Int)})
			if err != nil {
				panic(err)
			}
			raw, err := tx.MarshalBinary()
			if err != nil {
				panic(err)
			}
			l.send(ctx, hexutil.Encode(raw))
			pause(ctx, loadSendPause)
		}
	})
	l.done.Go(func() { l.subscribe(ctx) })
	loads.Store(ts, l)
	ts.Defer(func() {
		cancel()
		l.done.Wait()
		loads.Delete(ts)
	})
	return nil
}

// fault notes what went wrong, unless the load is over.
func (l *load) fault(ctx context.Context, list *[]string, format string, args ...any) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	*list = append(*list, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// ask calls the gateway.
func (l *load) ask(ctx context.Context, method string, result any, params ...any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": append([]any{}, params...)})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	began := time.Now()
	res, err := l.http.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.report.SlowestMillis = max(l.report.SlowestMillis, time.Since(began).Milliseconds())
	l.mu.Unlock()
	var a struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Error != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return json.Unmarshal(a.Result, result)
}

type loadBlock struct {
	Number     hexutil.Uint64
	Hash       string
	ParentHash string
}

// read asks one question after the other.
func (l *load) read(ctx context.Context, turn int, account common.Address) {
	for ; ctx.Err() == nil; turn++ {
		shown, sent := l.shown.Load(), l.sent.Load()
		var number hexutil.Uint64
		var block *loadBlock
		var err error
		switch turn % 4 {
		case 0:
			if err = l.ask(ctx, "eth_blockNumber", &number); err == nil {
				l.height(ctx, "eth_blockNumber", int64(number), shown)
			}
		case 1:
			if err = l.ask(ctx, "eth_getBlockByNumber", &block, "latest", false); err == nil {
				l.height(ctx, "newest block", int64(block.Number), shown)
				l.block(ctx, *block)
			}
		case 2:
			old := max(shown-rand.Int64N(8), 0)
			if err = l.ask(ctx, "eth_getBlockByNumber", &block, hexutil.Uint64(old), false); err == nil && block == nil {
				l.fault(ctx, &l.report.Wrong, "block %d is not there, and %d was shown", old, shown)
			} else if err == nil {
				l.block(ctx, *block)
			}
		case 3:
			if err = l.ask(ctx, "eth_getTransactionCount", &number, account, "latest"); err == nil {
				if int64(number) < sent {
					l.fault(ctx, &l.report.Stale, "%d transactions, after %d", number, sent)
				}
				raise(&l.sent, int64(number))
			}
		}
		if err != nil {
			l.fault(ctx, &l.report.Errors, "read %d: %v", turn%4, err)
		} else {
			l.mu.Lock()
			l.report.Reads++
			l.mu.Unlock()
		}
		pause(ctx, loadPause)
	}
}

func raise(x *atomic.Int64, to int64) {
	for old := x.Load(); old < to && !x.CompareAndSwap(old, to); old = x.Load() {
	}
}

// height takes in a height that an answer told of, when shown had been before.
func (l *load) height(ctx context.Context, what string, height, shown int64) {
	if height < shown {
		l.fault(ctx, &l.report.Stale, "%s %d, after %d", what, height, shown)
	}
	raise(&l.shown, height)
}

// block takes in a block: every block is final.
func (l *load) block(ctx context.Context, b loadBlock) {
	l.mu.Lock()
	number := int64(b.Number)
	wrong := ""
	for height, hash := range map[int64]string{number: b.Hash, number - 1: b.ParentHash} {
		if known := l.hashes[height]; known != "" && known != hash {
			wrong = fmt.Sprintf("block %d is %s, and was %s", height, hash, known)
		}
		l.hashes[height] = hash
	}
	l.mu.Unlock()
	if wrong != "" {
		l.fault(ctx, &l.report.Wrong, "%s", wrong)
	}
}

// send hands in a transaction, and the same again if that fails.
func (l *load) send(ctx context.Context, raw string) {
	for ctx.Err() == nil {
		var hash string
		err := l.ask(ctx, "eth_sendRawTransaction", &hash, raw)
		if err == nil {
			l.mu.Lock()
			l.taken = append(l.taken, hash)
			l.mu.Unlock()
			return
		}
		l.fault(ctx, &l.report.Errors, "transaction: %v", err)
		pause(ctx, loadSendPause)
	}
}

// subscribe hears of heads on one connection, which has to last.
func (l *load) subscribe(ctx context.Context) {
	for ctx.Err() == nil {
		if err := l.hear(ctx); err != nil {
			l.fault(ctx, &l.report.Errors, "subscription: %v", err)
		}
		pause(ctx, loadSendPause)
	}
}

func (l *load) hear(ctx context.Context) error {
	c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(l.url, "http"), &websocket.DialOptions{HTTPClient: l.http})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	if err := c.Write(ctx, websocket.MessageText, []byte(request([]string{"eth_subscribe", `["newHeads"]`}))); err != nil {
		return err
	}
	last := int64(0)
	for {
		_, text, err := c.Read(ctx)
		if err != nil {
			return err
		}
		var n struct {
			Params struct{ Result *loadBlock }
		}
		if err := json.Unmarshal(text, &n); err != nil {
			return err
		}
		b := n.Params.Result
		if b == nil {
			continue
		}
		if last != 0 && int64(b.Number) != last+1 {
			l.fault(ctx, &l.report.Wrong, "head %d comes after %d", b.Number, last)
		}
		last = int64(b.Number)
		l.block(ctx, *b)
		raise(&l.shown, last) // a read after this is not to be older
		l.mu.Lock()
		l.report.Heads++
		l.mu.Unlock()
	}
}

func stopLoad(ts *testscript.TestScript) (output, error) {
	v, ok := loads.Load(ts)
	if !ok {
		return output{}, errors.New("there is no load")
	}
	l := v.(*load)
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
	defer cancel()
	l.report.Transactions = len(l.taken)
	for _, hash := range l.taken {
		for {
			var receipt *struct{ BlockNumber string }
			if err := l.ask(ctx, "eth_getTransactionReceipt", &receipt, hash); err == nil && receipt != nil {
				break
			}
			if pause(ctx, awaitPause); ctx.Err() != nil {
				l.report.Lost = append(l.report.Lost, hash)
				break
			}
		}
	}
	l.http.CloseIdleConnections()
	for _, list := range []*[]string{&l.report.Errors, &l.report.Wrong, &l.report.Stale, &l.report.Lost} {
		if more := len(*list) - loadShown; more > 0 {
			*list = append((*list)[:loadShown], strconv.Itoa(more)+" more")
		}
	}
	text, err := json.Marshal(l.report)
	return output{stdout: string(text) + "\n"}, err
}

func sigstop(ts *testscript.TestScript, args []string) (output, error) {
	return signal(ts, args, syscall.SIGSTOP)
}

func sigcont(ts *testscript.TestScript, args []string) (output, error) {
	return signal(ts, args, syscall.SIGCONT)
}

// signal sends a signal to a process. One that is stopped is continued in the end, so
// that the network can be taken down.
func signal(ts *testscript.TestScript, args []string, s syscall.Signal) (output, error) {
	if len(args) != 2 {
		return output{}, errors.New("usage: sigstop|sigcont CITY PART")
	}
	p, err := find(ts, args[0], args[1])
	if err != nil {
		return output{}, err
	}
	if s == syscall.SIGSTOP {
		ts.Defer(func() { _ = syscall.Kill(p.pid, syscall.SIGCONT) })
	}
	return output{}, syscall.Kill(p.pid, s)
}
