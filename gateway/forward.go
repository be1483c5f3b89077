package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/http1"
)

// newTransport makes the connections to nodes that speak HTTPS: kept open, many a
// node, without compression. Most nodes are near or behind the link and speak plain
// HTTP, for which there is [http1.Client].
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConns:           0,
		MaxIdleConnsPerHost:    512,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

var (
	errTooLarge = errors.New("answer is too large")
	errNoRoom   = errors.New("there is no memory for the answer now")
	errNoRPC    = errors.New("node does not speak JSON-RPC")
)

// statusError is an HTTP status with which no JSON-RPC response comes, and for how
// long the node wants to be left alone (Retry-After), 0 if it does not say.
type statusError struct {
	code int
	wait time.Duration
}

func (e statusError) Error() string { return fmt.Sprintf("node answers with HTTP status %d", e.code) }

// nodeHeader is what requests to nodes share over HTTPS. With an empty idempotency
// key the transport repeats a request on a fresh connection when the node had just
// closed the idle one, as [http1.Client] does. All requests may be repeated: a
// transaction that arrives twice is the same transaction.
var nodeHeader = http.Header{
	"Content-Type":      {"application/json"},
	"User-Agent":        {"bsn-gateway"},
	"X-Idempotency-Key": {},
}

// newDirect makes the client of a node that speaks plain HTTP, nil for another.
func newDirect(u *url.URL) *http1.Client {
	if u.Scheme != "http" {
		return nil
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "80")
	}
	return http1.NewClient(address, u.Host, u.RequestURI(), "Content-Type: application/json\r\nUser-Agent: bsn-gateway\r\n")
}

// post sends a request to the node and returns its response of at most limit bytes,
// which is the caller's to keep, and the room that was taken for it, which is the
// caller's to give back. It follows no redirect: a node does not choose where
// the gateway calls. A mortal request ends when the node is found dead.
func (n *node) post(ctx context.Context, request []byte, limit int64, mortal bool) (text []byte, taken int64, err error) {
	if n.url == nil {
		return nil, 0, errNoRPC
	}
	if n.direct == nil || n.forwards.Load() {
		return n.postSecurely(ctx, request, limit, mortal)
	}
	a, err := n.direct.Post(ctx, request, limit, mortal)
	switch {
	case errors.Is(err, http1.ErrAnswerTooLarge):
		return nil, 0, errTooLarge
	case errors.Is(err, http1.ErrNoRoom):
		return nil, 0, errNoRoom
	case err != nil:
		return nil, 0, err
	case a.Status != http.StatusOK:
		return nil, 0, statusError{a.Status, readRetryAfter([]byte(a.RetryAfter))}
	}
	return a.Body, a.Taken, nil
}

// postSecurely is post over HTTPS, with headers of the node's own, or to another city's
// gateway.
func (n *node) postSecurely(ctx context.Context, request []byte, limit int64, mortal bool) (text []byte, taken int64, err error) {
	if mortal {
		life, _ := n.alive()
		asking, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		ctx = asking
	}
	address, header := n.target(ctx)
	r := (&http.Request{
		Method: http.MethodPost, URL: address, Host: address.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(request)), ContentLength: int64(len(request)),
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(request)), nil },
	}).WithContext(ctx)
	response, err := n.transport.RoundTrip(r)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		io.CopyN(io.Discard, response.Body, 4<<10) // so that the connection can be used again
		return nil, 0, statusError{response.StatusCode, readRetryAfter([]byte(response.Header.Get("Retry-After")))}
	}
	text, taken, err = http1.ReadBody(response.Body, response.ContentLength, limit, n.upstreams.memory)
	switch {
	case errors.Is(err, http1.ErrAnswerTooLarge):
		err = errTooLarge
	case errors.Is(err, http1.ErrNoRoom):
		err = errNoRoom
	}
	return text, taken, err
}

// ask sends a request to the node and returns its answer. The error says that
// there was none, and that another node may be asked. What is found of the
// node's health is noted.
func (n *node) ask(ctx context.Context, request []byte, limit int64) (answer, error) {
	a, err := n.fetch(ctx, request, limit)
	n.upstreams.memory.letGo(a.held)
	return a, err
}

// fetch is ask for an answer that goes on counting among what calls hold, until it is
// let go.
func (n *node) fetch(ctx context.Context, request []byte, limit int64) (answer, error) {
	life, alive := n.alive()
	// What waits for a node that is found dead meanwhile goes elsewhere at once.
	text, taken, err := n.post(ctx, request, limit, alive)
	if err == nil {
		var a answer
		if a, err = parseAnswer(text); err == nil {
			a.held = n.upstreams.memory.adopt(a.large(), taken)
			return a, nil
		}
		n.upstreams.memory.Give(taken)
	}
	var status statusError
	switch errors.As(err, &status); {
	case errors.Is(err, errTooLarge), errors.Is(err, errNoRoom), ctx.Err() != nil:
	case alive && life.Err() != nil:
		err = errors.New("node was found dead meanwhile")
	case status.code == http.StatusTooManyRequests, status.code == http.StatusServiceUnavailable && status.wait > 0:
		n.rest(status.Error(), status.wait)
	case status.code > 0 && status.code < 500:
	default:
		n.lost(err)
	}
	return answer{}, fmt.Errorf("ask the node in %s: %w", n.city, err)
}

// unavailable says why no node answered.
func unavailable(ctx context.Context, chain bsn.Chain, last error) answer {
	a := refuse(outcomeUnavailable, codeUnavailable, "no node of chain %s answers now: try again", chain.Name)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		a = refuse(outcomeUnavailable, codeUnavailable, "no node of chain %s answered in time", chain.Name)
		return a.with(http.StatusGatewayTimeout)
	case last == nil:
		a = refuse(outcomeUnavailable, codeUnavailable, "no node of chain %s is level with the chain now: try again", chain.Name)
	}
	return a.with(http.StatusServiceUnavailable)
}
