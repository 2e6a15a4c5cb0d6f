package check

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

var apiChecks = []Check{
	{Code: "SP141", Title: "the API server takes what would be laid down", Severity: Fail, run: serverSideApply},
	{Code: "SP142", Title: "which version of the Gateway API is there is known", Severity: Info, run: gatewayAPI},
}

// serverSideApply has the API server apply everything without keeping it: which shows
// fields that somebody else owns, kinds that are missing, and policies that refuse.
func serverSideApply(ctx context.Context, m *Mesh) ([]Finding, error) {
	changes, err := m.reads.changes(ctx)
	switch {
	case err != nil && (apierrors.IsForbidden(err) || errors.Is(err, context.Canceled)):
		return nil, err // SP121 says which right is missing
	case err != nil:
		return []Finding{{Object: "the mesh", Says: err.Error(), Evidence: "server-side dry run", Fix: "correct what it names, then 'sluice mesh diff'"}}, nil
	}
	var out []Finding
	for i := range changes {
		for _, c := range changes[i].Conflicts {
			out = append(out, Finding{
				Object: changes[i].Object, Says: "somebody else owns it: " + c.String(), Evidence: "server-side dry run",
				Fix: fixOf(c),
			})
		}
	}
	return out, nil
}

func fixOf(c cluster.Conflict) string {
	if c.Field == "" {
		return fmt.Sprintf("delete the object, or take it over with --take-ownership %q; uninstall then removes it", c.Manager)
	}
	return fmt.Sprintf("leave that field to its owner, or --take-ownership %q", c.Manager)
}

const gatewayGroup = "gateway.networking.k8s.io"

func gatewayAPI(ctx context.Context, m *Mesh) ([]Finding, error) {
	crds, err := m.list(ctx, "apiextensions.k8s.io", "v1", "CustomResourceDefinition")
	if err != nil {
		return nil, err
	}
	for _, c := range crds {
		if c.GetName() == "gateways."+gatewayGroup {
			a := c.GetAnnotations()
			return []Finding{{Object: name(c), Says: fmt.Sprintf("the Gateway API is there, version %s, channel %s; the mesh does without it", a[gatewayGroup+"/bundle-version"], a[gatewayGroup+"/channel"])}}, nil
		}
	}
	return []Finding{{Object: "CustomResourceDefinition gateways." + gatewayGroup, Says: "the Gateway API is not there; the mesh does without it"}}, nil
}
