package check

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/voicecore-ai/sluice/installer/profile"
)

var consoleChecks = []Check{
	{Code: "SV241", Title: "every console that is enabled answers", Severity: Fail, run: consoles},
}

// console is where one says that it is well.
type console struct {
	name  string
	addon profile.Addon
	port  int
	path  string
}

func (m *Mesh) consoles() []console {
	a := m.values.Addons
	return []console{
		{"prometheus", a.Prometheus, 9090, "/-/ready"},
		{"jaeger", a.Jaeger, 16686, "/"},
		{"grafana", a.Grafana, 3000, "/api/health"},
		{"kiali", a.Kiali, 20001, "/kiali/healthz"},
	}
}

func consoles(ctx context.Context, m *Mesh) ([]Finding, error) {
	var out []Finding
	for _, c := range m.consoles() {
		if !c.addon.Enabled {
			continue
		}
		found, err := m.endpoints(ctx, m.values.Addons.Namespace, c.name, "nobody sees what it shows")
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); len(found) > 0 {
			continue
		}
		pod, err := m.behind(ctx, m.values.Addons.Namespace, c.name)
		if err != nil {
			return nil, err
		}
		client := m.httpClient(ctx, pod, c.port)
		if _, err := fetch(ctx, client, "http://"+c.name+c.path); err != nil {
			out = append(out, Finding{
				Object: "Pod " + pod.String(), Says: c.name + " does not answer: " + err.Error(), Evidence: fmt.Sprintf("GET %s on port %d, through the API server", c.path, c.port),
				Fix: "kubectl logs -n " + pod.Namespace + " " + pod.Name,
			})
		}
		client.CloseIdleConnections()
	}
	return out, nil
}

// behind is a ready pod that a Service selects.
func (m *Mesh) behind(ctx context.Context, namespace, service string) (types.NamespacedName, error) {
	services, err := into[corev1.Service](ctx, m, "", "v1", "Service")
	if err != nil {
		return types.NamespacedName{}, err
	}
	pods, err := m.pods(ctx)
	if err != nil {
		return types.NamespacedName{}, err
	}
	for _, s := range services {
		if s.Namespace != namespace || s.Name != service {
			continue
		}
		for _, p := range pods {
			if p.Namespace == namespace && ready(p) && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) {
				return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, nil
			}
		}
	}
	return types.NamespacedName{}, fmt.Errorf("no pod behind Service %s/%s is ready", namespace, service)
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
