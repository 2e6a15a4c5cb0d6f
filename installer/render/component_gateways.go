package render

import (
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// gateways are the proxies at the edge. Their images and arguments are injected,
// so they come after the webhooks.
func gateways(v *profile.Values) (objects Objects, err error) {
	for _, g := range []struct {
		name string
		profile.Gateway
	}{{wiring.IngressName, v.Istio.Ingress}, {egressName, v.Istio.Egress}} {
		if !g.Enabled {
			continue
		}
		one, err := gatewayChart(v, g.name, g.Gateway)
		if err != nil {
			return nil, err
		}
		objects = append(objects, one...)
	}
	return objects, nil
}

func gatewayChart(v *profile.Values, name string, g profile.Gateway) (Objects, error) {
	ports := []any{servicePort("status-port", 15021), servicePort("http2", 80)}
	if name == egressName || g.TLSSecret != "" {
		ports = append(ports, servicePort("https", 443))
	}
	values := map[string]any{
		"name":     name,
		"revision": v.Istio.Revision,
		"service":  map[string]any{"type": g.ServiceType, "ports": ports},
		"autoscaling": map[string]any{
			"enabled": g.Max > g.Min, "minReplicas": g.Min, "maxReplicas": g.Max,
		},
		"resources": resources(g.Resource),
	}
	if g.Max == g.Min {
		values["replicaCount"] = g.Min // else the autoscaler's, and none of our business
	}
	if g.Min > 1 {
		values["podDisruptionBudget"] = map[string]any{"minAvailable": 1}
	}
	if s := v.Images.PullSecret; s != "" {
		values["imagePullSecrets"] = []any{map[string]any{"name": s}}
	}
	return helm(istioCharts(v), "charts/gateway", release{
		name: name, namespace: v.Istio.Namespace, version: v.Istio.Version, values: values,
		open: []string{"podDisruptionBudget", "resources"},
	})
}

func servicePort(name string, port int) map[string]any {
	return map[string]any{"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
}
