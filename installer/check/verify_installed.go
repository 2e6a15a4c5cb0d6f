package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

var installedChecks = []Check{
	{Code: "SV201", Title: "what was laid down is there, ready and finished", Severity: Fail, run: installed},
	{Code: "SV202", Title: "Sluice has ready endpoints", Severity: Fail, run: sluiceEndpoints},
	{Code: "SV203", Title: "istiod has ready endpoints", Severity: Fail, run: istiodEndpoints},
	{Code: "SV204", Title: "every pod of the mesh's namespace has a proxy", Severity: Fail, run: sidecars},
}

// told is how many objects of a component are named.
const told = 3

func installed(ctx context.Context, m *Mesh) ([]Finding, error) {
	s, err := m.reads.installed(ctx)
	if errors.Is(err, cluster.ErrNotInstalled) {
		return []Finding{{Object: "the mesh", Says: err.Error(), Fix: "sluice mesh install"}}, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Finding
	if s.Unfinished != "" {
		out = append(out, Finding{Object: "the mesh", Says: s.Unfinished, Evidence: "the inventory", Fix: "sluice mesh install"})
	}
	for i := range s.Components {
		c := &s.Components[i]
		if len(c.Problems) == 0 {
			continue
		}
		shown := slices.Clone(c.Problems[:min(len(c.Problems), told)])
		if more := len(c.Problems) - len(shown); more > 0 {
			shown = append(shown, fmt.Sprintf("and %d more", more))
		}
		out = append(out, Finding{
			Object: "component " + c.Name, Says: strings.Join(shown, "; "), Evidence: fmt.Sprintf("%d of %d objects are ready", c.Ready, c.Objects),
			Fix: "correct what it names, then 'sluice mesh install'",
		})
	}
	return out, nil
}

// asks reports whether any proxy asks Sluice.
func (m *Mesh) asks() bool { return len(wiring.Peers(m.values).Peers) > 0 }

func sluiceEndpoints(ctx context.Context, m *Mesh) ([]Finding, error) {
	if !m.asks() {
		return nil, nil
	}
	return m.endpoints(ctx, m.values.Sluice.Namespace, wiring.Service, "every request that proxies ask about is refused with 503")
}

func istiodEndpoints(ctx context.Context, m *Mesh) ([]Finding, error) {
	return m.endpoints(ctx, m.values.Istio.Namespace, m.istiodService(), "proxies get no configuration and no new certificates, and no pod is injected")
}

// istiodService is what the mesh's revision calls its Service.
func (m *Mesh) istiodService() string {
	if r := m.values.Istio.Revision; r != "" {
		return "istiod-" + r
	}
	return "istiod"
}

// endpoints finds a Service without a ready endpoint.
func (m *Mesh) endpoints(ctx context.Context, namespace, service, consequence string) ([]Finding, error) {
	services, err := into[corev1.Service](ctx, m, "", "v1", "Service")
	if err != nil {
		return nil, err
	}
	parts, err := into[discovery.EndpointSlice](ctx, m, "discovery.k8s.io", "v1", "EndpointSlice")
	if err != nil {
		return nil, err
	}
	object := name2("Service", namespace, service)
	if !slices.ContainsFunc(services, func(s *corev1.Service) bool { return s.Namespace == namespace && s.Name == service }) {
		return []Finding{{Object: object, Says: "it is not there: " + consequence, Fix: "sluice mesh install"}}, nil
	}
	ready, all := 0, 0
	for _, s := range parts {
		if s.Namespace != namespace || s.Labels[discovery.LabelServiceName] != service {
			continue
		}
		for _, e := range s.Endpoints {
			all++
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready++
			}
		}
	}
	if ready > 0 {
		return nil, nil
	}
	return []Finding{{
		Object: object, Says: "none of its endpoints is ready: " + consequence, Evidence: fmt.Sprintf("EndpointSlices: %d endpoints, 0 ready", all),
		Fix: "kubectl get pods -n " + namespace + "; kubectl describe pod shows why they are not ready",
	}}, nil
}

func sidecars(ctx context.Context, m *Mesh) ([]Finding, error) {
	pods, err := m.pods(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range pods {
		if p.Namespace != m.values.Mesh.Namespace || p.DeletionTimestamp != nil || hasProxy(p) || m.only != "" && !m.selects(p) {
			continue
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		out = append(out, Finding{
			Object: podName(p), Says: "it has no proxy: nobody is asked about its requests, and STRICT workloads refuse its calls",
			Evidence: whyNot(p), Fix: notInjected(p),
		})
	}
	return out, nil
}

// whyNot is what of a pod keeps a proxy away from it.
func whyNot(p *corev1.Pod) string {
	switch {
	case p.Spec.HostNetwork:
		return "spec.hostNetwork: true"
	case p.Labels["sidecar.istio.io/inject"] == "false":
		return "the label sidecar.istio.io/inject: false"
	case p.Annotations["sidecar.istio.io/inject"] == "false":
		return "the annotation sidecar.istio.io/inject: false"
	case p.Annotations["sidecar.istio.io/status"] == "":
		return "no annotation sidecar.istio.io/status: it started before its namespace was labelled, or while the webhook did not answer"
	}
	return "no container " + proxyContainer
}

func notInjected(p *corev1.Pod) string {
	switch {
	case p.Spec.HostNetwork:
		return "a pod on the host's network can't be injected; give it its own"
	case p.Labels["sidecar.istio.io/inject"] == "false" || p.Annotations["sidecar.istio.io/inject"] == "false":
		return "remove sidecar.istio.io/inject from the pod's template"
	}
	return "kubectl rollout restart -n " + p.Namespace + " deployment (or whatever made it)"
}
