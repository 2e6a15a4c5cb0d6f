package check

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

// fault is one thing that is wrong with an otherwise healthy mesh.
type fault struct {
	name string
	// code is what the doctor must say of it, about an object; also is what else it may say.
	code, object string
	also         []string
	seed         func(t *testing.T, f *fixture)
}

const (
	ai       = "voicecore-ai/ai-service-1"
	billing  = "voicecore-ai/billing-service-1"
	ingress  = "istio-system/istio-ingressgateway-1"
	askAI    = "sluice-ext-proc-ai-service"
	sluiceEP = "EndpointSlice sluice-system/sluice-1"
)

// without is the mesh's objects but for one.
func (f *fixture) without(is string) []*unstructured.Unstructured {
	return slices.DeleteFunc(slices.Clone(f.rendered), func(u *unstructured.Unstructured) bool { return name(u) == is })
}

// own adds an object of the mesh's namespace.
func own(text string) func(*testing.T, *fixture) {
	return func(t *testing.T, f *fixture) { f.add(t, text) }
}

// envoyFilter is one of a user's own.
func envoyFilter(name, selector, more, operation, value string) func(*testing.T, *fixture) {
	return own(`{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: ` + name + `, namespace: ` + selector + `}, spec: {` + more + `
configPatches: [{applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}},
patch: {operation: ` + operation + `, value: {name: own, typed_config: ` + value + `}}}]}}`)
}

const (
	buffer    = `{"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1000}`
	billsOnly = `workloadSelector: {labels: {app: billing-service}}, `
)

