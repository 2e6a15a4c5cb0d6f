package telemetry

import "github.com/prometheus/client_golang/prometheus"

// exported is a collector of what is counted elsewhere: read hands it over when somebody scrapes.
type exported struct {
	descs []*prometheus.Desc
	read  func(metrics)
}

// Describe implements prometheus.Collector.
func (e exported) Describe(to chan<- *prometheus.Desc) {
	for _, d := range e.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (e exported) Collect(to chan<- prometheus.Metric) { e.read(to) }

// metrics are those of one scrape.
type metrics chan<- prometheus.Metric

func (m metrics) count(d *prometheus.Desc, n uint64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (m metrics) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m metrics) flag(d *prometheus.Desc, is bool, labels ...string) {
	v := 0.
	if is {
		v = 1
	}
	m.gauge(d, v, labels...)
}
