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
func Decisions(g *gate.Gate) prometheus.Collector { return decisions{g} }

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

type decisions struct{ gate *gate.Gate }

// Describe implements prometheus.Collector.
func (d decisions) Describe(c chan<- *prometheus.Desc) {
	c <- decisionsDesc
	c <- shadowedDesc
	c <- stageDesc
	c <- softDesc
}

// Collect implements prometheus.Collector.
func (d decisions) Collect(c chan<- prometheus.Metric) {
	for _, r := range gate.Reasons() {
		c <- prometheus.MustNewConstMetric(decisionsDesc, prometheus.CounterValue, float64(d.gate.Count(r)), r.String())
		if r.Soft() {
			c <- prometheus.MustNewConstMetric(softDesc, prometheus.CounterValue, float64(d.gate.SoftCount(r)), r.String())
		}
	}
	c <- prometheus.MustNewConstMetric(stageDesc, prometheus.GaugeValue, oneIf(d.gate.Soft()), "soft")
	c <- prometheus.MustNewConstMetric(stageDesc, prometheus.GaugeValue, oneIf(!d.gate.Soft()), "enforced")
	c <- prometheus.MustNewConstMetric(shadowedDesc, prometheus.CounterValue, float64(d.gate.Shadowed()))
}

// Counter counts panics.
type Counter interface{ Panics() uint64 }

// Panics exports how many panics were contained, by where. The other doors count theirs among their results.
func Panics(by map[string]Counter) prometheus.Collector { return panics(by) }

var panicsDesc = prometheus.NewDesc("sluice_panics_total",
	"Panics that were contained, each a refusal or the end of a stream. Should be 0: the log has where, and it is a bug.", []string{"part"}, nil)

type panics map[string]Counter

// Describe implements prometheus.Collector.
func (panics) Describe(c chan<- *prometheus.Desc) { c <- panicsDesc }

// Collect implements prometheus.Collector.
func (p panics) Collect(c chan<- prometheus.Metric) {
	for part, counter := range p {
		c <- prometheus.MustNewConstMetric(panicsDesc, prometheus.CounterValue, float64(counter.Panics()), part)
	}
}

// AccessLog exports what became of the entries that Envoy reported.
func AccessLog(s *accesslog.Server, l *accesslog.Logger) prometheus.Collector { return entries{s, l} }

var (
	entriesDesc = prometheus.NewDesc("sluice_access_log_entries_total",
		"Access-log entries that Envoy sent, by what the door did with them.", []string{"result"}, nil)
	droppedDesc = prometheus.NewDesc("sluice_access_log_dropped_total",
		"Outcomes that were settled but not written to the log, because its queue was full.", nil, nil)
)

type entries struct {
	server *accesslog.Server
	logger *accesslog.Logger
}

// Describe implements prometheus.Collector.
func (e entries) Describe(c chan<- *prometheus.Desc) { c <- entriesDesc; c <- droppedDesc }

// Collect implements prometheus.Collector.
func (e entries) Collect(c chan<- prometheus.Metric) {
	for _, r := range accesslog.Results() {
		c <- prometheus.MustNewConstMetric(entriesDesc, prometheus.CounterValue, float64(e.server.Count(r)), r.String())
	}
	c <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(e.logger.Dropped()))
}

// RLS exports how rate limit calls were answered.
func RLS(d *rls.Door) prometheus.Collector { return calls{d} }

var callsDesc = prometheus.NewDesc("sluice_rls_calls_total",
	"Calls of the rate limit service, by what was answered or why.", []string{"result"}, nil)

type calls struct{ door *rls.Door }

// Describe implements prometheus.Collector.
func (d calls) Describe(c chan<- *prometheus.Desc) { c <- callsDesc }

// Collect implements prometheus.Collector.
func (d calls) Collect(c chan<- prometheus.Metric) {
	for _, r := range rls.Results() {
		c <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(d.door.Count(r)), r.String())
	}
}

// Store exports how full the store is and how its journal does.
func Store(s *memstore.Store, j *memstore.Journal) prometheus.Collector { return counters{s, j} }

var (
	cellsDesc   = prometheus.NewDesc("sluice_store_cells", "Counters kept in memory.", nil, nil)
	mostDesc    = prometheus.NewDesc("sluice_store_cells_max", "Counters that may be kept in memory; beyond, requests that need a new one are refused.", nil, nil)
	recordsDesc = prometheus.NewDesc("sluice_journal_records_total", "Records that the journal wrote or deleted.", nil, nil)
	fsyncsDesc  = prometheus.NewDesc("sluice_journal_fsyncs_total", "Commits of the journal, each one or two fsyncs.", nil, nil)
	errorsDesc  = prometheus.NewDesc("sluice_journal_errors_total", "Commits of the journal that failed.", nil, nil)
	failingDesc = prometheus.NewDesc("sluice_journal_failing", "1 while the journal can't be written: durable limits spend only what is recorded.", nil, nil)
)

type counters struct {
	store   *memstore.Store
	journal *memstore.Journal
}

// Describe implements prometheus.Collector.
func (s counters) Describe(c chan<- *prometheus.Desc) {
	c <- cellsDesc
	c <- mostDesc
	c <- recordsDesc
	c <- fsyncsDesc
	c <- errorsDesc
	c <- failingDesc
}

// Collect implements prometheus.Collector.
func (s counters) Collect(c chan<- prometheus.Metric) {
	stats := s.journal.Stats()
	c <- prometheus.MustNewConstMetric(cellsDesc, prometheus.GaugeValue, float64(s.store.Len()))
	c <- prometheus.MustNewConstMetric(mostDesc, prometheus.GaugeValue, float64(s.store.Cap()))
	c <- prometheus.MustNewConstMetric(recordsDesc, prometheus.CounterValue, float64(stats.Records))
	c <- prometheus.MustNewConstMetric(fsyncsDesc, prometheus.CounterValue, float64(stats.Fsyncs))
	c <- prometheus.MustNewConstMetric(errorsDesc, prometheus.CounterValue, float64(stats.Errors))
	c <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, oneIf(stats.Failing))
}
