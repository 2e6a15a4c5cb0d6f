package render

import (
	"fmt"
	"strconv"

	"helm.sh/helm/v4/pkg/chart/common/util"

	"github.com/voicecore-ai/sluice/deploy/chart"
	"github.com/voicecore-ai/sluice/installer/lint"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// statusPort is where the chart's sluiced answers Prometheus.
const statusPort = 9092

// sluice is the server that proxies ask, from its own chart, where any proxy
// does. It is ready before the filters that ask it: they refuse while nobody
// answers. Who may ask comes from the wiring; sluice.values lie over all of it.
func sluice(v *profile.Values) (Objects, error) {
	callers := wiring.Peers(v)
	if len(callers.Peers) == 0 {
		return nil, nil
	}
	values := util.CoalesceTables(copyOf(v.Sluice.Values), map[string]any{
		"fullnameOverride": wiring.Service,
		"doors":            map[string]any{"peers": list(callers.Peers), "edgePeers": list(callers.Edge)},
		"istio":            map[string]any{"namespace": v.Istio.Namespace, "revision": v.Istio.Revision},
	})
	from := []any{map[string]any{"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": v.Addons.Namespace}}}}
	if v.Addons.Prometheus.Enabled {
		values = util.CoalesceTables(values, map[string]any{
			"podLabels": map[string]any{"app": wiring.Service}, // as the alerts call it
			"podAnnotations": map[string]any{
				"prometheus.io/scrape": "true", "prometheus.io/port": strconv.Itoa(statusPort), "prometheus.io/path": "/metrics",
				// Else the injector would send Prometheus to the sidecar, at a port that the NetworkPolicy has shut.
				"prometheus.istio.io/merge-metrics": "false",
			},
			"networkPolicy": map[string]any{"statusFrom": from},
		})
	}
	if t := v.Mesh.Tracing; t.Enabled && v.Addons.Jaeger.Enabled {
		values = util.CoalesceTables(values, map[string]any{"networkPolicy": map[string]any{"otlpTo": from}})
		if settings, _ := values["settings"].(map[string]any); settings["otlp-endpoint"] == nil {
			// Jaeger of the addons speaks no TLS.
			values = util.CoalesceTables(values, map[string]any{
				"settings": map[string]any{"otlp-endpoint": fmt.Sprintf("%s:%d", t.Service, t.Port), "otlp-plaintext": true},
			})
		}
	}
	values["stage"] = string(v.Mesh.Stage) // one stage for all of the mesh: profile refuses another among sluice.values
	if s := v.Images.PullSecret; s != "" {
		values["imagePullSecrets"] = []any{s}
	}
	if i, ok := values["image"].(map[string]any); ok {
		if repository, ok := i["repository"].(string); ok {
			i["repository"] = image(v, repository)
		}
	}
	objects, err := helm(chart.FS, ".", release{name: wiring.Service, namespace: v.Sluice.Namespace, values: values})
	for _, o := range objects {
		if o.GetKind() == "StatefulSet" {
			o.SetAnnotations(map[string]string{lint.Waive: "SL163: sluiced holds callers against its list of peers by its own mutual TLS, and its NetworkPolicy keeps others away"})
		}
	}
	return objects, err
}

// copyOf copies maps as deep as they go: merging must not change the mesh's own values.
func copyOf(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		if inner, ok := v.(map[string]any); ok {
			v = copyOf(inner)
		}
		out[k] = v
	}
	return out
}

func list(texts []string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}
