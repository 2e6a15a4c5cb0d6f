package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/outage"
)

// Outage exports whether the store that replicas share answers, what is decided without it, and what it is still owed.
func Outage(s *outage.Store) prometheus.Collector { return outages{s} }

var (
	breakerDesc = prometheus.NewDesc("sluice_store_breaker_open",
		"1 while the shared store does not answer and is not asked: limits mean what their on_outage says.", nil, nil)
	openedDesc = prometheus.NewDesc("sluice_store_breaker_opened_total",
		"How often that began.", nil, nil)
	failuresDesc = prometheus.NewDesc("sluice_store_failures_total",
		"Calls of the shared store that came to nothing: it was silent, it said that it can't count now (refused), or too many were under way (crowded).", []string{"how"}, nil)
	degradedDesc = prometheus.NewDesc("sluice_store_degraded_total",
		"Answers without the shared store, by the strictest on_outage of their limits.", []string{"on_outage"}, nil)
	owedDesc = prometheus.NewDesc("sluice_store_journal_operations",
		"Admissions without the shared store that it has not counted yet.", nil, nil)
	reappliedDesc = prometheus.NewDesc("sluice_store_journal_reapplied_total",
		"Admissions handed to the shared store afterwards; it counts those that it does not know.", nil, nil)
	lostDesc = prometheus.NewDesc("sluice_store_journal_dropped_total",
		"Admissions that are not handed to the shared store any more: those it has not counted (owed: too many, or too old), and those that it acknowledged, if it should have lost them (acknowledged: too old).", []string{"kind"}, nil)
)

type outages struct{ store *outage.Store }

// Describe implements prometheus.Collector.
func (outages) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{breakerDesc, openedDesc, failuresDesc, degradedDesc, owedDesc, reappliedDesc, lostDesc} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (o outages) Collect(c chan<- prometheus.Metric) {
	s := o.store.Stats()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	c <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, oneIf(s.Open))
	count(openedDesc, s.Opened)
	count(failuresDesc, s.Silences, "silent")
	count(failuresDesc, s.Disorders, "refused")
	count(failuresDesc, s.Crowded, "crowded")
	for policy, n := range s.Degraded {
		count(degradedDesc, n, ratelimit.Outage(policy).String())
	}
	c <- prometheus.MustNewConstMetric(owedDesc, prometheus.GaugeValue, float64(s.Owed))
	count(reappliedDesc, s.Reapplied)
	count(lostDesc, s.Dropped, "owed")
	count(lostDesc, s.Unsure, "acknowledged")
}
