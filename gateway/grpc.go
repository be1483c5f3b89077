package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/openbsn/bsn"
)

// gRPC passes as it comes: messages are counted, bounded and handed on without being
// decoded, and so are metadata, deadlines, trailers and status.

// chainMetadata names the chain that a call of gRPC is for.
const chainMetadata = "X-Bsn-Chain"

// isGRPC tells whether a request is a call of gRPC.
func isGRPC(r *http.Request) bool {
	if r.ProtoMajor != 2 || r.Method != http.MethodPost {
		return false
	}
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcCall is one call on its way.
type grpcCall struct {
	g      *Gateway
	w      http.ResponseWriter
	r      *http.Request
	caller caller
	pool   *pool
	name   string // service/Method
	method bsn.Method
	began  time.Time

	held int64 // of the gateway's memory

	// answered: the header of the answer has gone out.
	answered bool
	outcome  outcome
}

// serveGRPC answers gRPC, whose key and chain are metadata: x-api-key and x-bsn-chain.
func (g *Gateway) serveGRPC(w http.ResponseWriter, r *http.Request) {
	call := &grpcCall{g: g, w: w, r: r, name: strings.TrimPrefix(r.URL.Path, "/"), began: time.Now()}
	chain := r.Header.Get(chainMetadata)
	c, bad, ok := g.authorise(keyOf(r), g.peerOf(r))
	switch {
	case !ok:
		call.refuse(bad)
		return
	case chain == "":
		call.fail(codes.InvalidArgument, "name the chain as metadata x-bsn-chain")
		return
	}
	call.caller = c
	if text, _, moved := g.moved(chain, nil); moved {
		call.fail(codes.Unavailable, text)
		return
	}
	if call.pool, bad, ok = g.route(chain); !ok {
		call.refuse(bad)
		return
	}
	if call.held, bad, ok = g.memory.enter(0); !ok {
		call.refuse(bad)
		return
	}
	defer func() { g.memory.Give(call.held) }()
	call.run()
}

// run takes the call all the way, as [Gateway.call] does for JSON-RPC.
func (call *grpcCall) run() {
	g, c, p := call.g, &call.caller, call.pool
	c.at = call.began
	p.touch(c.at)
	method, known := p.names.find(call.name)
	known = known && grpcMethod.MatchString(call.name)
	call.method = method
	if known {
		ctx, span := g.traces.call(g.traces.from(call.r.Context(), call.r.Header), p, systemGRPC, call.name)
		call.r = call.r.WithContext(ctx)
		defer func() { span.done(method.Class, method.Units, call.outcome) }()
	}
	if !known {
		text := "chain " + p.chain.Name + " does not offer " + clipName(call.name) + " here"
		if len(p.methods.GRPC) == 0 {
			text = "chain " + p.chain.Name + " (" + p.chain.Framework + ") does not speak gRPC: call it at /rpc/" + p.chain.Name
		}
		_ = call.count(classNone, 0, outcomeRefused)
		call.fail(codes.Unimplemented, text)
		return
	}
	cost, a, ok := g.enter(c, p, call.name, method)
	if !ok {
		_ = call.count(method.Class, 0, a.outcome)
		cost.tell(call.w.Header())
		call.refuse(a)
		return
	}
	defer func() { g.quotaDone(c, method.Units, call.outcome.served()) }()
	cost.units = method.Units
	cost.tell(call.w.Header())
	call.pass()
}

// enter takes a call of gRPC or REST through policy, limits and quota. If it passes,
// quotaDone is to be called.
func (g *Gateway) enter(c *caller, p *pool, name string, method bsn.Method) (cost spent, a answer, ok bool) {
	if a, ok = g.passes(*c, p, name, method); !ok {
		return cost, a, false
	}
	taken, ok := g.limit(c, method.Units)
	if cost = taken.spent; !ok {
		return cost, taken, false
	}
	if a, ok = g.meterable(c, p.chain.Name, method.Class); !ok {
		return cost, a, false
	}
	a, ok = g.quota(c, method.Units)
	return cost, a, ok
}

// passes tells whether what a chain and a key say of a method of gRPC or REST lets a
// call of it pass.
func (g *Gateway) passes(c caller, p *pool, name string, method bsn.Method) (answer, bool) {
	if a, ok := g.together(method.Class); !ok {
		return a, false
	}
	if a, ok := g.allow(&c, p, message{method: name}, method); !ok {
		return a, false
	}
	if method.Class == bsn.MethodSend {
		// Whom it is sent to is not read.
		return g.mayReceive(c, p.chain, bsn.Transaction{})
	}
	return answer{}, true
}

// count has the meter record how the call ended, as far as it is known when its
// answer leaves. An error says that it must not.
func (call *grpcCall) count(class bsn.MethodClass, units int, o outcome) error {
	call.outcome = o
	err := call.g.meter.record(&call.caller, call.pool.chain.Name, class, units, o, time.Since(call.began))
	if err != nil {
		call.outcome = outcomeUnavailable
	}
	return err
}

// pass has the call answered by the first node that can.
func (call *grpcCall) pass() {
	ctx, cancel, err := call.context()
	defer cancel()
	if err != nil {
		call.finish(outcomeMalformed, codes.InvalidArgument, err.Error())
		return
	}
	body, err := call.request(ctx)
	if err != nil {
		call.finishWith(err)
		return
	}
	var last error
	var unavailable *http.Response // what a node answered that could not
	var asked []*node
	for nodes := call.pool.untried(ctx, 0, nil, &asked); len(nodes) > 0 && ctx.Err() == nil; nodes = call.pool.untried(ctx, 0, nil, &asked) {
		for _, n := range nodes {
			if n.grpc == nil || n.forwards.Load() {
				continue
			}
			asking, span := n.upstreams.traces.try(ctx, n, tryFirst)
			response, err := n.callGRPC(asking, call, body)
			span.tried(err, err == nil && isUnavailable(response))
			switch {
			case ctx.Err() != nil:
			case err != nil:
				last = fmt.Errorf("ask the node in %s: %w", n.city, err)
				n.failed(call.pool)
				if !body.again(call.method.Class, err) {
					call.lost(ctx, last)
					return
				}
				continue
			case call.method.Class == bsn.MethodRead && isUnavailable(response):
				n.failed(call.pool)
				if unavailable != nil {
					unavailable.Body.Close()
				}
				unavailable = response
				continue
			default:
				n.judged(verdictAnswer)
			}
			if ctx.Err() != nil {
				break
			}
			if unavailable != nil {
				unavailable.Body.Close()
			}
			call.answer(ctx, response, body)
			return
		}
	}
	if unavailable != nil && ctx.Err() == nil {
		call.answer(ctx, unavailable, body)
		return
	}
	call.lost(ctx, last)
}

// failed takes in that the node could not answer. The only one is asked again at once.
func (n *node) failed(p *pool) {
	if len(p.nodes) > 1 {
		n.judged(verdictFault)
	}
}

// isUnavailable tells whether an answer is nothing but that the node cannot now.
func isUnavailable(r *http.Response) bool {
	return r.Header.Get("Grpc-Status") == "14"
}

// lost says why no node answered.
func (call *grpcCall) lost(ctx context.Context, last error) {
	switch {
	case ctx.Err() != nil:
		call.finishWith(context.Cause(ctx))
	case last != nil && call.method.Class == bsn.MethodSend:
		call.finish(outcomeUnavailable, codes.Unavailable, "no node of chain "+call.pool.chain.Name+" confirmed that it has taken this; it may have: look before you send it again")
	default:
		if last != nil {
			call.g.log.Debug("call of gRPC is not answered", "chain", call.pool.chain.Name, "error", last)
		}
		call.finish(outcomeUnavailable, codes.Unavailable, "no node of chain "+call.pool.chain.Name+" that speaks gRPC answers now: try again")
	}
}

// context is the call's own: it ends with the client's deadline or the gateway's
// patience, and a stream's when the caller is not let in any more.
func (call *grpcCall) context() (ctx context.Context, cancel func(), err error) {
	ctx, end := context.WithCancelCause(call.r.Context())
	cancel = func() { end(nil) }
	patience, limited := call.g.cfg.UpstreamTimeout, call.method.Class != bsn.MethodSubscribe
	if text := call.r.Header.Get("Grpc-Timeout"); text != "" {
		asked, ok := readTimeout(text)
		if !ok {
			return ctx, cancel, errors.New("malformed grpc-timeout")
		}
		if !limited || asked < patience {
			patience = asked
		}
		limited = true
	}
	if limited {
		timed, stop := context.WithTimeout(ctx, patience)
		ctx, cancel = timed, func() { stop(); end(nil) }
	}
	if call.method.Class == bsn.MethodSubscribe {
		s := &stream{call: call, end: end}
		call.g.streams.Store(s, nil)
		before := cancel
		cancel = func() { call.g.streams.Delete(s); before() }
		s.look()
	}
	return ctx, cancel, nil
}

// hopHeaders belong to one connection, or to who calls the gateway.
var hopHeaders = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true, "Upgrade": true, "Te": true, "Trailer": true,
	"Content-Length": true, "Host": true, "X-Api-Key": true, chainMetadata: true, "Authorization": true, "Cookie": true, "Origin": true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true, "X-Real-Ip": true,
	"Grpc-Timeout": true, "Proxy-Authorization": true, "Traceparent": true, "Tracestate": true, "Baggage": true,
}

