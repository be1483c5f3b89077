package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn/gateway/http1"
)

// serveFast answers JSON-RPC over HTTP/1.1, and what browsers ask before it, from the
// bytes as they came. It leaves all that is not plain, and all else, to the handlers
// of routes, which answer the same.
func (g *Gateway) serveFast(q *http1.Request, w *http1.Writer) bool {
	switch string(q.Method()) {
	case http.MethodPost:
	case http.MethodOptions:
		w.Begin(http.StatusNoContent)
		w.Raw(g.present(w.Began()).lines)
		w.Raw(preflightLines)
		w.Send()
		return true
	default:
		return false
	}
	to, ok := readTarget(q.Target())
	if !ok {
		return false
	}
	if g.present(q.Began()).going {
		return false
	}
	secret := to.key
	if secret == "" {
		secret = keyFrom(string(q.Field("x-api-key")), string(q.Field("authorization")))
	}
	c, p, bad, ok := g.admit(to, secret, g.peerOfFast(q))
	if !ok {
		g.sendFast(q, w, rpcReply{answer: bad})
		return true
	}
	text, err := q.Body(g.cfg.MaxRequestBytes)
	if err == nil {
		text, err = g.decode(string(q.Field("content-encoding")), text)
	}
	if err != nil {
		g.sendFast(q, w, rpcReply{answer: g.badBody(err)})
		return true
	}
	taken, bad, ok := g.memory.enter(len(text))
	if !ok {
		g.sendFast(q, w, rpcReply{answer: bad})
		return true
	}
	defer g.memory.Give(taken)
	g.sendFast(q, w, g.respond(g.traces.fromFast(q.Context(), q.Field), c, p, text))
	return true
}

// sendFast writes the answer to a request.
func (g *Gateway) sendFast(q *http1.Request, w *http1.Writer, r rpcReply) {
	defer g.memory.letGo(r.held)
	w.Begin(r.httpStatus())
	w.Raw(g.present(w.Began()).lines)
	var room [128]byte
	w.SetInt(unitsHeader, int64(r.spent.units))
	if r.spent.requests.quota != 0 || r.spent.inUnits.quota != 0 {
		w.SetBytes(policyHeader, r.spent.appendPolicy(room[:0]))
		w.SetBytes(leftHeader, r.spent.appendLeft(room[:0]))
	}
	if r.status == http.StatusNoContent {
		w.Send()
		return
	}
	w.Raw(jsonLine)
	if wait, ok := r.retry(); ok {
		w.SetInt("Retry-After", int64(wait))
	}
	parts := r.parts()
	if g.compresses(parts) {
		w.Raw(varyLine)
		if takesGzip(q.Field("accept-encoding")) {
			w.Raw(gzipLine)
			w.Send(deflate(parts[:]...))
			return
		}
	}
	w.Send(parts[0], parts[1], parts[2], parts[3], parts[4])
}

var (
	jsonLine = []byte("Content-Type: application/json\r\n")
	varyLine = []byte("Vary: Accept-Encoding\r\n")
	gzipLine = []byte("Content-Encoding: gzip\r\n")
)

// present is what holds for all calls for a while.
type present struct {
	change uint64 // of the directory
	tick   int64
	going  bool   // the city is on its way out
	lines  []byte // of the header of every answer
}

// presentTick is for how long what depends on time counts as present.
const presentTick = 100 * time.Millisecond

// present returns what holds now.
func (g *Gateway) present(now time.Time) *present {
	change, tick := g.directory.changes.Load(), now.UnixNano()/int64(presentTick)
	if p := g.now.Load(); p != nil && p.change == change && p.tick == tick {
		return p
	}
	p := &present{change: change, tick: tick}
	_, p.going = g.going()
	h := http.Header{}
	g.commonHeaders(h)
	p.lines = headerLines(h)
	g.now.Store(p)
	return p
}

func headerLines(h http.Header) []byte {
	var b bytes.Buffer
	_ = h.Write(&b) // to memory
	return b.Bytes()
}

// bounded is a context that ends at a time, or with the one beneath it. It costs a
// timer only where someone waits for its end.
type bounded struct {
	context.Context
	at    time.Time
	timed atomic.Pointer[timed]
}

