package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/openbsn/bsn"
)

// restDepth is how many segments of a path stand before what is the node's, in each form
// of address: /rest/{chain}/…, and BSN's /api/{project}/{chain}/rest/….
const (
	restDepth    = 2
	restDepthBSN = 4
)

// serveREST passes a request to a node's REST interface.
func (g *Gateway) serveREST(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	c, p, bad, ok := g.admitRequest(r)
	if !ok {
		g.replyApp(w, nil, failOf(bad))
		return
	}
	if len(p.methods.REST) == 0 {
		g.replyApp(w, nil, failApp(http.StatusNotImplemented, "chain %s (%s) has no REST interface: call it at /rpc/%s",
			p.chain.Name, p.chain.Framework, p.chain.Name))
		return
	}
	c.at = began
	p.touch(began)
	taken, bad, ok := g.memory.enter(g.bodySize(r))
	if !ok {
		g.replyApp(w, nil, failOf(bad))
		return
	}
	defer func() { g.memory.Give(taken) }()
	path, ok := below(r)
	if !ok {
		g.replyApp(w, nil, failApp(http.StatusBadRequest, "malformed path"))
		return
	}
	target := &url.URL{Path: path.plain, RawPath: path.escaped, RawQuery: r.URL.RawQuery}
	method, _, known := p.paths.find(&http.Request{Method: r.Method, URL: target})
	if !known {
		_ = g.meter.record(&c, p.chain.Name, classNone, 0, outcomeRefused, time.Since(began)) // nothing is charged
		g.replyApp(w, nil, failApp(http.StatusNotFound, "chain %s does not offer %s %s here", p.chain.Name, r.Method, clipName(path.escaped)))
		return
	}
	name := r.Method + path.escaped
	ctx, span := g.traces.call(g.traces.from(r.Context(), r.Header), p, systemREST, r.Method)
	cost, a, ok := g.enter(&c, p, name, method)
	var answered *restAnswer
	var err error
	if !ok {
		err = failOf(a)
	} else if text, bad, read := g.readBody(w, r); !read {
		a, err = bad, failOf(bad)
	} else {
		answered, a.outcome, err = g.passREST(ctx, p, method, restRequest{r.Method, target, restHeader(r.Header), text})
	}
	if failed := g.meter.record(&c, p.chain.Name, method.Class, method.Units, a.outcome, time.Since(began)); failed != nil {
		a.outcome, err = outcomeUnavailable, failOf(unmetered(failed))
	}
	if ok {
		g.quotaDone(&c, method.Units, a.outcome.served())
	}
	if answered != nil && len(answered.body) > smallCall {
		g.memory.Hold(int64(len(answered.body)))
		taken += int64(len(answered.body))
	}
	if a.outcome.served() {
		cost.units = method.Units
	}
	span.done(method.Class, cost.units, a.outcome)
	cost.tell(w.Header())
	if err != nil {
		g.replyApp(w, nil, err)
		return
	}
	answered.send(g, w, r)
}

// restPath is a path as the node gets it.
type restPath struct{ plain, escaped string }

// below returns what of a request's path is the node's, each segment written in the one
// way that there is for it, so that nothing passes under another spelling.
func below(r *http.Request) (p restPath, ok bool) {
	skip := restDepth
	if r.PathValue("project") != "" {
		skip = restDepthBSN
		if r.PathValue("key") != "" {
			skip++
		}
	}
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if len(segments) <= skip {
		return p, false
	}
	for _, s := range segments[skip:] {
		plain, err := url.PathUnescape(s)
		if err != nil || plain == "" || plain == "." || plain == ".." || strings.ContainsFunc(plain, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }) {
			return p, false
		}
		p.plain += "/" + plain
		p.escaped += "/" + url.PathEscape(plain)
	}
	return p, true
}

// restRequest is what a node is asked.
type restRequest struct {
	method string
	target *url.URL // path and query
	header http.Header
	body   []byte
}

// restHeader is what of a client's header goes to a node.
func restHeader(from http.Header) http.Header {
	h := http.Header{"User-Agent": {"bsn-gateway"}}
	for name, values := range from {
		switch {
		case hopHeaders[name], strings.HasPrefix(name, "Sec-"):
		case name == "Accept-Encoding", name == "Content-Encoding", name == "Expect", name == "Referer", name == "User-Agent", name == "Range":
		default:
			h[name] = values
		}
	}
	return h
}

// restAnswer is what a node answered.
type restAnswer struct {
	status int
	header http.Header
	body   []byte
}

// errRedirect: a node does not choose where the gateway calls.
var errRedirect = errors.New("node answers with a redirect")

