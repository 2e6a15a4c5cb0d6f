package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Explanation is what there is to know about one pod.
type Explanation struct {
	*Report
	Pod     string        `json:"pod"`
	Proxy   string        `json:"proxy"`             // versions
	Wanted  string        `json:"wanted"`            // the objects of the mesh that are about it
	Inbound []Place       `json:"inbound,omitempty"` // where requests come in
	Certs   []Certificate `json:"certificates,omitempty"`
}

// Place is where requests come in and what they meet there, in order.
type Place struct {
	Where   string   `json:"where"`
	Filters []string `json:"filters"`
}

// Explain says what the one pod of the Mesh's options runs, who wanted it so, and what is wrong with it.
func Explain(ctx context.Context, m *Mesh) (*Explanation, error) {
	pods, err := m.pods(ctx)
	if err != nil {
		return nil, err
	}
	kept := pods[:0:0]
	for _, p := range pods {
		if m.selects(p) {
			kept = append(kept, p)
		}
	}
	if len(kept) == 0 {
		return nil, fmt.Errorf("there is no Pod %s; kubectl get pods -A lists them, as namespace and name", m.only)
	}
	e := &Explanation{Pod: m.only, Proxy: "none", Report: &Report{}}
	report := Doctor(ctx, m)
	for _, r := range report.Results {
		r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Object != podName(kept[0]) })
		if len(r.Findings) > 0 {
			e.Results = append(e.Results, r)
		}
	}
	proxies, err := m.proxies(ctx)
	if err != nil || len(proxies) == 0 || proxies[0].err != nil {
		return e, err
	}
	p := proxies[0]
	e.Proxy = fmt.Sprintf("Istio %s, Envoy %s", p.istio, p.envoy)
	e.Wanted = strings.Join(append([]string{m.wants(p).from}, m.services(ctx, p)...), ", ")
	for _, at := range p.managers() {
		e.Inbound = append(e.Inbound, Place{Where: at.where, Filters: at.names()})
	}
	e.Certs, err = m.held(ctx)
	return e, err
}

// services are the Services that lead to a pod.
func (m *Mesh) services(ctx context.Context, p *proxy) (out []string) {
	items, err := m.list(ctx, "", "v1", "Service")
	if err != nil {
		return nil
	}
	for _, u := range items {
		var s struct {
			Selector map[string]string `json:"selector"`
		}
		spec(u.Object, &s)
		if u.GetNamespace() == p.pod.Namespace && len(s.Selector) > 0 && labels.SelectorFromSet(s.Selector).Matches(labels.Set(p.pod.Labels)) {
			out = append(out, name(u))
		}
	}
	return out
}
