package gateway

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// outcome says how a call ended, in metrics.
type outcome string

const (
	outcomeOK          outcome = "ok"
	outcomeError       outcome = "error"       // an error that the node answered
	outcomeRefused     outcome = "refused"     // by policy
	outcomeLimited     outcome = "limited"     // by a limit
	outcomeMalformed   outcome = "malformed"   // no valid request
	outcomeUnavailable outcome = "unavailable" // no node answered
	outcomeAlone       outcome = "alone"       // for want of the ledger
)

// classNone stands for calls that no row of the method table was found for.
const classNone bsn.MethodClass = "none"

// usage is what a project used on one chain in one class since the start.
type usage struct {
	Project string          `json:"project"`
	Chain   string          `json:"chain"`
	Class   bsn.MethodClass `json:"class"`
	Calls   uint64          `json:"calls"`
	Units   uint64          `json:"units"` // compute units
}

type usageKey struct {
	project, chain string
	class          bsn.MethodClass
}

// meter counts what is called. It holds nothing of the calls themselves.
type meter struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	sockets  prometheus.Gauge
	streams  *prometheus.GaugeVec
	notices  *prometheus.CounterVec
	refused  *prometheus.CounterVec

	mu    sync.Mutex
	usage map[usageKey]*usage
}

func newMeter() *meter {
	m := &meter{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bsn_gateway_requests_total", Help: "Calls by chain, method class and outcome.",
		}, []string{"chain", "class", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bsn_gateway_request_seconds", Help: "Time from a call's arrival to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"chain", "class"}),
		sockets: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bsn_gateway_websockets", Help: "Open WebSocket connections of clients.",
		}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bsn_gateway_subscriptions", Help: "Subscriptions of clients that one subscription at a node serves.",
		}, []string{"chain"}),
		notices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bsn_gateway_notifications_total", Help: "Notifications of subscriptions sent to clients.",
		}, []string{"chain"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bsn_gateway_key_refusals_total", Help: "Requests without a key that is good here, by reason.",
		}, []string{"reason"}),
		usage: map[usageKey]*usage{},
	}
	m.registry.MustRegister(m.requests, m.seconds, m.sockets, m.streams, m.notices, m.refused,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// record counts a call before its answer leaves. Every call of every protocol
// comes through here exactly once: this is where a billed call is journaled.
func (m *meter) record(project, chain string, class bsn.MethodClass, units int, o outcome, took time.Duration) {
	m.requests.WithLabelValues(chain, string(class), string(o)).Inc()
	m.seconds.WithLabelValues(chain, string(class)).Observe(took.Seconds())
	if o != outcomeOK && o != outcomeError {
		return // not served, not charged
	}
	k := usageKey{project, chain, class}
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.usage[k]
	if u == nil {
		u = &usage{Project: project, Chain: chain, Class: class}
		m.usage[k] = u
	}
	u.Calls++
	u.Units += uint64(max(units, 0))
}

// used lists the usage since the start, in order of project, chain and class.
func (m *meter) used() []usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]usage, 0, len(m.usage))
	for u := range maps.Values(m.usage) {
		list = append(list, *u)
	}
	slices.SortFunc(list, func(a, b usage) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Class, b.Class))
	})
	return list
}
