package check

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/voicecore-ai/sluice/installer/lint"
)

var lintChecks = []Check{
	{Code: "SD351", Title: "nothing in the cluster undoes a decision", Severity: Fail, run: lints},
}

// linted are the kinds that package lint reads.
var linted = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Namespace"}, {Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "ConfigMap"}, {Version: "v1", Kind: "Pod"},
	{Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "apps", Version: "v1", Kind: "StatefulSet"}, {Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"},
	{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"}, {Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"},
	{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"},
	{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}, {Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"},
}

// Lint checks the objects of the cluster by the rules of package lint. What a
// workload has made is left to the workload: its pods would repeat each problem.
func Lint(ctx context.Context, m *Mesh) ([]lint.Problem, error) {
	var objects []*unstructured.Unstructured
	for _, k := range linted {
		items, err := m.list(ctx, k.Group, k.Version, k.Kind)
		if err != nil {
			return nil, err
		}
		for _, u := range items {
			if k.Kind == "Pod" && len(u.GetOwnerReferences()) > 0 {
				continue
			}
			objects = append(objects, u)
		}
	}
	return lint.Objects(objects, lint.Options{RootNamespace: m.values.Istio.Namespace, Complete: true}), nil
}

func lints(ctx context.Context, m *Mesh) ([]Finding, error) {
	problems, err := Lint(ctx, m)
	if err != nil {
		return nil, err
	}
	return FromLint(problems), nil
}

// FromLint are the linter's problems as findings, each under its own code; what is waived is none.
func FromLint(problems []lint.Problem) (out []Finding) {
	severities := map[lint.Severity]Severity{lint.Error: Fail, lint.Warning: Warn}
	for _, p := range problems {
		s, ok := severities[p.Severity]
		if !ok {
			continue
		}
		out = append(out, Finding{Code: p.Code, Severity: s, Object: p.Object, Says: p.Says, Evidence: p.Field, Fix: p.Fix, Doc: p.Doc})
	}
	return slices.Clip(out)
}
