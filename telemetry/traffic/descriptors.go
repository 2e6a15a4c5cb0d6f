package traffic

import (
	"iter"
	"math/rand/v2"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

var (
	descriptorDecisionsDesc = prometheus.NewDesc("sluice_rls_limit_decisions_total",
		"What limits of descriptor files said: descriptors that they allowed, refused, or would have refused but for shadow.", []string{"limit", "outcome"}, nil)
	descriptorConfiguredDesc = prometheus.NewDesc("sluice_rls_limit_configured", "Hits that a limit of descriptor files admits in a window.", []string{"limit"}, nil)
	descriptorWindowDesc     = prometheus.NewDesc("sluice_rls_limit_window_seconds", "Window of a limit of descriptor files.", []string{"limit"}, nil)
)

// Descriptors counts what limits of descriptor files say, by the places where the files have them and never by the values of
// requests. The zero value has no limits. It is safe for concurrent use, and a prometheus.Collector.
type Descriptors struct {
	limits table

	mu         sync.Mutex
	configured []configured
}

// Declare says which limits the files have now.
func (d *Descriptors) Declare(limits iter.Seq[*ratelimit.Limit]) {
	all := declared(func(yield func(string, *ratelimit.Limit) bool) {
		for l := range limits {
			if !yield("", l) {
				return
			}
		}
	})
	for _, l := range all {
		d.limits.at(l.limitKey) // at zero, so that the first refusal is a rise
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.configured = all
}

// Called counts what a call came to. Where one limit refused it, the others are not counted.
func (d *Descriptors) Called(a rls.Answer) {
	stripe, passes := int(rand.Uint32()%stripes), a.Passes() //nolint:gosec // nobody gains by guessing where a count is kept
	a.Each(func(limit string, over, shadow bool) {
		outcome := covered
		switch {
		case passes && over:
			outcome = shadowed
		case passes:
		case over && !shadow:
			outcome = refused
		default:
			return
		}
		d.limits.at(limitKey{limit: limit}).add(stripe, outcome)
	})
}

// Describe implements prometheus.Collector.
func (d *Descriptors) Describe(c chan<- *prometheus.Desc) {
	c <- descriptorDecisionsDesc
	c <- descriptorConfiguredDesc
	c <- descriptorWindowDesc
}

// Collect implements prometheus.Collector.
func (d *Descriptors) Collect(c chan<- prometheus.Metric) {
	d.limits.collect(func(k limitKey, s *striped) { sendOutcomes(c, descriptorDecisionsDesc, s, k.limit) })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.configured {
		c <- prometheus.MustNewConstMetric(descriptorConfiguredDesc, prometheus.GaugeValue, l.hits, l.limit)
		c <- prometheus.MustNewConstMetric(descriptorWindowDesc, prometheus.GaugeValue, l.window, l.limit)
	}
}
