package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/voicecore-ai/sluice/deploy/prometheus"
)

const jaegerConfig = `service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
  telemetry:
    metrics: {level: none}
    logs: {level: warn}
extensions:
  jaeger_storage: {backends: {kept: {memory: {max_traces: 10000}}}}
  jaeger_query:
    storage: {traces: kept}
    http: {endpoint: "127.0.0.1:${HTTP}"}
    grpc: {endpoint: "127.0.0.1:${GRPC}"}
receivers:
  otlp: {protocols: {grpc: {endpoint: "127.0.0.1:${OTLP}"}}}
exporters:
  jaeger_storage_exporter: {trace_storage: kept}
`

// JaegerConfig is that of a Jaeger which keeps traces in memory: the query API at port http of loopback (and at grpc), OTLP over
// gRPC at otlp.
func JaegerConfig(http, grpc, otlp string) string {
	return strings.NewReplacer("${HTTP}", http, "${GRPC}", grpc, "${OTLP}", otlp).Replace(jaegerConfig)
}

// startJaeger returns when it answers. Whatever starts after it sends its spans there.
func (s *Stack) startJaeger(ctx context.Context, http, grpc, otlp string) error {
	path := filepath.Join(s.options.Dir, "jaeger.yaml")
	if err := os.WriteFile(path, []byte(JaegerConfig(http, grpc, otlp)), 0o600); err != nil {
		return err
	}
	cmd, log, err := s.command("jaeger.log", s.options.Jaeger, "--config", path)
	if err != nil {
		return err
	}
	s.jaeger, s.otlp, s.Jaeger = cmd, "127.0.0.1:"+otlp, "http://127.0.0.1:"+http
	if err := waitReady(ctx, cmd, s.Jaeger+"/api/services", log); err != nil {
		return err
	}
	return waitListens(ctx, cmd, s.otlp, log) // it begins to after the API answers, and who sends a span earlier may drop it
}

// startPrometheus returns when it answers. It scrapes each replica and Envoy every second, with the rules of deploy/prometheus.
func (s *Stack) startPrometheus(ctx context.Context, port string) error {
	var replicas []string
	for _, r := range s.Replicas {
		replicas = append(replicas, strings.TrimPrefix(r.HTTP, "http://"))
	}
	config := fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 5s}
rule_files: [alerts.yaml, recording.yaml]
scrape_configs:
  - job_name: sluice
    static_configs: [{targets: [%s]}]
  - job_name: envoy
    metrics_path: /stats/prometheus
    static_configs: [{targets: [%s]}]
`, strings.Join(replicas, ", "), strings.TrimPrefix(s.EnvoyAdmin, "http://"))
	dir := filepath.Join(s.options.Dir, "prometheus")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "prometheus.yaml")
	for name, text := range map[string]string{path: config, filepath.Join(dir, "alerts.yaml"): prometheus.Alerts, filepath.Join(dir, "recording.yaml"): prometheus.Recording} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	cmd, log, err := s.command("prometheus.log", s.options.Prometheus, "--config.file", path, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", "127.0.0.1:"+port, "--log.level", "warn", "--enable-feature", "exemplar-storage")
	if err != nil {
		return err
	}
	s.prometheus, s.Prometheus = cmd, "http://127.0.0.1:"+port
	return waitReady(ctx, cmd, s.Prometheus+"/-/ready", log)
}

const (
	// tracer goes into the connection manager: each request is a trace, which begins at Envoy.
	tracer = `                tracing:
                  random_sampling: {value: 100}
                  provider:
                    name: envoy.tracers.opentelemetry
                    typed_config:
                      "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                      grpc_service: {envoy_grpc: {cluster_name: traces}, timeout: 1s}
                      service_name: envoy
`
	collector = `
    - name: traces
      type: STATIC
      connect_timeout: 1s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: traces
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]
`
)

// Traced is a configuration like the demo's in which Envoy traces every request, to a collector (OTLP over gRPC) at a port of loopback.
func Traced(config, port string) (string, error) {
	const at = "                stat_prefix: gateway\n"
	if strings.Count(config, at) != 1 || !strings.Contains(config, "\n    - name: upstream\n") {
		return "", errors.New("stack: the configuration has no connection manager 'gateway', or no cluster 'upstream', so Envoy can't be told to trace")
	}
	config = strings.Replace(config, at, at+tracer, 1)
	return strings.Replace(config, "\n    - name: upstream\n", fmt.Sprintf(collector, port)+"\n    - name: upstream\n", 1), nil
}
