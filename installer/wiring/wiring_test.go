package wiring_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	api "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

var update = flag.Bool("update", false, "write the golden files")

// values is a small mesh in which every door is used.
func values() *profile.Values {
	second := metav1.Duration{Duration: time.Second}
	v := &profile.Values{}
	v.Istio.Namespace, v.Istio.TrustDomain, v.Istio.ClusterDomain = "istio-system", "cluster.local", "cluster.local"
	v.Mesh.Namespace = "voicecore-ai"
	v.Mesh.Services = []profile.Service{
		{Name: "tenant-service", Port: 8080},
		{Name: "call-service", Port: 8080, Streams: []string{"/v1/calls/stream"}},
		{Name: "ai-service", Port: 8080, LocalLimit: &profile.LocalLimit{Tokens: 50, Interval: second}},
	}
	v.Mesh.Tracing.Enabled, v.Mesh.Tracing.Service, v.Mesh.Tracing.Port = true, "jaeger-collector.observability.svc.cluster.local", 4317
	v.Sluice.Namespace = "sluice-system"
	v.Sluice.ExcludedPaths = []string{"/healthz", "/static/*"}
	d := &v.Sluice.Doors
	d.ExtAuthz = profile.ExtAuthz{Enabled: true, Timeout: second, Inner: true}
	d.AccessLog = true
	d.ExtProc.Enabled, d.ExtProc.Timeout, d.ExtProc.Services = true, second, []string{"call-service"}
	d.RateLimit.Enabled, d.RateLimit.Timeout, d.RateLimit.Domain = true, second, "voicecore"
	d.RateLimit.Services = []string{profile.Ingress}
	d.RateLimit.Descriptors = []profile.Descriptor{
		{{Key: "path", Path: true}, {Key: "method", Method: true}},
		{{Key: "user", Header: "x-user"}, {Key: "kind", Value: "public"}},
	}
	v.Istio.Ingress.Enabled = true
	return v
}

