package wiring

import (
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/tenant"
)

// Headers that a client may not bring to the edge, beside those that only Sluice writes.
const (
	// What says where a request came from or went to before: Envoy writes its own after this.
	originHeaders = "forwarded|x-forwarded-.*|x-envoy-.*|x-original-.*|x-rewrite-url|x-real-ip"
	// The same behind a proxy that is trusted, but for what it writes: x-forwarded-for and x-forwarded-proto. RE2 can't say
	// "any but these", so each way to differ from them is spelled out; Envoy refuses a larger pattern than these two.
	originBehindProxy = "forwarded|x-envoy-.*|x-original-.*|x-rewrite-url|x-real-ip"
	forwardedButProxy = "x-forwarded-(|f|fo|for.+|f[^o].*|fo[^r].*|p|pr|pro|prot|proto.+|p[^r].*|pr[^o].*|pro[^t].*|prot[^o].*|[^fp].*)"
	// A trace begins at the edge: a client's context would join its trace to ours,
	// hide the request from it, or have us sample what it wants.
	traceHeaders = "traceparent|tracestate|baggage|b3|x-b3-.*|grpc-trace-bin|x-cloud-trace-context|x-client-trace-id"
)

// clean makes a request readable in one way only, and takes away what only Sluice may write,
// before any filter or route sees it: on every route, excluded paths too. The
// lines are those of deploy/envoy/demo.yaml and mesh.yaml, which say more; a test compares.
func clean(v *profile.Values, p place) ([]patch, error) {
	if !p.judges() {
		return nil, nil
	}
	fields := &hcmv3.HttpConnectionManager{
		// Rules see a host without its port, so virtual hosts must.
		StripPortMode: &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true},
		// One path has one spelling by the time a rule reads it.
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			// x_tenant_id is x-tenant-id to CGI, WSGI and PHP.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
		},
		// What a caller says about certificates is not believed; what this Envoy saw is written instead.
		ForwardClientCertDetails:    hcmv3.HttpConnectionManager_SANITIZE_SET,
		SetCurrentClientCertDetails: &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true},
	}
	if !p.gateway {
		// The tenant token is how the request of a service says whose it is, and Sluice judges it.
		return removing(fields, tenant.HopPatterns()...)
	}
	// Believe no x-forwarded-for and no x-request-id of a client: only the address that the outermost trusted proxy saw.
	fields.UseRemoteAddress = wrapperspb.Bool(true)
	fields.XffNumTrustedHops = v.Istio.Ingress.TrustedProxies
	origin := []string{originHeaders, traceHeaders}
	if fields.XffNumTrustedHops > 0 {
		origin = []string{originBehindProxy, forwardedButProxy, traceHeaders}
	}
	// What a slow or greedy client may hold.
	fields.RequestHeadersTimeout = durationpb.New(10 * time.Second)
	fields.StreamIdleTimeout = durationpb.New(300 * time.Second)
	fields.CommonHttpProtocolOptions.IdleTimeout = durationpb.New(60 * time.Second)
	fields.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(100)}
	out, err := removing(fields, append(tenant.ReservedPatterns(), origin...)...)
	return append(out, patch{
		to: api.EnvoyFilter_LISTENER, operation: api.EnvoyFilter_Patch_MERGE,
		value: &listenerv3.Listener{PerConnectionBufferLimitBytes: wrapperspb.UInt32(32768)},
	}), err
}

// removing merges fields, and the removal of the headers whose whole name one of the patterns matches.
func removing(fields *hcmv3.HttpConnectionManager, patterns ...string) ([]patch, error) {
	early := &earlyv3.HeaderMutation{}
	for _, pattern := range patterns {
		early.Mutations = append(early.Mutations, &mutationv3.HeaderMutation{
			Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
				KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
					SafeRegex: &matcherv3.RegexMatcher{Regex: pattern},
				}},
			}},
		})
	}
	config, err := anypb.New(early)
	if err != nil {
		return nil, err
	}
	fields.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{{
		Name: "envoy.http.early_header_mutation.header_mutation", TypedConfig: config,
	}}
	return one(merge(fields))
}
