package traffic

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/tenant"
)

var (
	requestsDesc = prometheus.NewDesc("sluice_tenant_requests_total",
		"Requests decided, by tenant and outcome: of the tenants that ask most, of all others, and of nobody's.", []string{"tenant", "outcome"}, nil)
	leftDesc = prometheus.NewDesc("sluice_tenant_limit_remaining_ratio",
		"What a tenant that asks most had left of a limit when it last asked, as a share of the whole.", []string{"tenant", "limit"}, nil)
	decisionsDesc = prometheus.NewDesc("sluice_limit_decisions_total",
		"What limits said: requests that they allowed, refused, or would have refused but for shadow.", []string{"plan", "limit", "outcome"}, nil)
	configuredDesc = prometheus.NewDesc("sluice_limit_configured",
		"Hits that a plan's limit admits in a window.", []string{"plan", "limit"}, nil)
	windowDesc = prometheus.NewDesc("sluice_limit_window_seconds", "Window of a plan's limit.", []string{"plan", "limit"}, nil)
)

// Describe implements prometheus.Collector.
func (t *Traffic) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, leftDesc, decisionsDesc, configuredDesc, windowDesc} {
		c <- d
	}
}

// Collect implements prometheus.Collector. It ranks the tenants anew.
func (t *Traffic) Collect(c chan<- prometheus.Metric) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rank()
	t.configure()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	requests := func(s *striped, name string) {
		for i, outcome := range requestOutcomes {
			counter(requestsDesc, s.sum(i), name, outcome)
		}
	}
	requests(&t.none, nobody)
	requests(&t.crowd, others)
	now := t.o.Now().UnixMicro()
	for id, a := range *t.top.Load() {
		requests(&a.requests, string(id))
		for limit, share := range a.shares(now) {
			c <- prometheus.MustNewConstMetric(leftDesc, prometheus.GaugeValue, share, string(id), limit)
		}
	}
	t.limits.collect(func(k limitKey, s *striped) { sendOutcomes(c, decisionsDesc, s, k.plan, k.limit) })
	for _, l := range t.configured {
		c <- prometheus.MustNewConstMetric(configuredDesc, prometheus.GaugeValue, l.hits, l.plan, l.limit)
		c <- prometheus.MustNewConstMetric(windowDesc, prometheus.GaugeValue, l.window, l.plan, l.limit)
	}
}

// shares is what a tenant has left, by limit: the least where a hop inside and the edge name the same.
func (a *account) shares(now int64) map[string]float64 {
	all := map[string]float64{}
	for i := range a.left {
		s := &a.left[i]
		l := s.limit.Load()
		if l == nil {
			continue
		}
		share := 1.
		if now < s.until.Load() || l.Hits == 0 {
			share = float64(s.hundredths.Load()) / 100
		}
		if seen, ok := all[l.Name]; !ok || share < seen {
			all[l.Name] = share
		}
	}
	return all
}

// configure reads the limits of plans when the catalogue has changed: those that come first in the
// alphabet, if there are more than have series. The caller holds mu.
func (t *Traffic) configure() {
	revision := t.o.Revision()
	if t.read && revision == t.revision {
		return
	}
	t.revision, t.read, t.configured = revision, true, declared(t.o.Limits())
	for _, l := range t.configured {
		t.limits.at(l.limitKey) // at zero, so that the first refusal is a rise
	}
}

// rank gives the series to the tenants that ask most of late. Who comes new must ask a quarter more
// than whom he replaces, and surely so: else two that ask alike would take turns. The caller holds mu.
func (t *Traffic) rank() {
	top := *t.top.Load()
	ranked := make([]*account, 0, len(top))
	for _, a := range top {
		var hits uint64
		for i := range requestOutcomes {
			hits += a.requests.sum(i)
		}
		a.score, a.counted = faded(a.score)+hits-a.counted, hits
		ranked = append(ranked, a)
	}
	slices.SortFunc(ranked, func(a, b *account) int { return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.id, b.id)) })
	var rising []counter
	t.sketch.each(func(c *counter) {
		if _, has := top[c.id]; has {
			*c = counter{}
			return
		}
		if c.least() > c.over/4 { // in a crowd of strangers each has a counter that says a lot, and not for himself
			rising = append(rising, *c)
		}
		c.hits, c.over = faded(c.hits), faded(c.over)
	})
	slices.SortFunc(rising, func(a, b counter) int { return cmp.Or(cmp.Compare(b.least(), a.least()), cmp.Compare(a.id, b.id)) })
	next := maps.Clone(top)
	for i := range min(len(ranked), len(rising)) {
		if rising[i].least() <= ranked[i].score+ranked[i].score/4 {
			break
		}
		delete(next, ranked[i].id)
		a := &account{id: tenant.ID(strings.Clone(string(rising[i].id))), score: rising[i].least()}
		next[a.id] = a
	}
	t.top.Store(&next)
}