// passREST has the request answered by the first node that can.
func (g *Gateway) passREST(ctx context.Context, p *pool, method bsn.Method, q restRequest) (*restAnswer, outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.UpstreamTimeout)
	defer cancel()
	var last error
	var asked []*node
	for nodes := p.untried(ctx, 0, nil, &asked); len(nodes) > 0 && ctx.Err() == nil; nodes = p.untried(ctx, 0, nil, &asked) {
		for _, n := range nodes {
			if n.base(method) == nil || n.forwards.Load() || ctx.Err() != nil {
				continue
			}
			why := tryFirst
			if last != nil {
				why = tryRetry
			}
			asking, span := g.traces.try(ctx, n, why)
			a, err := n.askREST(asking, method, q, g.cfg.MaxResponseBytes)
			span.tried(err, err == nil && a.status >= http.StatusInternalServerError)
			switch {
			case err == nil && a.status < http.StatusBadRequest:
				n.judged(verdictAnswer)
				return a, outcomeOK, nil
			case err == nil:
				n.judged(verdictAnswer)
				return a, outcomeError, nil
			case errors.Is(err, errTooLarge):
				return nil, outcomeLimited, failOf(exceed(kindSize, 0, "answer is larger than %d bytes: ask for less at once", g.cfg.MaxResponseBytes).with(http.StatusUnprocessableEntity))
			case ctx.Err() != nil:
			default:
				last = fmt.Errorf("ask the node in %s: %w", n.city, err)
				n.failed(p)
				if method.Class == bsn.MethodSend && !notSent(err) {
					return nil, outcomeUnavailable, failApp(http.StatusBadGateway, "no node of chain %s confirmed that it has taken this; it may have: look before you send it again", p.chain.Name)
				}
			}
		}
	}
	if last != nil {
		g.log.Debug("request is not answered", "chain", p.chain.Name, "error", last)
	}
	return nil, outcomeUnavailable, failOf(unavailable(ctx, p.chain, last))
}

// base is where the node answers what a row of REST is about; nil if it does not.
func (n *node) base(method bsn.Method) *url.URL {
	if method.At == bsn.AtRPC {
		return n.url
	}
	return n.restful
}

// askREST asks the node. An error says that another may be asked.
func (n *node) askREST(ctx context.Context, method bsn.Method, q restRequest, limit int64) (*restAnswer, error) {
	target := *n.base(method)
	target.RawPath = strings.TrimSuffix(target.EscapedPath(), "/") + q.target.RawPath
	target.Path = strings.TrimSuffix(target.Path, "/") + q.target.Path
	target.RawQuery = q.target.RawQuery
	h := q.header
	if n.header != nil {
		h = h.Clone()
		for name, values := range n.header { // a provider's
			if _, shared := nodeHeader[name]; !shared {
				h[name] = values
			}
		}
	}
	r := (&http.Request{
		Method: q.method, URL: &target, Host: target.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(q.body)), ContentLength: int64(len(q.body)),
	}).WithContext(n.mortal(ctx))
	if len(q.body) == 0 {
		r.Body = http.NoBody
	}
	response, err := n.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	wait := readRetryAfter([]byte(response.Header.Get("Retry-After")))
	switch status := response.StatusCode; {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && wait > 0:
		n.rest429(status, wait)
		return nil, statusError{status, wait}
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return nil, statusError{status, 0}
	case status >= 300 && status < 400 && status != http.StatusNotModified, status < 200:
		return nil, errRedirect
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(body)) > limit:
		return nil, errTooLarge
	}
	return &restAnswer{response.StatusCode, response.Header, body}, nil
}

// rest429 leaves a node alone that limits the gateway.
func (n *node) rest429(status int, wait time.Duration) {
	n.rest(statusError{code: status}.Error(), wait)
}

// restPassed are the header fields of a node's answer that go to the client, beside all
// that begin with Grpc-Metadata-.
var restPassed = []string{"Content-Type", "Content-Language", "Content-Disposition", "Etag", "Last-Modified", "Cache-Control"}

func (a *restAnswer) send(g *Gateway, w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range a.header {
		if strings.HasPrefix(name, "Grpc-Metadata-") {
			h[name] = values
		}
	}
	for _, name := range restPassed {
		if values := a.header[name]; values != nil {
			h[name] = values
		}
	}
	h.Set("X-Content-Type-Options", "nosniff")
	body := a.body
	if parts := [5][]byte{body}; g.compresses(parts) {
		h.Set("Vary", "Accept-Encoding")
		if takesGzip([]byte(r.Header.Get("Accept-Encoding"))) {
			h.Set("Content-Encoding", "gzip")
			body = deflate(body)
		}
	}
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a client that is gone hears no error either
}
