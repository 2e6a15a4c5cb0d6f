package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/extproc"
	"github.com/voicecore-ai/sluice/gate"
)

// Streams exports how many requests the ext_proc door watches, and which it ended.
func Streams(s *extproc.Server) prometheus.Collector { return streams{s} }

var (
	liveDesc  = prometheus.NewDesc("sluice_streams_live", "Requests that the ext_proc door admitted and that are under way.", nil, nil)
	endedDesc = prometheus.NewDesc("sluice_streams_ended_total",
		"Requests that were ended after they had been admitted, by reason.", []string{"reason"}, nil)
	stuckDesc = prometheus.NewDesc("sluice_streams_stuck_total",
		"Requests that Envoy left open for five seconds after it was told to end them. Should be 0.", nil, nil)
	outOfOrderDesc = prometheus.NewDesc("sluice_streams_out_of_order_total",
		"Streams that the ext_proc door ended with an error because of what Envoy sent, or when: a body mode that is not served, most likely.", nil, nil)
	sweepDesc = prometheus.NewDesc("sluice_streams_sweep_seconds",
		"How long it took, the last time, to ask for all streams whether they may go on: by their tenant and credential, and by the rules.", []string{"asked"}, nil)
	observedDesc = prometheus.NewDesc("sluice_streams_observed_total",
		"Streams in observability mode, where Envoy waits for no answer: nothing is decided and nothing charged.", nil, nil)
)

type streams struct{ server *extproc.Server }

// Describe implements prometheus.Collector.
func (s streams) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{liveDesc, endedDesc, stuckDesc, outOfOrderDesc, sweepDesc, observedDesc} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (s streams) Collect(c chan<- prometheus.Metric) {
	c <- prometheus.MustNewConstMetric(liveDesc, prometheus.GaugeValue, float64(s.server.Live()))
	for _, r := range gate.Reasons() {
		if r != gate.ReasonAdmitted {
			c <- prometheus.MustNewConstMetric(endedDesc, prometheus.CounterValue, float64(s.server.Ended(r)), r.String())
		}
	}
	credentials, rules := s.server.Sweeps()
	c <- prometheus.MustNewConstMetric(sweepDesc, prometheus.GaugeValue, credentials.Seconds(), "credentials")
	c <- prometheus.MustNewConstMetric(sweepDesc, prometheus.GaugeValue, rules.Seconds(), "rules")
	c <- prometheus.MustNewConstMetric(stuckDesc, prometheus.CounterValue, float64(s.server.Stuck()))
	c <- prometheus.MustNewConstMetric(outOfOrderDesc, prometheus.CounterValue, float64(s.server.OutOfOrder()))
	c <- prometheus.MustNewConstMetric(observedDesc, prometheus.CounterValue, float64(s.server.Observed()))
}
