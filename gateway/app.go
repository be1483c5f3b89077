package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"golang.org/x/sync/singleflight"
)

// Artifacts fetches packages by their SHA-256 in hex, checked and of bounded size.
type Artifacts interface {
	Get(ctx context.Context, hash string) ([]byte, error)
}

const (
	// packagesHeld and packageBytesHeld bound the packages kept in memory.
	packagesHeld     = 64
	packageBytesHeld = 64 << 20

	// describePerSecond is how many descriptions of apps are given in a second.
	// They are public and need no key.
	describePerSecond = 100

	maxArguments = 64
)

// appPackage is an app's artifact and what it offers.
type appPackage struct {
	text       []byte
	interfaces []bsn.Interface
}

// packages keeps the artifacts of the apps that are called.
type packages struct {
	source Artifacts
	flight singleflight.Group

	mu    sync.Mutex
	held  map[string]*appPackage // by hash; content never changes
	order []string               // oldest first
	bytes int
}

func (s *packages) get(ctx context.Context, f Protocol, hash string) (*appPackage, error) {
	s.mu.Lock()
	p := s.held[hash]
	s.mu.Unlock()
	if p != nil {
		return p, nil
	}
	v, err, _ := s.flight.Do(hash, func() (any, error) {
		// Others wait for the same package, so one who goes away does not end it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		text, err := s.source.Get(ctx, hash)
		if err != nil {
			return nil, fmt.Errorf("get artifact %s: %w", hash, err)
		}
		interfaces, err := f.Describe(text)
		if err != nil {
			return nil, fmt.Errorf("read artifact %s: %w", hash, err)
		}
		p := &appPackage{text: text, interfaces: interfaces}
		s.keep(hash, p)
		return p, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*appPackage), nil
}

func (s *packages) keep(hash string, p *appPackage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = map[string]*appPackage{}
	}
	s.held[hash] = p
	s.order = append(s.order, hash)
	s.bytes += len(p.text)
	for len(s.order) > 1 && (len(s.order) > packagesHeld || s.bytes > packageBytesHeld) {
		s.bytes -= len(s.held[s.order[0]].text)
		delete(s.held, s.order[0])
		s.order = s.order[1:]
	}
}

// description is the answer to GET /app/{account}/{app}.
type description struct {
	App      string `json:"app"`
	Version  int    `json:"version"`
	Artifact string `json:"artifact"`
	Chain    string `json:"chain"`
	// NetworkID is the id that callers sign transactions for.
	NetworkID uint64                `json:"networkId"`
	RPC       string                `json:"rpc"` // path of the chain's JSON-RPC here
	Cities    map[string]appCity    `json:"cities"`
	Contracts []contractDescription `json:"contracts"`
}

type appCity struct {
	Status  bsn.PlacementStatus `json:"status"` // empty: the city has not answered yet
	Reason  string              `json:"reason,omitempty"`
	Gateway string              `json:"gateway,omitempty"`
}

type contractDescription struct {
	Name      string          `json:"name"`
	Address   string          `json:"address"`
	ABI       json.RawMessage `json:"abi,omitempty"`
	Functions []bsn.Function  `json:"functions"`
}

// target is what an /app address means here and now.
type target struct {
	id      string
	app     *bsn.App
	version bsn.Version
	pool    *pool
	pkg     *appPackage
}

// appError is an answer of an /app address that is no success.
type appError struct {
	status int
	text   string
	wait   time.Duration // for Retry-After
	limit  string        // the kind of limit or restriction that was met, if one was
}

// failOf is an answer that is an error, as an /app address gives it.
func failOf(a answer) *appError {
	return &appError{a.status, errorText(a.failure), a.retryAfter, a.limit}
}

func (e *appError) Error() string { return e.text }

func failApp(status int, format string, args ...any) *appError {
	return &appError{status: status, text: fmt.Sprintf(format, args...)}
}

