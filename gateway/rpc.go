package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/http1"
	"golang.org/x/sync/errgroup"
)

// batchParallel is how many reads of one batch run at once.
const batchParallel = 16

// keyFrom returns the key that two header fields give.
func keyFrom(apiKey, authorization string) string {
	if apiKey != "" {
		return apiKey
	}
	if scheme, key, ok := strings.Cut(authorization, " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(key)
	}
	return ""
}

// keyOf returns the key that a request gives in a header.
func keyOf(r *http.Request) string {
	return keyFrom(r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"))
}

// admit finds who calls and the chain that they mean.
func (g *Gateway) admit(to address, secret string, from peer) (c caller, p *pool, bad answer, ok bool) {
	if c, bad, ok = g.authorise(secret, from); !ok {
		return c, nil, bad, false
	}
	switch {
	case to.foreign:
		return c, nil, refuse(outcomeRefused, codeKey, "the address must name the project as account.project: /api/%s/%s/rpc",
			strings.Replace(c.id, "/", ".", 1), clipName(to.chain)).with(http.StatusNotFound), false
	case to.project != "" && to.project != c.id:
		return c, nil, refuse(outcomeRefused, codeKey, "this key does not belong to the project that the address names").with(http.StatusForbidden), false
	}
	p, bad, ok = g.route(to.chain)
	return c, p, bad, ok
}

// addressOf reads the address of a request from its path, as routes has it.
func addressOf(r *http.Request) (a address) {
	a.chain, a.key = r.PathValue("chain"), r.PathValue("key")
	if project := r.PathValue("project"); project != "" {
		a.setProject(project)
	}
	return a
}

// admitRequest is admit for the handlers.
func (g *Gateway) admitRequest(r *http.Request) (c caller, p *pool, bad answer, ok bool) {
	to := addressOf(r)
	secret := to.key
	if secret == "" {
		secret = keyOf(r)
	}
	return g.admit(to, secret, g.peerOf(r))
}

// serveRPC answers JSON-RPC over HTTP as serveFast does, for requests that are not
// plain and for HTTP/2.
func (g *Gateway) serveRPC(w http.ResponseWriter, r *http.Request) {
	c, p, bad, ok := g.admitRequest(r)
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	taken, bad, ok := g.memory.enter(g.bodySize(r))
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	defer g.memory.Give(taken)
	text, bad, ok := g.readBody(w, r)
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	g.sendSlow(w, r, g.respond(g.traces.from(r.Context(), r.Header), c, p, text))
}

// respond answers the text of a request: one message, or a batch.
func (g *Gateway) respond(ctx context.Context, c caller, p *pool, text []byte) rpcReply {
	if start := skipSpace(text, 0); start < len(text) && text[start] == '[' {
		out, cost, status := g.batch(ctx, c, p, text, nil)
		if out == nil {
			status = http.StatusNoContent
		}
		return rpcReply{answer: answer{status: status, spent: cost, held: g.memory.hold(out)}, batch: out}
	}
	m, bad, ok := parseMessage(text)
	if !ok {
		return rpcReply{answer: bad, id: m.id}
	}
	a := g.call(ctx, c, p, m, nil)
	if m.id == nil { // a notification has no response
		g.memory.letGo(a.held)
		return rpcReply{answer: answer{status: http.StatusNoContent, spent: a.spent}}
	}
	return rpcReply{answer: a, id: m.id}
}

// bodySize is how large a request's body is or, if it does not say, may be.
func (g *Gateway) bodySize(r *http.Request) int {
	if r.ContentLength < 0 || r.ContentLength > g.cfg.MaxRequestBytes {
		return int(g.cfg.MaxRequestBytes)
	}
	return int(r.ContentLength)
}

// readBody reads a request's body within the limit.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) (text []byte, bad answer, ok bool) {
	var err error
	switch limit := g.cfg.MaxRequestBytes; {
	case r.ContentLength > limit:
		err = http1.ErrTooLarge
	default:
		body := http.MaxBytesReader(w, r.Body, limit)
		if r.ContentLength >= 0 {
			text = make([]byte, r.ContentLength)
			_, err = io.ReadFull(body, text)
		} else {
			text, err = io.ReadAll(body)
		}
		var over *http.MaxBytesError
		if err != nil && !errors.As(err, &over) {
			err = http1.ErrCutShort
		}
	}
	if err == nil {
		text, err = g.decode(r.Header.Get("Content-Encoding"), text)
	}
	if err != nil {
		return nil, g.badBody(err), false
	}
	return text, answer{}, true
}

