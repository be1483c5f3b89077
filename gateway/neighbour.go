package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/prometheus/client_golang/prometheus"
)

// Gateways of different cities call each other through the link, at
// [bsn.PortForward]: the one that was called, and meters, asks for its project; the
// other one lets its own node answer, and asks nobody else. Who calls is vouched for
// by the link, which knows cities by the node keys on the ledger: the receiving
// city's daemon writes the name into the connection, at a socket that only it can open.

const (
	// projectHeader names the project that a call is for.
	projectHeader = "Bsn-Project"
	// forwardCalls is how many calls of other cities' gateways run at once.
	forwardCalls = 512
	// forwardSockets is how many WebSockets they have open: one for each chain that is
	// subscribed to there, and one for each client with filters.
	forwardSockets = 256

	preambleStart = "bsn-forward/1 "
	maxPreamble   = len(preambleStart) + bsn.MaxName + 1
	preambleTime  = 5 * time.Second
)

// Preamble begins a connection of another city's gateway.
func Preamble(city string) string { return preambleStart + city + "\n" }

func readPreamble(r *bufio.Reader) (city string, err error) {
	text := make([]byte, 0, maxPreamble)
	for len(text) < maxPreamble {
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			city, ok := strings.CutPrefix(string(text), preambleStart)
			if !ok {
				break
			}
			if err := bsn.CheckName("city", city); err != nil {
				return "", err
			}
			return city, nil
		}
		text = append(text, b)
	}
	return "", errors.New("connection does not begin with a city's name")
}

// vouched is a connection whose city is known. The name is read with the first bytes,
// so that nobody waits for it but who reads.
type vouched struct {
	net.Conn
	once sync.Once
	r    *bufio.Reader
	city string
	err  error
}

func (v *vouched) Read(b []byte) (int, error) {
	v.once.Do(func() {
		_ = v.Conn.SetReadDeadline(time.Now().Add(preambleTime)) // a Unix socket has deadlines
		v.r = bufio.NewReaderSize(v.Conn, 4<<10)
		v.city, v.err = readPreamble(v.r)
	})
	if v.err != nil {
		return 0, v.err
	}
	return v.r.Read(b)
}

type vouchedListener struct{ net.Listener }

func (l vouchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &vouched{Conn: c}, nil
}

type vouchedKey struct{}

// serveForward takes calls of other cities' gateways until it is ended.
func (g *Gateway) serveForward() (end func(), err error) {
	if g.cfg.Forward == "" {
		return func() {}, nil
	}
	// A gateway that is replaced keeps what it has accepted.
	if err := os.Remove(g.cfg.Forward); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.cfg.Forward, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	l.SetUnlinkOnClose(false) // by then it may be another gateway's
	if err := os.Chmod(g.cfg.Forward, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("gateway: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /forward/{chain}", g.serveNeighbour)
	mux.HandleFunc("GET /forward/{chain}", g.serveNeighbourSocket)
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: g.cfg.HeaderTimeout, ReadTimeout: g.cfg.ReadTimeout, WriteTimeout: g.cfg.WriteTimeout,
		IdleTimeout: g.cfg.IdleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, vouchedKey{}, c) },
	}
	go func() {
		if err := s.Serve(vouchedListener{l}); !errors.Is(err, http.ErrServerClosed) {
			g.log.Error("calls of other cities' gateways are not taken any more", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), g.cfg.DrainTimeout)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
	}, nil
}

// neighbour is the city whose gateway calls. If it may not, that has been answered.
func (g *Gateway) neighbour(w http.ResponseWriter, r *http.Request) (city string, ok bool) {
	v, ok := r.Context().Value(vouchedKey{}).(*vouched)
	if !ok || v.city == "" {
		http.Error(w, "who calls is not known", http.StatusForbidden)
		return "", false
	}
	if !g.isNeighbour(v.city) {
		http.Error(w, "city "+v.city+" is not part of the network", http.StatusForbidden)
		return "", false
	}
	return v.city, true
}

func (g *Gateway) isNeighbour(city string) bool {
	c, known := g.directory.city(city)
	return known && c.Status.Member()
}

// ownNode is the city's own node of a chain, if it may be asked.
func (g *Gateway) ownNode(p *pool) *node {
	for _, n := range p.nodes {
		if n.city == g.cfg.City && n.may(time.Now().UnixNano()) {
			return n
		}
	}
	return nil
}

var errNoOwnNode = errors.New("this city has no node of the chain in service")