type timed struct {
	context.Context
	cancel context.CancelFunc
}

// within returns a context that ends at a time. To be called when it is not needed
// any more: end.
func within(ctx context.Context, at time.Time) *bounded {
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(at) {
		at = earlier
	}
	return &bounded{Context: ctx, at: at}
}

// Deadline implements context.Context.
func (b *bounded) Deadline() (time.Time, bool) { return b.at, true }

// Done implements context.Context.
func (b *bounded) Done() <-chan struct{} {
	for {
		if t := b.timed.Load(); t != nil {
			return t.Done()
		}
		ctx, cancel := context.WithDeadline(b.Context, b.at)
		if !b.timed.CompareAndSwap(nil, &timed{ctx, cancel}) {
			cancel()
		}
	}
}

// Err implements context.Context.
func (b *bounded) Err() error {
	if err := b.Context.Err(); err != nil {
		return err
	}
	if t := b.timed.Load(); t != nil {
		if err := t.Err(); err != nil {
			return err
		}
	}
	if !time.Now().Before(b.at) {
		return context.DeadlineExceeded
	}
	return nil
}

// AfterFunc is how contexts that are made of this one wait for its end; see
// [context.AfterFunc].
func (b *bounded) AfterFunc(f func()) (stop func() bool) {
	b.Done()
	return context.AfterFunc(b.timed.Load().Context, f)
}

// end frees what waiting has cost. The context has then ended for whoever still waits.
func (b *bounded) end() {
	if t := b.timed.Load(); t != nil {
		t.cancel()
	}
}

// decode takes off a request's compression.
func (g *Gateway) decode(encoding string, text []byte) ([]byte, error) {
	switch encoding {
	case "", "identity":
		return text, nil
	case "gzip", "x-gzip":
		return inflate(text, g.cfg.MaxRequestBytes)
	}
	return nil, errEncoding
}

var errEncoding = errors.New("unknown compression")

// badBody says what is wrong with a body that could not be read.
func (g *Gateway) badBody(err error) answer {
	var over *http.MaxBytesError
	switch {
	case errors.Is(err, errEncoding):
		return refuse(outcomeMalformed, codeRequest, "requests are taken as they are or in gzip").with(http.StatusUnsupportedMediaType)
	case errors.Is(err, http1.ErrNoRoom):
		return noMemory()
	case errors.Is(err, http1.ErrTooLarge), errors.Is(err, errInflated), errors.As(err, &over):
		return exceed(kindSize, 0, "request is larger than %d bytes", g.cfg.MaxRequestBytes).with(http.StatusRequestEntityTooLarge)
	case errors.Is(err, http1.ErrCutShort):
		return refuse(outcomeMalformed, codeParse, "request did not arrive in full").with(http.StatusBadRequest)
	}
	return refuse(outcomeMalformed, codeParse, "request cannot be read: %v", err).with(http.StatusBadRequest)
}

// compresses tells whether an answer is large enough to be compressed for who asks.
func (g *Gateway) compresses(parts [5][]byte) bool {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	return g.cfg.CompressBytes > 0 && size >= g.cfg.CompressBytes
}

// rpcReply is what a request's body is answered with: one response, or those of a batch.
type rpcReply struct {
	answer
	id    []byte
	batch []byte
}

func (r rpcReply) httpStatus() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// retry is the value of Retry-After, if the answer has one.
func (r rpcReply) retry() (seconds int, ok bool) {
	return retrySeconds(r.retryAfter), r.retryAfter > 0 || r.status == http.StatusTooManyRequests
}

// parts are the pieces of the body in order.
func (r rpcReply) parts() (p [5][]byte) {
	if r.batch != nil {
		p[0] = r.batch
		return p
	}
	p = [5][]byte{beginReply, r.id, thenResult, r.result, endReply}
	if r.id == nil {
		p[1] = null
	}
	if r.failure != nil {
		p[2], p[3] = thenError, r.failure
	}
	return p
}

var (
	beginReply = []byte(`{"jsonrpc":"2.0","id":`)
	thenResult = []byte(`,"result":`)
	thenError  = []byte(`,"error":`)
	endReply   = []byte("}")
	null       = []byte("null")
)
