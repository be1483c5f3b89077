package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/openbsn/bsn"
)

// prefixBytes are before each message of gRPC over HTTP/2: whether it is compressed, and
// its length.
const prefixBytes = 5

// messages follows the messages in a stream of bytes that passes in pieces of any size.
type messages struct {
	limit int64 // of a message, in bytes
	// begins is told of each message before any of it passes.
	begins func() error

	prefix [prefixBytes]byte
	have   int   // bytes of the prefix that have come
	left   int64 // bytes of the message that have not
}

// errMessageTooLarge: a message is over the limit.
var errMessageTooLarge = errors.New("message is too large")

// pass takes in the next piece.
func (f *messages) pass(b []byte) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, int64(len(b)))
			f.left -= n
			b = b[n:]
			continue
		}
		n := copy(f.prefix[f.have:], b)
		b = b[n:]
		if f.have += n; f.have < prefixBytes {
			return nil
		}
		f.have = 0
		if f.left = int64(binary.BigEndian.Uint32(f.prefix[1:])); f.left > f.limit {
			return errMessageTooLarge
		}
		if err := f.begins(); err != nil {
			return err
		}
	}
	return nil
}

// between tells whether all messages that have begun have passed.
func (f *messages) between() bool { return f.have == 0 && f.left == 0 }

// grpcBody is what the client sends.
type grpcBody struct {
	whole []byte  // of a method that takes one message
	up    *uplink // of one that streams
}

// request reads what the client sends: all of it where that is one message.
func (call *grpcCall) request(ctx context.Context) (grpcBody, error) {
	if call.method.Class == bsn.MethodSubscribe {
		u := &uplink{call: call}
		u.follow = messages{limit: call.g.cfg.MaxRequestBytes, begins: u.next}
		return grpcBody{up: u}, nil
	}
	count := 0
	f := messages{limit: call.g.cfg.MaxRequestBytes, begins: func() error {
		if count++; count > 1 {
			return &grpcError{code: codes.InvalidArgument, text: call.name + " takes one message"}
		}
		return nil
	}}
	var whole bytes.Buffer
	piece := make([]byte, min(32<<10, max(512, call.r.ContentLength)))
	for {
		n, err := call.r.Body.Read(piece)
		if bad := f.pass(piece[:n]); bad != nil {
			return grpcBody{}, call.tooLarge(bad, "request", f.limit)
		}
		if whole.Len()+n > smallCall {
			if !call.g.memory.Take(int64(2 * n)) { // as it came, and as it is sent on
				return grpcBody{}, refusalOf(noMemory())
			}
			call.held += int64(2 * n)
		}
		whole.Write(piece[:n])
		switch {
		case ctx.Err() != nil:
			return grpcBody{}, context.Cause(ctx)
		case errors.Is(err, io.EOF) && f.between():
			return grpcBody{whole: whole.Bytes()}, nil
		case err != nil:
			return grpcBody{}, &grpcError{code: codes.Internal, text: "request did not arrive in full"}
		}
	}
}

// tooLarge says what is too large, if that is what is wrong.
func (call *grpcCall) tooLarge(err error, what string, limit int64) error {
	if errors.Is(err, errMessageTooLarge) {
		a := exceed(kindSize, 0, "%s is larger than %d bytes", what, limit)
		return &grpcError{code: codes.ResourceExhausted, text: errorText(a.failure), answer: &a}
	}
	return err
}

func (b grpcBody) reader() io.ReadCloser {
	if b.up != nil {
		return b.up
	}
	return io.NopCloser(bytes.NewReader(b.whole))
}

// copies lets the transport send a body again where a connection had just ended.
func (b grpcBody) copies() func() (io.ReadCloser, error) {
	if b.up != nil {
		return nil
	}
	return func() (io.ReadCloser, error) { return b.reader(), nil }
}

// again tells whether another node may be asked after an error: for a read always, and
// for what a node has surely not got.
func (b grpcBody) again(class bsn.MethodClass, err error) bool {
	if b.up != nil {
		return !b.up.begun.Load()
	}
	return class == bsn.MethodRead || notSent(err)
}

// uplink is what the client of a stream sends, as it comes.
type uplink struct {
	call   *grpcCall
	follow messages
	count  int
	begun  atomic.Bool
	// refusal is why no more of it goes on, if it is the gateway's.
	refusal atomic.Pointer[grpcError]
}

// Read implements io.Reader for the transport.
func (u *uplink) Read(b []byte) (int, error) {
	u.begun.Store(true)
	n, err := u.call.r.Body.Read(b)
	if bad := u.follow.pass(b[:n]); bad != nil {
		bad = u.call.tooLarge(bad, "message", u.follow.limit)
		var refusal *grpcError
		if errors.As(bad, &refusal) {
			u.refusal.Store(refusal)
		}
		return 0, bad
	}
	return n, err
}

