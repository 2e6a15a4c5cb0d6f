package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/outage"
)

// Outage exports whether the store that replicas share answers, what is decided without it, and what it is still owed.
func Outage(s *outage.Store) prometheus.Collector {
	return exported{[]*prometheus.Desc{breakerDesc, openedDesc, failuresDesc, degradedDesc, owedDesc, reappliedDesc, lostDesc}, func(m metrics) {
		s := s.Stats()
		m.flag(breakerDesc, s.Open)
		m.count(openedDesc, s.Opened)
		m.count(failuresDesc, s.Silences, "silent")
		m.count(failuresDesc, s.Disorders, "refused")
		m.count(failuresDesc, s.Crowded, "crowded")
		for policy, n := range s.Degraded {
			m.count(degradedDesc, n, ratelimit.Outage(policy).String())
		}
		m.gauge(owedDesc, float64(s.Owed))
		m.count(reappliedDesc, s.Reapplied)
		m.count(lostDesc, s.Dropped, "owed")
		m.count(lostDesc, s.Unsure, "acknowledged")
	}}
}

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
