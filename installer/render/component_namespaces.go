package render

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// namespaces are made first: injection is decided by their labels when a pod starts.
func namespaces(v *profile.Values) (Objects, error) {
	out := Objects{namespace(v.Istio.Namespace, nil)}
	injected := map[string]any{"istio-injection": "enabled"}
	if v.Istio.Revision != "" {
		injected = map[string]any{"istio.io/rev": v.Istio.Revision}
	}
	for _, name := range []string{v.Mesh.Namespace, v.Sluice.Namespace} {
		out = append(out, namespace(name, injected))
	}
	return out, nil
}

func namespace(name string, labels map[string]any) *unstructured.Unstructured {
	metadata := map[string]any{"name": name}
	if len(labels) > 0 {
		metadata["labels"] = labels
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}}
}
