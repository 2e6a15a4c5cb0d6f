package check

import (
	"context"
	"errors"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
)

var stageChecks = []Check{
	{Code: "SD301", Title: "the roll-out was finished: the stage is enforced", Severity: Fail, run: stage},
	{Code: "SD302", Title: "no policy of the mesh is a dry run", Severity: Fail, run: dryRuns},
}

const enforce = "sluice mesh install --set mesh.stage=enforced"

func stage(ctx context.Context, m *Mesh) ([]Finding, error) {
	s, err := m.reads.installed(ctx)
	if errors.Is(err, cluster.ErrNotInstalled) {
		return nil, nil // SV201 says it
	}
	if err != nil {
		return nil, err
	}
	if s.Stage != string(profile.Soft) {
		return nil, nil
	}
	return []Finding{{
		Object: "the mesh", Says: "it was left in the soft stage: proxies take callers without a certificate, policies are a dry run, and Sluice refuses nobody for who they are, for rules or for limits: nothing is protected",
		Evidence: "the inventory: stage " + s.Stage, Fix: enforce,
	}}, nil
}

// dryRun is the annotation that makes a proxy evaluate a policy and not act on it.
const dryRun = "istio.io/dry-run"

func dryRuns(ctx context.Context, m *Mesh) ([]Finding, error) {
	policies, err := m.list(ctx, "security.istio.io", "v1", "AuthorizationPolicy")
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range policies {
		action, _, _ := unstructured.NestedString(p.Object, "spec", "action")
		if p.GetAnnotations()[dryRun] != "true" || action == "CUSTOM" || !m.own(p.GetNamespace()) { // CUSTOM is SL153's
			continue
		}
		out = append(out, Finding{
			Object: name(p), Says: "it is evaluated and nothing is refused by it", Evidence: "metadata.annotations[" + dryRun + "]: true",
			Fix: "remove the annotation; if the stage is soft: " + enforce,
		})
	}
	return out, nil
}

// own reports whether a namespace is one of the mesh's.
func (m *Mesh) own(namespace string) bool {
	return slices.Contains(m.namespaces(), namespace)
}
