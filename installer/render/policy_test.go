package render

import (
	"slices"
	"strings"
	"testing"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// the is the one object of a kind and name, as its typed struct.
func the[T any](t *testing.T, v *profile.Values, kind, name string) *T {
	t.Helper()
	out := new(T)
	o := lookup(t, v, kind, name)
	if o == nil {
		t.Fatalf("no %s %s is rendered", kind, name)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, out, false); err != nil {
		t.Fatal(err)
	}
	return out
}

// lookup searches what is our own, without Istio's charts.
func lookup(t *testing.T, v *profile.Values, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, component := range []func(*profile.Values) (Objects, error){mutualTLS, allow, traffic, egress, telemetryDefaults, addons} {
		objects, err := component(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.GetKind() == kind && o.GetName() == name {
				return o
			}
		}
	}
	return nil
}

// The first route that a request matches is the one it takes.
func taken(routes []*api.HTTPRoute, method, path string, headers map[string]string) *api.HTTPRoute {
	matches := func(m *api.HTTPMatchRequest) bool {
		if m.Uri.GetPrefix() != "" && !strings.HasPrefix(path, m.Uri.GetPrefix()) || m.Uri.GetExact() != "" && m.Uri.GetExact() != path {
			return false
		}
		if r := m.Method.GetRegex(); r != "" && !slices.Contains(strings.Split(r, "|"), method) {
			return false
		}
		for name, value := range m.Headers {
			if headers[name] != value.GetExact() {
				return false
			}
		}
		return true
	}
	for _, r := range routes {
		if len(r.Match) == 0 || slices.ContainsFunc(r.Match, matches) {
			return r
		}
	}
	return nil
}

func TestRequestsThatMayNotBeRepeatedAreNotRetriedBlindly(t *testing.T) {
	v := values(t, "voicecore")
	for _, s := range v.Mesh.Services {
		inner := the[networking.VirtualService](t, v, "VirtualService", s.Name).Spec.Http
		for method, on := range map[string][]string{"GET": s.Retries.On, "PUT": s.Retries.On, "POST": s.Retries.OnUnsafe, "PATCH": s.Retries.OnUnsafe} {
			r := taken(inner, method, "/v1/things", nil)
			if got := r.Retries.RetryOn; got != strings.Join(on, ",") {
				t.Errorf("%s %s is retried on %q, want %q", method, s.Name, got, on)
			}
			if method == "POST" && strings.Contains(r.Retries.RetryOn, "5xx") {
				t.Errorf("%s: a POST that failed is sent again", s.Name)
			}
			if got := r.Timeout.AsDuration(); got != s.Timeout.Duration {
				t.Errorf("%s: timeout %s, want %s", s.Name, got, s.Timeout.Duration)
			}
		}
	}
}

func TestAStreamHasNoTimeoutAndNoRetry(t *testing.T) {
	v := values(t, "voicecore")
	routes := the[networking.VirtualService](t, v, "VirtualService", "call-service").Spec.Http
	r := taken(routes, "GET", "/stream/1", nil)
	if r.Timeout != nil {
		t.Errorf("a stream's timeout is %v, want none: istiod reads an absent one as no bound, and Istio's definition refuses 0s", r.Timeout)
	}
	if r.Retries == nil || r.Retries.Attempts != 0 {
		t.Errorf("a stream is retried: %v", r.Retries)
	}
	if other := taken(routes, "GET", "/streams", nil); other.Timeout.AsDuration() == 0 {
		t.Error("a path that only begins like a stream's has no timeout")
	}
}

func TestLongerPrefixesAreRoutedFirst(t *testing.T) {
	v := values(t, "voicecore")
	for i := range v.Mesh.Services {
		if s := &v.Mesh.Services[i]; s.Name == "billing-service" {
			s.Paths = []string{"/billing"}
		}
	}
	routes := the[networking.VirtualService](t, v, "VirtualService", publicGateway).Spec.Http
	for path, want := range map[string]string{
		"/": "gateway-service", "/billing": "billing-service", "/billing/1": "billing-service", "/billings": "gateway-service",
	} {
		if got := taken(routes, "GET", path, nil).Route[0].Destination.Host; !strings.HasPrefix(got, want+".") {
			t.Errorf("%s goes to %s, want %s", path, got, want)
		}
	}
}

func TestAFaultReachesOnlyWhoAsksForIt(t *testing.T) {
	v := values(t, "voicecore")
	s := &v.Mesh.Services[1]
	s.Fault = &profile.Fault{AbortPercent: 100, AbortStatus: 503, Header: "please"}
	routes := the[networking.VirtualService](t, v, "VirtualService", s.Name).Spec.Http
	if r := taken(routes, "GET", "/", nil); r.Fault != nil {
		t.Error("a request without the header meets the fault")
	}
	if r := taken(routes, "GET", "/", map[string]string{faultHeader: "please"}); r.Fault.GetAbort().GetHttpStatus() != 503 {
		t.Error("a request with the header meets no fault")
	}
	s.Fault.Header = ""
	routes = the[networking.VirtualService](t, v, "VirtualService", s.Name).Spec.Http
	if r := taken(routes, "POST", "/", nil); r.Fault.GetAbort().GetHttpStatus() != 503 {
		t.Error("a fault without a header does not reach every request")
	}
}

func TestACanaryTakesItsShare(t *testing.T) {
	v := values(t, "voicecore")
	s := &v.Mesh.Services[2]
	s.Canary = &profile.Canary{Stable: "v1", Canary: "v2", Weight: 10}
	r := taken(the[networking.VirtualService](t, v, "VirtualService", s.Name).Spec.Http, "GET", "/", nil)
	shares := map[string]int32{}
	for _, d := range r.Route {
		shares[d.Destination.Subset] = d.Weight
	}
	if shares["v1"] != 90 || shares["v2"] != 10 {
		t.Errorf("shares %v, want 90 and 10", shares)
	}
	if n := len(the[networking.DestinationRule](t, v, "DestinationRule", s.Name).Spec.Subsets); n != 2 {
		t.Errorf("%d subsets, want 2", n)
	}
}

func TestOnlyListedCallersAreAllowed(t *testing.T) {
	v := values(t, "voicecore")
	if p := the[security.AuthorizationPolicy](t, v, "AuthorizationPolicy", "allow-nothing"); len(p.Spec.Rules) != 0 || p.Spec.Selector != nil || p.Annotations[dryRun] != "" {
		t.Errorf("allow-nothing allows something, somewhere or only on paper: %v", p)
	}
	for _, s := range v.Mesh.Services {
		p := the[security.AuthorizationPolicy](t, v, "AuthorizationPolicy", "allow-callers-of-"+s.Name)
		got := p.Spec.Rules[0].From[0].Source.Principals
		if len(got) != len(s.Callers) {
			t.Errorf("%s: %v, want %v", s.Name, got, s.Callers)
		}
		for _, g := range got {
			if strings.Contains(g, "*") {
				t.Errorf("%s may be called by a pattern: %s", s.Name, g)
			}
		}
	}
}

func TestTheSoftStageObservesAndOpensNothing(t *testing.T) {
	v := values(t, "voicecore", "mesh.stage=soft")
	if p := the[security.PeerAuthentication](t, v, "PeerAuthentication", "default-mtls"); p.Spec.Mtls.Mode.String() != "PERMISSIVE" {
		t.Errorf("mutual TLS is %s in the soft stage", p.Spec.Mtls.Mode)
	}
	if p := the[security.AuthorizationPolicy](t, v, "AuthorizationPolicy", "allow-nothing"); p.Annotations[dryRun] != "true" {
		t.Error("a plaintext caller, which the stage is for, is refused for want of a principal")
	}
}

func TestConsolesCanOnlyRead(t *testing.T) {
	consoles, err := addons(values(t, "voicecore"))
	if err != nil {
		t.Fatal(err)
	}
	roles := 0
	for _, o := range consoles {
		if o.GetKind() != "ClusterRole" {
			continue
		}
		roles++
		role := &rbac.ClusterRole{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, role, true); err != nil {
			t.Fatal(err)
		}
		for _, r := range role.Rules {
			// A token is reviewed by creating a review, which stores nothing.
			review := slices.Equal(r.Resources, []string{"tokenreviews"})
			for _, verb := range r.Verbs {
				if !review && !slices.Contains([]string{"get", "list", "watch"}, verb) {
					t.Errorf("%s may %s %v", o.GetName(), verb, r.Resources)
				}
			}
			if slices.Contains(r.Resources, "secrets") || slices.Contains(r.Resources, "*") {
				t.Errorf("%s reads %v", o.GetName(), r.Resources)
			}
		}
	}
	if roles != 2 {
		t.Errorf("%d cluster roles, want Prometheus's and Kiali's", roles)
	}
}

func TestAConsolesImageHasAVersion(t *testing.T) {
	consoles, err := addons(values(t, "voicecore"))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range consoles {
		if o.GetKind() != "Deployment" {
			continue
		}
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if image, _ := containers[0].(map[string]any)["image"].(string); !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
			t.Errorf("%s: image %q has no version", o.GetName(), image)
		}
	}
}

