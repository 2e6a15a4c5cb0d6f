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

// IngressName is the ingress gateway's Deployment, Service and ServiceAccount.
const IngressName = "istio-ingressgateway"

// Objects renders everything that makes proxies ask, in the order in which it
// is applied: what cleans requests before what judges them, and the policies
// that call Sluice at all last. The values are valid; profile says so.
func Objects(v *profile.Values) ([]*unstructured.Unstructured, error) {
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
			name: profile.Ingress, namespace: v.Istio.Namespace, gateway: true,
			labels:    map[string]string{"istio": strings.TrimPrefix(IngressName, "istio-")},
			authz:     doors.ExtAuthz.Enabled,
			rateLimit: doors.RateLimit.Enabled && slices.Contains(doors.RateLimit.Services, profile.Ingress),
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

// Host is the name of a service in the mesh's registry.
func Host(v *profile.Values, namespace, service string) string {
	return service + "." + namespace + ".svc." + v.Istio.ClusterDomain
}

// Principal is the identity of a caller, as a service's list of callers names it and an
// AuthorizationPolicy spells it: a SPIFFE id without its scheme.
func Principal(v *profile.Values, caller string) string {
	namespace, account := v.Mesh.Namespace, caller
	if caller == profile.Ingress {
		namespace, account = v.Istio.Namespace, IngressName
	}
	return v.Istio.TrustDomain + "/ns/" + namespace + "/sa/" + account
}

// host is the name of Sluice's Service.
func host(v *profile.Values) string { return Host(v, v.Sluice.Namespace, Service) }

// Cluster is what istiod itself calls its cluster to Sluice. It brings the mesh's mTLS
// and follows the endpoints, which a hand-made cluster does not.
func Cluster(v *profile.Values) string { return fmt.Sprintf("outbound|%d||%s", Port, host(v)) }
