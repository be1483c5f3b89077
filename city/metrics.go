package city

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/openbsn/bsn"
)

// metrics are the daemon's, for Prometheus. Other parts register theirs.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	fetches  *prometheus.CounterVec
}

func newMetrics(d *daemon) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bsn_api_requests_total", Help: "Requests to the city API by method and result.",
		}, []string{"method", "result"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bsn_fetches_total", Help: "Artifacts asked of other cities, by result.",
		}, []string{"result"}),
	}
	m.registry.MustRegister(m.requests, m.fetches, look{d},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// request counts a request to the API.
func (m *metrics) request(method, result string) { m.requests.WithLabelValues(method, result).Inc() }

// fetched counts an artifact that was asked of other cities.
func (m *metrics) fetched(err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.fetches.WithLabelValues(result).Inc()
}

// serveMetrics serves until ctx ends.
func (d *daemon) serveMetrics(ctx context.Context) error {
	l, err := net.Listen("tcp", or(d.cfg.City.Metrics, d.addr(bsn.PortCityMetrics)))
	if err != nil {
		return fmt.Errorf("listen for the city's metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	s := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the city's metrics: %w", err)
	}
	return nil
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	ledgerHeight     = describe("bsn_ledger_height", "Newest block of the ledger here.")
	ledgerAge        = describe("bsn_ledger_age_seconds", "Since that block's time, in ledger time.")
	ledgerPeers      = describe("bsn_ledger_peers", "Connected ledger nodes.")
	ledgerValidators = describe("bsn_ledger_validators", "Validators of the newest block.")
	ledgerReachable  = describe("bsn_ledger_validators_reachable", "Validators that this city is connected to, itself among them.")
	ledgerHalted     = describe("bsn_ledger_halted", "1 if no block has come for 30 s.")
	ledgerSyncing    = describe("bsn_ledger_syncing", "1 while the ledger node is catching up.")
	ledgerWaiting    = describe("bsn_ledger_waiting_transactions", "Transactions that wait for a block.")
	ledgerBytes      = describe("bsn_ledger_waiting_bytes", "Their size.")
	ledgerDone       = describe("bsn_ledger_transactions_total", "Transactions in blocks since the ledger node was started, by result.", "result")
	nodeRunning      = describe("bsn_node_running", "1 if the process runs.", "node")
	nodeRestarts     = describe("bsn_node_restarts_total", "Starts after the first one since the daemon runs.", "node")
	nodeUp           = describe("bsn_node_up", "1 if the chain's node answers, is level and has a block of the last 30 s.", "node", "chain")
	nodeHeight       = describe("bsn_node_height", "Newest block of the node.", "node", "chain")
	nodePeers        = describe("bsn_node_peers", "Connected nodes of the chain.", "node", "chain")
	nodeAge          = describe("bsn_node_head_age_seconds", "Since the newest block's own time.", "node", "chain")
	fetchesRunning   = describe("bsn_fetches_running", "Artifacts that are being fetched.")
	artifactBytes    = describe("bsn_artifacts_bytes", "Size of all artifacts here.")
	apiConnections   = describe("bsn_api_connections", "Open connections of the city API, of known callers and of others.", "of")
	awaitingVote     = describe("bsn_proposals_awaiting_vote", "Open proposals on which this city's operator has not voted.")
)

// look collects what is read when the metrics are asked for.
type look struct{ d *daemon }

// Describe implements prometheus.Collector. What is collected differs with what
// runs: an unchecked collector says nothing of it.
func (l look) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (l look) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*askTimeout)
	defer cancel()
	d := l.d
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	counter := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, labels...)
	}
	if s, err := d.ledger.Status(ctx); err == nil {
		gauge(ledgerHeight, float64(s.Height))
		gauge(ledgerPeers, float64(s.Peers))
		gauge(ledgerValidators, float64(s.Validators))
		gauge(ledgerReachable, float64(s.Reachable))
		gauge(ledgerHalted, one(s.Halted))
		gauge(ledgerSyncing, one(s.Syncing))
		gauge(ledgerWaiting, float64(s.Waiting))
		gauge(ledgerBytes, float64(s.WaitingBytes))
		counter(ledgerDone, float64(s.Done), "done")
		counter(ledgerDone, float64(s.Refused), "refused")
	}
	if age, known := d.mirror.clock.Age(); known {
		gauge(ledgerAge, age.Seconds())
	}
	byID := map[string]bsn.Site{}
	for _, site := range d.nodes.all() {
		byID[nodeID(site.Chain)] = site
	}
	var wg sync.WaitGroup
	for _, n := range d.runtime.List() {
		site, ok := byID[n.ID]
		if !ok && n.ID != gatewayID && n.State == bsn.NodeStopped {
			continue
		}
		gauge(nodeRunning, one(n.State == bsn.NodeRunning), n.ID)
		counter(nodeRestarts, float64(n.Restarts), n.ID)
		if !ok {
			continue
		}
		wg.Go(func() {
			ask, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			h, err := d.frameworks[site.Chain.Framework].Health(ask, site)
			gauge(nodeUp, one(err == nil && !h.Syncing && h.HeadAge < maxHeadAge), n.ID, site.Chain.Name)
			if err == nil {
				gauge(nodeHeight, float64(h.Height), n.ID, site.Chain.Name)
				gauge(nodePeers, float64(h.Peers), n.ID, site.Chain.Name)
				gauge(nodeAge, h.HeadAge, n.ID, site.Chain.Name)
			}
		})
	}
	wg.Wait()
	gauge(fetchesRunning, float64(d.fetches.count()))
	gauge(artifactBytes, float64(d.artifacts.Bytes()))
	known, strangers := d.gate.Connections()
	gauge(apiConnections, float64(known), "known")
	gauge(apiConnections, float64(strangers), "strangers")
	gauge(awaitingVote, float64(d.mirror.awaiting(d.state.Operator)))
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
