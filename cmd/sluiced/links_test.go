package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

// TestNothingOfKubernetesIsLinked looks at what the linker was given, which the imports
// of our own files do not show whole: this test's binary is the server and testscript.
func TestNothingOfKubernetesIsLinked(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) < 10 {
		t.Fatalf("the binary names %d modules: the test would hold for nothing", len(info.Deps))
	}
	for _, module := range info.Deps {
		for _, banned := range []string{"k8s.io/", "sigs.k8s.io/", "helm.sh/", "istio.io/", "github.com/fluxcd/", "github.com/prometheus-operator/"} {
			if strings.HasPrefix(module.Path, banned) {
				t.Errorf("sluiced links %s", module.Path)
			}
		}
	}
}
