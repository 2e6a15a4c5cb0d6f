package check

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Envoy's names of filters.
const (
	routerFilter = "envoy.filters.http.router"
	authzFilter  = "envoy.filters.http.ext_authz"
	rbacFilter   = "envoy.filters.http.rbac"
	jwtFilter    = "envoy.filters.http.jwt_authn"
	localFilter  = "envoy.filters.http.local_ratelimit"
)

// wanted is what the objects of the mesh make of one proxy.
type wanted struct {
	filters []string // HTTP filters before the router, in order
	from    string   // the objects that want them
	authz   bool     // ext_authz, by a CUSTOM policy
	strips  bool     // removal of headers before anything sees them
	logs    bool     // an access log to Sluice
	asks    bool     // it calls Sluice
}

// nothing reports whether the mesh wants nothing of the proxy.
func (w *wanted) nothing() bool { return w.from == "" }

// filterSpec is what is read of an EnvoyFilter.
type filterSpec struct {
	Priority int `json:"priority"`
	Selector struct {
		Labels map[string]string `json:"labels"`
	} `json:"workloadSelector"`
	Patches []struct {
		To    string `json:"applyTo"`
		Match struct {
			Context string `json:"context"`
		} `json:"match"`
		Patch struct {
			Operation string `json:"operation"`
			Value     struct {
				Name   string  `json:"name"`
				Config manager `json:"typed_config"`
			} `json:"value"`
		} `json:"patch"`
	} `json:"configPatches"`
}

// policySpec is what is read of an AuthorizationPolicy.
type policySpec struct {
	Action   string `json:"action"`
	Selector struct {
		Labels map[string]string `json:"matchLabels"`
	} `json:"selector"`
}

// spec decodes an object's spec; a field of another kind is left empty.
func spec(object map[string]any, to any) {
	if raw, err := json.Marshal(object["spec"]); err == nil {
		_ = json.Unmarshal(raw, to)
	}
}

// wants reads out of the rendered objects what a proxy must run.
func (m *Mesh) wants(p *proxy) (w wanted) {
	type chosen struct {
		name string
		filterSpec
	}
	var filters []chosen
	var names []string
	takes := func(namespace string, l map[string]string) bool {
		return namespace == p.pod.Namespace && len(l) > 0 && labels.SelectorFromSet(l).Matches(labels.Set(p.pod.Labels))
	}
	for _, u := range m.rendered {
		switch u.GetKind() {
		case "EnvoyFilter":
			f := chosen{name: u.GetName()}
			spec(u.Object, &f.filterSpec)
			if takes(u.GetNamespace(), f.Selector.Labels) {
				filters = append(filters, f)
				names = append(names, name(u))
			}
		case "AuthorizationPolicy":
			var s policySpec
			spec(u.Object, &s)
			if s.Action == "CUSTOM" && takes(u.GetNamespace(), s.Selector.Labels) {
				w.authz = true
				names = append(names, name(u))
				w.asks = true
			}
		}
	}
	slices.SortStableFunc(filters, func(a, b chosen) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.name, b.name))
	})
	for i := range filters {
		w.add(&filters[i].filterSpec, p.gateway)
	}
	w.from = strings.Join(names, ", ")
	return w
}

// add reads the patches of one EnvoyFilter.
func (w *wanted) add(f *filterSpec, gateway bool) {
	for _, c := range f.Patches {
		if (c.Match.Context == "GATEWAY") != gateway {
			continue
		}
		value := &c.Patch.Value
		switch {
		case c.To == "HTTP_FILTER" && c.Patch.Operation == "INSERT_BEFORE":
			w.filters = append(w.filters, value.Name)
			w.asks = w.asks || value.Name != localFilter
		case c.To == "NETWORK_FILTER":
			w.strips = w.strips || len(value.Config.Early) > 0
			w.logs = w.logs || len(value.Config.Logs) > 0
			w.asks = w.asks || w.logs
		}
	}
}
