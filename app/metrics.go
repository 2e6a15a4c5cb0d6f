package app

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/voicecore-ai/sluice/telemetry"
)

// metrics is all that /metrics shows. docs/reference/metrics.md lists it, and a test compares.
func (a *App) metrics() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		telemetry.Decisions(a.gate),
		a.doors.Collector(),
		telemetry.Panics(map[string]telemetry.Counter{"gate": a.gate, "ext_authz": a.extauthz, "ext_proc": a.extproc}),
		telemetry.Identity(a.authn, a.keysets),
		telemetry.AccessLog(a.accesslog, a.recorder),
		a.requests,
		a.traffic,
		&a.described,
		telemetry.Streams(a.extproc),
		telemetry.RLS(a.rls),
		telemetry.Files(a.catalog, a.refused()),
	)
	if a.embedded != nil {
		registry.MustRegister(telemetry.Store(a.embedded, a.journal))
	}
	if a.shared != nil {
		registry.MustRegister(a.shared.calls, telemetry.SharedStore(a.shared.counters, a.shared.presence.Count, a.shared.unfit.Load), telemetry.Outage(a.shared.outage))
	}
	if a.certificates != nil {
		registry.MustRegister(telemetry.Certificate(a.certificates.expires))
	}
	if a.audit != nil {
		registry.MustRegister(telemetry.Audit(a.audit, a.auditCopies))
	}
	if a.spans != nil {
		registry.MustRegister(a.spans.Collector())
	}
	return registry
}

// refused says, for each setting whose files are read again when they change, whether what they hold
// now could not be used.
func (a *App) refused() map[string]func() bool {
	all := map[string]func() bool{}
	if a.config.Catalog != "" {
		all["catalog"] = func() bool { _, _, err := a.catalog.Status(); return err != nil }
	}
	if a.config.RLSConfig != "" {
		all["rls-config"] = a.descriptorsRefused.Load
	}
	if a.certificates != nil {
		all["tls-cert"] = a.certificates.refused.Load
	}
	return all
}
