// Package wiring is how the proxies of a mesh ask Sluice, as one typed model: a
// filter (what is asked, and in which order) at a place (the ingress gateway, or
// the inbound side of one service). From it come istiod's extension providers,
// the AuthorizationPolicies and the EnvoyFilters, and the list of the identities
// that ask, so that none of them can be written by hand and differ.
//
// Nothing here fails open, no filter selects Sluice's own pods, and each filter
// names the workloads that it selects. What is rendered is checked before it is
// returned: every patch is decoded strictly into Envoy's own types and validated
// by their rules, since istiod only warns about a field that it does not know.
//
// It reads no cluster and knows no Kubernetes client. One rendering takes a few
// milliseconds.
package wiring

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// What Sluice's chart calls its Service, and the port of its doors. The port's
// name begins with "grpc", or istiod's cluster to it would speak HTTP/1.1.
const (
	Service = "sluice"
	Port    = 9090
)

// The ingress gateway: the name of its Deployment, Service and ServiceAccount,
// and what the lists of a profile call it.
const (
	IngressName = "istio-ingressgateway"
	Ingress     = "ingress"
)

// Ambient is the data plane without sidecars.
const Ambient = "ambient"

// Objects renders everything that makes proxies ask, in the order in which it
// is applied: what cleans requests before what judges them, and the policies
// that call Sluice at all last.
func Objects(v *profile.Values) ([]*unstructured.Unstructured, error) {
	if err := check(v); err != nil {
		return nil, err
	}
	if len(places(v)) == 0 {
		return nil, nil
	}
	var out []*unstructured.Unstructured
	if len(Peers(v).Peers) > 0 {
		rule, err := convert(doorsRule(v))
		if err != nil {
			return nil, err
		}
		out = append(out, rule...)
	}
	for _, p := range places(v) {
		filters, err := envoyFilters(v, p)
		if err != nil {
			return nil, err
		}
		out = append(out, filters...)
	}
	policies, err := convert(customPolicies(v)...)
	return append(out, policies...), err
}

// place is a set of proxies that ask in the same way.
type place struct {
	name      string // as the lists of a profile say it
	namespace string
	labels    map[string]string // which pods; never empty
	gateway   bool

	authz, rateLimit, extProc bool
	service                   *profile.Service // nil at a gateway
}

// asks is whether anything at the place calls Sluice.
func (p place) asks() bool { return p.authz || p.rateLimit || p.extProc }

// judges is whether what comes in at the place is authorized.
func (p place) judges() bool { return p.authz || p.extProc }

// places are all that have a filter, the gateway first.
func places(v *profile.Values) []place {
	doors := v.Sluice.Doors
	var out []place
	if v.Istio.Ingress.Enabled {
		out = append(out, place{
			name: Ingress, namespace: v.Istio.Namespace, gateway: true,
			labels:    map[string]string{"istio": strings.TrimPrefix(IngressName, "istio-")},
			authz:     doors.ExtAuthz.Enabled,
			rateLimit: doors.RateLimit.Enabled && slices.Contains(doors.RateLimit.Services, Ingress),
		})
	}
	for i := range v.Mesh.Services {
		s := &v.Mesh.Services[i]
		p := place{
			name: s.Name, namespace: v.Mesh.Namespace, labels: map[string]string{"app": s.Name}, service: s,
			rateLimit: doors.RateLimit.Enabled && slices.Contains(doors.RateLimit.Services, s.Name),
			extProc:   doors.ExtProc.Enabled && slices.Contains(doors.ExtProc.Services, s.Name),
		}
		// One request is admitted once at a place: ext_proc asks in ext_authz's stead.
		p.authz = doors.ExtAuthz.Enabled && doors.ExtAuthz.Inner && !p.extProc
		out = append(out, p)
	}
	return slices.DeleteFunc(out, func(p place) bool {
		return !p.asks() && (p.service == nil || p.service.LocalLimit == nil)
	})
}

// check is every reason for which values can't be wired, at once.
func check(v *profile.Values) error {
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	doors := v.Sluice.Doors
	known := map[string]bool{Ingress: v.Istio.Ingress.Enabled}
	for _, s := range v.Mesh.Services {
		known[s.Name] = true
	}
	lists := []struct {
		path string
		list []string
	}{{"sluice.doors.extProc.services", doors.ExtProc.Services}, {"sluice.doors.rateLimit.services", doors.RateLimit.Services}}
	for _, l := range lists {
		for _, name := range l.list {
			if !known[name] {
				wrong("%s: there is no %q; name services of mesh.services, or %q if the gateway is enabled", l.path, name, Ingress)
			}
		}
	}
	if slices.Contains(doors.ExtProc.Services, Ingress) {
		wrong("sluice.doors.extProc.services: %q asks by ext_authz; list the services whose streams are to be ended", Ingress)
	}
	if doors.RateLimit.Enabled && (doors.RateLimit.Domain == "" || len(doors.RateLimit.Descriptors) == 0) {
		wrong("sluice.doors.rateLimit: needs a domain and descriptors, or nothing would be limited")
	}
	if doors.ExtAuthz.Enabled && doors.ExtAuthz.BodyBytes > 0 {
		for _, s := range v.Mesh.Services {
			if len(s.Streams) > 0 {
				wrong("sluice.doors.extAuthz.bodyBytes: Envoy waits for the body before it asks, which hangs the streams of %s; set it to 0", s.Name)
			}
		}
	}
	for _, p := range v.Sluice.ExcludedPaths {
		if !strings.HasPrefix(p, "/") || strings.Contains(strings.TrimSuffix(p, "*"), "*") || strings.ContainsAny(p, "?#") || p == "/*" {
			wrong("sluice.excludedPaths: %q: an exact path such as /healthz, or a prefix such as /static/*; no query, and not everything", p)
		}
	}
	if v.Istio.DataPlane == Ambient {
		problems = append(problems, checkAmbient(v)...)
	}
	return errors.Join(problems...)
}

// checkAmbient is what a mesh without sidecars can't have.
func checkAmbient(v *profile.Values) (problems []error) {
	refuse := func(path string) {
		problems = append(problems, fmt.Errorf("%s: not in ambient mode, where istiod applies no EnvoyFilter to waypoints; list only %q, or set istio.dataPlane to sidecar", path, Ingress))
	}
	if v.Sluice.Doors.ExtProc.Enabled {
		refuse("sluice.doors.extProc")
	}
	if d := v.Sluice.Doors.RateLimit; d.Enabled && slices.ContainsFunc(d.Services, func(s string) bool { return s != Ingress }) {
		refuse("sluice.doors.rateLimit.services")
	}
	for _, s := range v.Mesh.Services {
		if s.LocalLimit != nil {
			refuse("mesh.services." + s.Name + ".localLimit")
		}
	}
	return problems
}

// host is the name of Sluice's Service in the mesh.
func host(v *profile.Values) string {
	return Service + "." + v.Sluice.Namespace + ".svc." + v.Istio.ClusterDomain
}

// cluster is what istiod itself calls its cluster to Sluice. It brings the mesh's mTLS
// and follows the endpoints, which a hand-made cluster does not.
func cluster(v *profile.Values) string { return fmt.Sprintf("outbound|%d||%s", Port, host(v)) }
