package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/voicecore-ai/sluice/installer/wiring"
)

var policyChecks = []Check{
	{Code: "SD311", Title: "no policy allows everybody", Severity: Fail, run: allowsEverybody},
	{Code: "SD312", Title: "no Sidecar hides Sluice from a proxy that asks", Severity: Fail, run: hides},
}

// ruleSpec is what is read of an AuthorizationPolicy's rules.
type ruleSpec struct {
	policySpec
	Rules []struct {
		From []struct {
			Source map[string][]string `json:"source"`
		} `json:"from"`
		To   []any `json:"to"`
		When []any `json:"when"`
	} `json:"rules"`
	Targets []any `json:"targetRefs"`
}

// allowsEverybody finds policies of action ALLOW that undo the list of callers: istiod
// adds up what policies allow, so one that allows everybody leaves nothing of the others.
func allowsEverybody(ctx context.Context, m *Mesh) ([]Finding, error) {
	policies, err := m.list(ctx, "security.istio.io", "v1", "AuthorizationPolicy")
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range policies {
		var s ruleSpec
		spec(p.Object, &s)
		if s.Action != "" && s.Action != "ALLOW" || p.GetNamespace() != m.values.Istio.Namespace && p.GetNamespace() != m.values.Mesh.Namespace {
			continue
		}
		// The gateways are there for callers whom nobody knows.
		if p.GetNamespace() == m.values.Istio.Namespace && (len(s.Selector.Labels) > 0 || len(s.Targets) > 0) {
			continue
		}
		for i, r := range s.Rules {
			if len(r.To) > 0 || len(r.When) > 0 {
				continue
			}
			whom := ""
			if len(r.From) == 0 {
				whom = "anybody, without a certificate too"
			}
			for _, f := range r.From {
				if w := everybody(f.Source, m.values.Istio.TrustDomain); w != "" {
					whom = w
				}
			}
			if whom != "" {
				out = append(out, Finding{
					Object: name(p), Says: "it allows " + whom + ", whatever callers mesh.services lists", Evidence: fmt.Sprintf("spec.rules[%d]", i),
					Fix: "name the callers: principals " + m.values.Istio.TrustDomain + "/ns/NAMESPACE/sa/ACCOUNT, or list them in mesh.services",
				})
			}
		}
	}
	return out, nil
}

// everybody says whom a source lets in, if that is everybody or everybody in the mesh.
func everybody(source map[string][]string, trustDomain string) string {
	for key, values := range source {
		if strings.HasPrefix(key, "not") || len(values) == 0 {
			continue
		}
		all := slices.ContainsFunc(values, func(v string) bool {
			return v == "*" || key == "principals" && (v == trustDomain+"/*" || v == trustDomain+"/ns/*")
		})
		if !all {
			return "" // it is narrower by this
		}
	}
	return "every workload of the mesh"
}

// sidecarSpec is what is read of a Sidecar.
type sidecarSpec struct {
	Selector struct {
		Labels map[string]string `json:"labels"`
	} `json:"workloadSelector"`
	Egress []struct {
		Hosts []string `json:"hosts"`
	} `json:"egress"`
}

// hides finds a Sidecar that keeps istiod from sending a proxy the cluster to Sluice.
func hides(ctx context.Context, m *Mesh) ([]Finding, error) {
	sidecars, err := m.list(ctx, "networking.istio.io", "v1", "Sidecar")
	if err != nil {
		return nil, err
	}
	host := wiring.Host(m.values, m.values.Sluice.Namespace, wiring.Service)
	var out []Finding
	for _, u := range sidecars {
		var s sidecarSpec
		spec(u.Object, &s)
		if len(s.Egress) == 0 || u.GetNamespace() != m.values.Mesh.Namespace && u.GetNamespace() != m.values.Istio.Namespace {
			continue
		}
		shows := false
		for _, e := range s.Egress {
			for _, h := range e.Hosts {
				namespace, pattern, _ := strings.Cut(h, "/")
				there := namespace == "*" || namespace == m.values.Sluice.Namespace || namespace == "." && u.GetNamespace() == m.values.Sluice.Namespace
				shows = shows || there && (pattern == "*" || pattern == host || strings.HasPrefix(pattern, "*.") && strings.HasSuffix(host, pattern[1:]))
			}
		}
		if shows || !m.askedBy(u.GetNamespace(), s.Selector.Labels) {
			continue
		}
		out = append(out, Finding{
			Object: name(u), Says: "it hides Sluice from proxies that ask it: they have no cluster to it and refuse every request", Evidence: "spec.egress lists no host of namespace " + m.values.Sluice.Namespace,
			Fix: "add " + m.values.Sluice.Namespace + "/* to spec.egress[0].hosts",
		})
	}
	return out, nil
}

// askedBy reports whether a sidecar that asks Sluice may be among the pods that labels select.
func (m *Mesh) askedBy(namespace string, l map[string]string) bool {
	for _, u := range m.rendered {
		if u.GetKind() != "EnvoyFilter" || u.GetNamespace() != m.values.Mesh.Namespace {
			continue
		}
		var s filterSpec
		spec(u.Object, &s)
		// A selector of the Sidecar may name other labels than the filter's; where they don't contradict, a pod may have both.
		fits := namespace == m.values.Istio.Namespace && len(l) == 0 || namespace == u.GetNamespace() && agree(l, s.Selector.Labels)
		if fits && len(u.GetAnnotations()) > 0 { // one that calls nobody names no services
			return true
		}
	}
	return false
}

func agree(a, b labels.Set) bool {
	for k, v := range a {
		if w, ok := b[k]; ok && w != v {
			return false
		}
	}
	return true
}