// findApp finds the app of a request's address, whose name may end in @version.
func (g *Gateway) findApp(r *http.Request) (t target, err error) {
	if !g.directory.state().known {
		return t, failApp(http.StatusServiceUnavailable, "gateway has not read the ledger yet: try again in a moment")
	}
	if text, refused := g.unheard(bsn.MethodRead); refused {
		return t, &appError{status: http.StatusServiceUnavailable, text: text, wait: aloneRetry}
	}
	name, number, err := appName(r)
	if err != nil {
		return t, err
	}
	t.id = bsn.ID(r.PathValue("account"), name)
	app, ok := g.directory.app(t.id)
	if !ok {
		return t, failApp(http.StatusNotFound, "there is no app %s", clipName(t.id))
	}
	t.app = app
	if t.version, ok = app.Serving(g.cfg.City, number); !ok {
		return t, g.notServed(app, number)
	}
	var bad answer
	if t.pool, bad, ok = g.route(t.version.Chain); !ok {
		return t, failOf(bad)
	}
	if t.pkg, err = g.packages.get(r.Context(), t.pool.framework, t.version.Artifact); err != nil {
		g.log.Warn("app's package is not at hand", "app", t.id, "version", t.version.Number, "error", err)
		return t, failApp(http.StatusServiceUnavailable, "package of app %s is not at hand: try again", t.id)
	}
	return t, nil
}

// appName reads the app's name and version, 0 for the newest, from an address.
func appName(r *http.Request) (name string, number int, err error) {
	name, versionText, pinned := strings.Cut(r.PathValue("app"), "@")
	if pinned {
		if number, err = strconv.Atoi(versionText); err != nil || number < 1 {
			return name, 0, failApp(http.StatusBadRequest, "version %q is not a number from 1: write %s@1", clipName(versionText), clipName(name))
		}
	}
	return name, number, nil
}

// appOf is the app of a request's address, if there is one.
func (g *Gateway) appOf(r *http.Request) (app *bsn.App, number int, ok bool) {
	name, number, err := appName(r)
	if err != nil {
		return nil, 0, false
	}
	app, ok = g.directory.app(bsn.ID(r.PathValue("account"), name))
	return app, number, ok
}

// notServed says where else the app is, since this city does not serve it.
func (g *Gateway) notServed(app *bsn.App, number int) error {
	cities := map[string]bool{}
	for _, v := range app.Versions {
		for city := range v.Placements {
			if _, ok := app.Serving(city, number); ok {
				cities[city] = true
			}
		}
	}
	what := "app " + app.ID()
	if number > 0 {
		what += "@" + strconv.Itoa(number)
	}
	if len(cities) == 0 {
		return failApp(http.StatusNotFound, "%s is not served in city %s, nor elsewhere", what, g.cfg.City)
	}
	return failApp(http.StatusNotFound, "%s is not served in city %s; it is in %s", what, g.cfg.City,
		strings.Join(slices.Sorted(maps.Keys(cities)), ", "))
}

// errorText is the message of a JSON-RPC error object.
func errorText(failure []byte) string {
	var e struct{ Message string }
	_ = json.Unmarshal(failure, &e) // made by refuse
	return e.Message
}

// serveDescription answers GET /app/{account}/{app}. What it tells is on the
// ledger for everyone, so it needs no key.
func (g *Gateway) serveDescription(w http.ResponseWriter, r *http.Request) {
	if _, a, ok := take(time.Since(epoch), 0, []level{g.appLevel("describe", describePerSecond)}); !ok {
		g.replyApp(w, nil, &appError{a.status, "too many descriptions are asked for at this gateway: wait a moment", a.retryAfter, a.limit})
		return
	}
	t, err := g.findApp(r)
	if err != nil {
		g.replyApp(w, nil, err)
		return
	}
	d := description{
		App: t.id, Version: t.version.Number, Artifact: t.version.Artifact,
		Chain: t.version.Chain, NetworkID: t.pool.chain.NetworkID, RPC: "/rpc/" + t.version.Chain,
		Cities: map[string]appCity{}, Contracts: []contractDescription{},
	}
	for _, name := range t.version.Cities {
		city, _ := g.directory.city(name)
		p := t.version.Placements[name]
		d.Cities[name] = appCity{Status: p.Status, Reason: p.Reason, Gateway: city.Gateway}
	}
	for _, c := range t.version.Contracts {
		cd := contractDescription{Name: c.Name, Address: c.Address, Functions: []bsn.Function{}}
		for _, i := range t.pkg.interfaces {
			if i.Contract == c.Name {
				cd.ABI, cd.Functions = i.ABI, i.Functions
			}
		}
		d.Contracts = append(d.Contracts, cd)
	}
	text, err := json.Marshal(d)
	g.replyApp(w, text, err)
}

