package gateway

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/openbsn/bsn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// health is the answer to GET /health.
type health struct {
	// Status is "ok", "degraded" if a chain has no node that answers or the gateway
	// stands alone, "alone" if it has for so long that it answers nothing, "starting"
	// until the ledger or the state file has been read, or "stopping". The last three
	// come with HTTP status 503.
	Status string        `json:"status"`
	City   string        `json:"city"`
	Ledger ledgerHealth  `json:"ledger"`
	Chains []chainHealth `json:"chains"` // in order of name
}

type ledgerHealth struct {
	Height int64 `json:"height"`
	// Time of that block.
	Time time.Time `json:"time,omitzero"`
	// Contact is when the ledger last said anything to this process; absent if
	// it has not yet.
	Contact time.Time `json:"contact,omitzero"`
	// Age of the block in seconds: ledger time, whatever the machine's clock says.
	Age int64 `json:"ageSeconds"`
	// Alone is what the gateway still answers while it stands alone: "writes" (and
	// reads), "reads" or "none"; absent if it does not.
	Alone string `json:"alone,omitempty"`
}

type chainHealth struct {
	Chain  string          `json:"chain"`
	Status bsn.ChainStatus `json:"status"`
	Nodes  []nodeHealth    `json:"nodes"` // in the order in which they are asked
}

type nodeHealth struct {
	// City that the node is in, or outside/ and the name of a provider.
	City string `json:"city"`
	// Answers: it is thought alive. Level: it is not behind the others, so that it
	// is given calls.
	Answers bool  `json:"answers"`
	Level   bool  `json:"level"`
	Height  int64 `json:"height"` // 0: not known yet
	// Cordoned: the city's operator wants it to be asked nothing.
	Cordoned bool `json:"cordoned,omitempty"`
	// Rests is for how many seconds it is left alone, since it limits this gateway or
	// failed several times in a row.
	Rests int64 `json:"restsSeconds,omitempty"`
}

func (g *Gateway) health() health {
	s := g.directory.state()
	h := health{
		Status: "ok", City: g.cfg.City,
		Ledger: ledgerHealth{Height: s.height, Time: s.time, Contact: s.contact},
		Chains: []chainHealth{},
	}
	alone := g.standing()
	h.Ledger.Age = int64(alone.age.Seconds())
	if alone.alone {
		h.Ledger.Alone = string(alone.allows)
	}
	if alone.alone || time.Since(s.contact) > ledgerSilence {
		h.Status = "degraded"
	}
	for _, p := range g.upstreams.all() {
		ch := chainHealth{Chain: p.chain.Name, Status: p.chain.Status, Nodes: []nodeHealth{}}
		floor, good := p.floor(time.Now()), false
		for _, n := range p.nodes {
			_, alive := n.alive()
			level := n.head.Load() >= floor
			rests := n.restUntil.Load() - time.Now().UnixNano()
			good = good || alive && level && rests <= 0 && !n.cordoned.Load()
			ch.Nodes = append(ch.Nodes, nodeHealth{
				City: n.city, Answers: alive, Level: level, Height: n.head.Load(), Cordoned: n.cordoned.Load(),
				Rests: int64(math.Ceil(max(time.Duration(rests), 0).Seconds())),
			})
		}
		if !good && len(p.nodes) > 0 {
			h.Status = "degraded"
		}
		h.Chains = append(h.Chains, ch)
	}
	switch {
	case g.draining.Err() != nil:
		h.Status = "stopping"
	case !s.known:
		h.Status = "starting"
	case alone.allows == allowsNothing:
		h.Status = "alone"
	}
	return h
}

func (g *Gateway) serveHealth(w http.ResponseWriter, _ *http.Request) {
	h := g.health()
	status := http.StatusOK
	if h.Status == "stopping" || h.Status == "starting" || h.Status == "alone" {
		status = http.StatusServiceUnavailable
	}
	g.writeJSON(w, status, h)
}

func (g *Gateway) writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	g.write(w, status, text)
}

// serveRoot says what this is.
func (g *Gateway) serveRoot(w http.ResponseWriter, _ *http.Request) {
	g.writeJSON(w, http.StatusOK, map[string]any{
		"service": "bsn gateway",
		"city":    g.cfg.City,
		"addresses": map[string]string{
			"rpc":    "/rpc/{chain} (JSON-RPC: POST or WebSocket; key as x-api-key or Authorization: Bearer, or /rpc/{chain}/{key})",
			"rest":   "/rest/{chain}/… (REST, of chains that speak it; with a key)",
			"grpc":   "gRPC, of chains that speak it: metadata x-api-key and x-bsn-chain",
			"app":    "/app/{account}/{app}[@version] (GET: what it offers)",
			"call":   "/app/{account}/{app}/{contract}/{function} (GET ?args=[…] or ?arg=…, or POST {\"args\":[…]}; with a key)",
			"health": "/health",
		},
	})
}

