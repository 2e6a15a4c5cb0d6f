package render

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// meshText is the mesh configuration that istiod reads.
func meshText(t *testing.T, v *profile.Values) string {
	t.Helper()
	name := "istio"
	if v.Istio.Revision != "" {
		name += "-" + v.Istio.Revision
	}
	data, _, _ := unstructured.NestedString(find(t, component(t, v, "istiod"), "ConfigMap", name).Object, "data", "mesh")
	return data
}

func TestTheMeshConfigurationSaysWhatItMeans(t *testing.T) {
	v := values(t, "voicecore")
	got := meshText(t, v)
	// The text, not what it decodes to: REGISTRY_ONLY is the zero of its enum, and istiod merges into a default of ALLOW_ANY.
	for _, want := range []string{"outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n", "SECRET_TTL: 2160h0m0s\n", "SECRET_GRACE_PERIOD_RATIO: \"0.1\"\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	asJSON, err := yaml.YAMLToJSONStrict([]byte(got))
	if err != nil {
		t.Fatal(err)
	}
	var config mesh.MeshConfig
	if err := protojson.Unmarshal(asJSON, &config); err != nil {
		t.Fatalf("istiod would not read it: %v", err)
	}
	if config.AccessLogFile != "" || config.TrustDomain != "cluster.local" || config.RootNamespace != "istio-system" {
		t.Errorf("access log %q, trust domain %q, root namespace %q", config.AccessLogFile, config.TrustDomain, config.RootNamespace)
	}
	providers := map[string]bool{}
	for _, p := range config.ExtensionProviders {
		providers[p.Name] = true
	}
	for _, name := range []string{wiring.AuthzProvider, wiring.TracingProvider} {
		if !providers[name] {
			t.Errorf("providers %v without %s", providers, name)
		}
	}
}

// field reads a field of an object, or fails.
func field(t *testing.T, o *unstructured.Unstructured, fields ...string) any {
	t.Helper()
	v, found, err := unstructured.NestedFieldNoCopy(o.Object, fields...)
	if err != nil || !found {
		t.Fatalf("%s %s has no %s: %v", o.GetKind(), o.GetName(), strings.Join(fields, "."), err)
	}
	return v
}

func TestReplicasAreTheAutoscalersOrOurs(t *testing.T) {
	rendered := ours(t, values(t, "voicecore", "istio.pilot.max=2"))
	deployments := map[string]*unstructured.Unstructured{}
	scaled := map[string][2]any{}
	for _, r := range rendered {
		for _, o := range r.Objects {
			switch o.GetKind() {
			case "Deployment":
				deployments[o.GetName()] = o
			case "HorizontalPodAutoscaler":
				scaled[field(t, o, "spec", "scaleTargetRef", "name").(string)] = [2]any{field(t, o, "spec", "minReplicas"), field(t, o, "spec", "maxReplicas")}
			}
		}
	}
	for _, name := range []string{"istiod", wiring.IngressName, egressName} {
		if deployments[name] == nil {
			t.Fatalf("there is no Deployment %s", name)
		}
	}
	for name, d := range deployments {
		_, set, _ := unstructured.NestedFieldNoCopy(d.Object, "spec", "replicas")
		if _, autoscaled := scaled[name]; autoscaled && set {
			t.Errorf("%s: an autoscaler and we would write replicas in turn", name)
		}
	}
	if got, want := scaled[wiring.IngressName], [2]any{int64(2), int64(10)}; got != want {
		t.Errorf("the ingress gateway is scaled between %v, want %v", got, want)
	}
	for _, name := range []string{"istiod", egressName} {
		if got := field(t, deployments[name], "spec", "replicas"); got != int64(2) || scaled[name] != [2]any{} {
			t.Errorf("%s, from 2 to 2, has %v replicas and the autoscaler %v", name, got, scaled[name])
		}
	}
}

func TestWhatIstiodWritesIntoWebhooksIsNotOurs(t *testing.T) {
	objects := component(t, values(t, "voicecore"), "webhooks")
	kinds := map[string]int{}
	for _, o := range objects {
		kinds[o.GetKind()]++
		hooks := field(t, o, "webhooks").([]any)
		for _, hook := range hooks {
			h := hook.(map[string]any)
			_, policy := h["failurePolicy"]
			_, bundle := h["clientConfig"].(map[string]any)["caBundle"]
			if bundle || policy && o.GetKind() == "ValidatingWebhookConfiguration" {
				t.Errorf("%s %s, %v: caBundle %v, failurePolicy %v", o.GetKind(), o.GetName(), h["name"], bundle, policy)
			}
			if !policy && o.GetKind() == "MutatingWebhookConfiguration" {
				t.Errorf("%s: %v does not say what happens while istiod is away", o.GetName(), h["name"])
			}
		}
	}
	if kinds["MutatingWebhookConfiguration"] != 1 || kinds["ValidatingWebhookConfiguration"] != 2 || len(objects) != 3 {
		t.Errorf("webhooks %v", kinds)
	}
}

// TestARevisionStandsBesideAnother: what two control planes of one cluster may
// not share carries the revision in its name, and what it carries points at it.
func TestARevisionStandsBesideAnother(t *testing.T) {
	const revision = "1-31-4"
	shared := map[string]bool{"ValidatingWebhookConfiguration istiod-default-validator": true} // it is moved when the revision is promoted
	first := map[string]bool{}
	for _, name := range []string{"istiod", "webhooks"} {
		for _, o := range component(t, values(t, "voicecore"), name) {
			first[o.GetKind()+" "+o.GetName()] = true
		}
	}
	second := values(t, "voicecore", "istio.revision="+revision)
	for _, name := range []string{"istiod", "webhooks"} {
		for _, o := range component(t, second, name) {
			if id := o.GetKind() + " " + o.GetName(); first[id] != shared[id] {
				t.Errorf("%s is of both revisions: %v", id, first[id])
			}
			if name != "webhooks" {
				continue
			}
			for _, hook := range field(t, o, "webhooks").([]any) {
				asked, _, _ := unstructured.NestedString(hook.(map[string]any), "clientConfig", "service", "name")
				if asked != "istiod-"+revision {
					t.Errorf("%s %s asks %s", o.GetKind(), o.GetName(), asked)
				}
			}
		}
	}
	if got := meshText(t, second); !strings.Contains(got, "discoveryAddress: istiod-"+revision+".istio-system.svc:15012\n") {
		t.Errorf("proxies of the revision ask elsewhere:\n%s", got)
	}
	for _, o := range component(t, second, "gateways") {
		if o.GetKind() == "Deployment" {
			if got := field(t, o, "spec", "template", "metadata", "labels").(map[string]any)["istio.io/rev"]; got != revision {
				t.Errorf("%s is injected by %v", o.GetName(), got)
			}
		}
	}
	for _, o := range component(t, second, "namespaces") {
		if labels := o.GetLabels(); o.GetName() != "istio-system" && (labels["istio.io/rev"] != revision || labels["istio-injection"] != "") {
			t.Errorf("namespace %s has %v; with both labels, istio-injection wins", o.GetName(), labels)
		}
	}
}

func TestEveryImageHasItsHubTagAndPullSecret(t *testing.T) {
	v := values(t, "voicecore", "images.hub=registry.example.com/istio", "istio.version=1.31.3", "images.pullSecret=pull")
	rendered := ours(t, v)
	deployment := find(t, component(t, v, "istiod"), "Deployment", "istiod")
	containers := field(t, deployment, "spec", "template", "spec", "containers").([]any)
	if got := containers[0].(map[string]any)["image"]; got != "registry.example.com/istio/pilot:1.31.3" {
		t.Errorf("istiod runs %v", got)
	}
	injector := field(t, find(t, component(t, v, "istiod"), "ConfigMap", "istio-sidecar-injector"), "data", "values").(string)
	for _, want := range []string{`"hub": "registry.example.com/istio"`, `"tag": "1.31.3"`, `"pull"`} {
		if !strings.Contains(injector, want) {
			t.Errorf("the injector's values have no %s", want)
		}
	}
	account := find(t, component(t, v, "istiod"), "ServiceAccount", "istiod")
	if got := field(t, account, "imagePullSecrets").([]any); len(got) != 1 || got[0].(map[string]any)["name"] != "pull" {
		t.Errorf("istiod pulls with %v", got)
	}
	for _, r := range rendered {
		for _, o := range r.Objects {
			if text := string(text(t, Objects{o})); strings.Contains(text, "istio/testing") || strings.Contains(text, ":latest\n") {
				t.Errorf("%s %s names an image that moves", o.GetKind(), o.GetName())
			}
		}
	}
	gateway := find(t, component(t, v, "gateways"), "Deployment", wiring.IngressName)
	if got := field(t, gateway, "spec", "template", "spec", "imagePullSecrets").([]any)[0].(map[string]any)["name"]; got != "pull" {
		t.Errorf("the gateway pulls with %v", got)
	}
}

// TestProxiesWithoutIstiosOwnFiltersCanBeRun is what Envoy as it is released needs: it knows none of Istio's filters.
func TestProxiesWithoutIstiosOwnFiltersCanBeRun(t *testing.T) {
	env := func(v *profile.Values) map[string]any {
		d := find(t, component(t, v, "istiod"), "Deployment", "istiod")
		out := map[string]any{}
		for _, e := range field(t, d, "spec", "template", "spec", "containers").([]any)[0].(map[string]any)["env"].([]any) {
			e := e.(map[string]any)
			if out[e["name"].(string)] != nil {
				t.Errorf("%v is set twice", e["name"])
			}
			out[e["name"].(string)] = e["value"]
		}
		return out
	}
	v := values(t, "voicecore", "istio.pilotEnv.PILOT_ENABLE_METADATA_EXCHANGE=false,istio.pilotEnv.PILOT_ENABLE_ALPN_FILTER=false,istio.stats=false",
		"istio.nativeSidecars=false", "istio.pilotEnv.PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER=true")
	got := env(v)
	for name, want := range map[string]string{
		"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false", "ENABLE_NATIVE_SIDECARS": "false",
		"PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "true", "DEFAULT_WORKLOAD_CERT_TTL": "2160h0m0s", "MAX_WORKLOAD_CERT_TTL": "2160h0m0s",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %s", name, got[name], want)
		}
	}
	// Istio's metrics come from a provider that is the default one, unless stats are off.
	if strings.Contains(meshText(t, v), "prometheus\n") || !strings.Contains(meshText(t, values(t, "voicecore")), "prometheus\n") {
		t.Error("istio.stats does not decide whether proxies have Istio's metrics filter")
	}
}

func TestAGatewayServesTLSOnlyWithASecret(t *testing.T) {
	ports := func(sets ...string) (names []string) {
		s := find(t, component(t, values(t, "voicecore", sets...), "gateways"), "Service", wiring.IngressName)
		for _, p := range field(t, s, "spec", "ports").([]any) {
			names = append(names, p.(map[string]any)["name"].(string))
		}
		return names
	}
	if got := ports(); len(got) != 2 || got[1] != "http2" {
		t.Errorf("without a secret: %v", got)
	}
	if got := ports("istio.ingress.tlsSecret=public"); len(got) != 3 || got[2] != "https" {
		t.Errorf("with one: %v", got)
	}
}