var faults = []fault{
	{"a filter that is laid down and not in the proxy", "SV212", "Pod " + ai, []string{"SV215"}, func(t *testing.T, f *fixture) {
		f.configure(t, f.envoys[ai], map[string]string{"app": "ai-service"}, false, f.without("EnvoyFilter voicecore-ai/"+askAI))
	}},
	{"ext_authz that istiod did not make", "SV212", "Pod " + billing, nil, func(t *testing.T, f *fixture) {
		eachFilter(f.envoys[billing].listeners[0], func(filters []any) []any {
			return slices.DeleteFunc(filters, func(x any) bool { return x.(map[string]any)["name"] == authzFilter })
		})
	}},
	{"a filter before the proxy's own checks", "SV212", "Pod " + ai, nil, func(t *testing.T, f *fixture) {
		eachFilter(f.envoys[ai].listeners[0], func(filters []any) []any {
			i := slices.IndexFunc(filters, func(x any) bool { return x.(map[string]any)["name"] == "envoy.filters.http.ext_proc" })
			if i < 0 {
				t.Fatal("no ext_proc")
			}
			x := filters[i]
			return slices.Insert(slices.Delete(slices.Clone(filters), i, i+1), 0, x)
		})
	}},
	{"a listener that Envoy refuses", "SV211", "Pod " + ai, nil, func(_ *testing.T, f *fixture) {
		f.envoys[ai].rejected = map[string]string{"virtualInbound": "no such field: 'failuremodeallow'"}
		f.envoys[ai].stats["listener_manager.lds.update_rejected"] = 1
	}},
	{"a typo that istiod only warns about", "SL101", "EnvoyFilter voicecore-ai/own", nil,
		envoyFilter("own", "voicecore-ai", billsOnly+"priority: 50, ", "INSERT_BEFORE", `{"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_byte: 1000}`)},
	{"clusters that Envoy has refused", "SV211", "Pod " + ai, nil, func(_ *testing.T, f *fixture) {
		f.envoys[ai].stats["cluster_manager.cds.update_rejected"] = 1
	}},
	{"the wrong name of a port", "SL145", "Service sluice-system/sluice", nil, func(t *testing.T, f *fixture) {
		ports, _, _ := unstructured.NestedSlice(f.object(t, "Service sluice-system/sluice").Object, "spec", "ports")
		for _, p := range ports {
			if p := p.(map[string]any); p["port"] == int64(9090) || p["port"] == float64(9090) {
				p["name"] = "doors"
				delete(p, "appProtocol")
			}
		}
		f.set(t, "Service sluice-system/sluice", ports, "spec", "ports")
	}},
	{"a provider whose Service is missing", "SL146", "ConfigMap istio-system/istio", []string{"SV202", "SL146"}, func(t *testing.T, f *fixture) {
		f.remove(t, "Service sluice-system/sluice")
	}},
	{"a provider that nobody answers for", "SV202", "Service sluice-system/sluice", nil, func(t *testing.T, f *fixture) {
		f.set(t, sluiceEP, []any{map[string]any{"addresses": []any{"10.0.0.1"}, "conditions": map[string]any{"ready": false}}}, "endpoints")
	}},
	{"PERMISSIVE for a namespace", "SL161", "PeerAuthentication voicecore-ai/own", nil,
		own(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: own, namespace: voicecore-ai}, spec: {mtls: {mode: PERMISSIVE}}}`)},
	{"PERMISSIVE for a workload", "SL161", "PeerAuthentication voicecore-ai/own", nil,
		own(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: own, namespace: voicecore-ai}, spec: {selector: {matchLabels: {app: billing-service}}, mtls: {mode: DISABLE}}}`)},
	{"PERMISSIVE for a port", "SL161", "PeerAuthentication voicecore-ai/own", nil,
		own(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: own, namespace: voicecore-ai}, spec: {selector: {matchLabels: {app: billing-service}}, portLevelMtls: {"8080": {mode: PERMISSIVE}}}}`)},
	{"a proxy that takes plain text, whatever the objects say", "SV216", "Pod " + billing, nil, func(_ *testing.T, f *fixture) {
		chains := f.envoys[billing].listeners[0]["filter_chains"].([]any)
		delete(chains[3].(map[string]any), "transport_socket")
	}},
	{"a certificate near its end", "SV251", "Pod " + billing, nil, func(_ *testing.T, f *fixture) {
		f.envoys[billing].certs = []map[string]any{entry("b", "spiffe://cluster.local/ns/voicecore-ai/sa/billing-service", at.Add(-89*24*time.Hour), at.Add(23*time.Hour))}
	}},
	{"a root near its end", "SV252", "", nil, func(_ *testing.T, f *fixture) {
		for _, e := range f.envoys {
			e.roots = []map[string]any{entry("r1", "", at.Add(-3650*24*time.Hour), at.Add(20*time.Hour))}
		}
	}},
	{"ext_authz that fails open", "SL122", "ConfigMap istio-system/istio", nil, func(t *testing.T, f *fixture) {
		text, _, _ := unstructured.NestedString(f.object(t, "ConfigMap istio-system/istio").Object, "data", "mesh")
		f.set(t, "ConfigMap istio-system/istio", strings.Replace(text, "statusOnError:", "failOpen: true\n    statusOnError:", 1), "data", "mesh")
	}},
	{"a proxy that fails open, whatever the objects say", "SV215", "Pod " + billing, nil, func(_ *testing.T, f *fixture) {
		eachFilter(f.envoys[billing].listeners[0], func(filters []any) []any {
			for _, x := range filters {
				if x := x.(map[string]any); x["name"] == authzFilter {
					x["typed_config"].(map[string]any)["failure_mode_allow"] = true
				}
			}
			return filters
		})
	}},
	{"two injection labels", "SL164", "Namespace voicecore-ai", nil, func(t *testing.T, f *fixture) {
		f.object(t, "Namespace voicecore-ai").SetLabels(map[string]string{"istio-injection": "enabled", "istio.io/rev": "1-30-0"})
	}},
	{"inbound ports that are left out", "SL163", "Deployment voicecore-ai/own", nil,
		own(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: own, namespace: voicecore-ai}, spec: {template: {metadata: {labels: {app: own}, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "8080"}}}}}`)},
	{"a stage that was left soft", "SD301", "the mesh", nil, func(_ *testing.T, f *fixture) { f.status.Stage = "soft" }},
	{"a policy that is a dry run", "SD302", "AuthorizationPolicy voicecore-ai/allow-nothing", nil, func(t *testing.T, f *fixture) {
		f.object(t, "AuthorizationPolicy voicecore-ai/allow-nothing").SetAnnotations(map[string]string{dryRun: "true"})
	}},
	{"a pod without a sidecar", "SV204", "Pod " + billing, nil, func(t *testing.T, f *fixture) {
		p := f.object(t, "Pod "+billing)
		unstructured.RemoveNestedField(p.Object, "spec", "initContainers")
		p.SetAnnotations(nil)
	}},
	{"a filter that selects Sluice", "SL106", "EnvoyFilter sluice-system/own", nil,
		envoyFilter("own", "sluice-system", "workloadSelector: {labels: {app.kubernetes.io/name: sluice}}, priority: 50, ", "INSERT_BEFORE", buffer)},
	{"a filter without a priority", "SL103", "EnvoyFilter voicecore-ai/own", nil, envoyFilter("own", "voicecore-ai", billsOnly, "INSERT_BEFORE", buffer)},
	{"a filter that is added behind the router", "SL102", "EnvoyFilter voicecore-ai/own", nil, envoyFilter("own", "voicecore-ai", billsOnly+"priority: 50, ", "ADD", buffer)},
	{"a second CUSTOM policy", "SL152", "AuthorizationPolicy voicecore-ai/", []string{"SL151"},
		own(`{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: aaa, namespace: voicecore-ai}, spec: {action: CUSTOM, provider: {name: oauth2-proxy}, selector: {matchLabels: {app: billing-service}}, rules: [{}]}}`)},
	{"a VirtualService that takes Sluice's calls", "SL147", "VirtualService voicecore-ai/own", nil,
		own(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: own, namespace: voicecore-ai}, spec: {hosts: [sluice.sluice-system.svc.cluster.local], http: [{route: [{destination: {host: mine}}]}]}}`)},
	{"a ServiceEntry that takes Sluice's calls", "SL147", "ServiceEntry voicecore-ai/own", nil,
		own(`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: own, namespace: voicecore-ai}, spec: {hosts: [sluice.sluice-system.svc.cluster.local], ports: [{number: 9090, name: grpc, protocol: GRPC}], endpoints: [{address: 10.6.6.6}]}}`)},
	{"a policy that allows every workload", "SD311", "AuthorizationPolicy voicecore-ai/own", nil,
		own(`{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: own, namespace: voicecore-ai}, spec: {action: ALLOW, rules: [{from: [{source: {principals: ["cluster.local/*"]}}]}]}}`)},
	{"a policy that allows anybody, mesh-wide", "SD311", "AuthorizationPolicy istio-system/own", nil,
		own(`{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: own, namespace: istio-system}, spec: {rules: [{}]}}`)},
	{"a webhook that leads nowhere", "SD321", "MutatingWebhookConfiguration istio-sidecar-injector", nil, func(t *testing.T, f *fixture) {
		hooks, _, _ := unstructured.NestedSlice(f.object(t, "MutatingWebhookConfiguration istio-sidecar-injector").Object, "webhooks")
		for _, h := range hooks {
			_ = unstructured.SetNestedField(h.(map[string]any), "istiod-1-20-0", "clientConfig", "service", "name")
		}
		f.set(t, "MutatingWebhookConfiguration istio-sidecar-injector", hooks, "webhooks")
	}},
	{"a webhook that believes another root", "SD322", "MutatingWebhookConfiguration istio-sidecar-injector", nil, func(t *testing.T, f *fixture) {
		hooks, _, _ := unstructured.NestedSlice(f.object(t, "MutatingWebhookConfiguration istio-sidecar-injector").Object, "webhooks")
		other := base64Of(certificatePEM(t, at.Add(-time.Hour), at.Add(3650*24*time.Hour)))
		for _, h := range hooks {
			_ = unstructured.SetNestedField(h.(map[string]any), other, "clientConfig", "caBundle")
		}
		f.set(t, "MutatingWebhookConfiguration istio-sidecar-injector", hooks, "webhooks")
	}},
	{"an istiod without endpoints", "SV203", "Service istio-system/istiod", []string{"SD321"}, func(t *testing.T, f *fixture) {
		f.remove(t, "EndpointSlice istio-system/istiod-1")
	}},
	{"a budget that blocks", "SD331", "PodDisruptionBudget istio-system/istiod", nil, func(t *testing.T, f *fixture) {
		f.set(t, "PodDisruptionBudget istio-system/istiod", map[string]any{"expectedPods": int64(1), "currentHealthy": int64(1), "desiredHealthy": int64(1), "disruptionsAllowed": int64(0), "observedGeneration": int64(1)}, "status")
	}},
	{"an autoscaler that can't", "SD332", "HorizontalPodAutoscaler istio-system/istiod", nil, func(t *testing.T, f *fixture) {
		f.set(t, "HorizontalPodAutoscaler istio-system/istiod", []any{map[string]any{"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric", "message": "no metrics", "lastTransitionTime": nil}}, "status", "conditions")
	}},
	{"a question that a route leaves out", "SL123", "EnvoyFilter voicecore-ai/own", nil,
		own(`{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: own, namespace: voicecore-ai}, spec: {` + billsOnly + `priority: 50, configPatches: [{applyTo: HTTP_ROUTE, match: {context: SIDECAR_INBOUND},
patch: {operation: MERGE, value: {typed_per_filter_config: {envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}}}]}}`)},
	{"a Sidecar that hides Sluice", "SD312", "Sidecar voicecore-ai/own", []string{"SV214"}, func(t *testing.T, f *fixture) {
		f.add(t, `{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: own, namespace: voicecore-ai}, spec: {egress: [{hosts: [./*, istio-system/*]}]}}`)
		for pod, e := range f.envoys {
			if strings.HasPrefix(pod, "voicecore-ai/") {
				e.clusters = nil
			}
		}
	}},
	{"a DestinationRule without mutual TLS", "SL147", "DestinationRule voicecore-ai/own", []string{"SV214"}, func(t *testing.T, f *fixture) {
		f.add(t, `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: own, namespace: voicecore-ai}, spec: {host: sluice.sluice-system.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}}`)
		f.envoys[billing].clusters = []map[string]any{{"name": "outbound|9090||sluice.sluice-system.svc.cluster.local"}}
	}},
	{"headers that the gateway lets through", "SV213", "Pod " + ingress, nil, func(_ *testing.T, f *fixture) {
		for _, c := range f.envoys[ingress].listeners[0]["filter_chains"].([]any) {
			for _, x := range c.(map[string]any)["filters"].([]any) {
				delete(x.(map[string]any)["typed_config"].(map[string]any), "early_header_mutation_extensions")
			}
		}
	}},
	{"an object that somebody changed", "SD341", "DestinationRule voicecore-ai/billing-service", nil, func(_ *testing.T, f *fixture) {
		f.changes = []cluster.Change{{Component: "traffic", Object: "DestinationRule voicecore-ai/billing-service", Action: cluster.Update}, {Object: "Namespace x", Action: cluster.Keep}}
	}},
	{"a proxy newer than istiod", "SD333", "Pod " + billing, nil, func(_ *testing.T, f *fixture) { f.envoys[billing].istio = "1.32.0" }},
	{"a proxy two versions behind istiod", "SD333", "Pod " + billing, []string{"SD334"}, func(_ *testing.T, f *fixture) { f.envoys[billing].istio = "1.29.7" }},
	{"a proxy that lacks patches", "SD334", "Pod " + billing, nil, func(_ *testing.T, f *fixture) { f.envoys[billing].istio = "1.31.0" }},
	{"an installation that was interrupted", "SV201", "the mesh", nil, func(_ *testing.T, f *fixture) {
		f.status.Unfinished = "install was interrupted at component gateways"
	}},
	{"objects that are gone", "SV201", "component callers", nil, func(_ *testing.T, f *fixture) {
		f.status.Components = []cluster.ComponentStatus{{Name: "callers", Objects: 9, Ready: 4, Problems: []string{"a: gone", "b: gone", "c: gone", "d: gone", "e: gone"}}}
	}},
	{"a proxy that does not answer", "SV210", "Pod " + billing, nil, func(_ *testing.T, f *fixture) { f.envoys[billing].unanswered = true }},
}

func TestDoctorFindsNothingWrongWithAHealthyMesh(t *testing.T) {
	r := Doctor(context.Background(), healthy(t).open(t))
	for _, f := range r.Findings() {
		t.Errorf("%+v", f)
	}
	if len(r.Results) < 25 {
		t.Errorf("only %d checks ran", len(r.Results))
	}
}

func TestDoctorFindsEachFault(t *testing.T) {
	if len(faults) < 20 {
		t.Fatalf("%d faults", len(faults))
	}
	for _, c := range faults {
		t.Run(c.name+" is "+c.code, func(t *testing.T) {
			f := healthy(t)
			c.seed(t, f)
			found := Doctor(context.Background(), f.open(t)).Findings()
			hit := false
			for _, x := range found {
				hit = hit || x.Code == c.code && strings.HasPrefix(x.Object, c.object)
				if x.Says == "" || x.Fix == "" || x.Doc == "" || x.Object == "" {
					t.Errorf("not all is said: %+v", x)
				}
			}
			if !hit {
				t.Errorf("%s was not said of %s; only %+v", c.code, c.object, found)
			}
			for _, code := range codes(found) {
				if code != c.code && !slices.Contains(c.also, code) {
					t.Errorf("a false alarm: %s in %+v", code, found)
				}
			}
		})
	}
}
