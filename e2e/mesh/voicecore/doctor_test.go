package voicecore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

// envoyFilter is one patch at a workload's inbound HTTP filters.
func envoyFilter(name, rest string) string {
	return `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: ` + name + `, namespace: voicecore-ai}
spec:
  priority: 90
  workloadSelector: {labels: {app: crm-service}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
` + rest
}

// beside is a workload that somebody else puts into the namespace.
func beside(labels, annotations string) string {
	return `
apiVersion: apps/v1
kind: Deployment
metadata: {name: beside, namespace: voicecore-ai}
spec:
  selector: {matchLabels: {app: beside}}
  template:
    metadata: {labels: {app: beside` + labels + `}, annotations: {` + annotations + `}}
    spec: {containers: [{name: app, image: lab/app}]}
`
}

const extAuthz = `"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`

// faults are what people do to a mesh, each with the code by which doctor must name it.
var faults = []struct {
	name, code string
	manifest   string   // applied, then deleted; or
	do, undo   []string // commands of kubectl
}{
	{name: "a filter of ours is taken out of a proxy", code: "SV212", manifest: strings.Replace(strings.Replace(
		envoyFilter("takes-out", "      operation: REMOVE\n"), "envoy.filters.http.router", "envoy.filters.http.ext_authz", 1), "priority: 90", "priority: 99", 1)},
	{name: "a field that istiod only warns about and Envoy refuses", code: "SV211", manifest: envoyFilter("typo", `
      operation: INSERT_BEFORE
      value:
        name: typo
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefx: typo
`)},
	{name: "the same, in the objects", code: "SL101", manifest: envoyFilter("typo", `
      operation: INSERT_BEFORE
      value: {name: typo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefx: typo}}
`)},
	{name: "the port of Sluice's Service has the wrong name", code: "SL145",
		do:   []string{"-n", "sluice-system", "patch", "service", "sluice", "--type=json", "-p", `[{"op": "replace", "path": "/spec/ports/0/name", "value": "doors"}, {"op": "remove", "path": "/spec/ports/0/appProtocol"}]`},
		undo: []string{"-n", "sluice-system", "patch", "service", "sluice", "--type=json", "-p", `[{"op": "replace", "path": "/spec/ports/0/name", "value": "grpc-doors"}, {"op": "add", "path": "/spec/ports/0/appProtocol", "value": "grpc"}]`}},
	{name: "Sluice has no endpoint", code: "SV202",
		do:   []string{"-n", "sluice-system", "scale", "statefulset/sluice", "--replicas=0"},
		undo: []string{"-n", "sluice-system", "scale", "statefulset/sluice", "--replicas=1"}},
	{name: "a policy names a provider that is not there", code: "SL151", manifest: `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asks-nobody, namespace: voicecore-ai}
spec: {action: CUSTOM, provider: {name: not-there}, selector: {matchLabels: {app: crm-service}}, rules: [{to: [{operation: {paths: [/never]}}]}]}
`},
	{name: "a PERMISSIVE override for one workload", code: "SV216", manifest: `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: permissive, namespace: voicecore-ai}
spec: {selector: {matchLabels: {app: crm-service}}, mtls: {mode: PERMISSIVE}}
`},
	{name: "a PERMISSIVE override for one port", code: "SL161", manifest: `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: permissive-port, namespace: voicecore-ai}
spec: {selector: {matchLabels: {app: crm-service}}, mtls: {mode: STRICT}, portLevelMtls: {"8080": {mode: PERMISSIVE}}}
`},
	{name: "authorization that fails open", code: "SL121", manifest: envoyFilter("fails-open", `
      operation: INSERT_BEFORE
      value: {name: another, typed_config: {`+extAuthz+`, failure_mode_allow: true, transport_api_version: V3,
        grpc_service: {timeout: 1s, envoy_grpc: {cluster_name: outbound|9090||sluice.sluice-system.svc.cluster.local, authority: sluice.sluice-system.svc.cluster.local}}}}
`)},
	{name: "a proxy that fails open", code: "SV215", manifest: strings.Replace(envoyFilter("opens", `
      operation: MERGE
      value: {name: envoy.filters.http.ext_authz, typed_config: {`+extAuthz+`, failure_mode_allow: true}}
`), "envoy.filters.http.router", "envoy.filters.http.ext_authz", 1)},
	{name: "plain text to Sluice", code: "SV214", manifest: `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: voicecore-ai}
spec: {host: sluice.sluice-system.svc.cluster.local, exportTo: ["."], trafficPolicy: {tls: {mode: DISABLE}}}
`},
	{name: "ext_authz that is off on a route", code: "SL123", manifest: `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: route-unasked, namespace: voicecore-ai}
spec:
  priority: 90
  workloadSelector: {labels: {app: crm-service}}
  configPatches:
  - applyTo: HTTP_ROUTE
    match: {context: SIDECAR_INBOUND}
    patch:
      operation: MERGE
      value: {typed_per_filter_config: {envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}
`},
	{name: "two injection labels", code: "SL164",
		do: []string{"label", "namespace", apps, "istio.io/rev=canary"}, undo: []string{"label", "namespace", apps, "istio.io/rev-"}},
	{name: "an inbound port that goes past the proxy", code: "SL163", manifest: beside("", `traffic.sidecar.istio.io/excludeInboundPorts: "8080"`)},
	{name: "a pod without a proxy", code: "SV204", manifest: beside(`, sidecar.istio.io/inject: "false"`, "")},
	{name: "a filter that selects Sluice itself", code: "SL106", manifest: `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asks-itself, namespace: sluice-system}
spec: {action: CUSTOM, provider: {name: sluice-ext-authz}, rules: [{to: [{operation: {paths: [/never]}}]}]}
`},
	{name: "an insertion without a priority", code: "SL103", manifest: strings.Replace(envoyFilter("no-priority", `
      operation: INSERT_BEFORE
      value: {name: plain, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1000000}}
`), "  priority: 90\n", "", 1)},
	{name: "a filter that is added behind the router", code: "SL102", manifest: envoyFilter("adds", `
      operation: ADD
      value: {name: plain, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1000000}}
`)},
	{name: "somebody else's route for Sluice's host", code: "SL147", manifest: `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hijack, namespace: voicecore-ai}
spec: {hosts: [sluice.sluice-system.svc.cluster.local], exportTo: ["."], http: [{route: [{destination: {host: crm-service}}]}]}
`},
	{name: "a policy that allows everybody", code: "SD311", manifest: `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everybody, namespace: voicecore-ai}
spec: {action: ALLOW, rules: [{from: [{source: {principals: ["*"]}}]}]}
`},
	{name: "a Sidecar that hides Sluice", code: "SD312", manifest: `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: hides, namespace: voicecore-ai}
spec: {workloadSelector: {labels: {app: crm-service}}, egress: [{hosts: ["./*"]}]}
`},
	{name: "a webhook of an istiod that is gone", code: "SD321", manifest: `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector-old, labels: {app: sidecar-injector, istio.io/rev: old}}
webhooks:
- name: rev.namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod-old, namespace: istio-system, path: /inject, port: 443}}
  namespaceSelector: {matchLabels: {istio.io/rev: old}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
`},
	{name: "a disruption budget that never yields", code: "SD331", manifest: `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: never, namespace: voicecore-ai}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: crm-service}}}
`},
	{name: "more tries than the timeout has room for", code: "SL171", manifest: `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hasty, namespace: voicecore-ai}
spec: {hosts: [hasty.example.com], http: [{timeout: 5s, retries: {attempts: 3, perTryTimeout: 4s}, route: [{destination: {host: crm-service}}]}]}
`},
	{name: "an edit by hand", code: "SD341",
		do: []string{"-n", apps, "patch", "destinationrule", "crm-service", "--type=json", "-p",
			`[{"op": "replace", "path": "/spec/trafficPolicy/outlierDetection/maxEjectionPercent", "value": 99}]`},
		undo: []string{"-n", apps, "patch", "destinationrule", "crm-service", "--type=json", "-p",
			`[{"op": "replace", "path": "/spec/trafficPolicy/outlierDetection/maxEjectionPercent", "value": 50}]`}},
}