// batch answers each entry of a batch and returns the responses in the order of
// the requests; nothing if all were notifications. Reads run side by side,
// transactions one after another as given. The caller is looked up anew for each: what
// is revoked meanwhile holds for the rest.
func (g *Gateway) batch(ctx context.Context, c caller, p *pool, text []byte, subscribe subscriber) (out []byte, cost spent, status int) {
	entries, bad, ok := splitBatch(text, g.cfg.MaxBatch)
	if !ok {
		return appendReply(nil, nil, bad), cost, bad.status
	}
	costs := make([]spent, len(entries))
	replies := make([][]byte, len(entries))
	var total, held atomic.Int64
	defer func() { g.memory.Give(held.Load()) }()
	var group errgroup.Group
	group.SetLimit(batchParallel)
	for i, entry := range entries {
		m, bad, ok := parseMessage(entry)
		if !ok {
			replies[i] = appendReply(nil, m.id, bad)
			continue
		}
		answerOne := func() error {
			c, a, ok := g.recheck(c)
			if ok {
				a = g.call(ctx, c, p, m, subscribe)
			}
			defer g.memory.letGo(a.held)
			costs[i] = a.spent
			if m.id == nil {
				return nil
			}
			size := int64(len(a.result))
			if total.Add(size) > g.cfg.MaxResponseBytes {
				a = exceed(kindSize, 0, "answers of the batch are larger than %d bytes together: split it", g.cfg.MaxResponseBytes)
			} else if size > smallCall {
				if g.memory.Take(size) {
					held.Add(size)
				} else {
					a = noMemory()
				}
			}
			replies[i] = appendReply(nil, m.id, a)
			return nil
		}
		if inOrder(p, m) {
			_ = answerOne()
		} else {
			group.Go(answerOne)
		}
	}
	_ = group.Wait() // the functions return no errors
	for i, r := range replies {
		cost = cost.and(costs[i])
		if r == nil {
			continue
		}
		if out == nil {
			out = append(out, '[')
		} else {
			out = append(out, ',')
		}
		out = append(out, r...)
	}
	if out != nil {
		out = append(out, ']')
	}
	return out, cost, http.StatusOK
}

// inOrder tells whether a message of a batch is done before the next one begins.
func inOrder(p *pool, m message) bool {
	class := p.methods.Methods[m.method].Class
	return class == bsn.MethodSend || class == bsn.MethodSubscribe
}

// reply writes a JSON-RPC response that stands alone and is not large.
func (g *Gateway) reply(w http.ResponseWriter, id []byte, a answer) {
	g.sendSlow(w, nil, rpcReply{answer: a, id: id})
}

// sendSlow is sendFast for the handlers. Without a request nothing is compressed.
func (g *Gateway) sendSlow(w http.ResponseWriter, r *http.Request, reply rpcReply) {
	defer g.memory.letGo(reply.held)
	reply.spent.tell(w.Header())
	if reply.status == http.StatusNoContent {
		w.WriteHeader(reply.status)
		return
	}
	if wait, ok := reply.retry(); ok {
		w.Header().Set("Retry-After", strconv.Itoa(wait))
	}
	parts := reply.parts()
	if g.compresses(parts) {
		w.Header().Set("Vary", "Accept-Encoding")
		if r != nil && takesGzip([]byte(r.Header.Get("Accept-Encoding"))) {
			w.Header().Set("Content-Encoding", "gzip")
			g.write(w, reply.httpStatus(), deflate(parts[:]...))
			return
		}
	}
	g.write(w, reply.httpStatus(), bytes.Join(parts[:], nil))
}

// write writes a body of JSON; none if text is empty.
func (g *Gateway) write(w http.ResponseWriter, status int, text []byte) {
	if text == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that is gone hears no error either
}

var jsonType = []string{"application/json"}