// private serves what is for the machine's operator.
func (g *Gateway) private() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.meter.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /usage", g.serveUsage)
	mux.HandleFunc("GET /health", g.serveHealth)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	return mux
}

// Header values that every answer shares. Any page may call: the key is the
// authorisation, and no browser adds it by itself.
var (
	allowOrigin   = []string{"*"}
	exposeHeaders = []string{"bsn-ledger-height, bsn-ledger-age, bsn-alone, bsn-city-status, bsn-city-until, retry-after, bsn-units, ratelimit, ratelimit-policy"}
)

// preflightHeaders answer a browser that asks before it calls.
var (
	preflightHeaders = http.Header{
		"Access-Control-Allow-Methods": {"GET, POST, OPTIONS"},
		"Access-Control-Allow-Headers": {"content-type, content-encoding, x-api-key, authorization"},
		"Access-Control-Max-Age":       {"86400"},
	}
	preflightLines = headerLines(preflightHeaders)
)

// heightHeader tells how far the ledger was known when an answer was given. While
// the gateway stands alone, ageHeader tells how many seconds old that is, and
// aloneHeader what is still answered.
const (
	heightHeader = "Bsn-Ledger-Height"
	ageHeader    = "Bsn-Ledger-Age"
	aloneHeader  = "Bsn-Alone"
)

func (g *Gateway) commonHeaders(h http.Header) {
	h["Access-Control-Allow-Origin"] = allowOrigin
	h["Access-Control-Expose-Headers"] = exposeHeaders
	if s := g.directory.state(); s.known {
		h[heightHeader] = []string{strconv.FormatInt(s.height, 10)}
	}
	if c, going := g.going(); going {
		h[statusHeader] = []string{string(c.Status)}
		if c.Until > 0 {
			h[untilHeader] = []string{time.Unix(c.Until, 0).UTC().Format(time.RFC3339)}
		}
	}
	if s := g.standing(); s.alone {
		h[ageHeader] = []string{strconv.Itoa(int(s.age.Seconds()))}
		h[aloneHeader] = []string{string(s.allows)}
	}
}

var (
	describeNodeUp = prometheus.NewDesc("bsn_gateway_node_up", "1 if the node is thought alive.", []string{"chain", "city"}, nil)
	describeHead   = prometheus.NewDesc("bsn_gateway_node_height", "Newest block that the node is known to have.", []string{"chain", "city"}, nil)
	describeLedger = prometheus.NewDesc("bsn_gateway_ledger_height", "Height to which the ledger is known.", nil, nil)
	describeAge    = prometheus.NewDesc("bsn_gateway_ledger_age_seconds", "Age of that block.", nil, nil)
	describeAlone  = prometheus.NewDesc("bsn_gateway_alone", "1 while the gateway stands alone; what it still answers says the label.", []string{"answers"}, nil)
)

var (
	describeConns  = prometheus.NewDesc("bsn_gateway_connections", "Open connections of clients, WebSockets included.", nil, nil)
	describeTurned = prometheus.NewDesc("bsn_gateway_connections_refused_total", "Connections that were refused for want of room.", nil, nil)
)

// watch adds to the metrics what is read from the gateway when they are asked for.
func (m *meter) watch(g *Gateway) { m.registry.MustRegister(healthCollector{g}) }

type healthCollector struct{ g *Gateway }

func (c healthCollector) Describe(out chan<- *prometheus.Desc) {
	out <- describeNodeUp
	out <- describeHead
	out <- describeLedger
	out <- describeAge
	out <- describeAlone
	out <- describeConns
	out <- describeTurned
}

func (c healthCollector) Collect(out chan<- prometheus.Metric) {
	h := c.g.health()
	out <- prometheus.MustNewConstMetric(describeLedger, prometheus.GaugeValue, float64(h.Ledger.Height))
	out <- prometheus.MustNewConstMetric(describeAge, prometheus.GaugeValue, float64(h.Ledger.Age))
	out <- prometheus.MustNewConstMetric(describeAlone, prometheus.GaugeValue, float64(btoi(h.Ledger.Alone != "")), cmp.Or(h.Ledger.Alone, string(allowsAll)))
	open, turned := c.g.front.Conns()
	out <- prometheus.MustNewConstMetric(describeConns, prometheus.GaugeValue, float64(open))
	out <- prometheus.MustNewConstMetric(describeTurned, prometheus.CounterValue, float64(turned))
	for _, chain := range h.Chains {
		for _, n := range chain.Nodes {
			out <- prometheus.MustNewConstMetric(describeNodeUp, prometheus.GaugeValue, float64(btoi(n.Answers)), chain.Chain, n.City)
			out <- prometheus.MustNewConstMetric(describeHead, prometheus.GaugeValue, float64(n.Height), chain.Chain, n.City)
		}
	}
}