func TestWhoMayReachAHostIsSaidByItsName(t *testing.T) {
	v := values(t, "voicecore")
	p := the[security.AuthorizationPolicy](t, v, "AuthorizationPolicy", "allow-egress")
	if len(p.Spec.Rules) != 1 || p.Spec.Rules[0].When[0].Key != "connection.sni" || p.Spec.Rules[0].When[0].Values[0] != "speech.example.com" {
		t.Errorf("rules %v, want one for the SNI speech.example.com", p.Spec.Rules)
	}
	v.Mesh.External[0].Callers = nil
	if p := the[security.AuthorizationPolicy](t, v, "AuthorizationPolicy", "allow-egress"); len(p.Spec.Rules) != 0 {
		t.Errorf("a host that lists no callers may be reached: %v", p.Spec.Rules)
	}
}

func TestImagesComeFromTheRegistryThatIsSet(t *testing.T) {
	v := values(t, "voicecore", "images.registry=registry.local:5000/mirror", "images.pullSecret=pull")
	o := lookup(t, v, "Deployment", "grafana")
	containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	if got := containers[0].(map[string]any)["image"]; got != "registry.local:5000/mirror/grafana/grafana:12.0.1" {
		t.Errorf("image %v", got)
	}
	if secrets, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "imagePullSecrets"); len(secrets) != 1 {
		t.Errorf("pull secrets %v", secrets)
	}
}