// Close implements io.Closer. Another node may still be asked; the body ends with the call.
func (u *uplink) Close() error { return nil }

// next lets a message pass. The first is the call, and paid for.
func (u *uplink) next() error {
	if u.count++; u.count == 1 {
		return nil
	}
	c := u.call.caller
	c.at = time.Now()
	if a, ok := u.call.g.limit(&c, u.call.method.Notify); !ok {
		return refusalOf(a)
	}
	return u.call.charge()
}

// charge counts a message of a stream but the first of its direction.
func (call *grpcCall) charge() error {
	g, units := call.g, call.method.Notify
	if units == 0 {
		return nil
	}
	c, a, ok := g.recheck(call.caller) // the quota may have been changed since
	if ok {
		a, ok = g.quota(&c, units)
	}
	if !ok {
		return refusalOf(a)
	}
	err := g.meter.record(&c, call.pool.chain.Name, classNotify, units, outcomeOK, 0)
	g.quotaDone(&c, units, err == nil)
	if err != nil {
		return refusalOf(unmetered(err))
	}
	return nil
}

// pieces are buffers for what passes.
var pieces = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// answer passes a node's answer on, once it has been counted.
func (call *grpcCall) answer(ctx context.Context, response *http.Response, body grpcBody) {
	defer response.Body.Close()
	status := response.Header.Get("Grpc-Status") // there if nothing else follows
	o := outcomeOK
	switch status {
	case "", "0":
	case "14":
		o = outcomeUnavailable
	default:
		o = outcomeError
	}
	if err := call.count(call.method.Class, call.method.Units, o); err != nil {
		call.refuse(unmetered(err))
		return
	}
	h := call.w.Header()
	if !o.served() {
		h[unitsHeader] = []string{"0"}
	}
	for name, values := range response.Header {
		if !hopHeaders[name] {
			h[name] = values
		}
	}
	call.answered = true
	call.w.WriteHeader(http.StatusOK)
	if status != "" {
		return
	}
	if err := call.relay(response.Body); err != nil {
		if body.up != nil {
			if refusal := body.up.refusal.Load(); refusal != nil {
				err = refusal
			}
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		call.finishWith(err)
		return
	}
	if response.Trailer.Get("Grpc-Status") == "" {
		call.fail(codes.Internal, "node ended its answer without a status")
		return
	}
	for name, values := range response.Trailer {
		h[http.TrailerPrefix+name] = values
	}
}

// relay passes the messages of an answer on as they come, each once it has been paid for.
func (call *grpcCall) relay(from io.Reader) error {
	control, count := http.NewResponseController(call.w), 0
	f := messages{limit: call.g.cfg.MaxResponseBytes, begins: func() error {
		if count++; count == 1 {
			return nil
		}
		return call.charge()
	}}
	var until time.Time // by when a piece must have gone out
	allow := func() {
		if now := time.Now(); until.Sub(now) < call.g.cfg.WriteTimeout*7/8 {
			until = now.Add(call.g.cfg.WriteTimeout)
			_ = control.SetWriteDeadline(until) // HTTP/2 has them
		}
	}
	allow()
	_ = control.Flush() // an error shows with the next write
	buffer := pieces.Get().(*[]byte)
	defer pieces.Put(buffer)
	for {
		n, err := from.Read(*buffer)
		if n > 0 {
			if bad := f.pass((*buffer)[:n]); bad != nil {
				return call.tooLarge(bad, "message of the answer", f.limit)
			}
			allow()
			if _, failed := call.w.Write((*buffer)[:n]); failed != nil {
				return failed
			}
			_ = control.Flush()
		}
		switch {
		case errors.Is(err, io.EOF) && f.between():
			return nil
		case err != nil:
			return &grpcError{code: codes.Unavailable, text: "node was lost: call again"}
		}
	}
}

// stream is an open stream of a client.
type stream struct {
	call *grpcCall
	end  context.CancelCauseFunc
}

// lookAtStreams ends those that may not go on.
func (g *Gateway) lookAtStreams() {
	g.streams.Range(func(s, _ any) bool { s.(*stream).look(); return true })
}

// look is one look at a stream.
func (s *stream) look() {
	g := s.call.g
	why, code := "", codes.Unavailable
	text, _, moved := g.moved(s.call.pool.chain.Name, nil)
	switch {
	case g.draining.Err() != nil:
		why = closeDraining
	case g.replaced.Err() != nil:
		why = closeReplaced
	case g.hearing().Err() != nil:
		why = closeAlone
	case moved:
		why = text
	default:
		against := g.againstOpen(s.call.caller)
		if against == nil {
			return
		}
		why, code = against.reason, codes.Unauthenticated
	}
	s.end(&grpcError{code: code, text: why})
}
