package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/authz/authn"
)

// Identity exports which credentials were refused, and how the keys of issuers are.
func Identity(a *authn.Authenticator, k *authn.KeySets) prometheus.Collector {
	return exported{[]*prometheus.Desc{refusedDesc, fetchesDesc, fetchedDesc}, func(m metrics) {
		for reason, n := range a.Refusals() {
			m.count(refusedDesc, n, reason)
		}
		good, failed := k.Fetches()
		m.count(fetchesDesc, good, "ok")
		m.count(fetchesDesc, failed, "failed")
		for issuer, fetched := range oldest(k.Status()) {
			m.gauge(fetchedDesc, float64(fetched)/1e6, issuer)
		}
	}}
}

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
