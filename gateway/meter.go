package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/gateway/table"
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
	outcomeLeft        outcome = "left"        // the caller had gone before there was an answer
)

// served tells whether a call that ended so is charged.
func (o outcome) served() bool { return o == outcomeOK || o == outcomeError }

// classNone stands for calls that no row of the method table was found for.
const classNone bsn.MethodClass = "none"

// meter counts what is called. It holds nothing of the calls themselves.
type meter struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	sockets  prometheus.Gauge
	streams  *prometheus.GaugeVec
	notices  *prometheus.CounterVec
	refused  *prometheus.CounterVec
	// metered are the metrics of calls, by what tells them apart.
	metered table.Table[callKind, *callMetrics]
	journal *journal.Journal
}

type callKind struct {
	chain   string
	class   bsn.MethodClass
	outcome outcome
}

type callMetrics struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

func newMeter(j *journal.Journal) *meter {
	m := &meter{
		journal:  j,
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
	}
	gap := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bsn_gateway_journal_sync_gap_seconds",
		Help: "Longest time since the start between two times when all that was counted lay on the disk: what a loss of power loses.",
	}, func() float64 { return j.Gap().Seconds() })
	m.registry.MustRegister(m.requests, m.seconds, m.sockets, m.streams, m.notices, m.refused, gap,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// row is what a call is counted as.
func (c *caller) row(chain string, class bsn.MethodClass) journal.Row {
	return journal.Row{Project: c.id, Key: c.key.ID, Chain: chain, Class: class}
}

// meterable refuses a call that could not be counted: nothing is served for which
// the journal has no place.
func (g *Gateway) meterable(c *caller, chain string, class bsn.MethodClass) (answer, bool) {
	if err := g.meter.journal.Ready(c.row(chain, class)); err != nil {
		return unmetered(err), false
	}
	return answer{}, true
}

func unmetered(err error) answer {
	return refuse(outcomeUnavailable, codeUnavailable,
		"this gateway cannot count the call, and so does not answer it: %v; a transaction may have been taken: look for its receipt", err).with(http.StatusServiceUnavailable)
}

// record counts a call before its answer leaves. Every call of every protocol
// comes through here exactly once: this is where a billed call is journaled. After an
// error the call is not counted, and must not be answered.
func (m *meter) record(c *caller, chain string, class bsn.MethodClass, units int, o outcome, took time.Duration) (err error) {
	if o.served() {
		if err = m.journal.Add(c.row(chain, class), uint64(max(units, 0))); err != nil {
			o = outcomeUnavailable
		}
	}
	kind := callKind{chain, class, o}
	metrics, known := m.metered.Get(kind)
	if !known {
		metrics, _ = m.metered.Add(kind, func() (*callMetrics, error) {
			return &callMetrics{m.requests.WithLabelValues(chain, string(class), string(o)), m.seconds.WithLabelValues(chain, string(class))}, nil
		})
	}
	metrics.requests.Inc()
	metrics.seconds.Observe(took.Seconds())
	return err
}

// newJournal makes the journal of what is called.
func (g *Gateway) newJournal() *journal.Journal {
	return journal.New(journal.Config{
		Dir: g.cfg.Journal,
		Now: func() (int64, bool) {
			now := g.directory.now()
			return now.Unix(), !now.IsZero() && g.directory.state().known
		},
		Period: func() int64 { return g.directory.parameters().ReceiptPeriod },
		Log:    g.log,
	})
}

// keepJournal brings what is called to the disk until the function that it returns
// is called, after the last call.
func (g *Gateway) keepJournal(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { g.meter.journal.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
		if err := g.meter.journal.Close(); err != nil {
			g.log.Error("journal does not end well", "error", err)
		}
	}
}

// serveUsage says what was called here and is in no receipt yet.
func (g *Gateway) serveUsage(w http.ResponseWriter, _ *http.Request) {
	rows, err := g.meter.journal.Rows()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	g.writeJSON(w, http.StatusOK, map[string]any{"usage": rows})
}
