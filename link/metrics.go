package link

import "github.com/prometheus/client_golang/prometheus"

// collector shows the state of every link to Prometheus.
type collector struct{ l *Link }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("bsn_link_"+name, help, append([]string{"city"}, labels...), nil)
}

var (
	connectedDesc = describe("connected", "Whether there is a connection to the city.")
	relayedDesc   = describe("relayed", "Whether the city is reached only through another one.")
	latencyDesc   = describe("latency_seconds", "Newest round trip to the city.")
	bytesDesc     = describe("carried_bytes_total", "Bytes of carried connections.", "direction")
	streamsDesc   = describe("streams", "Connections that are being carried.")
)

// Describe implements prometheus.Collector.
func (collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectedDesc, relayedDesc, latencyDesc, bytesDesc, streamsDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, city string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, city)
	}
	for _, s := range c.l.State() {
		if s.Local {
			continue
		}
		gauge(connectedDesc, number(s.Connected), s.City)
		gauge(relayedDesc, number(s.Relayed), s.City)
		if s.Latency > 0 {
			gauge(latencyDesc, s.Latency.Seconds(), s.City)
		}
		gauge(streamsDesc, float64(s.Streams), s.City)
		out <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(s.Sent), s.City, "sent")
		out <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(s.Received), s.City, "received")
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
