package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/openbsn/bsn"
	"golang.org/x/sync/errgroup"
)

// batchParallel is how many reads of one batch run at once.
const batchParallel = 16

// keyOf returns the key that a request gives, in the path or in a header.
func keyOf(r *http.Request) string {
	if key := r.PathValue("key"); key != "" {
		return key
	}
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key
	}
	if scheme, key, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(key)
	}
	return ""
}

// admit finds who calls and the chain that they mean.
func (g *Gateway) admit(r *http.Request) (c caller, p *pool, bad answer, ok bool) {
	if c, bad, ok = g.authorise(keyOf(r), peerOf(r)); ok {
		p, bad, ok = g.route(r.PathValue("chain"))
	}
	return c, p, bad, ok
}

// serveRPC answers JSON-RPC over HTTP.
func (g *Gateway) serveRPC(w http.ResponseWriter, r *http.Request) {
	c, p, bad, ok := g.admit(r)
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	text, bad, ok := g.readBody(w, r)
	if !ok {
		g.reply(w, nil, bad)
		return
	}
	if start := skipSpace(text, 0); start < len(text) && text[start] == '[' {
		out, spent, status := g.batch(r.Context(), c, p, text, nil)
		spent.tell(w.Header())
		g.write(w, status, out)
		return
	}
	m, bad, ok := parseMessage(text)
	if !ok {
		g.reply(w, m.id, bad)
		return
	}
	a := g.call(r.Context(), c, p, m, nil)
	if m.id == nil { // a notification has no response
		a.spent.tell(w.Header())
		w.WriteHeader(http.StatusNoContent)
		return
	}
	g.reply(w, m.id, a)
}

// readBody reads a request's body within the limit.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) (text []byte, bad answer, ok bool) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, refuse(outcomeMalformed, codeRequest, "requests are taken without compression").with(http.StatusUnsupportedMediaType), false
	}
	limit := g.cfg.MaxRequestBytes
	tooLarge := r.ContentLength > limit
	if !tooLarge {
		var err error
		body := http.MaxBytesReader(w, r.Body, limit)
		if r.ContentLength >= 0 {
			text = make([]byte, r.ContentLength)
			_, err = io.ReadFull(body, text)
		} else {
			text, err = io.ReadAll(body)
		}
		var over *http.MaxBytesError
		tooLarge = errors.As(err, &over)
		if err != nil && !tooLarge {
			return nil, refuse(outcomeMalformed, codeParse, "request did not arrive in full").with(http.StatusBadRequest), false
		}
	}
	if tooLarge {
		return nil, exceed(kindSize, 0, "request is larger than %d bytes", limit).with(http.StatusRequestEntityTooLarge), false
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
	var total atomic.Int64
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
			costs[i] = a.spent
			if m.id == nil {
				return nil
			}
			if total.Add(int64(len(a.result))) > g.cfg.MaxResponseBytes {
				a = exceed(kindSize, 0, "answers of the batch are larger than %d bytes together: split it", g.cfg.MaxResponseBytes)
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

// reply writes a JSON-RPC response that stands alone.
func (g *Gateway) reply(w http.ResponseWriter, id []byte, a answer) {
	status := a.status
	if status == 0 {
		status = http.StatusOK
	}
	a.spent.tell(w.Header())
	if a.retryAfter > 0 || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(retrySeconds(a.retryAfter)))
	}
	g.write(w, status, appendReply(make([]byte, 0, 48+len(id)+len(a.result)+len(a.failure)), id, a))
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
