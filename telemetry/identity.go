package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/authz/authn"
)

// Identity exports which credentials were refused, and how the keys of issuers are.
func Identity(a *authn.Authenticator, k *authn.KeySets) prometheus.Collector { return identity{a, k} }

var (
	refusedDesc = prometheus.NewDesc("sluice_credentials_refused_total",
		"Credentials that were refused, by why. Requests without any are in sluice_decisions_total alone.", []string{"reason"}, nil)
	fetchesDesc = prometheus.NewDesc("sluice_jwks_fetches_total", "Fetches of issuers' keys.", []string{"result"}, nil)
	fetchedDesc = prometheus.NewDesc("sluice_jwks_fetched_timestamp_seconds",
		"When an issuer's keys were last fetched; 0 for never. Of an issuer with a realm for each tenant, the realm for which that is longest ago.", []string{"issuer"}, nil)
)

// What sluice_jwks_fetched_timestamp_seconds shows. Tenants' issuers may be many: those that come later
// in the alphabet share one series, so that the oldest is always shown. No issuer has its name.
const (
	mostIssuers  = 100
	otherIssuers = "_others"
)

type identity struct {
	authenticator *authn.Authenticator
	keys          *authn.KeySets
}

// Describe implements prometheus.Collector.
func (i identity) Describe(c chan<- *prometheus.Desc) {
	c <- refusedDesc
	c <- fetchesDesc
	c <- fetchedDesc
}

// Collect implements prometheus.Collector.
func (i identity) Collect(c chan<- prometheus.Metric) {
	for reason, n := range i.authenticator.Refusals() {
		c <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), reason)
	}
	good, failed := i.keys.Fetches()
	c <- prometheus.MustNewConstMetric(fetchesDesc, prometheus.CounterValue, float64(good), "ok")
	c <- prometheus.MustNewConstMetric(fetchesDesc, prometheus.CounterValue, float64(failed), "failed")
	for issuer, fetched := range oldest(i.keys.Status()) {
		c <- prometheus.MustNewConstMetric(fetchedDesc, prometheus.GaugeValue, float64(fetched)/1e6, issuer)
	}
}

// oldest is when the keys of each issuer were last fetched, Unix µs. It is never much larger than mostIssuers.
func oldest(all []authn.KeySetStatus) map[string]int64 {
	fetched := make(map[string]int64, min(len(all), mostIssuers)+1)
	for _, s := range all {
		name := s.Issuer
		if s.Realms && s.Sets == 0 { // nobody needs its keys yet
			continue
		}
		if len(fetched) >= mostIssuers {
			name = otherIssuers
		}
		if before, known := fetched[name]; !known || s.Fetched < before {
			fetched[name] = s.Fetched
		}
	}
	return fetched
}