func render(t *testing.T, v *profile.Values) []*unstructured.Unstructured {
	t.Helper()
	out, err := wiring.Objects(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// envoyFilter reads an EnvoyFilter back, strictly.
func envoyFilter(t *testing.T, o *unstructured.Unstructured) *api.EnvoyFilter {
	t.Helper()
	raw, err := json.Marshal(o.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	out := &api.EnvoyFilter{}
	if err := protojson.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestObjectsAreWhatTheGoldenFileSays(t *testing.T) {
	var text strings.Builder
	for _, o := range render(t, values()) {
		raw, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "---\n%s", raw)
	}
	for _, p := range wiring.ExtensionProviders(values()) {
		raw, err := protojson.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		readable, err := yaml.JSONToYAML(raw)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "--- # extension provider\n%s", readable)
	}
	golden := filepath.Join("testdata", "all-doors.yaml")
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("%s differs; look at 'go test ./installer/wiring -update' and 'git diff'", golden)
	}
}

func TestEveryFilterIsBounded(t *testing.T) {
	seen := 0
	for _, o := range render(t, values()) {
		if o.GetKind() != "EnvoyFilter" {
			continue
		}
		seen++
		spec := envoyFilter(t, o)
		if len(spec.GetWorkloadSelector().GetLabels()) == 0 {
			t.Errorf("%s selects everything", o.GetName())
		}
		if spec.GetPriority() == 0 {
			t.Errorf("%s has no priority", o.GetName())
		}
		if o.GetNamespace() == "sluice-system" {
			t.Errorf("%s selects pods of Sluice", o.GetName())
		}
		for _, c := range spec.GetConfigPatches() {
			if op := c.GetPatch().GetOperation(); op != api.EnvoyFilter_Patch_MERGE && op != api.EnvoyFilter_Patch_INSERT_BEFORE {
				t.Errorf("%s: operation %s", o.GetName(), op)
			}
			if err := wiring.Validate(c.GetApplyTo(), c.GetPatch().GetOperation(), c.GetPatch().GetValue()); err != nil {
				t.Errorf("%s: %v", o.GetName(), err)
			}
		}
	}
	if seen != 7 {
		t.Errorf("%d EnvoyFilters, want 7", seen)
	}
}

func TestPoliciesComeAfterFilters(t *testing.T) {
	var kinds []string
	for _, o := range render(t, values()) {
		kinds = append(kinds, o.GetKind())
	}
	last := slices.Index(kinds, "AuthorizationPolicy")
	if last < 0 || slices.Contains(kinds[last:], "EnvoyFilter") {
		t.Errorf("the order is %v: a CUSTOM policy acts before the patch of its filter is there", kinds)
	}
}

func TestPeers(t *testing.T) {
	t.Run("the gateway is the edge, and every service that asks is a peer", func(t *testing.T) {
		got := wiring.Peers(values())
		want := []string{
			"spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway", "spiffe://cluster.local/ns/voicecore-ai/sa/tenant-service",
			"spiffe://cluster.local/ns/voicecore-ai/sa/call-service", "spiffe://cluster.local/ns/voicecore-ai/sa/ai-service",
		}
		if !slices.Equal(got.Peers, want) || !slices.Equal(got.Edge, want[:1]) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a service with only a local limit asks nobody", func(t *testing.T) {
		v := values()
		v.Sluice.Doors = profile.Doors{ExtAuthz: profile.ExtAuthz{Enabled: true}}
		if got := wiring.Peers(v); len(got.Peers) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestAmbient(t *testing.T) {
	t.Run("ambient mode has ext_authz at waypoints and no filter there", func(t *testing.T) {
		v := values()
		v.Istio.DataPlane = profile.Ambient
		v.Mesh.Services = v.Mesh.Services[:1]
		v.Sluice.Doors.ExtProc.Enabled, v.Sluice.Doors.ExtProc.Services = false, nil
		policies := 0
		for _, o := range render(t, v) {
			if o.GetKind() == "EnvoyFilter" && o.GetNamespace() != "istio-system" {
				t.Errorf("EnvoyFilter %s", o.GetName())
			}
			if refs, found, _ := unstructured.NestedSlice(o.Object, "spec", "targetRefs"); found {
				policies++
				if len(refs) != 1 {
					t.Errorf("%s has %d targets", o.GetName(), len(refs))
				}
			}
		}
		if policies != 1 {
			t.Errorf("%d policies for waypoints, want 1", policies)
		}
	})
}

// manager is the HTTP connection manager of one of our configurations that people copy.
func manager(t *testing.T, text string) map[string]any {
	t.Helper()
	var root any
	if err := yaml.Unmarshal([]byte(regexp.MustCompile(`\$\{[A-Z_]+\}`).ReplaceAllString(text, "1")), &root); err != nil {
		t.Fatal(err)
	}
	return find(root, "HttpConnectionManager")
}

// find is the first typed configuration of that kind.
func find(v any, kind string) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		if url, _ := v["@type"].(string); strings.HasSuffix(url, "."+kind) {
			return v
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if found := find(v[key], kind); found != nil {
				return found
			}
		}
	case []any:
		for _, item := range v {
			if found := find(item, kind); found != nil {
				return found
			}
		}
	}
	return nil
}

// plain is a value without what must differ between a file and a mesh: which cluster is called, how a
// duration is written, and the tenant headers' patterns, which are exact here.
func plain(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	text := regexp.MustCompile(`"envoy_grpc":\{[^}]*\}`).ReplaceAllString(string(raw), "")
	text = regexp.MustCompile(`(\d\.\d*?[1-9])0+s"`).ReplaceAllString(text, `${1}s"`)
	return regexp.MustCompile(`\{"remove_on_match":\{"key_matcher":\{"safe_regex":\{"regex":"(\[\^a-z0-9\]\*|[^"]*(tenant|sluice))[^"]*"\}\}\}\},?`).ReplaceAllString(text, "")
}

func TestAMeshIsWiredAsTheFilesThatPeopleCopy(t *testing.T) {
	for _, c := range []struct {
		name, file, filter string
		edgeOnly           []string
	}{
		{"the gateway as demo.yaml", deploy.Demo, "sluice-ask-ingress", nil},
		{"a service as mesh.yaml", deploy.Mesh, "sluice-ask-tenant-service", []string{"request_headers_timeout", "stream_idle_timeout", "common_http_protocol_options", "http2_protocol_options", "use_remote_address"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours := map[string]any{}
			for _, o := range render(t, values()) {
				if o.GetName() != c.filter || o.GetKind() != "EnvoyFilter" {
					continue
				}
				for _, p := range envoyFilter(t, o).GetConfigPatches() {
					maps.Copy(ours, find(p.GetPatch().GetValue().AsMap(), "HttpConnectionManager"))
					if authz := find(p.GetPatch().GetValue().AsMap(), "ExtAuthz"); authz != nil {
						maps.Copy(ours, authz)
					}
				}
			}
			theirs := manager(t, c.file)
			authz := find(theirs["http_filters"], "ExtAuthz")
			compared := 0
			for _, from := range []map[string]any{theirs, authz} {
				for _, key := range slices.Sorted(maps.Keys(from)) {
					switch key {
					case "@type", "stat_prefix", "http_filters", "route_config": // each proxy's own
						continue
					case "grpc_service", "transport_api_version", "failure_mode_allow", "status_on_error", "include_peer_certificate": // the provider's, or Envoy's default
						continue
					}
					if slices.Contains(c.edgeOnly, key) {
						continue
					}
					compared++
					if plain(ours[key]) != plain(from[key]) {
						t.Errorf("%s is %s, and in the file %s", key, plain(ours[key]), plain(from[key]))
					}
				}
			}
			if compared < 9 {
				t.Errorf("only %d fields were compared", compared)
			}
		})
	}
}
