package wiring

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// Envoy's names of filters, by which istiod finds them.
const (
	managerFilter   = "envoy.filters.network.http_connection_manager"
	routerFilter    = "envoy.filters.http.router"
	authzFilter     = "envoy.filters.http.ext_authz"
	procFilter      = "envoy.filters.http.ext_proc"
	rateLimitFilter = "envoy.filters.http.ratelimit"
	localFilter     = "envoy.filters.http.local_ratelimit"
)

// patch is one change of a proxy's configuration.
type patch struct {
	to        api.EnvoyFilter_ApplyTo
	operation api.EnvoyFilter_Patch_Operation
	at        string        // the HTTP filter that it is about; "" if none
	value     proto.Message // a listener, a network filter or an HTTP filter
}

// filter is one kind of EnvoyFilter.
type filter struct {
	name string
	// priority is the order in which istiod applies EnvoyFilters. What inserts
	// before the router lands behind what inserted there before, so it is the order of
	// the filters too. 0 would leave it to the time of creation.
	priority int32
	patches  func(*profile.Values, place) ([]patch, error)
}

// filters are all kinds, in the order in which a request meets them. Istiod puts
// ext_authz and its own authorization before what is inserted before the router.
var filters = []filter{
	{"ask", 10, all(clean, extAuthz, accessLog)},
	{"local-limit", 20, localLimit},
	{"rate-limit", 30, rateLimit},
	{"ext-proc", 40, extProc},
}

// all is the patches of several, which go into one EnvoyFilter.
func all(parts ...func(*profile.Values, place) ([]patch, error)) func(*profile.Values, place) ([]patch, error) {
	return func(v *profile.Values, p place) (out []patch, err error) {
		for _, part := range parts {
			patches, err := part(v, p)
			if err != nil {
				return nil, err
			}
			out = append(out, patches...)
		}
		return out, nil
	}
}

// envoyFilters renders what a place has of each kind.
func envoyFilters(v *profile.Values, p place) ([]*unstructured.Unstructured, error) {
	if v.Istio.DataPlane == profile.Ambient && !p.gateway {
		return nil, nil
	}
	var out []any
	for _, f := range filters {
		patches, err := f.patches(v, p)
		if err != nil {
			return nil, fmt.Errorf("%s at %s: %w", f.name, p.name, err)
		}
		if len(patches) == 0 {
			continue
		}
		o := &networking.EnvoyFilter{
			ObjectMeta: metav1.ObjectMeta{Name: "sluice-" + f.name + "-" + p.name, Namespace: p.namespace},
			Spec: api.EnvoyFilter{
				Priority:         f.priority,
				WorkloadSelector: &api.WorkloadSelector{Labels: p.labels},
			},
		}
		if p.asks() {
			// Where istiod sends a gateway only the clusters that its routes name, it would lack ours.
			o.Annotations = map[string]string{"envoyfilter.istio.io/referenced-services": v.Sluice.Namespace + "/" + host(v)}
		}
		for _, change := range patches {
			c, err := configPatch(p, change)
			if err != nil {
				return nil, fmt.Errorf("%s at %s: %w", f.name, p.name, err)
			}
			o.Spec.ConfigPatches = append(o.Spec.ConfigPatches, c)
		}
		out = append(out, o)
	}
	return convert(out...)
}

// configPatch is a patch as istiod reads it.
func configPatch(p place, change patch) (*api.EnvoyFilter_EnvoyConfigObjectPatch, error) {
	value, err := encode(change.value)
	if err != nil {
		return nil, err
	}
	if err := Validate(change.to, change.operation, value); err != nil {
		return nil, err
	}
	match := &api.EnvoyFilter_EnvoyConfigObjectMatch{Context: api.EnvoyFilter_SIDECAR_INBOUND}
	if p.gateway {
		match.Context = api.EnvoyFilter_GATEWAY
	}
	if change.to != api.EnvoyFilter_LISTENER {
		in := &api.EnvoyFilter_ListenerMatch_FilterMatch{Name: managerFilter}
		if change.at != "" {
			in.SubFilter = &api.EnvoyFilter_ListenerMatch_SubFilterMatch{Name: change.at}
		}
		match.ObjectTypes = &api.EnvoyFilter_EnvoyConfigObjectMatch_Listener{Listener: &api.EnvoyFilter_ListenerMatch{
			FilterChain: &api.EnvoyFilter_ListenerMatch_FilterChainMatch{Filter: in},
		}}
	}
	return &api.EnvoyFilter_EnvoyConfigObjectPatch{
		ApplyTo: change.to, Match: match,
		Patch: &api.EnvoyFilter_Patch{Operation: change.operation, Value: value},
	}, nil
}

// merge changes fields of every HTTP connection manager of a place. Lists are appended to.
func merge(fields *hcmv3.HttpConnectionManager) (patch, error) {
	config, err := anypb.New(fields)
	return patch{
		to: api.EnvoyFilter_NETWORK_FILTER, operation: api.EnvoyFilter_Patch_MERGE,
		value: networkFilter(managerFilter, config),
	}, err
}

// mergeFilter changes fields of an HTTP filter that istiod made.
func mergeFilter(name string, fields proto.Message) (patch, error) {
	config, err := anypb.New(fields)
	return patch{
		to: api.EnvoyFilter_HTTP_FILTER, operation: api.EnvoyFilter_Patch_MERGE, at: name,
		value: &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}},
	}, err
}

// insert puts an HTTP filter before the router, behind all of istiod's.
func insert(name string, config proto.Message) (patch, error) {
	packed, err := anypb.New(config)
	return patch{
		to: api.EnvoyFilter_HTTP_FILTER, operation: api.EnvoyFilter_Patch_INSERT_BEFORE, at: routerFilter,
		value: &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed}},
	}, err
}

// one is a single patch, or the error that kept it from being made.
func one(p patch, err error) ([]patch, error) {
	if err != nil {
		return nil, err
	}
	return []patch{p}, nil
}

// sluice is how a proxy calls Sluice. There is never a retry: a second try is a second charge.
func sluice(v *profile.Values) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
		ClusterName: Cluster(v),
		// Else the :authority is the cluster's name, and its '|' is refused by strict servers.
		Authority: host(v),
	}}}
}