// serveNeighbour has the city's own node answer another city's gateway, which has
// looked at key, limits and policy, and meters.
func (g *Gateway) serveNeighbour(w http.ResponseWriter, r *http.Request) {
	from, ok := g.neighbour(w, r)
	if !ok {
		return
	}
	select {
	case g.neighbours.slots <- struct{}{}:
		defer func() { <-g.neighbours.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many calls of other cities at once", http.StatusServiceUnavailable)
		return
	}
	taken, _, ok := g.memory.enter(g.bodySize(r))
	if !ok {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this gateway has no memory for one more call now", http.StatusServiceUnavailable)
		return
	}
	defer g.memory.Give(taken)
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.cfg.MaxRequestBytes+4<<10))
	if err != nil {
		http.Error(w, "request did not arrive in full", http.StatusBadRequest)
		return
	}
	m, bad, ok := parseMessage(text)
	if !ok {
		g.reply(w, m.id, bad)
		return
	}
	class, a, err := g.answerNeighbour(r, m)
	if class != classNone { // then the chain is one that there is
		g.neighbours.calls.WithLabelValues(from, r.PathValue("chain"), string(class)).Inc()
	}
	if err != nil {
		// The caller is to ask another city.
		g.log.Debug("call of another city is not answered", "city", from, "project", r.Header.Get(projectHeader), "error", err)
		http.Error(w, "the node of this city does not answer", http.StatusBadGateway)
		return
	}
	g.reply(w, m.id, a)
}

// answerNeighbour asks the city's own node. Error: it does not answer.
func (g *Gateway) answerNeighbour(r *http.Request, m message) (bsn.MethodClass, answer, error) {
	p, bad, ok := g.route(r.PathValue("chain"))
	if !ok {
		return classNone, bad, nil
	}
	method, known := p.methods.Methods[m.method]
	if !known || method.Class == bsn.MethodSubscribe {
		return classNone, refuse(outcomeRefused, codeMethod, "the method %s is not forwarded between cities", clipName(m.method)), nil
	}
	if a, ok := g.together(method.Class); !ok {
		return method.Class, a, nil
	}
	p.touch(time.Now())
	n := g.ownNode(p)
	if n == nil {
		return method.Class, answer{}, errNoOwnNode
	}
	ctx, cancel := context.WithTimeout(g.traces.from(r.Context(), r.Header), g.cfg.UpstreamTimeout)
	defer cancel()
	ctx, span := g.traces.try(ctx, n, tryAsked)
	a, err := n.fetch(ctx, appendRequest(nil, 1, m.method, m.params), g.cfg.MaxResponseBytes)
	span.tried(err, a.failure != nil)
	if method.Class == bsn.MethodSend {
		p.state.changed()
	}
	return method.Class, a, err
}

// neighbours bound and count the calls of other cities' gateways.
type neighbours struct {
	slots chan struct{}
	// sockets are the connections that they may have open.
	sockets chan struct{}
	calls   *prometheus.CounterVec
}

func newNeighbours() neighbours {
	return neighbours{
		slots: make(chan struct{}, forwardCalls), sockets: make(chan struct{}, forwardSockets),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bsn_gateway_forwarded_total", Help: "Calls of other cities' gateways that this city's nodes were asked for.",
		}, []string{"city", "chain", "class"}),
	}
}

// forwardURL is where another city's gateway takes calls for a chain.
func forwardURL(net bsn.Net, chain string, cityIndex int) *url.URL {
	return &url.URL{Scheme: "http", Host: bsn.HostPort(net.Addr(cityIndex, bsn.ServiceCity), bsn.PortForward), Path: "/forward/" + chain}
}

// projectKey is the key under which a context names the project that a call is for.
type projectKey struct{}

// target is where the node is reached now, and what goes with the request.
func (n *node) target(ctx context.Context) (*url.URL, http.Header) {
	switch {
	case n.header != nil:
		return n.url, n.header
	case !n.forwards.Load():
		return n.url, nodeHeader
	}
	project, _ := ctx.Value(projectKey{}).(string)
	if project == "" && n.upstreams.traces == nil {
		return n.via, nodeHeader
	}
	h := nodeHeader.Clone()
	if project != "" {
		h[projectHeader] = []string{project}
	}
	n.upstreams.traces.hand(ctx, h)
	return n.via, h
}

// reached is the endpoint at which the node is reached now.
func (n *node) reached() bsn.Endpoint {
	if n.forwards.Load() {
		via := n.via.String()
		return bsn.Endpoint{HTTP: via, WS: "ws" + strings.TrimPrefix(via, "http")}
	}
	return n.endpoint
}

// introduction goes with a connection to the node: to another city's gateway, the
// project that it is for, if it is for one.
func (n *node) introduction(ctx context.Context) http.Header {
	project, _ := ctx.Value(projectKey{}).(string)
	if project == "" || !n.forwards.Load() {
		return nil
	}
	return http.Header{projectHeader: {project}}
}

// reach settles how another city's node is reached: at its address, where it is on this
// machine, else through its city's gateway.
func (n *node) reach(ctx context.Context) {
	if n.via == nil || n.url == nil {
		return
	}
	c, err := (&net.Dialer{Timeout: reachTimeout}).DialContext(ctx, "tcp", n.url.Host)
	if err == nil {
		c.Close()
	}
	if forwards := err != nil; n.forwards.Swap(forwards) != forwards {
		n.log.Debug("way to another city's node", "chain", n.chain, "city", n.city, "through_its_gateway", forwards)
	}
}

// reachTimeout bounds a look whether anything listens at an address of this machine.
const reachTimeout = 200 * time.Millisecond
