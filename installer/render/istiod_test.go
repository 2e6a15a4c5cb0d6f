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
	data, _, _ := unstructured.NestedString(find(t, component(t, all(t, v), "istiod"), "ConfigMap", name).Object, "data", "mesh")
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
