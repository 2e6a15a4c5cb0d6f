package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/extproc"
	"github.com/voicecore-ai/sluice/gate"
)

// Streams exports how many requests the ext_proc door watches, and which it ended.
func Streams(s *extproc.Server) prometheus.Collector {
	return exported{[]*prometheus.Desc{liveDesc, endedDesc, stuckDesc, outOfOrderDesc, sweepDesc, observedDesc}, func(m metrics) {
		m.gauge(liveDesc, float64(s.Live()))
		for _, r := range gate.Reasons() {
			if r != gate.ReasonAdmitted {
				m.count(endedDesc, s.Ended(r), r.String())
			}
		}
		credentials, rules := s.Sweeps()
		m.gauge(sweepDesc, credentials.Seconds(), "credentials")
		m.gauge(sweepDesc, rules.Seconds(), "rules")
		m.count(stuckDesc, s.Stuck())
		m.count(outOfOrderDesc, s.OutOfOrder())
		m.count(observedDesc, s.Observed())
	}}
}

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
