package gateway

import (
	"github.com/openbsn/bsn/gateway/cache"
	"github.com/prometheus/client_golang/prometheus"
)

// readCounts are metrics of how reads are answered, and of the cache.
type readCounts struct {
	reads *prometheus.CounterVec
	store *cache.Store
}

// chainCounts are those of one chain.
type chainCounts struct{ hit, joined, hedged, retried prometheus.Counter }

var (
	describeCacheBytes   = prometheus.NewDesc("bsn_gateway_cache_bytes", "Memory that cached answers take.", nil, nil)
	describeCacheEntries = prometheus.NewDesc("bsn_gateway_cache_entries", "Answers in the cache.", nil, nil)
	describeCacheEvicted = prometheus.NewDesc("bsn_gateway_cache_evicted_bytes_total", "Cached answers that made room for others.", nil, nil)
)

func newReadCounts(store *cache.Store) *readCounts {
	return &readCounts{store: store, reads: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bsn_gateway_reads_total",
		Help: "Reads that the cache answered (cached), that waited for the same question of another (joined), " +
			"that asked a second node since the first was late (hedged), and nodes that had only an error which another might not have (retried).",
	}, []string{"chain", "how"})}
}

func (c *readCounts) of(chain string) chainCounts {
	return chainCounts{
		hit: c.reads.WithLabelValues(chain, "cached"), joined: c.reads.WithLabelValues(chain, "joined"),
		hedged: c.reads.WithLabelValues(chain, "hedged"), retried: c.reads.WithLabelValues(chain, "retried"),
	}
}

// Describe and Collect make it a collector of Prometheus.
func (c *readCounts) Describe(out chan<- *prometheus.Desc) {
	c.reads.Describe(out)
	out <- describeCacheBytes
	out <- describeCacheEntries
	out <- describeCacheEvicted
}

func (c *readCounts) Collect(out chan<- prometheus.Metric) {
	c.reads.Collect(out)
	bytes, entries := c.store.Size()
	out <- prometheus.MustNewConstMetric(describeCacheBytes, prometheus.GaugeValue, float64(bytes))
	out <- prometheus.MustNewConstMetric(describeCacheEntries, prometheus.GaugeValue, float64(entries))
	out <- prometheus.MustNewConstMetric(describeCacheEvicted, prometheus.CounterValue, float64(c.store.Evicted()))
}
