package loadtest

import (
	"fmt"
	"strings"

	"github.com/voicecore-ai/sluice/loopback"
)

// Places in the configurations of deploy/envoy.
const (
	routes   = "                      routes:\n"
	clusters = "\n  clusters:\n"
)

// bare is a route on which the filter does not ask.
const bare = `                        - name: bare
                          match: {path: /bare}
                          route: {cluster: upstream, timeout: 15s}
`

// switchedOff says so of the filters that ask on every route.
var switchedOff = map[string]string{
	"ext_authz": `                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              disabled: true
`,
	"ext_proc": `                          typed_per_filter_config:
                            envoy.filters.http.ext_proc:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                              disabled: true
`,
}

// callsRoute leads gRPC to a service that speaks it. Envoy's ratelimit filter wants its descriptors on each route.
const callsRoute = `                        - name: calls
                          match: {prefix: /voicecore.calls.v1.Calls/, grpc: {}}
                          route:
                            cluster: calls
                            timeout: 15s
`

const callsLimits = `                            rate_limits:
                              - actions:
                                  - request_headers: {header_name: x-user, descriptor_key: user}
`

const callsCluster = `    - name: calls
      type: STATIC
      connect_timeout: 1s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options: {}
      load_assignment:
        cluster_name: calls
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}

`

// sidecar is a client's proxy, with the retries that Istio gives every route.
const sidecar = `
    - name: sidecar
      address:
        socket_address: {address: 127.0.0.1, port_value: %s}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: sidecar
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          route:
                            cluster: gateway
                            timeout: 30s
                            retry_policy:
                              retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes
                              retriable_status_codes: [503]
                              num_retries: 2
`

const gateway = `    - name: gateway
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: gateway
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${LISTEN_PORT}}}}

`

func withBare(config, wiring string) (string, error) {
	return change(config, routes, routes+bare+switchedOff[wiring])
}

// withCalls puts the gRPC service that listens on port behind the gateway.
func withCalls(config, wiring, port string) (string, error) {
	route := callsRoute
	if wiring == "rls" {
		route += callsLimits
	}
	config, err := change(config, routes, routes+route)
	if err != nil {
		return "", err
	}
	return change(config, clusters, clusters+fmt.Sprintf(callsCluster, port))
}

// withSidecar puts a client's proxy before the gateway, and says on which port.
func withSidecar(config string) (changed, port string, err error) {
	ports, err := loopback.Ports(1)
	if err != nil {
		return "", "", err
	}
	changed, err = change(config, clusters, fmt.Sprintf(sidecar, ports[0])+clusters+gateway)
	return changed, ports[0], err
}

// change replaces what must be there once.
func change(config, old, replacement string) (string, error) {
	if n := strings.Count(config, old); n != 1 {
		return "", fmt.Errorf("configuration of Envoy: has %q %d times, want it once", strings.TrimSpace(old), n)
	}
	return strings.Replace(config, old, replacement, 1), nil
}