// found runs doctor and returns the codes of what it finds, failures and warnings.
func (m *mesh) found(t *testing.T) map[string]string {
	t.Helper()
	out, _ := m.try(t, "doctor", "-o", "json")
	var report struct {
		Results []struct {
			Findings []struct{ Code, Severity, Object, Says string }
		}
	}
	if i := strings.LastIndex(out, "}\n"); i < 0 || json.Unmarshal([]byte(out[:i+1]), &report) != nil {
		t.Fatalf("doctor printed no report:\n%s", out)
	}
	codes := map[string]string{}
	for _, r := range report.Results {
		for _, f := range r.Findings {
			if f.Severity != "info" {
				codes[f.Code] = fmt.Sprintf("%s %s: %s: %s", f.Severity, f.Code, f.Object, f.Says)
			}
		}
	}
	return codes
}

// seeded: doctor is quiet about a healthy mesh, finds each fault, and is quiet again.
func (m *mesh) seeded(t *testing.T) {
	t.Run("a certificate near its end", func(t *testing.T) { m.finds(t, "SV251") }) // the one that lives forty seconds
	m.Kubectl(t, "", "-n", apps, "delete", "deployment", "analytics-service-v1", "--timeout=5m")
	lab.Until(t, patience, func() error { return m.healthy(t) })
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			if f.manifest != "" {
				m.Apply(t, f.manifest)
				defer m.Kubectl(t, f.manifest, "delete", "-f", "-", "--timeout=5m")
			} else {
				m.Kubectl(t, "", f.do...)
				defer m.Kubectl(t, "", f.undo...)
			}
			m.finds(t, f.code)
		})
	}
	t.Run("the stage is left soft", func(t *testing.T) {
		m.command(t, "install", "--yes", "--set", "mesh.stage=soft", "--take-ownership", "kubectl-patch")
		out, status := m.try(t, "doctor", "--set", "mesh.stage=soft")
		if status != 3 || !strings.Contains(out, "SD301") {
			t.Errorf("exit status %d:\n%s", status, out)
		}
		m.command(t, "install", "--yes")
	})
	// That a proxy has ever refused configuration is told until it starts anew.
	m.Kubectl(t, "", "-n", apps, "rollout", "restart", "deployment/crm-service-v1", "deployment/crm-service-v2")
	m.Kubectl(t, "", "-n", apps, "rollout", "status", "deployment/crm-service-v1", "--timeout=5m")
	m.Kubectl(t, "", "-n", apps, "rollout", "status", "deployment/crm-service-v2", "--timeout=5m")
	lab.Until(t, patience, func() error { return m.healthy(t) })
}

// finds waits until doctor reports the code: a fault needs a moment to reach the proxies.
func (m *mesh) finds(t *testing.T, code string) {
	t.Helper()
	lab.Until(t, patience, func() error {
		got := m.found(t)
		if _, ok := got[code]; !ok {
			return fmt.Errorf("doctor finds %v, and not %s", slices.Sorted(maps.Keys(got)), code)
		}
		return nil
	})
}

// knownHere is true, and no false alarm: there is no metrics API, which autoscalers need, and Istio is a commit before 1.31.1.
var knownHere = []string{"SD332", "SD334"}

// healthy says what doctor finds in a mesh that has nothing.
func (m *mesh) healthy(t *testing.T) error {
	t.Helper()
	got := m.found(t)
	for _, code := range knownHere {
		delete(got, code)
	}
	if len(got) > 0 {
		return fmt.Errorf("of a healthy mesh, doctor says:\n%s", strings.Join(slices.Sorted(maps.Values(got)), "\n"))
	}
	return nil
}