// callGRPC sends the call to the node and returns the header of its answer.
func (n *node) callGRPC(ctx context.Context, call *grpcCall, body grpcBody) (*http.Response, error) {
	target := *n.grpc
	target.Path, target.RawPath = "/"+call.name, ""
	h := http.Header{}
	for name, values := range call.r.Header {
		if !hopHeaders[name] {
			h[name] = values
		}
	}
	for name, values := range n.header { // a provider's
		if _, shared := nodeHeader[name]; !shared {
			h[name] = values
		}
	}
	h["Te"] = []string{"trailers"}
	if at, ok := ctx.Deadline(); ok {
		h["Grpc-Timeout"] = []string{writeTimeout(time.Until(at))}
	}
	r := (&http.Request{
		Method: http.MethodPost, URL: &target, Host: target.Host, Header: h,
		Proto: "HTTP/2.0", ProtoMajor: 2, Body: body.reader(), GetBody: body.copies(), ContentLength: -1,
	}).WithContext(n.mortal(ctx))
	response, err := n.upstreams.grpc.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if kind := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || !strings.HasPrefix(kind, "application/grpc") {
		response.Body.Close()
		if wait := readRetryAfter([]byte(response.Header.Get("Retry-After"))); wait > 0 {
			n.rest("limits", wait)
		}
		return nil, statusError{code: response.StatusCode}
	}
	return response, nil
}

// mortal returns a context that ends also when the node is found dead.
func (n *node) mortal(ctx context.Context) context.Context {
	life, alive := n.alive()
	if !alive {
		return ctx
	}
	asking, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(life, cancel)
	context.AfterFunc(ctx, func() { stop() })
	return asking
}

// newGRPCTransport makes the connections to nodes for gRPC: HTTP/2 only, with prior
// knowledge where there is no TLS. Whether a silent machine is still there is left to
// TCP: servers of gRPC end connections on which HTTP/2 asks for that.
func newGRPCTransport() *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols: p,
		DialContext: (&net.Dialer{Timeout: 2 * time.Second, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
		}}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		IdleConnTimeout:        5 * time.Minute,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// baseURL reads where a node serves gRPC or REST; nil if it does not.
func baseURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		err = errors.New("it is not http:// or https:// and a host")
	}
	return u, err
}

// notSent tells whether an error says that a node has got nothing.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
