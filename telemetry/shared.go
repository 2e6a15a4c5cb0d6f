package telemetry

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// StoreCalls measures round trips to the shared store. It is safe for concurrent use.
type StoreCalls struct {
	seconds *prometheus.HistogramVec
	calls   prometheus.Counter
}

// NewStoreCalls returns a measure with every label at zero.
func NewStoreCalls() *StoreCalls {
	c := &StoreCalls{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_store_round_trip_seconds", Help: "Round trips to Redis that charged, by how they ended.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1},
		}, []string{"result"}),
		calls: prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_commands_total", Help: "Calls of a function in Redis; requests that meet share them, and round trips."}),
	}
	for _, result := range []string{"ok", "error", "timeout"} {
		c.seconds.WithLabelValues(result)
	}
	return c
}

// Observe takes note of one round trip.
func (c *StoreCalls) Observe(calls int, took time.Duration, err error) {
	result := "ok"
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
	case errors.As(err, &timeout) && timeout.Timeout():
		result = "timeout"
	default:
		result = "error"
	}
	c.calls.Add(float64(calls))
	c.seconds.WithLabelValues(result).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (c *StoreCalls) Describe(d chan<- *prometheus.Desc) { c.seconds.Describe(d); c.calls.Describe(d) }

// Collect implements prometheus.Collector.
func (c *StoreCalls) Collect(m chan<- prometheus.Metric) { c.seconds.Collect(m); c.calls.Collect(m) }

// SharedStore says what the shared store was asked, beside the round trips, whether it is fit to keep counters, and how many replicas there are.
func SharedStore(counters *redisstore.Store, replicas func() int, unfit func() bool) prometheus.Collector {
	return exported{[]*prometheus.Desc{deniedHitsDesc, resentDesc, unfitDesc, replicasDesc}, func(m metrics) {
		stats := counters.Stats()
		m.count(deniedHitsDesc, uint64(stats.DeniedHits)) //nolint:gosec // it only grows
		m.count(resentDesc, uint64(stats.Resends))        //nolint:gosec // it only grows
		m.flag(unfitDesc, unfit())
		m.gauge(replicasDesc, float64(replicas()))
	}}
}

var (
	deniedHitsDesc = prometheus.NewDesc("sluice_store_denied_hits_total", "Requests that were refused without a command, for nothing but time could admit them.", nil, nil)
	resentDesc     = prometheus.NewDesc("sluice_store_resent_total", "Calls that were sent again under their operation id, for their answer was lost.", nil, nil)
	unfitDesc      = prometheus.NewDesc("sluice_store_unfit", "1 if Redis, when it was last looked at, may throw counters away or is otherwise not as it has to be at the start.", nil, nil)
	replicasDesc   = prometheus.NewDesc("sluice_replicas", "Replicas that share the store, this one included, as last seen.", nil, nil)
)
