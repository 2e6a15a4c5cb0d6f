package render

import (
	securityapi "istio.io/api/security/v1beta1"
	selector "istio.io/api/type/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// dryRun makes a proxy evaluate an AuthorizationPolicy and log the result
// without acting on it. The soft stage needs it: a plaintext caller has no
// principal that a policy could allow.
const dryRun = "istio.io/dry-run"

// mutualTLS is mesh-wide: in the root namespace, for every workload.
func mutualTLS(v *profile.Values) (Objects, error) {
	mode := securityapi.PeerAuthentication_MutualTLS_STRICT
	if v.Mesh.Stage == profile.Soft {
		mode = securityapi.PeerAuthentication_MutualTLS_PERMISSIVE
	}
	p := &security.PeerAuthentication{ObjectMeta: meta(v.Istio.Namespace, "default-mtls")}
	p.Spec.Mtls = &securityapi.PeerAuthentication_MutualTLS{Mode: mode}
	return objects(peerAuthentication(p))
}

// allow is least privilege by identity: nothing may call anything in the
// namespace, but for the callers that each service lists.
func allow(v *profile.Values) (Objects, error) {
	annotate := func(p *security.AuthorizationPolicy) {
		if v.Mesh.Stage == profile.Soft {
			p.Annotations = map[string]string{dryRun: "true"}
		}
	}
	// A policy without rules allows nothing; once one policy of action ALLOW selects a workload, what none allows is denied.
	nothing := &security.AuthorizationPolicy{ObjectMeta: meta(v.Mesh.Namespace, "allow-nothing")}
	annotate(nothing)
	list := []typed{authorizationPolicy(nothing)}
	for i := range v.Mesh.Services {
		s := &v.Mesh.Services[i]
		if len(s.Callers) == 0 {
			continue
		}
		p := &security.AuthorizationPolicy{ObjectMeta: meta(v.Mesh.Namespace, "allow-callers-of-"+s.Name)}
		annotate(p)
		principals := make([]string, len(s.Callers))
		for i, c := range s.Callers {
			principals[i] = wiring.Principal(v, c)
		}
		p.Spec.Action = securityapi.AuthorizationPolicy_ALLOW
		p.Spec.Selector = &selector.WorkloadSelector{MatchLabels: map[string]string{"app": s.Name}}
		p.Spec.Rules = []*securityapi.Rule{{From: []*securityapi.Rule_From{{Source: &securityapi.Source{Principals: principals}}}}}
		list = append(list, authorizationPolicy(p))
	}
	return objects(list...)
}
