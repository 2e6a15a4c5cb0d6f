// Package telemetry sets up what the server tells of itself: Prometheus metrics
// with bounded labels and OpenTelemetry spans. No metric has a tenant label:
// a tenant's own figures are the quota API's usage.
//
// It decides nothing and sits on no hot path: counters are kept where
// they are counted and read when somebody scrapes.
package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/accesslog"
	"github.com/voicecore-ai/sluice/gate"
)

// Decisions exports how many admissions ended for which reason.
func Decisions(g *gate.Gate) prometheus.Collector { return decisions{g} }

var decisionsDesc = prometheus.NewDesc("sluice_decisions_total",
	"Requests decided by the gate, by reason; 'admitted' is the only one that lets a request pass.", []string{"reason"}, nil)

type decisions struct{ gate *gate.Gate }

// Describe implements prometheus.Collector.
func (d decisions) Describe(c chan<- *prometheus.Desc) { c <- decisionsDesc }

// Collect implements prometheus.Collector.
func (d decisions) Collect(c chan<- prometheus.Metric) {
	for _, r := range gate.Reasons() {
		c <- prometheus.MustNewConstMetric(decisionsDesc, prometheus.CounterValue, float64(d.gate.Count(r)), r.String())
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
