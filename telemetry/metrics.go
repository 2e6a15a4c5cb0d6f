// Package telemetry sets up what the server tells of itself: Prometheus metrics
// with bounded labels and OpenTelemetry spans. What counts by tenant is package traffic;
// all of a tenant's figures are the quota API's usage.
//
// It decides nothing and sits on no hot path: counters are kept where
// they are counted and read when somebody scrapes.
package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/accesslog"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

// Decisions exports how many admissions ended for which reason, how many would have ended otherwise, and whether the gate enforces anything.
func Decisions(g *gate.Gate) prometheus.Collector {
	return exported{[]*prometheus.Desc{decisionsDesc, shadowedDesc, stageDesc, softDesc}, func(m metrics) {
		for _, r := range gate.Reasons() {
			m.count(decisionsDesc, g.Count(r), r.String())
			if r.Soft() {
				m.count(softDesc, g.SoftCount(r), r.String())
			}
		}
		m.flag(stageDesc, g.Soft(), "soft")
		m.flag(stageDesc, !g.Soft(), "enforced")
		m.count(shadowedDesc, g.Shadowed())
	}}
}

var (
	decisionsDesc = prometheus.NewDesc("sluice_decisions_total",
		"Requests decided by the gate, by reason; 'admitted' is the only one that lets a request pass.", []string{"reason"}, nil)
	shadowedDesc = prometheus.NewDesc("sluice_decisions_shadowed_total",
		"Decisions that would have been others if every rule, and the server, were enforced: what a roll-out would change.", nil, nil)
	stageDesc = prometheus.NewDesc("sluice_stage",
		"1 for the stage that the server is in: soft refuses nobody for who they are, for rules or for limits.", []string{"stage"}, nil)
	softDesc = prometheus.NewDesc("sluice_decisions_soft_total",
		"Requests that were admitted only because the stage is soft, by what they would have been refused for.", []string{"reason"}, nil)
)

// Counter counts panics.
type Counter interface{ Panics() uint64 }

// Panics exports how many panics were contained, by where. The other doors count theirs among their results.
func Panics(by map[string]Counter) prometheus.Collector {
	return exported{[]*prometheus.Desc{panicsDesc}, func(m metrics) {
		for part, counter := range by {
			m.count(panicsDesc, counter.Panics(), part)
		}
	}}
}

var panicsDesc = prometheus.NewDesc("sluice_panics_total",
	"Panics that were contained, each a refusal or the end of a stream. Should be 0: the log has where, and it is a bug.", []string{"part"}, nil)

// AccessLog exports what became of the entries that Envoy reported.
func AccessLog(s *accesslog.Server, l *accesslog.Logger) prometheus.Collector {
	return exported{[]*prometheus.Desc{entriesDesc, droppedDesc}, func(m metrics) {
		for _, r := range accesslog.Results() {
			m.count(entriesDesc, s.Count(r), r.String())
		}
		m.count(droppedDesc, l.Dropped())
	}}
}

var (
	entriesDesc = prometheus.NewDesc("sluice_access_log_entries_total",
		"Access-log entries that Envoy sent, by what the door did with them.", []string{"result"}, nil)
	droppedDesc = prometheus.NewDesc("sluice_access_log_dropped_total",
		"Outcomes that were settled but not written to the log, because its queue was full.", nil, nil)
)

// RLS exports how rate limit calls were answered.
func RLS(d *rls.Door) prometheus.Collector {
	return exported{[]*prometheus.Desc{callsDesc}, func(m metrics) {
		for _, r := range rls.Results() {
			m.count(callsDesc, d.Count(r), r.String())
		}
	}}
}

var callsDesc = prometheus.NewDesc("sluice_rls_calls_total",
	"Calls of the rate limit service, by what was answered or why.", []string{"result"}, nil)

// Store exports how full the store is and how its journal does.
func Store(s *memstore.Store, j *memstore.Journal) prometheus.Collector {
	return exported{[]*prometheus.Desc{cellsDesc, mostDesc, recordsDesc, fsyncsDesc, errorsDesc, failingDesc}, func(m metrics) {
		stats := j.Stats()
		m.gauge(cellsDesc, float64(s.Len()))
		m.gauge(mostDesc, float64(s.Cap()))
		m.count(recordsDesc, stats.Records)
		m.count(fsyncsDesc, stats.Fsyncs)
		m.count(errorsDesc, stats.Errors)
		m.flag(failingDesc, stats.Failing)
	}}
}

var (
	cellsDesc   = prometheus.NewDesc("sluice_store_cells", "Counters kept in memory.", nil, nil)
	mostDesc    = prometheus.NewDesc("sluice_store_cells_max", "Counters that may be kept in memory; beyond, requests that need a new one are refused.", nil, nil)
	recordsDesc = prometheus.NewDesc("sluice_journal_records_total", "Records that the journal wrote or deleted.", nil, nil)
	fsyncsDesc  = prometheus.NewDesc("sluice_journal_fsyncs_total", "Commits of the journal, each one or two fsyncs.", nil, nil)
	errorsDesc  = prometheus.NewDesc("sluice_journal_errors_total", "Commits of the journal that failed.", nil, nil)
	failingDesc = prometheus.NewDesc("sluice_journal_failing", "1 while the journal can't be written: durable limits spend only what is recorded.", nil, nil)
)