// serveQuery answers GET and POST /app/{account}/{app}/{contract}/{function}
// with {"result": …}.
func (g *Gateway) serveQuery(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	c, bad, ok := g.authorise(keyOf(r), g.peerOf(r))
	if !ok {
		g.replyApp(w, nil, failOf(bad))
		return
	}
	t, err := g.findApp(r)
	if err != nil {
		g.replyApp(w, nil, err)
		return
	}
	taken, bad, ok := g.memory.enter(g.bodySize(r))
	if !ok {
		g.replyApp(w, nil, failOf(bad))
		return
	}
	defer g.memory.Give(taken)
	c.at = began
	t.pool.touch(began)
	units := t.pool.methods.Methods[queryMethod].Units
	result, cost, o, err := g.query(w, r, c, t, units)
	if failed := g.meter.record(&c, t.pool.chain.Name, bsn.MethodRead, units, o, time.Since(began)); failed != nil {
		o, err = outcomeUnavailable, failOf(unmetered(failed))
	}
	if o.served() {
		cost.units = units
	}
	cost.tell(w.Header())
	var text []byte
	if err == nil {
		text, err = json.Marshal(map[string]json.RawMessage{"result": result})
	}
	g.replyApp(w, text, err)
}

// appLevel bounds how often one app is called here.
func (g *Gateway) appLevel(id string, perSecond int) level {
	return level{allowance: g.apps.get(id), requestsPerSecond: float64(perSecond), what: "app ", name: id}
}

// queryMethod is the method that a read call of a function saves its caller, and
// whose price it has.
const queryMethod = "eth_call"

func (g *Gateway) query(w http.ResponseWriter, r *http.Request, c caller, t target, units int) (_ json.RawMessage, cost spent, o outcome, _ error) {
	contract, function := r.PathValue("contract"), r.PathValue("function")
	if a, ok := c.allowQuery(t, contract); !ok {
		return nil, cost, a.outcome, failOf(a)
	}
	if a, ok := g.meterable(&c, t.pool.chain.Name, bsn.MethodRead); !ok {
		return nil, cost, a.outcome, failOf(a)
	}
	perSecond := t.version.Limits.RequestsPerSecond
	if perSecond <= 0 {
		perSecond = g.cfg.AppRequestsPerSecond
	}
	taken, ok := g.limit(&c, units, g.appLevel(t.id, perSecond))
	if cost = taken.spent; !ok {
		return nil, cost, taken.outcome, failOf(taken)
	}
	if a, ok := g.quota(&c, units); !ok {
		return nil, cost, a.outcome, failOf(a)
	}
	defer func() { g.quotaDone(&c, units, o.served()) }()
	if err := t.check(contract, function); err != nil {
		return nil, cost, outcomeRefused, err
	}
	if !mayQuery(t, c.project.Account, function) {
		return nil, cost, outcomeRefused, failApp(http.StatusForbidden,
			"account %s is in no role of app %s that lists function %s: its owner %s can add it", c.project.Account, t.id, function, t.app.Account)
	}
	args, err := g.arguments(w, r)
	if err != nil {
		return nil, cost, outcomeMalformed, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.UpstreamTimeout)
	defer cancel()
	var asked []*node
	height := t.pool.state.floors.get(c.who(), time.Now())
	for nodes := t.pool.untried(ctx, height, nil, &asked); len(nodes) > 0; nodes = t.pool.untried(ctx, height, nil, &asked) {
		for _, n := range nodes {
			result, err := t.pool.framework.Query(ctx, n.reached(), t.version, t.pkg.text, contract, function, args)
			switch {
			case err == nil && int64(len(result)) > g.cfg.MaxResponseBytes:
				return nil, cost, outcomeLimited, failApp(http.StatusUnprocessableEntity, "answer is larger than %d bytes", g.cfg.MaxResponseBytes)
			case err == nil:
				return result, cost, outcomeOK, nil
			case !unreachable(err):
				return nil, cost, outcomeError, failApp(http.StatusUnprocessableEntity, "%v", err)
			case ctx.Err() != nil:
				return nil, cost, outcomeUnavailable, failApp(http.StatusGatewayTimeout, "no node of chain %s answered in time", t.pool.chain.Name)
			}
			n.lost(err)
		}
	}
	return nil, cost, outcomeUnavailable, failApp(http.StatusServiceUnavailable, "no node of chain %s answers now: try again", t.pool.chain.Name)
}

