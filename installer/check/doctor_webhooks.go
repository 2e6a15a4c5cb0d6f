package check

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
)

var webhookChecks = []Check{
	{Code: "SD321", Title: "every webhook of istiod's leads to an istiod", Severity: Fail, run: webhookServices},
	{Code: "SD322", Title: "the API server believes istiod's certificate", Severity: Fail, run: webhookBundles},
}

// hook is a webhook of istiod's.
type hook struct {
	object, name string
	config       admission.WebhookClientConfig
	injects      bool
}

// hooks are the webhooks that are the mesh's own, or lead to its namespace.
func (m *Mesh) hooks(ctx context.Context) ([]hook, error) {
	mutating, err := into[admission.MutatingWebhookConfiguration](ctx, m, "admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration")
	if err != nil {
		return nil, err
	}
	validating, err := into[admission.ValidatingWebhookConfiguration](ctx, m, "admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration")
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, u := range m.rendered {
		own[name(u)] = true
	}
	var out []hook
	add := func(kind, of string, h hook) {
		h.object = kind + " " + of
		if s := h.config.Service; s != nil && (own[h.object] || s.Namespace == m.values.Istio.Namespace && s.Path != nil && (*s.Path == "/inject" || *s.Path == "/validate")) {
			out = append(out, h)
		}
	}
	for _, c := range mutating {
		for i := range c.Webhooks {
			add("MutatingWebhookConfiguration", c.Name, hook{name: c.Webhooks[i].Name, config: c.Webhooks[i].ClientConfig, injects: true})
		}
	}
	for _, c := range validating {
		for i := range c.Webhooks {
			add("ValidatingWebhookConfiguration", c.Name, hook{name: c.Webhooks[i].Name, config: c.Webhooks[i].ClientConfig})
		}
	}
	return out, nil
}

func (h *hook) consequence() string {
	if h.injects {
		return "no pod can be created in the namespaces that it selects"
	}
	return "no configuration of Istio's can be changed"
}

func webhookServices(ctx context.Context, m *Mesh) ([]Finding, error) {
	hooks, err := m.hooks(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	seen := map[string]bool{}
	for _, h := range hooks {
		s := h.config.Service
		key := h.object + s.Namespace + "/" + s.Name
		if seen[key] {
			continue
		}
		seen[key] = true
		found, err := m.endpoints(ctx, s.Namespace, s.Name, h.consequence())
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			f.Evidence, f.Object = fmt.Sprintf("webhook %s leads to %s; %s", h.name, f.Object, f.Evidence), h.object
			f.Fix = "if that istiod is gone, kubectl delete its configuration; else 'sluice mesh install' leads it to " + m.istiodService()
			out = append(out, f)
		}
	}
	return out, nil
}

// bundle is what the API server believes of one webhook.
type bundle struct {
	hook
}

func (b *bundle) certificates() []*x509.Certificate { return parsePEM(b.config.CABundle) }

// bundles are the different ones, one of each.
func (m *Mesh) bundles(ctx context.Context) ([]bundle, error) {
	hooks, err := m.hooks(ctx)
	var out []bundle
	seen := map[string]bool{}
	for _, h := range hooks {
		if key := h.object + string(h.config.CABundle); !seen[key] {
			seen[key] = true
			out = append(out, bundle{h})
		}
	}
	return out, err
}

// rootMap is the ConfigMap in which istiod publishes its root, in every namespace.
const rootMap = "istio-ca-root-cert"

func webhookBundles(ctx context.Context, m *Mesh) ([]Finding, error) {
	bundles, err := m.bundles(ctx)
	if err != nil {
		return nil, err
	}
	maps, err := m.configMaps(ctx)
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for _, c := range maps {
		if c.Name == rootMap && c.Namespace == m.values.Istio.Namespace {
			roots = parsePEM([]byte(c.Data["root-cert.pem"]))
		}
	}
	var out []Finding
	for _, b := range bundles {
		believed := b.certificates()
		says := ""
		switch {
		case len(believed) == 0:
			says = "it has no certificate to believe istiod by"
		case len(roots) > 0 && !slices.ContainsFunc(believed, func(c *x509.Certificate) bool { return slices.ContainsFunc(roots, c.Equal) }):
			says = "it believes another certificate than istiod's root"
		default:
			continue
		}
		out = append(out, Finding{
			Object: b.object, Says: says + ": " + b.consequence(), Evidence: "webhook " + b.name + ", clientConfig.caBundle, against ConfigMap " + m.values.Istio.Namespace + "/" + rootMap,
			Fix: "istiod writes it when it starts: kubectl rollout restart -n " + m.values.Istio.Namespace + " deployment/" + m.istiodService(),
		})
	}
	return out, nil
}

func (m *Mesh) configMaps(ctx context.Context) ([]*corev1.ConfigMap, error) {
	return into[corev1.ConfigMap](ctx, m, "", "v1", "ConfigMap")
}
