package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/accesslog"
)

// Requests counts what became of requests, as Envoy's access log says it.
type Requests struct{ *prometheus.CounterVec }

// NewRequests returns one with every series at zero, so that a first error is a rise.
func NewRequests() *Requests {
	r := &Requests{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_requests_total",
		Help: "Requests that have ended, by the class of their HTTP status or, for gRPC, of their grpc-status (OpenTelemetry's server errors are 'server').",
	}, []string{"protocol", "class"})}
	for protocol, classes := range map[string][]string{
		"http": {"1xx", "2xx", "3xx", "4xx", "5xx", "other"}, "grpc": {"ok", "client", "server"},
	} {
		for _, class := range classes {
			r.WithLabelValues(protocol, class)
		}
	}
	return r
}

// Count is what accesslog.LoggerOptions.Metric wants.
func (r *Requests) Count(l accesslog.Labels, _ *accesslog.Entry) {
	protocol := "http"
	if l.GRPC {
		protocol = "grpc"
	}
	if l.Final {
		r.WithLabelValues(protocol, l.Class).Inc()
	}
}
