package render

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const manifestsDir = "../../deploy/kubernetes/istio"

// kubectlFiles are the files for those who have kubectl alone, in the order in which they are applied.
var kubectlFiles = []struct {
	file, says string
	components []string
	keep       func(o *unstructured.Unstructured) bool
}{
	{"namespace-injection.yaml", "Namespaces; the label decides who gets a sidecar.", []string{"namespaces"}, nil},
	{"istio-crds.yaml", "Istio's custom resource definitions.", []string{"crds"}, nil},
	{"istio-installation.yaml", "istiod with its webhooks, and the gateways.", []string{"istiod", "webhooks", "gateways"}, nil},
	{"mtls-policy.yaml", "Mutual TLS for the whole mesh, and who may call whom.", []string{"mutual-tls", "callers"}, nil},
	{"traffic-management.yaml", "Circuit breakers, retries, timeouts, balancing; hosts outside the mesh; telemetry.", []string{"traffic", "egress", "telemetry"}, nil},
	{
		"certificate-rotation.yaml",
		"Prometheus, with alerts about certificates that were not renewed. How long they live and when\n# they are renewed is in istio-installation.yaml: SECRET_TTL, SECRET_GRACE_PERIOD_RATIO and istiod's *_WORKLOAD_CERT_TTL.",
		[]string{"addons"}, isPrometheus,
	},
	{"addons.yaml", "Kiali, Jaeger and Grafana.", []string{"addons"}, func(o *unstructured.Unstructured) bool { return !isPrometheus(o) }},
}

func isPrometheus(o *unstructured.Unstructured) bool {
	return strings.Contains(o.GetName(), "prometheus")
}

// TestManifestsAreWhatIsRendered holds deploy/kubernetes/istio to the profile voicecore; 'make generate' writes them.
func TestManifestsAreWhatIsRendered(t *testing.T) {
	rendered := all(t, values(t, "voicecore"))
	objects := map[string]int{}
	for _, m := range kubectlFiles {
		t.Run("the file "+m.file, func(t *testing.T) {
			got := []byte("# " + m.says + "\n#\n# Written by 'make generate' from the profile voicecore; do not edit. README.md has the order.\n")
			for _, name := range m.components {
				i := slices.IndexFunc(rendered, func(r Rendered) bool { return r.Name == name })
				if i < 0 {
					t.Fatalf("there is no component %s", name)
				}
				for _, o := range rendered[i].Objects {
					if m.keep == nil || m.keep(o) {
						objects[name]++
						got = append(got, text(t, Objects{o})...)
					}
				}
			}
			if len(got) > 1e6 {
				t.Errorf("%d bytes: too large for a file of the repository", len(got))
			}
			file := filepath.Join(manifestsDir, m.file)
			if *update {
				if err := os.WriteFile(file, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what is rendered; run 'make generate' and read the difference.\n%s", file, firstDifference(got, want))
			}
		})
	}
	// What is not in a file asks Sluice, or is Sluice.
	for _, r := range rendered {
		if missing := len(r.Objects) - objects[r.Name]; missing != 0 && r.Name != "sluice" && r.Name != "filters" {
			t.Errorf("%d objects of the component %s are in no file", missing, r.Name)
		}
	}
}

// TestReadmeAppliesAllManifestsInOrder reads the commands of the README.
func TestReadmeAppliesAllManifestsInOrder(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(manifestsDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var applied, want []string
	for _, match := range regexp.MustCompile(`kubectl apply --server-side -f (\S+)`).FindAllSubmatch(readme, -1) {
		applied = append(applied, string(match[1]))
	}
	for _, m := range kubectlFiles {
		want = append(want, m.file)
	}
	if !slices.Equal(applied, want) {
		t.Errorf("the README applies %v, want %v", applied, want)
	}
	files, err := filepath.Glob(filepath.Join(manifestsDir, "*.yaml"))
	if err != nil || len(files) != len(kubectlFiles) {
		t.Errorf("%d files, %d are written: %v", len(files), len(kubectlFiles), err)
	}
	for _, wait := range []string{"wait --for=condition=Established crd -l app.kubernetes.io/part-of=istio\n", "wait --for=condition=Available"} {
		if !strings.Contains(string(readme), wait) {
			t.Errorf("the README does not %q", wait)
		}
	}
}
