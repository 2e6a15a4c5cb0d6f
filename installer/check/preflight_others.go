package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/voicecore-ai/sluice/installer/wiring"
)

var otherChecks = []Check{
	{Code: "SP131", Title: "no other mesh works in this cluster", Severity: Fail, run: otherMeshes},
	{Code: "SP132", Title: "nobody else injects into the mesh's namespaces", Severity: Fail, run: otherInjectors},
	{Code: "SP133", Title: "no other CUSTOM policy asks somebody else about the mesh's workloads", Severity: Fail, run: otherProviders},
}

// meshes are others' groups of custom resources: they are there while the mesh is, and seldom without it.
var meshes = map[string]string{
	"linkerd.io": "Linkerd", "policy.linkerd.io": "Linkerd", "consul.hashicorp.com": "Consul", "kuma.io": "Kuma",
	"appmesh.k8s.aws": "AWS App Mesh", "traefik.mesh": "Traefik Mesh",
}

func otherMeshes(ctx context.Context, m *Mesh) ([]Finding, error) {
	crds, err := m.list(ctx, "apiextensions.k8s.io", "v1", "CustomResourceDefinition")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, c := range crds {
		group, _, _ := unstructured.NestedString(c.Object, "spec", "group")
		if mesh := meshes[group]; mesh != "" {
			found[mesh] = name(c)
		}
	}
	var out []Finding
	for mesh, object := range found {
		out = append(out, Finding{
			Severity: Warn, Object: object, Says: mesh + " is, or was, in this cluster; a pod can have one mesh's proxy only",
			Fix: "keep its injection away from " + m.values.Mesh.Namespace + ", or remove it",
		})
	}
	deployments, err := into[appsv1.Deployment](ctx, m, "apps", "v1", "Deployment")
	if err != nil {
		return nil, err
	}
	for _, d := range deployments {
		if d.Labels["app"] != "istiod" {
			continue
		}
		revision := d.Labels["istio.io/rev"]
		switch own := cmpRevision(revision, m.values.Istio.Revision); {
		case d.Namespace == m.values.Istio.Namespace && (own || revision != ""):
			// Ours, or a revision beside it.
		case revision != "" && !own:
			out = append(out, Finding{Severity: Warn, Object: name2("Deployment", d.Namespace, d.Name), Says: "another control plane, of revision " + revision, Fix: "see that no namespace of the mesh is labelled for it"})
		default:
			out = append(out, Finding{
				Object: name2("Deployment", d.Namespace, d.Name), Says: "another istiod of the same revision would configure the same proxies",
				Fix: "set istio.revision, or istio.namespace to " + d.Namespace + " to take it over",
			})
		}
	}
	return out, nil
}

// cmpRevision compares revisions; "default" is none.
func cmpRevision(a, b string) bool {
	return strings.TrimPrefix(a, "default") == strings.TrimPrefix(b, "default")
}

func name2(kind, namespace, name string) string { return kind + " " + namespace + "/" + name }

// injectors are the webhooks that change pods.
func (m *Mesh) injectors(ctx context.Context) ([]*admission.MutatingWebhookConfiguration, error) {
	all, err := into[admission.MutatingWebhookConfiguration](ctx, m, "admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration")
	return slices.DeleteFunc(all, func(w *admission.MutatingWebhookConfiguration) bool {
		return !slices.ContainsFunc(w.Webhooks, mutatesPods)
	}), err
}

func mutatesPods(w admission.MutatingWebhook) bool {
	return slices.ContainsFunc(w.Rules, func(r admission.RuleWithOperations) bool {
		return slices.Contains(r.Resources, "pods") && slices.Contains(r.Operations, admission.Create)
	})
}

func otherInjectors(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.injectors(ctx)
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, u := range m.rendered {
		own[name(u)] = true
	}
	var out []Finding
	for _, w := range all {
		if own["MutatingWebhookConfiguration "+w.Name] {
			continue
		}
		for i := range w.Webhooks {
			hook := &w.Webhooks[i]
			for _, namespace := range m.injected() {
				if !injectsProxy(w, hook) || !selectsNamespace(hook, namespace) {
					continue
				}
				out = append(out, Finding{
					Object: "MutatingWebhookConfiguration " + w.Name, Evidence: "webhook " + hook.Name,
					Says: "it injects into namespace " + namespace.GetName() + " too: istiod refuses such a pair, or a pod gets two proxies",
					Fix:  "remove it if its mesh is gone (kubectl delete mutatingwebhookconfiguration " + w.Name + "), or set istio.revision",
				})
			}
		}
	}
	return out, nil
}

// injectsProxy reports whether a webhook is a mesh's, not any other that changes pods.
func injectsProxy(w *admission.MutatingWebhookConfiguration, hook *admission.MutatingWebhook) bool {
	if w.Labels["app"] == "sidecar-injector" || strings.Contains(w.Name, "sidecar-injector") {
		return true
	}
	for _, word := range []string{"istio.io", "linkerd.io", "consul", "kuma"} {
		if strings.Contains(hook.Name, word) {
			return true
		}
	}
	return false
}

// injected are the namespaces that the mesh labels for injection, as rendered.
func (m *Mesh) injected() (out []*unstructured.Unstructured) {
	for _, u := range m.rendered {
		l := u.GetLabels()
		if u.GetKind() == "Namespace" && (l["istio-injection"] == "enabled" || l["istio.io/rev"] != "") {
			out = append(out, u)
		}
	}
	return out
}

// selectsNamespace reports whether a webhook gets the pods, without labels of their own, of a namespace.
func selectsNamespace(hook *admission.MutatingWebhook, namespace *unstructured.Unstructured) bool {
	all := labels.Set{"kubernetes.io/metadata.name": namespace.GetName()}
	for k, v := range namespace.GetLabels() {
		all[k] = v
	}
	return selects(hook.NamespaceSelector, all) && selects(hook.ObjectSelector, labels.Set{})
}

func selects(s *metav1.LabelSelector, l labels.Set) bool {
	if s == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(l)
}

func otherProviders(ctx context.Context, m *Mesh) ([]Finding, error) {
	policies, err := m.list(ctx, "security.istio.io", "v1", "AuthorizationPolicy")
	if err != nil {
		return nil, err
	}
	v, known := parseVersion(m.values.Istio.Version)
	var out []Finding
	for _, p := range policies {
		action, _, _ := unstructured.NestedString(p.Object, "spec", "action")
		provider, _, _ := unstructured.NestedString(p.Object, "spec", "provider", "name")
		if action != "CUSTOM" || provider == wiring.AuthzProvider || !slices.Contains(m.namespaces(), p.GetNamespace()) {
			continue
		}
		f := Finding{
			Severity: Warn, Object: name(p), Evidence: "spec.provider.name: " + provider,
			Says: "it asks another provider about workloads of the mesh; both must allow then", Fix: "let one of them decide, or keep their selectors apart",
		}
		if known && v.major == 1 && v.minor < 30 {
			f.Severity, f.Says = Fail, fmt.Sprintf("it asks another provider about workloads of the mesh: Istio %s denies everything where two are asked", m.values.Istio.Version)
		}
		out = append(out, f)
	}
	return out, nil
}