// unreachable tells whether an error is of the way to the node, and not the
// contract's answer.
func unreachable(err error) bool {
	var n net.Error // includes *url.Error
	var u *url.Error
	return errors.As(err, &n) || errors.As(err, &u) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded)
}

// check tells whether the version has this contract and a function of this name
// that reads.
func (t target) check(contract, function string) error {
	i := slices.IndexFunc(t.pkg.interfaces, func(i bsn.Interface) bool { return i.Contract == contract })
	j := slices.IndexFunc(t.version.Contracts, func(c bsn.Contract) bool { return c.Name == contract })
	if i < 0 || j < 0 {
		var names []string
		for _, c := range t.version.Contracts {
			names = append(names, c.Name)
		}
		return failApp(http.StatusNotFound, "app %s has no contract %s; it has %s", t.id, clipName(contract), strings.Join(names, ", "))
	}
	name, _, _ := strings.Cut(function, "(") // overloaded functions are told apart by their inputs
	found := false
	for _, f := range t.pkg.interfaces[i].Functions {
		if f.Name == name || f.Name == function {
			if f.Reads {
				return nil
			}
			found = true
		}
	}
	if !found {
		return failApp(http.StatusNotFound, "contract %s of app %s has no function %s: GET /app/%s lists them", contract, t.id, clipName(function), t.id)
	}
	return failApp(http.StatusBadRequest,
		"function %s writes: it needs a transaction signed by the caller; sign one to %s for network id %d and hand it in at /rpc/%s with the same key",
		name, t.version.Contracts[j].Address, t.pool.chain.NetworkID, t.version.Chain)
}

// mayQuery tells whether the version's roles let the account read the function.
func mayQuery(t target, account, function string) bool {
	if len(t.version.Roles) == 0 || account == t.app.Account {
		return true
	}
	name, _, _ := strings.Cut(function, "(")
	for _, role := range t.version.Roles {
		if slices.Contains(role.Accounts, account) && slices.ContainsFunc(role.Functions, func(f string) bool {
			return f == "*" || f == name || f == function
		}) {
			return true
		}
	}
	return false
}

// arguments reads a call's arguments: {"args":[…]} in the body of a POST; of a
// GET, args=[…] in JSON, or any number of arg, each the text of one argument.
func (g *Gateway) arguments(w http.ResponseWriter, r *http.Request) ([]json.RawMessage, error) {
	var args []json.RawMessage
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost:
		text, bad, ok := g.readBody(w, r)
		if !ok {
			return nil, failOf(bad)
		}
		var body struct{ Args []json.RawMessage }
		if err := scanText(text, maxRequestDepth); err != nil {
			return nil, failApp(http.StatusBadRequest, `body: %v; it is {"args":[…]}`, err)
		}
		if err := json.Unmarshal(text, &body); err != nil {
			return nil, failApp(http.StatusBadRequest, `body must be {"args":[…]}`)
		}
		args = body.Args
	case query.Has("args"):
		text := []byte(query.Get("args"))
		if err := scanText(text, maxRequestDepth); err != nil {
			return nil, failApp(http.StatusBadRequest, "args: %v; it is a JSON array", err)
		}
		if err := json.Unmarshal(text, &args); err != nil {
			return nil, failApp(http.StatusBadRequest, "args must be a JSON array")
		}
	default:
		for _, text := range query["arg"] {
			args = append(args, quote(text))
		}
	}
	if len(args) > maxArguments {
		return nil, failApp(http.StatusBadRequest, "%d arguments are more than %d", len(args), maxArguments)
	}
	return args, nil
}

// replyApp writes the answer of an /app address, or {"error": …}.
func (g *Gateway) replyApp(w http.ResponseWriter, text []byte, err error) {
	status := http.StatusOK
	var e *appError
	if err != nil {
		status = http.StatusInternalServerError
		if errors.As(err, &e) {
			status = e.status
			if e.wait > 0 || status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", strconv.Itoa(retrySeconds(e.wait)))
			}
		}
		text = append([]byte(`{"error":`), quote(err.Error())...)
		if e != nil && e.limit != "" {
			text = append(append(append(text, `,"limit":"`...), e.limit...), '"')
		}
		text = append(text, '}')
	}
	g.write(w, status, text)
}
